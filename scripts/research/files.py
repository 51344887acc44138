"""Results on disk: written to a temporary name and renamed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from winwin_hf.data.formats import write_atomic
from winwin_hf.evaluation.report import machine


def machine_record() -> dict[str, Any]:
    """The machine in words: "cpu", "cores", "accelerator", "python". Not this process's threads: others compute."""
    return {key: value for key, value in machine().items() if key != "threads"}


def plain(value: Any) -> Any:
    """A value that JSON can hold: NumPy's and torch's numbers as Python's, paths as text, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy, torch
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    write_text(path, json.dumps(plain(value), indent=indent, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(path) as temporary:
        temporary.write_text(text)
