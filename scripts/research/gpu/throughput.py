"""Images a second of trainings by bundled recipes: the network alone, the loader alone, both together, and what changes them.

No recipe here downloads anything: scenes are synthetic, and CamVid's frames are noise of its size.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState

sys.path.append(str(Path(__file__).resolve().parents[2]))

from research.cost.frames import picture
from research.cost.meter import Meter
from winwin_hf.training.batches import next_batch
from winwin_hf.training.build import make_loader, make_model, make_optimizer, open_parts
from winwin_hf.training.evaluate import open_accelerator
from winwin_hf.training.loop import train
from winwin_hf.training.recipe import Recipe, load_recipe

CORES = len(os.sched_getaffinity(0))
RENDERED = 8  # examples of a batch in memory; larger batches repeat them
TIMED = 2.5  # seconds of steps, and of batches
TRAINED = 8.0  # seconds
QUIET = ["trackers=[]", "evaluation={every: 0, windows: 0, sets: []}"]
SMALL = ["optimization.batch_size=2", "optimization.warmup_steps=1"]
# Scenes without what a camera does to colours: the most that computing it on the GPU could save.
NO_CAMERA = [f"data.settings.{name}=0" for name in ("photometric", "shadow", "blur", "noise")]


@dataclasses.dataclass(frozen=True)
class Measured:
    """A bundled recipe and what is changed in it."""

    name: str
    changes: tuple[str, ...] = ()
    small: bool = False

    def load(self, *more: str) -> Recipe:
        return load_recipe(self.name, self.overrides(*more))

    def overrides(self, *more: str) -> list[str]:
        workers = 1 if self.small else max(1, CORES - 1)
        found = [*QUIET, f"optimization.num_workers={workers}", f"save_every={1000 * workers}", *self.changes]
        return [*found, *(SMALL if self.small else []), *more]

    def with_changes(self, *more: str) -> Measured:
        return dataclasses.replace(self, changes=(*self.changes, *more))


def recipes(folder: Path, small: bool) -> list[Measured]:
    """The recipes that are measured; the first one's variants too."""
    write_camvid(folder / "CamVid")
    tiny = ("data.settings.texture_count=2", *(f"model.config.{side}num_hidden_layers=1" for side in ("", "decoder_")))
    tiny = tiny if small else ()
    found = [
        Measured("flow-synthetic-gpu", tiny, small),
        Measured("camvid", (f"data.path={folder / 'CamVid'}", "model.attention=sdpa"), small),
        Measured("depth-rooms", ("data={name: synthetic-depth}", "model.attention=sdpa"), small),
        Measured("pretrain-synthetic", tiny, small),
    ]
    return found[:2] if small else found


def write_camvid(folder: Path, count: int = 12) -> None:
    """Frames and labels of CamVid's size and layout, of noise. Does nothing where they are there."""
    rng = np.random.default_rng(0)
    for name in ("train", "trainannot"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count if not any((folder / "train").iterdir()) else 0):
        cv2.imwrite(str(folder / "train" / f"{i:04d}.png"), picture(rng, 360, 480))
        ids = cv2.resize(rng.integers(0, 12, (12, 16), dtype=np.uint8), (480, 360), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / "trainannot" / f"{i:04d}.png"), ids)


# ------------------------------------------------------------------ the three measurements


