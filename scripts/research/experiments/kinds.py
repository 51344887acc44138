"""Kinds of trainings, which an experiment compares: their recipes, their trainings, and what tables and curves say of each.

Every kind is a recipe of scripts/research/recipes/, or one of them with a setting changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from winwin_hf.training.recipe import Recipe, load_recipe
from winwin_hf.windows import Size

from .runs import RECIPES, Context, known, seed_by_seed, seeds, time_key, train_all


@dataclass(frozen=True)
class Kind:
    """One kind of training. recipe: a file of scripts/research/recipes. label: in legends. overrides: what is changed in the recipe."""

    recipe: str
    label: str
    overrides: tuple[str, ...] = ()

    def load(self) -> Recipe:
        """Its recipe, without the place of its data."""
        return load_recipe(RECIPES / self.recipe, list(self.overrides))

    def about(self, tokens: Any) -> dict[str, Any]:
        """What the JSON says of it. tokens: what a training keeps of a frame, or of both."""
        options = self.load().optimization
        return {
            "label": self.label,
            "recipe": f"scripts/research/recipes/{self.recipe}",
            "overrides": list(self.overrides),
            "tokens": tokens,
            "steps": options.steps,
            "batch_size": options.batch_size,
        }


def train_kinds(context: Context, kinds: dict[str, Kind], under: str, data: str = "") -> dict[str, list[Path]]:
    """The kinds' trainings, in WORK/under/: for each key the folders of its finished seeds. data: the set of --data that they train on."""
    runs = {
        key: seeds(context, f"{under}/{key}", kind.recipe, kind.label, data, kind.overrides)
        for key, kind in kinds.items()
    }
    folders = train_all(seed_by_seed(list(runs.values())), context)
    return {key: [folders[run.name] for run in found if run.name in folders] for key, found in runs.items()}


def seed_of(folder: Path) -> int:
    """The seed of the training in a folder of `train_kinds`."""
    return int(folder.name.rpartition("-")[2])


def grid_of(height: int, width: int, patch_size: int = 16) -> Size:
    """A frame's patches, the last ones possibly sticking out."""
    return -(-height // patch_size), -(-width // patch_size)


def minutes(points: Sequence[dict[str, float]], folder: Path) -> list[tuple[float, float]]:
    """A curve of a folder's training as (training time in minutes, value)."""
    clock = time_key(folder)
    return [(point[clock] / 60, point["value"]) for point in points]


def mean_of(values: Sequence[float | None]) -> float:
    """NaN of nothing."""
    return float(np.mean(known(values) or [math.nan]))


def median_of(values: Sequence[float | None]) -> float:
    """NaN of nothing."""
    return float(np.median(known(values) or [math.nan]))


def middle(values: Sequence[float | None], digits: int, factor: float = 1) -> str:
    """The median times `factor`, as text; for times and memory. "-" for none."""
    return f"{median_of(values) * factor:.{digits}f}" if known(values) else "-"
