"""A recipe: everything that decides a training, as a YAML file checked against dataclasses.

Notable:
- an unknown key is an error that names it and says where it stands; so is a value of the wrong type.
- `--set optimization.steps=100` overrides single values before the check.
- the recipe as it was used is written beside the training's results, so that it can be repeated.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import TypeAdapter

from winwin_hf.checked import FORBID, build
from winwin_hf.data.collator import SecondStrategy
from winwin_hf.data.guesses import GuessStrategy
from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.task import TaskName
from winwin_hf.windows import Strategy


@dataclasses.dataclass
class ModelRecipe:
    """preset: sizes to start from ("tiny", "small", "base", "large"). config: fields of WinWinConfig on top. init: a checkpoint
    (a folder, a name, a public CroCo .pth) whose encoder and decoder to start from; they must be of the same size. frozen: parts
    that stay as they start, by the beginning of their parameters' names, such as [winwin, decoder]. attention: its implementation
    in training ("sdpa", "eager", "flash_attention_2", "flex_attention"); with a few hundred tokens a CPU is fastest with "eager".
    Evaluation uses "sdpa"."""

    preset: str = "tiny"
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    init: str | None = None
    frozen: list[str] = dataclasses.field(default_factory=list)
    attention: str = "sdpa"
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID


@dataclasses.dataclass
class DataSetRecipe:
    """name: a set of `winwin data list`, "synthetic-flow", "synthetic-depth", "shards" (made by `winwin data shards`) or "hub". path: its
    folder; for the Hub the repository; for synthetic scenes an optional folder of photographs to use as textures. split: which part,
    slices as "train[:80%]" included. settings: fields of SceneSettings or RoomSettings (synthetic), FlowAugmentation or ImageAugmentation.
    options: of the set itself, such as a depth map's scale or the Hub's columns. weight: how often an epoch of a mixture
    repeats it. length: at most so many examples a pass; an endless set must have it in a mixture."""

    name: str
    path: str | None = None
    split: str = "train"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    weight: float = 1.0
    length: int | None = None
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        if self.weight <= 0 or (self.length is not None and self.length < 1):
            raise ValueError(f"weight and length must be positive; got {self.weight} and {self.length}")


@dataclasses.dataclass
class DataRecipe:
    """One data set, described as in DataSetRecipe, or several: sets. skip_broken: leave out examples with a missing or unreadable
    file, and count them, instead of ending the training with the file's name."""

    name: str | None = None
    path: str | None = None
    split: str = "train"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    sets: list[DataSetRecipe] = dataclasses.field(default_factory=list)
    skip_broken: bool = False
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        if (self.name is None) == (not self.sets):
            raise ValueError("expected either one data set (name, path, ...) or several (sets)")
        if self.sets and (self.path or self.settings or self.options or self.split != "train"):
            raise ValueError("path, split, settings and options belong to each entry of sets")

    def parts(self) -> list[DataSetRecipe]:
        """The data sets, one or several."""
        if self.name is None:
            return self.sets
        return [DataSetRecipe(self.name, self.path, self.split, self.settings, self.options)]


@dataclasses.dataclass
class EvaluationSet:
    """Full frames to score. label: its name in tables. name, path, options: another data set than the training's (first) one.
    split: of that set. length: at most so many examples. settings: on top of the training's (synthetic), or an augmentation
    such as a fixed scale."""

    label: str
    name: str | None = None
    path: str | None = None
    split: str = "val"
    length: int | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID


@dataclasses.dataclass
class EvaluationRecipe:
    """every: steps between evaluations (the end is always evaluated). windows: held-out examples to score on windows, placed as in
    training, so that the gap to full frames is seen. sets: full frames to score."""

    every: int = 1000
    windows: int = 64
    sets: list[EvaluationSet] = dataclasses.field(default_factory=list)
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID


@dataclasses.dataclass
class OptimizationRecipe:
    """steps: optimiser steps. batch_size: examples per process and backward pass. accumulation: backward passes a step.
    Learning rate: linear warm-up over `warmup_steps`, then a cosine to `final_share` of it. weight_decay: AdamW's, not on norms and
    biases. betas: AdamW's. clip_norm: the gradient's largest norm. ema_decay: of the average of the weights, which is what is scored
    and saved at the end; 0 turns it off. mixed_precision: "no", "bf16", "fp16". gradient_checkpointing: less memory, more time.
    num_workers: loader processes per training process. seed: of the weights, the data's order, windows and augmentation."""

    steps: int = 10_000
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 3e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_steps: int = 500
    final_share: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False
    num_workers: int = 1
    seed: int = 0
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")


@dataclasses.dataclass
class Recipe:
    """See the other classes of this file for the sections. task: what is learnt; the data must have it. output: folder of states, logs
    and the final model. save_every: steps between states. log_every: steps between lines of metrics.jsonl. trackers: where
    Accelerate also logs to."""

    task: TaskName
    data: DataRecipe
    model: ModelRecipe = dataclasses.field(default_factory=ModelRecipe)
    windows: Strategy = dataclasses.field(default_factory=lambda: Strategy("windows", size=(6, 6)))
    second_windows: SecondStrategy = dataclasses.field(default_factory=SecondStrategy)
    initial_flow: GuessStrategy = dataclasses.field(default_factory=GuessStrategy)
    optimization: OptimizationRecipe = dataclasses.field(default_factory=OptimizationRecipe)
    evaluation: EvaluationRecipe = dataclasses.field(default_factory=EvaluationRecipe)
    output: str = "runs/winwin"
    save_every: int = 500
    log_every: int = 20
    trackers: list[str] = dataclasses.field(default_factory=lambda: ["tensorboard"])
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        workers, per_step = self.optimization.num_workers, self.optimization.accumulation
        if workers and self.save_every * per_step % workers:
            raise ValueError(
                f"save_every={self.save_every} steps of {per_step} batches: expected a multiple of "
                f"num_workers={workers} batches, or a resumed training would not read the same data"
            )

    def config(self, **labels: Any) -> WinWinConfig:
        """The model's config; `labels` are what the data set adds (id2label)."""
        known = {f.name for f in dataclasses.fields(WinWinConfig)}
        unknown = [key for key in self.model.config if key not in known or key.startswith("_")]
        if unknown:
            raise ValueError(f"model.config: unknown {', '.join(unknown)}; expected fields of WinWinConfig")
        return WinWinConfig.from_preset(self.model.preset, **{**labels, **self.model.config})


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads and checks a recipe; `overrides` are "section.key=value" strings, values in YAML. Raises ValueError, naming the file."""
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: expected a YAML recipe; {error}") from None
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
        target[name] = yaml.safe_load(text)
    return build(Recipe, values, str(path))


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, all defaults written out."""
    values = TypeAdapter(Recipe).dump_python(recipe, mode="json", exclude_none=True)
    if values["windows"].get("kind") != "windows" or "sizes" in values["windows"]:
        values["windows"].pop("count", None)  # derived there
    return yaml.safe_dump(values, sort_keys=False)
