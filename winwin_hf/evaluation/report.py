"""The figures of an evaluation: a table in the terminal, results.json, and a CSV with one line an image.

Files, under the output folder (each written to a temporary name and renamed; pictures and the page: see worst.py):

    results.json                     all figures, with the command, versions and machine that made them
    <method>/<set>/images.csv        one line an image
    <method>/<set>/worst/*.png       the worst images: picture, truth, prediction, error
    worst.html                       all of those on one page
"""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import shlex
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from winwin_hf.data.formats import write_atomic
from winwin_hf.data.formats.files import read_json
from winwin_hf.evaluation.figures import FIGURE_LABELS, figure_text
from winwin_hf.evaluation.scoring import Result
from winwin_hf.redaction import redact
from winwin_hf.task import DataTask

RESULTS = "results.json"
LONGEST = 120  # bytes of a name that was somebody else's; file systems take 255, with ours before and behind it
PACKAGES = ("winwin-hf", "torch", "transformers", "accelerate", "datasets", "numpy", "opencv-python-headless")


@dataclass
class Line:
    """
    One method on one set.

    Attributes:
        data, split, path: the set, as `winwin evaluate --data` names it.
        inference: "one pass", or the tiles.
        images, scored: number of predicted images, and of those whose truth is known anywhere.
        missing: files of the set that aren't there. broken: (name, reason) of the examples that were left out.
        seconds: median time of one prediction, pre- and post-processing included.
        figures: `Metric.compute` of all scored images.
    """

    data: str
    split: str
    path: str
    task: DataTask
    method: str
    inference: str
    images: int
    scored: int
    missing: list[str]
    broken: list[tuple[str, str]]
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)


def show(lines: list[Line], console: Console | None = None) -> None:
    """Prints one table a task: one row a set and method, the methods of a set below one another."""
    console = console or Console(width=max(Console().width, 180), markup=False, emoji=False)
    for task in dict.fromkeys(line.task for line in lines):
        chosen = [line for line in lines if line.task == task]
        columns = [name for name in FIGURE_LABELS if any(figure_text(line.figures.get(name)) != "-" for line in chosen)]
        table = Table(title=task)
        for name in ("set", "method", "images"):
            table.add_column(name, no_wrap=True)
        for name in (*(FIGURE_LABELS[column] for column in columns), "s / image"):
            table.add_column(name, justify="right")
        for place in dict.fromkeys((line.data, line.split) for line in chosen):
            for line in [line for line in chosen if (line.data, line.split) == place]:
                skipped = f" (-{len(line.broken) + len(line.missing)})" if line.broken or line.missing else ""
                unknown = f", {line.images - line.scored} without truth" if 0 < line.scored < line.images else ""
                figures = [figure_text(line.figures.get(name)) for name in columns]
                name = f"{line.data}:{line.split}"
                table.add_row(name, line.method, f"{line.images}{skipped}{unknown}", *figures, f"{line.seconds:.2f}")
            table.add_section()
        console.print(table)
    for line in lines:
        if "iou" in line.figures:
            classes = ", ".join(f"{name} {figure_text(value)}" for name, value in line.figures["iou"].items())
            console.print(f"IoU % of {line.method} on {line.data}:{line.split}: {classes}")
    left_out = {(line.data, line.split): line for line in lines if line.missing or line.broken}
    for (data, split), line in left_out.items():
        console.print(
            f"{data}:{split}: left out {len(line.missing)} missing files and {len(line.broken)} broken examples; "
            "results.json names them"
        )


def is_ours(path: Path) -> bool:
    """Whether a file is of `write_json`."""
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and {"command", "settings", "results"} <= record.keys()


def lines_of(path: Path) -> set[tuple[str, str, str]]:
    """(method, data, split) of each line of a file of `write_json`, as far as they can be told."""
    names = ("method", "data", "split")
    found = read_json(path)["results"]
    lines = [line for line in found if isinstance(line, dict)] if isinstance(found, list) else []
    return {
        tuple(line[name] for name in names) for line in lines if all(isinstance(line.get(name), str) for name in names)
    }


def write_json(path: Path, lines: list[Line], settings: dict[str, Any]) -> None:
    """Writes all figures with the command, settings, versions and machine that made them. NaN and infinity become null, passwords `***`."""
    record = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": settings,
        "machine": machine(),
        "versions": {name: version(name) for name in PACKAGES},
        "results": [asdict(line) for line in lines],
    }
    with write_atomic(path) as temporary:
        temporary.write_text(json.dumps(_clean_json(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _clean_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _clean_json(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_json(v) for v in value]
    if isinstance(value, str):
        return redact(value)  # an address may hold a password
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def machine() -> dict[str, Any]:
    """This machine: processor, number of cores, torch's threads, accelerator, Python."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
    }


def write_csv(path: Path, result: Result) -> None:
    """Writes one line an image: index, name, height, width, seconds, and the figures of its own pixels alone."""
    lines = [(image, flatten(result.figures_of(image))) for image in result.images]
    columns = list(dict.fromkeys(name for _, figures in lines for name in figures))
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "name", "height", "width", "seconds", *columns])
        for image, figures in lines:
            values = [_cell(figures.get(name)) for name in columns]
            writer.writerow([image.index, image.name, *image.size, f"{image.seconds:.4f}", *values])


def flatten(figures: dict[str, Any]) -> dict[str, Any]:
    """{"iou": {"car": 1}} -> {"iou/car": 1}"""
    flat: dict[str, Any] = {}
    for name, value in figures.items():
        flat |= {f"{name}/{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _cell(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def folder_name(text: str) -> str:
    """Any text as the name of one folder, or a part of a file's name: at most LONGEST bytes."""
    safe = "".join(c if c.isalnum() or c in "-_.+" else "_" for c in text).strip("._")
    return safe.encode()[:LONGEST].decode(errors="ignore") or "_"
