"""A recipe: everything that decides a training, as a YAML file checked against dataclasses.

Notable:
- an unknown key is an error that names it and says where it stands; so is a value of the wrong type.
- `--set optimization.steps=100` overrides single values before the check.
- the recipe as it was used is written beside the training's results, so that it can be repeated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from huggingface_hub.errors import StrictDataclassError
from pydantic import BeforeValidator, Field, TypeAdapter
from transformers import PreTrainedConfig

from winwin_hf.checked import FORBID, MAX_TEXT, build, few, plain_yaml
from winwin_hf.data.collator import SecondStrategy
from winwin_hf.data.formats.files import read_text
from winwin_hf.data.guesses import GuessStrategy
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.skipping import MOST_WORKERS
from winwin_hf.model.configuration_winwin import PRESETS, WinWinConfig
from winwin_hf.model.weights_winwin import reason_of
from winwin_hf.recipes import recipe_path
from winwin_hf.task import TASKS, TaskName
from winwin_hf.windows import Strategy


@dataclasses.dataclass
class ModelRecipe:
    """The network, and where it starts."""

    preset: Annotated[
        str | None,
        Field(
            description="Sizes to start from (`tiny`, `small`, `base`, `large`). Null: `tiny`, or with `init` the "
            "defaults of `WinWinConfig` for what `init` leaves open."
        ),
    ] = None
    config: Annotated[dict[str, Any], Field(description="Fields of `WinWinConfig` on top of the preset.")] = (
        dataclasses.field(default_factory=dict)
    )
    init: Annotated[
        str | None,
        Field(
            description="Weights that the network starts from; they decide the encoder's fields of the config, and the "
            "decoder's if they have one. A folder, a bundled name or a Hub repository, of this package or of an "
            "[encoder that others pre-trained](pretrained.md), or a public file of CroCo, DUSt3R or MASt3R (.pth)."
        ),
    ] = None
    lora: Annotated[
        dict[str, Any] | None,
        Field(
            description="LoRA of the encoder: arguments of PEFT's `LoraConfig`, such as `{r: 16}`. The encoder's own weights are "
            "frozen, everything else is trained; the saved model is merged. Needs `winwin-hf[lora]`."
        ),
    ] = None
    frozen: Annotated[
        list[str],
        Field(
            description="Parts that aren't trained, by the beginning of their parameters' names, such as `[winwin, "
            "decoder]`."
        ),
    ] = dataclasses.field(default_factory=list)
    attention: Annotated[
        str,
        Field(
            description="Implementation of attention in training (`sdpa`, `eager`, `flash_attention_2`, "
            "`flex_attention`). With a few hundred tokens a CPU is fastest with `eager`. Evaluation uses `sdpa`."
        ),
    ] = "sdpa"
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        if self.lora is not None and "winwin" in self.frozen:
            raise ValueError("lora and frozen: [winwin] exclude each other: LoRA trains the encoder's adapters")


MOST = 10**9  # of anything that is counted

# Fields of a data set, alone or in a mixture.
SetName = Annotated[
    str,
    Field(
        description="A set of `winwin data list`, `synthetic-flow`, `synthetic-depth`, `synthetic-worlds`, `shards` (made by `winwin data "
        "shards`) or `hub`."
    ),
]
SetPath = Annotated[
    str | None,
    Field(
        description="Folder of the set. Of `hub`: the repository. Of synthetic scenes: a folder of photographs to use as textures, of "
        "`synthetic-worlds` one of meshes, or null."
    ),
]
SetSplit = Annotated[str, Field(description="Which part; slices such as `train[:80%]` are allowed.")]
SetSettings = Annotated[dict[str, Any], Field(description="Look of synthetic scenes, or augmentation; see below.")]
SetOptions = Annotated[
    dict[str, Any], Field(description="The set's own options, such as a depth map's scale; see [Data sets](data.md).")
]


@dataclasses.dataclass
class DataSetRecipe:
    """One data set."""

    name: SetName
    path: SetPath = None
    split: SetSplit = "train"
    settings: SetSettings = dataclasses.field(default_factory=dict)
    options: SetOptions = dataclasses.field(default_factory=dict)
    classes: Annotated[
        dict[str, str | list[str] | None],
        Field(
            description="With `labels` of the mixture: one of them for each class of the set; several, where any may be right; null: "
            "ignored. A class of the same name needn't be here."
        ),
    ] = dataclasses.field(default_factory=dict)
    weight: Annotated[float, Field(gt=0, le=1e6, description="How often an epoch of a mixture repeats the set.")] = 1.0
    length: Annotated[
        int | None,
        Field(ge=1, le=MOST, description="Number of examples of a pass at most. An endless set in a mixture needs it."),
    ] = None
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID


@dataclasses.dataclass
class DataRecipe:
    """One data set (`name`, `path`, ...) or a mixture of several (`sets`)."""

    name: SetName | None = None
    path: SetPath = None
    split: SetSplit = "train"
    settings: SetSettings = dataclasses.field(default_factory=dict)
    options: SetOptions = dataclasses.field(default_factory=dict)
    sets: Annotated[list[DataSetRecipe], Field(description="The data sets of a mixture.")] = dataclasses.field(
        default_factory=list
    )
    labels: Annotated[
        list[str] | None, Field(description="The classes of a mixture for segmentation whose sets have different ones.")
    ] = None
    skip_broken: Annotated[
        bool,
        Field(
            description="Leave out and count examples with a missing or unreadable file. Otherwise such a file ends "
            "the training with its name. A mesh of worlds gives way to a shape of our own, unless none of its kind can "
            "be read."
        ),
    ] = False
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        if (self.name is None) == (not self.sets):
            raise ValueError("expected either one data set (name, path, ...) or several (sets)")
        if self.sets and (self.path or self.settings or self.options or self.split != "train"):
            raise ValueError("path, split, settings and options belong to each entry of sets")
        if self.labels is not None and (not self.sets or len(set(self.labels)) != len(self.labels) or not self.labels):
            raise ValueError("labels: expected different names, of a mixture (sets)")
        if self.labels is None and any(chosen.classes for chosen in self.sets):
            raise ValueError("classes of a set need the labels that they are mapped to (data.labels)")

    def parts(self) -> list[DataSetRecipe]:
        """The data sets, one or several."""
        if self.name is None:
            return self.sets
        return [DataSetRecipe(self.name, self.path, self.split, self.settings, self.options)]


@dataclasses.dataclass
class EvaluationSet:
    """A set of full frames to score."""

    label: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", description="The set's name in tables, one line.")]
    name: Annotated[str | None, Field(description="Another data set than the training's (first) one.")] = None
    path: Annotated[str | None, Field(description="Folder of that data set.")] = None
    split: Annotated[str, Field(description="Which part, such as `val` or `all[67%:]`.")] = "val"
    length: Annotated[int | None, Field(ge=1, le=MOST, description="Number of examples at most.")] = None
    settings: Annotated[
        dict[str, Any],
        Field(
            description="Synthetic scenes: changes to the training's settings. Other sets: an augmentation, such as "
            "a fixed scale."
        ),
    ] = dataclasses.field(default_factory=dict)
    options: Annotated[dict[str, Any], Field(description="Options of that data set.")] = dataclasses.field(
        default_factory=dict
    )
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID


# What a preset and weights must agree in.
SIZES = tuple(
    f"{prefix}{name}"
    for prefix in ("", "decoder_")
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
)
RESERVED_LABELS = ("windows", "step", "seconds", "cpu_seconds")  # what else stands in a line of scores


@dataclasses.dataclass
class EvaluationRecipe:
    """What is scored during a training."""

    every: Annotated[int, Field(ge=0, le=MOST, description="Steps between evaluations; 0: only at the end.")] = 1000
    windows: Annotated[
        int,
        Field(
            ge=0,
            le=100_000,
            description="Number of held-out examples scored on windows, placed as in training. The gap to full "
            "frames shows what windows hide.",
        ),
    ] = 64
    sets: Annotated[list[EvaluationSet], Field(description="Full frames to score.")] = dataclasses.field(
        default_factory=list
    )
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        labels = [chosen.label for chosen in self.sets]
        taken = [label for label in labels if label in RESERVED_LABELS or labels.count(label) > 1]
        if taken:  # in the log the later one would replace the other
            raise ValueError(
                f"the label {taken[0]!r} stands twice or is one of {', '.join(RESERVED_LABELS)}; expected another one a set"
            )


Beta = Annotated[float, Field(ge=0, lt=1)]


@dataclasses.dataclass
class OptimizationRecipe:
    """AdamW, its schedule, and batches."""

    steps: Annotated[int, Field(ge=1, le=MOST, description="Optimiser steps.")] = 10_000
    batch_size: Annotated[int, Field(ge=1, le=MOST, description="Examples of one process and backward pass.")] = 16
    accumulation: Annotated[int, Field(ge=1, le=10**6, description="Backward passes of one optimiser step.")] = 1
    learning_rate: Annotated[float, Field(gt=0, le=1e6, description="Largest learning rate.")] = 3e-4
    weight_decay: Annotated[
        float, Field(ge=0, le=1e6, description="AdamW's weight decay; not on norms and biases.")
    ] = 0.05
    layer_decay: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Each encoder block learns this much more slowly than the block after it, its embeddings most slowly "
            "(Clark et al. 2020; 0.65 to 0.9 for fine-tuning). 1: all alike.",
        ),
    ] = 1.0
    betas: Annotated[tuple[Beta, Beta], Field(description="AdamW's betas.")] = (0.9, 0.95)
    warmup_steps: Annotated[int, Field(ge=0, le=MOST, description="Steps of linear warm-up; a cosine follows.")] = 500
    final_share: Annotated[
        float, Field(ge=0, le=1, description="Learning rate at the end, as a share of `learning_rate`.")
    ] = 0.0
    clip_norm: Annotated[float, Field(gt=0, le=1e12, description="Largest norm of the gradient.")] = 1.0
    ema_decay: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Decay of the average of the weights, which is scored and saved at the end; 0: no average.",
        ),
    ] = 0.999
    mixed_precision: Annotated[
        Literal["no", "bf16", "fp16"],
        BeforeValidator(lambda value: "no" if value is False else value),  # YAML reads a bare `no` as false
        Field(description="Precision of the forward pass."),
    ] = "no"
    gradient_checkpointing: Annotated[bool, Field(description="Less memory, more time.")] = False
    num_workers: Annotated[
        int,
        Field(
            ge=0,
            le=MOST_WORKERS,
            description="Loader processes of one training process; 0: the training process loads.",
        ),
    ] = 1
    seed: Annotated[
        int, Field(ge=0, lt=2**31, description="Seed of the weights, the data's order, windows and augmentation.")
    ] = 0
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def examples_per_step(self, world: int) -> int:
        """Number of examples of an optimiser step of `world` processes together."""
        return self.batch_size * self.accumulation * world


@dataclasses.dataclass
class Recipe:
    """Everything that decides a training."""

    task: Annotated[TaskName, Field(description="What is learnt; the data must have it.")]
    data: Annotated[DataRecipe, Field(description="One data set or several.")]
    model: Annotated[ModelRecipe, Field(description="The network.")] = dataclasses.field(default_factory=ModelRecipe)
    windows: Annotated[Strategy, Field(description="The windows of the first view.")] = dataclasses.field(
        default_factory=lambda: Strategy("windows", size=(6, 6))
    )
    second_windows: Annotated[SecondStrategy, Field(description="The windows of the second view.")] = dataclasses.field(
        default_factory=SecondStrategy
    )
    initial_flow: Annotated[GuessStrategy, Field(description="The flow that a network is given as a guess.")] = (
        dataclasses.field(default_factory=GuessStrategy)
    )
    optimization: Annotated[OptimizationRecipe, Field(description="Optimiser, schedule, batches.")] = dataclasses.field(
        default_factory=OptimizationRecipe
    )
    evaluation: Annotated[EvaluationRecipe, Field(description="What is scored during the training.")] = (
        dataclasses.field(default_factory=EvaluationRecipe)
    )
    output: Annotated[str, Field(description="Folder of states, logs and the final model.")] = "runs/winwin"
    save_every: Annotated[int, Field(ge=1, le=MOST, description="Steps between states.")] = 500
    log_every: Annotated[int, Field(ge=1, le=MOST, description="Steps between lines of metrics.jsonl.")] = 20
    trackers: Annotated[list[str], Field(description="Where Accelerate also logs to, such as `tensorboard`.")] = (
        dataclasses.field(default_factory=lambda: ["tensorboard"])
    )
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        workers, per_step = self.optimization.num_workers, self.optimization.accumulation
        if workers and self.save_every * per_step % workers:
            raise ValueError(
                f"save_every={self.save_every} steps of {per_step} batches: expected a multiple of "
                f"num_workers={workers} batches, or a resumed training would not read the same data"
            )
        if len(TASKS[self.task].images) == 1 and self.second_windows != SecondStrategy():
            raise ValueError(f"second_windows: {self.task} has one view; expected none")
        if self.task != "optical-flow" and self.initial_flow != GuessStrategy():
            raise ValueError(f"initial_flow: {self.task} has no flow; expected none")

    def scores_anything(self) -> bool:
        """Whether its evaluations have something to score. Pre-training has no whole frames."""
        return bool(self.evaluation.windows or (self.evaluation.sets and self.task != "pre-training"))

    def config(
        self, decided: Mapping[str, Any] | None = None, free: Mapping[str, Any] | None = None, **labels: Any
    ) -> WinWinConfig:
        """
        The model's config.

        Args:
            decided: fields that the weights of `model.init` decide. free: fields that go with them unless the recipe has others.
            labels: what the data set adds (id2label).
        Raises: ValueError: an unknown field, or one that contradicts those weights.
        """
        decided, init = dict(decided or {}), self.model.init
        known = own_fields()
        unknown = [key for key in self.model.config if key not in known or key.startswith("_")]
        if unknown:
            raise ValueError(f"model.config: unknown {few(unknown)}; expected fields of WinWinConfig's own")
        for name, value in self.model.config.items():
            if name in decided and plain(value) != plain(decided[name]):
                raise ValueError(f"model.config.{name} is {value!r}, and {init} has {decided[name]!r}; leave it out")
        if self.model.preset not in (None, *PRESETS):
            raise ValueError(f"model.preset: {self.model.preset!r}; expected one of {', '.join(PRESETS)}")
        preset = PRESETS.get(str(self.model.preset), {})
        if decided and preset:
            sizes = WinWinConfig.from_preset(str(self.model.preset))
            for name in (name for name in SIZES if name in decided and name not in self.model.config):
                if getattr(sizes, name) != decided[name]:
                    raise ValueError(
                        f"model.preset {self.model.preset} has {name}={getattr(sizes, name)}, and {init} has {decided[name]}; "
                        "leave the preset out"
                    )
        fields = {**(free or {}), **preset, **decided, **labels, **self.model.config}
        try:
            if self.model.preset is None and decided:
                return WinWinConfig(**fields)
            return WinWinConfig.from_preset(self.model.preset or "tiny", **fields)
        except (StrictDataclassError, ValueError) as error:
            raise ValueError(f"model.config: {reason_of(error)}") from error


def plain(value: Any) -> Any:
    """A tuple as a list: YAML has only lists."""
    return list(value) if isinstance(value, tuple) else value


@contextmanager
def in_field(field: str) -> Iterator[None]:
    """Errors of files and values begin with the recipe's field that named them."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        kinds = (BrokenExample, FileNotFoundError, ImportError)
        kind = next((kind for kind in kinds if isinstance(error, kind)), ValueError)
        raise kind(f"{field}: {error}") from error


