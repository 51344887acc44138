"""A recipe's parts: data loader, model, optimiser."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import cv2
import psutil
import torch
from accelerate import PartialState
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from winwin_hf.data.formats import IGNORE
from winwin_hf.data.formats.files import bytes_text
from winwin_hf.data.merging import synonyms_of
from winwin_hf.data.sources import Source, open_source
from winwin_hf.data.streams import Part, PartReader, ordered
from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.layers_winwin import ALL_ATTENTION_FUNCTIONS, WinWinAttention, eager_attention_forward
from winwin_hf.model.modeling_winwin import (
    WinWinForDepthEstimation,
    WinWinForOpticalFlow,
    WinWinForPreTraining,
    WinWinForSemanticSegmentation,
)
from winwin_hf.model.weights_winwin import reason_of
from winwin_hf.pools import ignore_stop_signals
from winwin_hf.task import TASKS
from winwin_hf.training.adapters import add_adapters
from winwin_hf.training.evaluate import make_collator
from winwin_hf.training.initialise import initialise, read_start
from winwin_hf.training.recipe import OptimizationRecipe, Recipe, in_field
from winwin_hf.training.rows import Rows

FLOAT, HALF = 4, 2  # bytes of a number
# Only the classes: what else belongs to a task is in task.py.
MODELS = {
    cls.__name__: cls
    for cls in (
        WinWinForDepthEstimation,
        WinWinForOpticalFlow,
        WinWinForPreTraining,
        WinWinForSemanticSegmentation,
    )
}


def start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one process a worker; its threads would only be in the training's way
    ignore_stop_signals()


def open_parts(recipe: Recipe) -> list[Part]:
    """The training's data sets; all must be for one task, with the same classes. Raises ValueError if they aren't."""
    data, options = recipe.data, recipe.optimization
    parts = []
    groups: list[tuple[int, ...]] = []
    for i, chosen in enumerate(data.parts()):
        with in_field(f"data.sets.{i}" if data.sets else "data"):
            source = open_source(
                chosen.name,
                chosen.path,
                chosen.split,
                chosen.settings,
                seed=options.seed,
                num_shards=max(1, options.num_workers),
                options=chosen.options,
                augment=True,
                skip_broken=data.skip_broken,
            )
            if data.labels is not None:
                source.merge(data.labels, chosen.classes, groups)
        parts.append(Part(source, chosen.weight, chosen.length))
    for part in parts:
        part.source.groups = groups
    first = parts[0].source
    for part in parts[1:]:
        other = part.source
        if other.task != first.task or other.labels != first.labels:
            raise ValueError(
                f"data.sets: {other.name} is for {other.task} with {len(other.labels or ())} classes, {first.name} for "
                f"{first.task} with {len(first.labels or ())}; expected one task and the same classes"
            )
    return parts


def make_loader(
    recipe: Recipe, rank: int, world: int, start: int, processor: WinWinImageProcessor, parts: list[Part] | None = None
) -> DataLoader:
    """The training's batches of one process, after `start` examples of all processes together."""
    options = recipe.optimization
    parts = parts or open_parts(recipe)
    dataset, sampler = ordered(parts, options.seed, rank, world, options.num_workers, start)
    reader = parts[0].source.reader if len(parts) == 1 else PartReader([part.source.reader for part in parts])
    collator = make_collator(recipe, parts[0].source, processor, options.seed, reader, recipe.data.skip_broken)
    if sampler is not None:
        collator.group = options.examples_per_step(world)
    return DataLoader(
        dataset,
        options.batch_size,
        sampler=sampler,
        collate_fn=collator,
        num_workers=options.num_workers,
        worker_init_fn=start_worker,
        prefetch_factor=4 if options.num_workers else None,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
    )


