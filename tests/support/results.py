"""A results.json as `winwin evaluate` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def results_json(folder: Path, *methods: str, options: str = "", date: str = "2026-11-22", **changes: Any) -> Path:
    """
    Writes FOLDER/results.json.

    Args:
        methods: the model, then others; each has an EPE one smaller than the one before.
        options: of the command. changes: of each line.
    """
    lines = [
        {
            "data": "middlebury",
            "split": "train",
            "path": "/home/me/mb",
            "task": "optical-flow",
            "method": method,
            "inference": "one pass",
            "images": 4,
            "scored": 4,
            "missing": ["/home/me/mb/gone.png"],
            "broken": [],
            "seconds": 1.534,
            "figures": {"epe": 1.53356 - k, "1px": 56.25, "epe_s40": None, "iou": {"a": 1.0}},
            **changes,
        }
        for k, method in enumerate(methods)
    ]
    record = {
        "command": f"winwin evaluate /home/me/{methods[0]} --data middlebury=/home/me/mb {options} --output /tmp/out",
        "date": f"{date}T14:32:06+00:00",
        "settings": {},
        "machine": {"cpu": "AMD EPYC", "cores": 2, "threads": 1, "accelerator": None},
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"},
        "results": lines,
    }
    path = folder / "results.json"
    path.write_text(json.dumps(record))
    return path