def own_fields() -> set[str]:
    """The fields of WinWinConfig that aren't transformers', as dtype and return_dict are."""
    return {f.name for f in dataclasses.fields(WinWinConfig)} - {f.name for f in dataclasses.fields(PreTrainedConfig)}


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """
    Reads and checks a recipe.

    Args:
        path: a YAML file, or the name of a recipe of the package.
        overrides: "section.key=value" strings on top of it; values in YAML.
    Raises: ValueError, naming the file.
    """
    try:
        file = recipe_path(path)
        if file.stat().st_size > 4 * MAX_TEXT:  # bytes; before it is read
            raise ValueError(
                f"{path}: {file.stat().st_size:,} bytes; expected a YAML recipe of at most {MAX_TEXT:,} characters"
            )
        text = read_text(file)
    except OSError as error:
        raise ValueError(f"{path}: expected a YAML recipe; {error}") from None
    values = plain_yaml(text, path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a YAML recipe with a task and data, got {type(values).__name__}")
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"override {override!r}: expected section.key=value")
        *sections, name = key.strip().split(".")
        target: Any = values
        for section in sections:
            if isinstance(target, dict):
                target = target.setdefault(section, {})
            elif section.isdigit() and int(section) < len(target):  # data.sets.0.path
                target = target[int(section)]
            else:
                raise ValueError(f"override {override!r}: expected a number below {len(target)}, got {section!r}")
            if not isinstance(target, dict | list):
                raise ValueError(f"override {override!r}: {section} is no section of the recipe")
        if not isinstance(target, dict):
            raise ValueError(
                f"override {override!r}: {sections[-1]} is a list; expected {'.'.join(sections)}.NUMBER.key"
            )
        target[name] = plain_yaml(text, f"override {override!r}")
    return build(Recipe, values, str(path))


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, all defaults written out."""
    values = TypeAdapter(Recipe).dump_python(recipe, mode="json", exclude_none=True)
    if values["windows"].get("kind") != "windows" or "sizes" in values["windows"]:
        values["windows"].pop("count", None)  # derived there
    return yaml.safe_dump(values, sort_keys=False)