def measure_network(
    chosen: Measured, found: dict[str, Any], left: float, fused: bool = True, compiled: str | None = None
) -> dict[str, Any]:
    """
    The network alone: forward, backward, clipping and AdamW on one batch that is on the device.

    Args:
        found: what was measured of the recipe before. left: seconds of the part.
        fused: AdamW's kernel for all tensors. compiled: a mode of torch.compile.
    """
    recipe = chosen.load()
    options = recipe.optimization
    AcceleratorState._reset_state(reset_partial_state=True)  # the last recipe may have had another precision
    GradientState._reset_state()
    accelerator = open_accelerator(recipe)
    torch.manual_seed(0)
    parts = open_parts(recipe)
    model, processor = make_model(recipe, parts[0].source)
    batch = repeated(one_batch(chosen, processor, parts), options.batch_size)
    batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = make_optimizer(model.train(), options)
    if not fused:
        for group in optimizer.param_groups:
            group.update(fused=False, foreach=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    forward: Any = model
    if compiled is not None:
        # a CPU would compile for minutes
        kind = {"mode": compiled} if accelerator.device.type == "cuda" else {"backend": "aot_eager"}
        forward = torch.compile(model, dynamic=False, **kind)

    def step() -> None:
        if compiled is not None:
            torch.compiler.cudagraph_mark_step_begin()
        accelerator.backward(forward(**batch).loss)
        accelerator.clip_grad_norm_(model.parameters(), options.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    meter = Meter()
    meter.start_memory()
    for name in ("first", "warmup", "warmup", "one"):
        with meter.timed(name):
            step()
    count = max(2, min(100, int(TIMED / meter.seconds["one"][0]))) if not chosen.small else 1
    with meter.timed():
        for _ in range(count):
            step()
    seconds = meter.seconds[""][0] / count
    return {
        "batch": options.batch_size,
        "network_rate": options.batch_size / seconds,
        "step_seconds": seconds,
        "first_seconds": meter.seconds["first"][0],
        "peak_gb": meter.memory()["peak_gb"],
    }


def one_batch(chosen: Measured, processor: Any, parts: Any) -> dict[str, torch.Tensor]:
    """A few examples of the recipe's data, as its training gets them."""
    recipe = chosen.load("optimization.num_workers=0")
    recipe.optimization.batch_size = min(RENDERED, recipe.optimization.batch_size)
    batch = next_batch(iter(make_loader(recipe, 0, 1, 0, processor, parts)))
    if recipe.task == "pre-training":
        batch.pop("labels")
    return batch


def repeated(batch: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """A batch of `count` examples, those of `batch` again and again."""
    return {name: torch.cat([t] * -(-count // len(t)))[:count].contiguous() for name, t in batch.items()}


def measure_loader(chosen: Measured, found: dict[str, Any], left: float) -> dict[str, Any]:
    """The loader alone, after each of its processes has given a batch."""
    recipe = chosen.load()
    workers, parts = recipe.optimization.num_workers, open_parts(recipe)
    _, processor = make_model(recipe, parts[0].source)
    batches = iter(make_loader(recipe, 0, 1, 0, processor, parts))
    for _ in range(max(1, workers)):
        next_batch(batches)
    start, count = time.perf_counter(), 0
    while count < workers or time.perf_counter() - start < (0 if chosen.small else TIMED):
        next_batch(batches)
        count += 1
        if time.perf_counter() - start > left:
            break
    rate = count * recipe.optimization.batch_size / (time.perf_counter() - start)
    del batches  # ends its processes
    return {"workers": workers, "loader_rate": rate}


def measure_training(chosen: Measured, found: dict[str, Any], left: float) -> dict[str, Any]:
    """`winwin train`: images a second of its second half, and the share of time in which it waited for a batch."""
    batch = chosen.load().optimization.batch_size
    slower = min(found.get("network_rate", float(batch)), found.get("loader_rate", float(batch)))
    seconds = min(TRAINED, left / 3)  # it also starts, and saves its state
    steps = 2 if chosen.small else 2 * max(2, min(200, int(seconds * slower / batch / 2)))
    more = [f"optimization.steps={steps}", f"log_every={steps // 2}", "optimization.warmup_steps=0"]
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with tempfile.TemporaryDirectory() as folder:
        train(chosen.name, output=folder, overrides=chosen.overrides(*more))
        lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "rate" in line][-1]
    return {"steps": steps, "training_rate": last["rate"], "training_wait": last["wait"]}


# ------------------------------------------------------------------ what raises it


def variants(chosen: Measured) -> Iterator[tuple[str, Callable[[float], dict[str, Any]]]]:
    """What is changed in a recipe, and its measurement (seconds left -> figures); the first one is the recipe as it is."""
    workers = [1] if chosen.small else sorted({1, 4, CORES // 2, CORES - 1} - {0}, reverse=True)

    def network(name: str, *changes: str, **options: Any) -> tuple[str, Callable[[float], dict[str, Any]]]:
        return name, partial(measure_network, chosen.with_changes(*changes), {}, **options)

    def loader(name: str, *changes: str) -> tuple[str, Callable[[float], dict[str, Any]]]:
        return name, partial(measure_loader, chosen.with_changes(*changes), {})

    yield network("network: as the recipe says")
    yield network("network: compiled", compiled="default")
    if torch.cuda.is_available():
        yield network("network: compiled, CUDA graphs", compiled="reduce-overhead")
    yield network("network: AdamW not fused", fused=False)
    for count in workers:
        changes = (f"optimization.num_workers={count}", f"save_every={1000 * count}")
        yield loader(f"loader: {count} process(es)", *changes)
        if count == workers[0]:
            yield loader(f"loader: {count} process(es), no camera effects", *changes, *NO_CAMERA)
    if chosen.small:
        return
    for precision in ("no", "fp16"):
        yield network(f"network: mixed_precision {precision}", f"optimization.mixed_precision={precision}")
    yield network("network: attention eager", "model.attention=eager")
    yield network("network: gradient checkpoints", "optimization.gradient_checkpointing=true")
    for batch in (24, 48, 192, 384):
        yield network(f"network: batch {batch}", f"optimization.batch_size={batch}")
