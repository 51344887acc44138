"""A training of two processes that takes a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from support.recipes import RECIPE
from winwin_hf.cli import train as command

SMALL: dict[str, Any] = {
    "task": "optical-flow",
    "model": {"config": {**RECIPE["model"]["config"], "num_hidden_layers": 2, "drop_path_rate": 0.5}},
    "data": {"name": "synthetic-flow", "settings": {"height": 64, "width": 96, "texture_count": 2}},
    "windows": {"kind": "windows", "count": 2, "size": [2, 2]},
    "optimization": {"steps": 4, "batch_size": 2, "warmup_steps": 2, "num_workers": 0},
    "evaluation": {"every": 0, "windows": 0, "sets": []},
    "save_every": 2,
    "log_every": 1,
    "trackers": [],
}


def write(folder: Path, **changes) -> Path:
    recipe = json.loads(json.dumps(SMALL))
    for section, values in changes.items():
        recipe[section] = {**recipe[section], **values} if isinstance(values, dict) else values
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def train(rank: int, recipe: Path, output: Path, resume: bool = False) -> None:
    """`winwin train` in one of the processes."""
    torch.set_num_threads(1)
    command.train(str(recipe), output=output, resume=resume, skip_broken=False, overrides=None)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
