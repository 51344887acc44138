"""What an evaluation leaves behind: a table in the terminal, results.json, a CSV of every image, and a page of the worst ones.

Files, under the output folder (each written to a temporary name and renamed):

    results.json                     all figures, with the command, versions and machine they came from
    <method>/<set>/images.csv        one line an image
    <method>/<set>/worst/*.png       the worst images: picture, truth, prediction, error
    worst.html                       all of those on one page
"""

from __future__ import annotations

import csv
import html
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

from winwin_hf.data.formats import save_image, write_atomic
from winwin_hf.evaluation.scoring import Frame, Result
from winwin_hf.inference import drawing
from winwin_hf.model.flow_colours_winwin import flow_to_image
from winwin_hf.task import TASKS, DataTask

UNITS = {
    "epe": "EPE px",
    "1px": "1px %",
    "3px": "3px %",
    "5px": "5px %",
    "fl": "Fl %",
    "wauc": "WAUC %",
    "epe_s0_10": "s0-10 px",
    "epe_s10_40": "s10-40 px",
    "epe_s40": "s40+ px",
    "epe_matched": "matched px",
    "epe_unmatched": "unmatched px",
    "ause": "AUSE",
    "miou": "mIoU %",
    "accuracy": "acc %",
    "mean_accuracy": "mAcc %",
    "abs_rel": "AbsRel",
    "sq_rel": "SqRel m",
    "rmse": "RMSE m",
    "rmse_log": "RMSE log",
    "log10": "log10",
    "silog": "SILog",
    "delta1": "d1 %",
    "delta2": "d2 %",
    "delta3": "d3 %",
}
PICTURE_WIDTH = 480  # pixels of each picture of a worst case
PACKAGES = ("winwin-hf", "torch", "transformers", "accelerate", "datasets", "numpy", "opencv-python-headless")


@dataclass
class Line:
    """One method on one set."""

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
    seconds: float  # median of a prediction, pre- and post-processing included
    figures: dict[str, Any] = field(default_factory=dict)


def show(lines: list[Line], console: Console | None = None) -> None:
    """A table a task: one row a set and method, the methods of a set side by side."""
    console = console or Console(width=max(Console().width, 180))
    for task in dict.fromkeys(line.task for line in lines):
        chosen = [line for line in lines if line.task == task]
        columns = [name for name in UNITS if any(number(line.figures.get(name)) != "-" for line in chosen)]
        table = Table(title=task)
        for name in ("set", "method", "images"):
            table.add_column(name, no_wrap=True)
        for name in (*(UNITS[column] for column in columns), "s / image"):
            table.add_column(name, justify="right")
        for place in dict.fromkeys((line.data, line.split) for line in chosen):
            for line in [line for line in chosen if (line.data, line.split) == place]:
                skipped = f" (-{len(line.broken) + len(line.missing)})" if line.broken or line.missing else ""
                figures = [number(line.figures.get(name)) for name in columns]
                name = f"{line.data}:{line.split}"
                table.add_row(name, line.method, f"{line.images}{skipped}", *figures, f"{line.seconds:.2f}")
            table.add_section()
        console.print(table)
    for line in lines:
        if "iou" in line.figures:
            classes = ", ".join(f"{name} {number(value)}" for name, value in line.figures["iou"].items())
            console.print(f"IoU % of {line.method} on {line.data}:{line.split}: {classes}")
    left_out = {(line.data, line.split): line for line in lines if line.missing or line.broken}
    for (data, split), line in left_out.items():
        console.print(
            f"{data}:{split}: left out {len(line.missing)} missing files and {len(line.broken)} broken examples; "
            "results.json names them"
        )


def number(value: Any) -> str:
    """Two decimals, three for what is small; "-" for what isn't there."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def write_json(path: Path, lines: list[Line], settings: dict[str, Any]) -> None:
    """All figures and where they come from. NaN is written as null."""
    record = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": settings,
        "machine": machine(),
        "versions": {name: version(name) for name in PACKAGES},
        "results": [asdict(line) for line in lines],
    }
    with write_atomic(path) as temporary:
        temporary.write_text(json.dumps(_plain(record), indent=2, allow_nan=False) + "\n")


def machine() -> dict[str, Any]:
    """The machine in words: processor, cores, accelerator, threads of torch."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
    }


def write_csv(path: Path, result: Result) -> None:
    """One line an image: index, name, height, width, seconds, then its figures (of its own pixels alone)."""
    lines = [(image, flat(result.figures_of(image))) for image in result.images]
    columns = list(dict.fromkeys(name for _, figures in lines for name in figures))
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "name", "height", "width", "seconds", *columns])
        for image, figures in lines:
            values = [_text(figures.get(name)) for name in columns]
            writer.writerow([image.index, image.name, *image.size, f"{image.seconds:.4f}", *values])


