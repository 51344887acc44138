"""What is known of a checkpoint: config, recipe, scores, licence, limits. Its card is made of this alone.

`card.json` beside the weights keeps what no other file has, such as scores and limits, so that a card can be made again at any time.
No folder of the machine that trained or evaluated gets in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from winwin_hf.data.formats.files import read_json, write_atomic
from winwin_hf.data.licences import (
    UNKNOWN_MESHES,
    UNKNOWN_PHOTOGRAPHS,
    Terms,
    notes_of_set,
    terms_of_set,
    terms_of_shards,
    terms_of_weights,
)
from winwin_hf.data.shards import shards_info
from winwin_hf.evaluation.results import ONE_PASS, WINDOWS, Results, Score, finite
from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.model.weights_winwin import count_parameters
from winwin_hf.task import ARCHITECTURES, Task
from winwin_hf.training.published import forget_folders, last_evaluation
from winwin_hf.training.recipe import DataSetRecipe, EvaluationSet, Recipe, load_recipe

FACTS = "card.json"
NOTES = (
    "limits",
    "photographs",
    "meshes",
    "shards",
    "step",
    "init_licence",
    "hours",
    "machine",
    "training_notes",
    "worst",
)


@dataclass
class Facts:
    """
    What a card is made of.

    Attributes:
        recipe: without folders of the machine that trained. step: at which the training ended.
        evaluation: label of the set -> scores at the end of the training.
        limits: what somebody who uses the weights should know. photographs: textures of synthetic scenes: whose, and their licence;
            meshes: those of synthetic worlds.
        shards: name and terms of each set of shards in the recipe, as its dataset.json has them, in their order.
        init_licence: of the weights that the training started from.
        hours, machine: of the training. training_notes: what else to know of it. worst: what the picture of worst cases shows.
    """

    config: WinWinConfig
    architecture: str
    parameters: int
    recipe: Recipe | None = None
    step: int | None = None
    evaluation: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: list[Results] = field(default_factory=list)
    limits: str | None = None
    photographs: str | None = None
    meshes: str | None = None
    shards: list[dict[str, str]] | None = None
    init_licence: str | None = None
    hours: float | None = None
    machine: str | None = None
    training_notes: str | None = None
    worst: str | None = None

    @property
    def task(self) -> Task:
        return ARCHITECTURES[self.architecture]

    @property
    def terms(self) -> Terms | None:
        """Those of the weights; None without a recipe."""
        if self.recipe is None:
            return None
        sets: dict[str, Terms] = {}
        notes = self.photographs, self.meshes
        for part, known in self._parts():
            name = known["name"] if known else part.name
            terms = terms_of_shards(name, known["terms"], *notes) if known else terms_of_set(name, part.path, *notes)
            key = f"{part.weight:g} x {name}"
            if sets.setdefault(key, terms) != terms:  # another set of that name
                sets[f"{key} ({len(sets) + 1})"] = terms
        return terms_of_weights(sets, bool(self.recipe.model.init) and self.init_licence != "apache-2.0")

    def data_sets(self) -> list[str]:
        """The training's data sets, those of the Hub by their repositories, shards by what they are made of."""
        names = []
        for part, known in self._parts():
            names.append(known["name"] if known else part.path if part.name == "hub" and part.path else part.name)
        return list(dict.fromkeys(names))

    def _parts(self) -> Iterator[tuple[DataSetRecipe, dict[str, str] | None]]:
        """The recipe's data sets, each with what is known of it if it was a folder of shards, whose path is forgotten."""
        shards = iter(self.shards or ())
        for part in self.recipe.data.parts() if self.recipe else ():
            yield part, next(shards, None) if part.name == "shards" and part.path is None else None

    def scores(self) -> list[Score]:
        """Of the evaluations, of two of one kind the newer one; then of the end of the training."""
        found: dict[tuple[str, ...], Score] = {}
        for score in (score for result in self.results for score in result.scores()):
            key = (score.data, score.split, score.options, score.run, score.method)
            if key not in found or found[key].date < score.date:
                found[key] = score
        recipe = self.recipe
        sets = {chosen.label: chosen for chosen in recipe.evaluation.sets} if recipe else {}
        for label, values in self.evaluation.items():
            if recipe and (label in sets or label == "windows"):
                chosen = sets.get(label) or EvaluationSet(WINDOWS)
                data, options = chosen.name or recipe.data.parts()[0].name, f"{chosen.label}, at the end of training"
                run = ONE_PASS if label in sets else WINDOWS
                found[label,] = Score(data, chosen.split, options, run, "", values["images"], finite(values))
        return list(found.values())


def read_facts(folder: str | Path) -> Facts:
    """
    Reads the files of the checkpoint in `folder`, and `metrics.jsonl` of the training that it lies in (`RUN/model`).

    Raises: FileNotFoundError without config.json; ValueError for a file that can't be read, named.
    """
    folder = Path(folder)
    config = folder / "config.json"
    raw = read_json(config)
    if not isinstance(raw, dict):
        raise ValueError(f"{config}: expected a JSON object, with a value for each field")
    architecture = (raw.get("architectures") or ["none"])[0]
    if raw.get("model_type") != WinWinConfig.model_type or architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{config}: a {raw.get('model_type')} model, {architecture}; expected one of {known}")
    whole = folder / "model.safetensors"
    weights = [whole] if whole.is_file() else folder.glob("model-*-of-*.safetensors")
    parameters = sum(count_parameters(path) for path in weights)
    facts = Facts(WinWinConfig.from_pretrained(folder), architecture, parameters)
    if (folder / "recipe.yaml").is_file():
        facts.recipe = load_recipe(folder / "recipe.yaml")
        for part in facts.recipe.data.parts():
            photographs, meshes = notes_of_set(part.name, part.path, part.settings)
            facts.photographs, facts.meshes = facts.photographs or photographs, facts.meshes or meshes
            if part.name == "shards" and part.path and Path(part.path).is_dir():
                info = shards_info(part.path)
                facts.shards = [*(facts.shards or ()), {key: str(info[key]) for key in ("name", "terms")}]
                facts.photographs = facts.photographs or (
                    UNKNOWN_PHOTOGRAPHS if UNKNOWN_PHOTOGRAPHS in info["terms"] else None
                )
                facts.meshes = facts.meshes or (UNKNOWN_MESHES if UNKNOWN_MESHES in info["terms"] else None)
        forget_folders(facts.recipe)
    if (folder / FACTS).is_file():
        try:
            known = read_json(folder / FACTS)
            facts.evaluation, facts.results = known["evaluation"], [Results(**item) for item in known["results"]]
            for name in NOTES:
                setattr(facts, name, known.get(name))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{folder / FACTS}: expected a card.json of this package; {reason}") from None
    elif (folder.parent / "metrics.jsonl").is_file():
        facts.step, facts.evaluation = last_evaluation(folder.parent / "metrics.jsonl")
    return facts


def write_facts(path: Path, facts: Facts) -> None:
    """Writes `card.json`: what no other file of the checkpoint has. NaN becomes null."""
    evaluation = {
        label: finite(scores) | {key: scores[key] for key in ("images", "size") if key in scores}
        for label, scores in facts.evaluation.items()
    }
    record = {name: getattr(facts, name) for name in NOTES} | {
        "evaluation": evaluation,
        "results": [asdict(item) for item in facts.results],
    }
    with write_atomic(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
