"""What a training's folder says: its progress, its curve, its time and memory.

Time is the CPU seconds of the training's process on a CPU, which other work on the machine hardly changes, and elapsed seconds on
an accelerator. Evaluations and loader processes are not counted.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from winwin_hf.training.recipe import Recipe, load_recipe


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def steps_done(folder: Path) -> int:
    """The last step in metrics.jsonl."""
    metrics = read_metrics(folder)
    return int(metrics[-1]["step"]) if metrics else 0


def is_finished(folder: Path) -> bool:
    """Whether the training has ended: its model is written at the end, under a temporary name first."""
    return (folder / "model" / "config.json").is_file()


def curve(folder: Path, label: str, figure: str) -> list[dict[str, float]]:
    """A figure of one evaluation set along the training: {step, cpu_seconds, seconds, value}, in the order of the steps."""
    points = []
    for line in read_metrics(folder):
        scores = line.get(label)
        if isinstance(scores, dict) and figure in scores:
            spent = {key: float(line.get(key, math.nan)) for key in ("cpu_seconds", "seconds")}
            points.append({"step": line["step"], **spent, "value": float(scores[figure])})
    return points


def minutes_curve(folder: Path, label: str, figure: str) -> list[tuple[float, float]]:
    """`curve` as (training time in minutes, value)."""
    key = time_key(folder)
    return [(point[key] / 60, point["value"]) for point in curve(folder, label, figure)]


def time_key(folder: Path) -> str:
    """The time of metrics.jsonl that counts: "cpu_seconds", on an accelerator "seconds"."""
    return "seconds" if _machine(folder).get("accelerator") else "cpu_seconds"


def training_seconds(folder: Path) -> float:
    """Seconds that the training's steps have taken so far; see `time_key`."""
    key = time_key(folder)
    times = [line[key] for line in read_metrics(folder) if key in line]
    return float(times[-1]) if times else math.nan


def memory_gb(folder: Path) -> float:
    """
    Peak memory of the training in GB: on an accelerator all of it, else beyond what the idle process held ("idle_gb").

    Only lines before the first evaluation count, because evaluations hold full frames in all trainings.
    """
    peak, idle = math.nan, 0.0
    for line in read_metrics(folder):
        if any(isinstance(value, dict) for value in line.values()):
            break
        idle = line.get("idle_gb", idle)
        if "gb" in line:
            peak = max(line["gb"], peak) if math.isfinite(peak) else line["gb"]
    return peak if _machine(folder).get("accelerator") else peak - idle


def check_recipe(recipe: Recipe, folder: Path) -> None:
    """Raises ValueError where the folder holds another training. The place of the data and the evaluation may differ."""

    def compared(values: dict[str, Any]) -> dict[str, Any]:
        data = dict(values["data"], path=None, sets=[dict(part, path=None) for part in values["data"]["sets"]])
        return {key: values[key] for key in ("task", "model", "windows", "second_windows", "optimization")} | {
            "data": data
        }

    before = compared(asdict(load_recipe(folder / "recipe.yaml")))
    wanted = compared(asdict(recipe))
    changed = [key for key in wanted if wanted[key] != before[key]]
    if changed:
        raise ValueError(
            f"{folder}: trained by another recipe than the one asked for now ({', '.join(changed)} differ); "
            "delete the folder to train it again, or choose another --work"
        )


def last_lines(folder: Path, count: int) -> str:
    """The end of log.txt; each state of a progress bar is a line."""
    path = folder / "log.txt"
    text = path.read_text(errors="replace").replace("\r", "\n") if path.is_file() else ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


def _machine(folder: Path) -> dict[str, Any]:
    path = folder / "machine.json"
    return json.loads(path.read_text()) if path.is_file() else {}
