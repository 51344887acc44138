"""A kind of training: a recipe of scripts/research/recipes, or one of them with settings changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.experiments.context import RECIPES, Context
from research.experiments.trainings import seed_by_seed, seeds, train_all
from winwin_hf.training.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Kind:
    """recipe: a file of scripts/research/recipes. label: in legends. overrides: changes of the recipe, "section.key=value"."""

    recipe: str
    label: str
    overrides: tuple[str, ...] = ()

    def load(self) -> Recipe:
        """The recipe, without the place of its data."""
        return load_recipe(RECIPES / self.recipe, list(self.overrides))

    def about(self, tokens: Any) -> dict[str, Any]:
        """The kind's settings for the JSON file. tokens: those that a training keeps of a frame, or of both."""
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
    """
    Trains the kinds in WORK/under/. Returns for each key the folders of its finished seeds.

    data: the set of --data that they learn from.
    """
    runs = {key: seeds(context, f"{under}/{key}", kind.recipe, data, kind.overrides) for key, kind in kinds.items()}
    folders = train_all(seed_by_seed(list(runs.values())), context)
    return {key: [folders[run.name] for run in found if run.name in folders] for key, found in runs.items()}


def seed_of(folder: Path) -> int:
    """The seed of the training in a folder of `train_kinds`."""
    return int(folder.name.rpartition("-")[2])
