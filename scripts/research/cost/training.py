"""The probe of a training step: what scripts/train.py does in one, loader, augmentation, clipping and AdamW included.

Times are taken of steps whose batches come from the recipe's loader process, of forward with backward and of the optimiser in
them, and of the loading of a batch alone, in this process. The average of the weights (`ema_decay`) is left out.
"""

from __future__ import annotations

import itertools
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from winwin_hf.checked import build
from winwin_hf.training.build import MODELS, make_loader, make_model, make_optimizer, open_parts
from winwin_hf.training.loop import next_batch
from winwin_hf.training.recipe import Recipe
from winwin_hf.windows import Strategy

from .cases import CLASSES
from .meter import Meter, status

TASKS = {"segmentation": "semantic-segmentation", "flow": "optical-flow"}
# Mirrors and colours vary, sizes don't: full frames of one batch must have one size.
DATA = {
    "segmentation": {"name": "bdd100k", "settings": {"scale": [1.0, 1.0]}},
    "flow": {"name": "spring", "settings": {"scale": [0.0, 0.0], "stretch": 0.0}},
}


def train_step(
    folder: Path,
    task: str,
    frame: tuple[int, int],
    windows: dict[str, Any],
    precision: str,
    batch: int,
    model: dict[str, Any],
    second_windows: dict[str, Any] | None = None,
    checkpointing: bool = False,
    steps: int = 3,
    loader: bool = True,
    warmup: int = 1,
    loading: int = 4,
) -> dict[str, Any] | None:
    """
    Args:
        folder: holds frames as frames.py draws them.
        frame: (height, width) in pixels. windows, second_windows, model: sections of a recipe. batch: examples of each process.
        loader: load batches; or one batch of noise is used again and again. loading: batches to load for the time of loading alone.
    """
    values = {
        "task": TASKS[task],
        "model": model,
        "data": DATA[task] | {"path": str(folder / ("bdd" if task == "segmentation" else "spring"))},
        "windows": windows,
        "second_windows": second_windows or {},
        "optimization": {
            "batch_size": batch,
            "mixed_precision": {"fp32": "no", "bf16": "bf16"}[precision],
            "gradient_checkpointing": checkpointing,
        },
    }
    recipe = build(Recipe, values, "the benchmark's recipe")
    accelerator = Accelerator(mixed_precision=recipe.optimization.mixed_precision)
    torch.manual_seed(0)
    parts = open_parts(recipe, accelerator.num_processes) if loader else []
    net = make_model(recipe, parts[0].source) if loader else new_model(recipe)
    if checkpointing:
        net.gradient_checkpointing_enable()
    patch_size = net.config.patch_size
    optimizer = make_optimizer(net, recipe.optimization)
    net, optimizer = accelerator.prepare(net.train(), optimizer)
    meter, result = Meter(), {"parameters": sum(p.numel() for p in net.parameters())}
    meter.idle()

    if loader:
        batches = iter(make_loader(recipe, accelerator.process_index, accelerator.num_processes, 0, patch_size, parts))
        batches = itertools.chain([next_batch(batches)], batches)  # its process has started by now
    else:
        batches = itertools.repeat(random_batch(task, frame, windows, second_windows, batch, patch_size))
    for step in range(warmup + steps):
        prefix = "warmup_" if step < warmup else ""
        with meter.timed(f"{prefix}step"):
            tensors = next_batch(batches)
            tensors = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in tensors.items()}
            with meter.timed(f"{prefix}network"):
                accelerator.backward(net(**tensors).loss)
            with meter.timed(f"{prefix}optimizer"):
                accelerator.clip_grad_norm_(net.parameters(), recipe.optimization.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
    result |= meter.memory()
    result["loader_gb"] = sum(status("VmHWM", child.pid) for child in multiprocessing.active_children())
    del batches  # ends the loader's process
    if loader and loading:
        recipe.optimization.num_workers = 0
        batches = iter(make_loader(recipe, 0, 1, 0, patch_size, parts))
        next(batches)  # opens files, fills caches
        for _ in range(loading):
            with meter.timed("loading"):
                next(batches)
    tokens = {name: tensor.shape for name, tensor in tensors.items() if name.endswith("pixel_values")}
    result["tokens"] = sum(int(np.prod(s)) // s[-3] // patch_size**2 for s in tokens.values())  # of the whole batch
    result["processes"] = accelerator.num_processes
    return {**meter.times(), **result} if accelerator.is_main_process else None


def new_model(recipe: Recipe) -> torch.nn.Module:
    """Random weights, without a data set that says how many classes there are."""
    model_class, task = MODELS[recipe.task]
    labels = {"id2label": dict(enumerate(map(str, range(CLASSES))))} if task == "segmentation" else {}
    model = model_class(recipe.config(**labels))
    model.set_attn_implementation(recipe.model.attention)
    return model


def random_batch(
    task: str,
    frame: tuple[int, int],
    windows: dict[str, Any],
    second_windows: dict[str, Any] | None,
    batch: int,
    patch_size: int,
) -> dict[str, torch.Tensor]:
    """A batch as the collator makes it, of noise."""
    rng, grid = np.random.default_rng(0), (-(-frame[0] // patch_size), -(-frame[1] // patch_size))
    strategy = Strategy(**windows)
    positions, size = zip(*(strategy.sample(rng, grid) for _ in range(batch)), strict=True)
    corners = torch.from_numpy(np.stack(positions))

    def pixels(size: tuple[int, int], channels: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(*corners.shape[:2], *channels, size[0] * patch_size, size[1] * patch_size)

    tensors = {"pixel_values": pixels(size[0], (3,)), "window_positions": corners}
    if task == "segmentation":
        labels = torch.randint(0, CLASSES, pixels(size[0], ()).shape)
        return tensors | {"labels": labels}
    second = tuple((second_windows or {}).get("size", size[0])) if strategy.kind == "windows" else size[0]
    return tensors | {
        "labels": 10 * pixels(size[0], (2,)),
        "second_pixel_values": pixels(second, (3,)),
        "second_window_positions": torch.minimum(corners, torch.tensor(grid) - torch.tensor(second)),
    }
