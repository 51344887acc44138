"""What a training reports: metrics.jsonl, trackers, memory, its progress bar and its first lines."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from tqdm import tqdm

from winwin_hf.data.collator import tokens_kept
from winwin_hf.data.formats.files import opened, write_atomic
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.sources import Source
from winwin_hf.model.half_products_winwin import bf16_pays
from winwin_hf.own_files import open_own
from winwin_hf.training.recipe import Recipe

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
MAX_LINE = 2**20  # bytes of a record


def logged(path: Path, step: int) -> tuple[list[dict[str, Any]], int]:
    """The records of a `metrics.jsonl` up to a step, [] where there is no file; and the number of lines that are none."""
    records: list[dict[str, Any]] = []
    damaged = 0
    if not step or not os.path.lexists(path):
        return records, damaged
    with opened(path) as (file, _):
        while line := file.readline(MAX_LINE):
            try:
                record = json.loads(line)
                if record["step"] <= step:
                    records.append(record)
            except (ValueError, KeyError, TypeError, RecursionError):
                damaged += 1
    return records, damaged


def is_evaluated(path: Path, step: int) -> bool:
    """Whether a `metrics.jsonl` has the scores of a step, which are figures by set."""
    records, _ = logged(path, step)
    return any(record["step"] == step and any(isinstance(v, dict) for v in record.values()) for record in records)


def append_line(path: Path, text: str) -> None:
    """Appends a line whole or not at all. Raises OSError: one sentence with the file and the system's reason."""
    data = text.encode() + b"\n"
    try:
        with os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                while data:  # the disk may take a part; only the next attempt says why
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise OSError(f"{path} could not be written ({error.strerror or error})") from error


class MetricsLog:
    """Figures into `metrics.jsonl` (one JSON object a line) and the trackers."""

    def __init__(self, accelerator: Accelerator, output: Path, step: int):
        """`step`: lines of later steps are dropped: a resumed training logs those steps again."""
        self.accelerator, self.path = accelerator, output / "metrics.jsonl"
        if accelerator.is_main_process:
            kept, damaged = logged(self.path, step)
            if damaged:
                logger.warning("%s: %d damaged lines are left out", self.path, damaged)
            with write_atomic(self.path) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def __call__(self, step: int, figures: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        append_line(self.path, json.dumps({"step": step, **figures}))
        scalars = {key: value for key, value in figures.items() if isinstance(value, (int, float))}
        for name, scores in figures.items():
            if isinstance(scores, dict):
                scalars |= {f"{name}/{key}": v for key, v in scores.items() if isinstance(v, (int, float))}
        self.accelerator.log(scalars, step=step)


def progress_bar(recipe: Recipe, step: int, shown: bool) -> tqdm:
    """The bar of a training that starts at `step`; updated rarely where standard error is a file."""
    return tqdm(
        total=recipe.optimization.steps,
        initial=step,
        disable=not shown,
        mininterval=0.1 if sys.stderr.isatty() else 30,
        desc=recipe.task,
    )


def peak_memory() -> float:
    """Peak memory in GB: of the accelerator if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # Linux: ru_maxrss also counts what the parent held when it forked this process
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024 / 1e9
    if resource is None:
        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def introduce(
    say: Callable[[str], None],
    recipe: Recipe,
    accelerator: Accelerator,
    model: Any,
    batch: dict[str, torch.Tensor],
    source: Source,
    step: int,
) -> None:
    """Prints size, processes, batch and tokens of a training, before its first step."""
    options, patch = recipe.optimization, model.config.patch_size
    parameters = sum(p.numel() for p in model.parameters())
    sample = _first_sample(source)
    kept, total = tokens_kept(batch, (sample.height, sample.width), patch)
    tokens = f"{kept} of {total} ({100 * kept / total:.0f} %)"
    if "second_pixel_values" in batch:
        second = {"pixel_values": batch["second_pixel_values"]}
        tokens += f", of the second view {tokens_kept(second, (sample.height, sample.width), patch)[0]}"
    say(
        f"{recipe.task}: {parameters / 1e6:.1f} M parameters on {accelerator.device}, "
        f"{accelerator.num_processes} process(es) of {torch.get_num_threads()} threads, {accelerator.mixed_precision} "
        f"precision, batch {options.batch_size} x {options.accumulation} x {accelerator.num_processes}\n"
        f"tokens kept of a {sample.height} x {sample.width} frame: {tokens}; steps {step} to {options.steps}"
    )
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16" and not bf16_pays():
        say("bf16 gains little or nothing on this CPU: --set optimization.mixed_precision=no may take less time")


def _first_sample(source: Source) -> Any:
    """The first readable example of a source; there is one, since a batch was read before."""
    for example in source.examples():
        with contextlib.suppress(BrokenExample):
            return source.reader(example, np.random.default_rng(0))
    raise BrokenExample(f"{source.name}: no example could be read")
