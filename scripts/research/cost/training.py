"""The probe of a training step: loader, augmentation, forward, backward, clipping and AdamW, as in scripts/train.py.

Times: whole steps with batches from a loader process; in them forward with backward, and the optimiser; and the loading of a
batch in this process. The average of the weights (`ema_decay`) is left out.
"""

from __future__ import annotations

import itertools
import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from research.cost.cases import CLASSES
from research.cost.meter import Meter
from research.machine import resident
from research.sizes import grid_of
from winwin_hf.checked import build
from winwin_hf.task import DataTask
from winwin_hf.training.batches import next_batch
from winwin_hf.training.build import make_loader, make_model, make_optimizer, open_parts
from winwin_hf.training.recipe import Recipe
from winwin_hf.windows import Strategy

# The augmentation keeps the size: full frames of one batch must have one size.
DATA: dict[DataTask, dict[str, Any]] = {
    "semantic-segmentation": {"name": "bdd100k", "settings": {"scale": [1.0, 1.0]}},
    "depth-estimation": {"name": "depth-folder", "settings": {"scale": [1.0, 1.0]}},
    "optical-flow": {"name": "spring", "settings": {"scale": [0.0, 0.0], "stretch": 0.0}},
}


@dataclass(frozen=True)
class Noise:
    """Stands for the data set of a batch of noise: what `make_model` asks of a source."""

    task: DataTask
    name: str = "noise"

    @property
    def labels(self) -> tuple[str, ...] | None:
        return tuple(map(str, range(CLASSES))) if self.task == "semantic-segmentation" else None


def train_step(
    folder: Path,
    task: DataTask,
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
    Figures of training steps; None in all processes but the first.

    Args:
        folder: holds the frames that frames.py writes.
        frame: (height, width) in pixels. windows, second_windows, model: sections of a recipe.
        batch: examples of each process.
        steps: after `warmup` steps.
        loader: load the batches. False: use one batch of noise.
        loading: batches to load for the time of loading alone.
    """
    values = {
        "task": task,
        "model": model,
        "data": DATA[task] | {"path": str(folder / DATA[task]["name"])},
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
    parts = open_parts(recipe) if loader else []
    net, processor = make_model(recipe, parts[0].source if loader else Noise(task))
    if checkpointing:
        net.gradient_checkpointing_enable()
    optimizer = make_optimizer(net, recipe.optimization)
    net, optimizer = accelerator.prepare(net.train(), optimizer)
    meter, result = Meter(), {"parameters": sum(p.numel() for p in net.parameters())}
    meter.start_memory()

    if loader:
        batches = iter(make_loader(recipe, accelerator.process_index, accelerator.num_processes, 0, processor, parts))
        batches = itertools.chain([next_batch(batches)], batches)  # the loader's process has started
    else:
        batches = itertools.repeat(random_batch(task, frame, windows, second_windows, batch, processor.patch_size))
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
    result["loader_gb"] = sum(resident("VmHWM", child.pid) / 1e9 for child in multiprocessing.active_children())
    del batches  # ends the loader's process
    if loader and loading:
        recipe.optimization.num_workers = 0
        batches = iter(make_loader(recipe, 0, 1, 0, processor, parts))
        next(batches)  # opens files, fills caches
        for _ in range(loading):
            with meter.timed("loading"):
                next(batches)
    tokens = {name: tensor.shape for name, tensor in tensors.items() if name.endswith("pixel_values")}
    result["tokens"] = sum(
        int(np.prod(s)) // s[-3] // processor.patch_size**2 for s in tokens.values()
    )  # of the whole batch
    result["processes"] = accelerator.num_processes
    return {**meter.times(), **result} if accelerator.is_main_process else None


def random_batch(
    task: DataTask,
    frame: tuple[int, int],
    windows: dict[str, Any],
    second_windows: dict[str, Any] | None,
    batch: int,
    patch_size: int,
) -> dict[str, torch.Tensor]:
    """A batch of noise with the collator's keys and shapes."""
    rng, grid = np.random.default_rng(0), grid_of(*frame, patch_size)
    strategy = Strategy(**windows)
    positions, size = zip(*(strategy.sample(rng, grid) for _ in range(batch)), strict=True)
    corners = torch.from_numpy(np.stack(positions))

    def pixels(size: tuple[int, int], channels: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(*corners.shape[:2], *channels, size[0] * patch_size, size[1] * patch_size)

    tensors = {"pixel_values": pixels(size[0], (3,)), "window_positions": corners}
    tensors["frame_sizes"] = torch.tensor(grid).expand(batch, 2)
    if task == "semantic-segmentation":
        return tensors | {"labels": torch.randint(0, CLASSES, pixels(size[0], ()).shape)}
    if task == "depth-estimation":
        return tensors | {"labels": 1 + pixels(size[0], ()).abs()}
    second = tuple((second_windows or {}).get("size", size[0])) if strategy.kind == "windows" else size[0]
    return tensors | {
        "labels": 10 * pixels(size[0], (2,)),
        "second_pixel_values": pixels(second, (3,)),
        "second_window_positions": torch.minimum(corners, torch.tensor(grid) - torch.tensor(second)),
    }