def flat(figures: dict[str, Any]) -> dict[str, Any]:
    """{"iou": {"car": 1}} -> {"iou/car": 1}."""
    done: dict[str, Any] = {}
    for name, value in figures.items():
        done |= {f"{name}/{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return done


# ------------------------------------------------------------------ pictures


def draw(frame: Frame, prediction: np.ndarray, task: DataTask, figures: dict[str, Any]) -> np.ndarray:
    """Picture, truth, prediction and error of one frame side by side, uint8 RGB."""
    caption = ", ".join(f"{UNITS[k]} {number(v)}" for k, v in list(figures.items())[:4] if k in UNITS)
    assert frame.target is not None
    if task == "optical-flow":
        truth = frame.target if frame.target.shape == prediction.shape else frame.target[:, ::2, ::2]
        length = np.linalg.norm(truth, axis=0)
        known = np.isfinite(length) & (length < 1e4)
        largest = float(np.percentile(length[known], 99)) + 1e-3
        error = np.where(known, np.linalg.norm(prediction - truth, axis=0), np.nan)
        pictures = [
            ("first frame", frame.image),
            (f"true flow, up to {largest:.0f} px", flow_to_image(truth, largest)),
            (caption, flow_to_image(prediction, largest)),
            ("error: pale 0 px, dark 10 px or more", drawing.depth_to_image(np.minimum(error, 10), 0, 10)),
        ]
    elif task == "depth-estimation":
        known = np.isfinite(frame.target)
        low, high = (float(np.percentile(frame.target[known], q)) for q in (1, 99))
        error = np.minimum(np.abs(prediction - frame.target) / frame.target, 0.5)
        pictures = [
            ("image", frame.image),
            (f"true depth, {low:.1f} to {high:.1f} m", drawing.depth_to_image(frame.target, low, high)),
            (caption, drawing.depth_to_image(prediction, low, high)),
            ("relative error: pale 0, dark 0.5 or more", drawing.depth_to_image(error, 0, 0.5)),
        ]
    else:
        palette = drawing.default_palette(int(max(prediction.max(), 18)) + 1)
        wrong = np.where(prediction == frame.target, 255, np.uint8(60)).astype(np.uint8)
        wrong[frame.target == 255] = 200
        pictures = [
            ("image", frame.image),
            ("true classes", drawing.segmentation_to_image(frame.target.astype(np.int64), palette)),
            (caption, drawing.segmentation_to_image(prediction.astype(np.int64), palette)),
            ("dark: wrong, grey: not counted", np.repeat(wrong[..., None], 3, axis=2)),
        ]
    return drawing.panel(pictures, columns=4, width=PICTURE_WIDTH)


def write_worst(folder: Path, result: Result, task: DataTask) -> None:
    """Pictures of the worst images that this process has."""
    key = TASKS[task].figure
    for frame, prediction in result.worst:
        assert frame.target is not None
        masks = {"occluded": frame.occluded} if task == "optical-flow" else {}
        figures = result.metric.compute(result.metric.row(prediction, frame.target, **masks))
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{figures[key]:010.4f}_{frame.index:06d}_{folder_name(frame.name)}.png"
        save_image(folder / name, draw(frame, prediction, task, figures))


def write_page(output: Path, lines: list[Line], names: dict[int, str] | None = None) -> None:
    """worst.html: the pictures that `write_worst` left, by set and method."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>worst cases</title>",
        "<style>body{font-family:sans-serif;margin:1em}img{max-width:100%}figure{margin:1em 0}</style>",
        "<h1>Worst cases</h1>",
    ]
    for line in lines:
        folder = output / folder_name(line.method) / folder_name(f"{line.data}-{line.split}") / "worst"
        pictures = sorted(folder.glob("*.png"), reverse=TASKS[line.task].lower_is_better)
        if not pictures:
            continue
        parts.append(f"<h2>{html.escape(f'{line.data}:{line.split}, {line.method}, {line.inference}')}</h2>")
        for picture in pictures:
            value, index, name = picture.stem.split("_", 2)
            caption = html.escape(f"{UNITS[TASKS[line.task].figure]} {float(value):.2f}, {name} (example {int(index)})")
            source = html.escape(picture.relative_to(output).as_posix())
            parts.append(f"<figure><figcaption>{caption}</figcaption><img loading=lazy src='{source}'></figure>")
    with write_atomic(output / "worst.html") as temporary:
        temporary.write_text("\n".join(parts) + "\n")


def folder_name(text: str) -> str:
    """Any name as one folder's name."""
    return "".join(c if c.isalnum() or c in "-_.+" else "_" for c in text).strip("._") or "_"


def _text(value: Any) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.6g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