def make_model(recipe: Recipe, source: Source, rows: Rows | None = None) -> tuple[Any, WinWinImageProcessor]:
    """
    A new model, or one that starts from `model.init`'s encoder, decoder and whatever else has its name and shape; partly frozen.

    Args:
        rows: where a sharded training keeps its part of a new model's weights; the model itself is then on the meta device. One that
            starts from other weights, or has adapters, isn't.
    Returns: the model and the image processor that goes with it.
    """
    task = TASKS[recipe.task]
    model_class = MODELS[task.architecture]
    if source.task != task.data:
        raise ValueError(
            f"data.name: task {recipe.task!r} needs data for {task.data}, but {source.name!r} is for {source.task}"
        )
    labels: dict[str, Any] = {"id2label": dict(enumerate(source.labels))} if source.labels else {}
    if recipe.data.labels is not None:
        labels["semantic_label_groups"] = [list(group) for group in source.groups] or None
        labels["label_synonyms"] = synonyms_of([chosen.classes for chosen in recipe.data.sets]) or None
        for name in labels.keys() & recipe.model.config.keys() - {"id2label"}:
            raise ValueError(f"model.config: {name} is what data.labels and the sets' classes say; expected none")
    start = read_start(recipe.model.init, len(task.images) == 2) if recipe.model.init else None
    config = recipe.config(start.config, start.free, **labels) if start else recipe.config(**labels)
    if recipe.initial_flow.probability and (recipe.task != "optical-flow" or config.matching_stride is None):
        raise ValueError(
            "initial_flow.probability: guesses need a model of flow with matching (model.config.matching_stride)"
        )
    if config.num_channels != 3:
        raise ValueError(
            f"model.config: num_channels={config.num_channels}; expected 3, as the pictures of data sets have"
        )
    if recipe.task == "semantic-segmentation" and config.semantic_loss_ignore_index != IGNORE:
        raise ValueError(
            f"model.config: semantic_loss_ignore_index={config.semantic_loss_ignore_index}; expected {IGNORE}, as in labels of data sets"
        )
    check_memory(recipe, config, rows.world if rows is not None else 1)
    alone = rows is None or start or recipe.model.lora is not None
    with contextlib.nullcontext() if alone else rows.drawing():  # type: ignore[union-attr]
        model = model_class(config)
    if start:
        initialise(model, start)
    for part in recipe.model.frozen:
        chosen = [p for name, p in model.named_parameters() if name.startswith(part + ".") or name == part]
        if not chosen:
            raise ValueError(f"model.frozen: nothing in a {model_class.__name__} is called {part!r}")
        for parameter in chosen:
            parameter.requires_grad_(False)
    if recipe.model.lora is not None:
        add_adapters(model, recipe.model.lora)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"model.frozen: {', '.join(recipe.model.frozen)} is all that a {model_class.__name__} has; nothing is left to train"
        )
    set_attention(model, recipe.model.attention, recipe.optimization.mixed_precision)
    return model, start.processor if start else WinWinImageProcessor(patch_size=config.patch_size)


def check_memory(recipe: Recipe, config: WinWinConfig, world: int = 1) -> None:
    """
    Raises ValueError for a network or a batch that this machine can't hold, before memory is taken.

    What is counted is the least: the weights, or the pixels of the windows and one number a token, channel and block.

    Args:
        world: number of processes that the weights are divided among.
    """
    device = PartialState().device
    host = psutil.virtual_memory().total
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else host
    parameters = config.count_parameters()
    weights = FLOAT * parameters // world
    if weights > memory:
        shared = f" in each of {world} processes" if world > 1 else ""
        raise ValueError(
            f"model.config: about {parameters / 1e6:.0f} M parameters take {bytes_text(weights)}{shared}; this machine has "
            f"{bytes_text(memory)}"
        )
    batch = recipe.optimization.batch_size
    tokens = least_tokens(recipe.windows)
    if len(TASKS[recipe.task].images) == 2:
        second = recipe.second_windows
        larger = tokens if second.factor >= 1 else 0
        tokens += larger if second.size is None else recipe.windows.count * math.prod(second.size)
    pixels = FLOAT * batch * tokens * config.num_channels * config.patch_size**2
    activations = HALF * batch * tokens * config.hidden_size * config.num_hidden_layers
    for what, needed, there in (("pixels", pixels, host), ("activations", activations, memory)):
        if needed > there:
            raise ValueError(
                f"optimization.batch_size={batch}: its {what} take {bytes_text(needed)} or more; this machine has {bytes_text(there)}"
            )


