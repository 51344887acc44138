"""sweethome3d-furniture: catalogues (.sh3f) are ZIP files of OBJ models and a properties file that gives names and sizes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from research.mesh_packages.classes import furniture_class
from research.mesh_packages.images import cached
from research.mesh_packages.model import Item, Part
from research.mesh_packages.obj import read_mtl, read_obj

LICENCES = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Reallusion": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}


def items(root: Path) -> Iterator[Item]:
    """The models of all catalogues below the unpacked package."""
    for path in sorted(root.rglob("*.sh3f")):
        archive = zipfile.ZipFile(path)
        catalogue = read_properties(archive.read("PluginFurnitureCatalog.properties").decode("latin-1"))
        for entry in catalogue:
            name = entry.get("name", "")
            class_name = furniture_class(name, entry.get("category", ""), entry["model"])
            if class_name is None:
                continue
            model = PurePosixPath(entry["model"])
            yield Item(
                f"{path.stem}-{model.parent.name}".lower(),
                class_name,
                entry.get("creator", ""),
                LICENCES[path.stem],
                lambda archive=archive, entry=entry: load(archive, entry),
                (float(entry["width"]) / 100, float(entry["height"]) / 100, float(entry["depth"]) / 100),
            )


def read_properties(text: str) -> list[dict[str, str]]:
    """The entries of a catalogue in Java's properties format: `key#number=value`, one dictionary for each number."""
    entries: dict[int, dict[str, str]] = {}
    text = re.sub(r"\\\r?\n[ \t]*", "", text)
    for line in text.splitlines():
        match = re.match(r"\s*(\w+)#(\d+)\s*[=:]\s*(.*)", line)
        if match:
            value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), match[3])
            entries.setdefault(int(match[2]), {})[match[1]] = re.sub(r"\\(.)", r"\1", value).strip()
    return [entries[number] for number in sorted(entries) if "model" in entries[number]]


def load(archive: zipfile.ZipFile, entry: dict[str, str]) -> list[Part]:
    """The parts of an entry, turned as the catalogue says."""
    model = PurePosixPath(entry["model"].lstrip("/"))
    text = archive.read(str(model)).decode("latin-1")
    files = names_of(archive)

    def image(name: str) -> Image.Image | None:
        file = files.get(str(model.parent / PurePosixPath(name.replace("\\", "/")).name).lower())
        return None if file is None else cached(archive.read, file)

    materials = {}
    for library in re.findall(r"^mtllib\s+(.+?)\s*$", text, re.MULTILINE):
        file = files.get(str(model.parent / library).lower())
        if file is not None:
            materials |= read_mtl(archive.read(file).decode("latin-1"), image)
    parts = read_obj(text, materials)
    if "modelRotation" in entry:
        rotation = np.array([float(word) for word in entry["modelRotation"].split()]).reshape(3, 3)
        for part in parts:
            part.positions = part.positions @ rotation.T
            if part.normals is not None:
                part.normals = part.normals @ rotation.T
            if np.linalg.det(rotation) < 0:
                part.faces = part.faces[:, ::-1]
    return parts


@lru_cache
def names_of(archive: zipfile.ZipFile) -> dict[str, str]:
    """The archive's files by their names in lower case."""
    return {name.lower(): name for name in archive.namelist()}
