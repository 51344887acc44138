"""What of a training is published: its last scores and its recipe, without folders of the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from winwin_hf.data.formats.files import read_text
from winwin_hf.recipes import recipe_names, recipe_path
from winwin_hf.training.recipe import Recipe, load_recipe

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # of the Hub


def forget_folders(recipe: Recipe) -> None:
    """Removes a machine's folders from a recipe, but not the names of repositories on the Hub."""
    places: list[Any] = [recipe.data, *recipe.data.sets, *recipe.evaluation.sets]
    for chosen in places:
        if chosen.name != "hub" and not (chosen.path or "").startswith("hf://"):
            chosen.path = None
        chosen.settings.pop("textures", None)  # folders too: photographs of synthetic scenes, and copies of shards
        chosen.options.pop("cache", None)
    init = Path(recipe.model.init or "")
    if recipe.model.init and not base_model(recipe) and init.parts[0] not in ("runs", "outputs"):
        recipe.model.init = init.name
    if Path(recipe.output).is_absolute():
        recipe.output = f"runs/{Path(recipe.output).name}"


def package_recipe(recipe: Recipe) -> str | None:
    """The recipe of the package that trains the same, by its bare name; None if there is none."""
    for name in recipe_names():
        ours = load_recipe(recipe_path(name))
        forget_folders(ours)
        sections = ("task", "data", "model", "windows", "second_windows", "initial_flow", "optimization")
        if all(getattr(ours, section) == getattr(recipe, section) for section in sections):
            return name
    return None


def base_model(recipe: Recipe | None) -> str | None:
    """The repository on the Hub whose weights the training started from; None for a folder or a bundled name."""
    init = (recipe.model.init if recipe else None) or ""
    folder = Path(init).is_dir() or init.split("/")[0] in ("runs", "outputs", ".", "..", "~")
    return init if REPOSITORY.fullmatch(init) and not folder else None


def last_evaluation(path: Path) -> tuple[int | None, dict[str, dict[str, Any]]]:
    """Step and scores by set of the last evaluation in a `metrics.jsonl`; (None, {}) if there was none."""
    try:
        lines = [json.loads(line) for line in read_text(path).splitlines()]
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON object a line; {error}") from None
    for line in reversed(lines):
        scores = {key: value for key, value in line.items() if isinstance(value, dict)}
        if scores:
            return line["step"], scores
    return None, {}