def least_tokens(windows: Any) -> int:
    """The tokens that windows of a strategy have at the least."""
    if windows.sizes is not None:
        return sum(h * w for h, w in windows.sizes)
    if windows.size is not None:
        return windows.count * math.prod(windows.size)
    return (windows.tokens or 1) // 2 + 1  # windows whose shape is drawn use most of the tokens


def set_attention(model: Any, name: str, precision: str = "no") -> None:
    """
    Chooses the attention of a model, and tries it on a few tokens. Raises ValueError for one that this machine can't train with.

    precision: the recipe's `mixed_precision`. On a GPU it is tried so: flash attention takes no float32.
    """
    device = PartialState().device
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision) if device.type == "cuda" else None
    try:
        model.set_attn_implementation(name)
        attention: WinWinAttention = next(m for m in model.modules() if isinstance(m, WinWinAttention))
        shape = (1, attention.num_heads, 16, attention.head_dim)
        query, key, value = (torch.ones(shape, device=device, dtype=half, requires_grad=True) for _ in range(3))
        function = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        output, _ = function(attention, query, key, value, None, dropout=0.0, scaling=attention.scaling)
        output.sum().backward()
    except Exception as error:  # ImportError, ValueError, NotImplementedError, those of a compiler, ...
        raise ValueError(
            f"model.attention: {name!r} can't be used here ({reason_of(error)}); expected sdpa or eager"
        ) from error


# Parameters with several axes that say where or what a token is: decay would draw them to zero.
UNDECAYED = ("embeddings.prefix_tokens", "embeddings.positions", "attention.frequencies")


def make_optimizer(model: torch.nn.Module, options: OptimizationRecipe) -> torch.optim.Optimizer:
    """
    AdamW without decay on vectors and scalars (norms, biases, temperatures) and on `UNDECAYED`.

    A group's "scale" multiplies its learning rate (`layer_decay`).
    """
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = options.layer_decay ** blocks_above(name, model)
            decayed = parameter.ndim > 1 and not name.endswith(UNDECAYED)
            groups.setdefault((scale, decayed), []).append(parameter)
    described = [
        {"params": groups[scale, decayed], "weight_decay": options.weight_decay * decayed, "scale": scale}
        for scale, decayed in sorted(groups, reverse=True)
    ]
    return torch.optim.AdamW(described, lr=options.learning_rate, betas=options.betas, fused=True)


def blocks_above(name: str, model: Any) -> int:
    """Number of encoder blocks after the one of a parameter, plus one; of the encoder's norm, decoder and head 0."""
    if name.startswith("winwin.embeddings."):
        return model.config.num_hidden_layers + 1
    block = re.match(r"winwin\.layers\.(\d+)\.", name)
    return model.config.num_hidden_layers - int(block[1]) if block else 0


def learning_rate(options: OptimizationRecipe, step: int) -> float:
    """Linear warm-up, then a cosine: a function of the step alone, so there is no schedule to save."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    progress = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return options.learning_rate * (options.final_share + (1 - options.final_share) * cosine)


def kept_share(decay: float, steps: float) -> float:
    """The share of the average that an update keeps: less in the first steps, so that a short training has an average too."""
    return min(decay, (1 + steps) / (10 + steps))


def make_average(model: torch.nn.Module, decay: float) -> AveragedModel:
    """
    Exponential moving average of the weights, see `kept_share`.

    Frozen parameters have none: both models hold the same ones.
    """

    @torch.no_grad()
    def update(averaged: Any, current: Any, count: Any) -> None:
        steps = float(count)
        pairs = [(a, c) for a, c in zip(averaged, current, strict=True) if a.data_ptr() != c.data_ptr()]
        averaged, current = zip(*pairs, strict=True)
        torch._foreach_lerp_(averaged, current, 1 - kept_share(decay, steps))

    average = AveragedModel(model, multi_avg_fn=update)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            place, _, leaf = name.rpartition(".")
            setattr(average.module.get_submodule(place), leaf, parameter)
    return average
