"""supertuxkart-data: objects of its library, karts with their wheels, and those objects of the tracks whose names say what they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from research.mesh_packages.classes import KART_LIBRARY, KART_TRACKS, LEFT_OUT, first_match, usual_size
from research.mesh_packages.copyrights import Copyright, copyright_of, read_copyright
from research.mesh_packages.images import cached, has_holes
from research.mesh_packages.model import Item, Material, Part, Size, UnusableModel
from research.mesh_packages.spm import read_spm

GAME = "games/supertuxkart/data"
CUT_OUT = ("alphatest", "grass", "alphablend")  # shaders with holes
INVISIBLE = ("additive", "displace", "decal")  # light, heat and marks
LESS_DETAIL = re.compile(r"[_-]?(lod_?\w?\d*|high|hight|hi|mid|medium|med|low|lo|LOD_?\w?\d*|main)$", re.IGNORECASE)
IDENTITY = np.eye(4)


@dataclass(frozen=True)
class Files:
    """Where textures and shaders are looked up: by name, in the mesh's own folder first."""

    data: Path
    textures: dict[str, list[Path]]
    shaders: dict[tuple[str, str], str]  # (folder, texture); the folder "" holds for all


def items(root: Path) -> Iterator[Item]:
    """Each object once, with its finest level of detail."""
    paragraphs = read_copyright(next(root.rglob("copyright")).read_text(encoding="utf-8"))
    data = next(root.rglob(GAME))
    files = index_files(data)
    for kart in sorted((data / "karts").glob("*/kart.xml")):
        yield item(kart, "kart " + kart.parent.name, "other", 1.8, partial(load_kart, kart, files), paragraphs, data)
    for node in sorted((data / "library").glob("*/node.xml")):
        name = re.sub(r"^(stklib|stk|hd|gfx)_|_[a-z]$", "", node.parent.name)
        class_name = LEFT_OUT if node.parent.name.startswith("gfx") else first_match(name, KART_LIBRARY) or "other"
        if class_name != LEFT_OUT:
            load = partial(load_node, node, files)
            yield item(node, node.parent.name, class_name, usual_size(class_name, name), load, paragraphs, data)
    for folder in [data / "models", *sorted((data / "tracks").iterdir())]:
        for path in finest(folder):
            class_name = first_match(path.stem, KART_TRACKS)
            if class_name is not None and class_name != LEFT_OUT:
                name = f"{folder.name}-{path.stem}"
                load = partial(load_mesh, path, files, IDENTITY)
                yield item(path, name, class_name, usual_size(class_name, path.stem), load, paragraphs, data)


def item(
    path: Path,
    name: str,
    class_name: str,
    size: Size,
    load: Callable[[], list[Part]],
    paragraphs: list[Copyright],
    data: Path,
) -> Item:
    """The item with the terms of the file that it begins with."""
    terms = copyright_of(f"data/{path.relative_to(data).as_posix()}", paragraphs)
    return Item(name, class_name, terms.authors, terms.licence, load, size)


def finest(folder: Path) -> list[Path]:
    """The largest file of each object; names of the others end in a level of detail."""
    best: dict[str, Path] = {}
    for path in sorted(folder.glob("*.spm")):
        base = LESS_DETAIL.sub("", re.sub(r"_[a-c]$", "", path.stem) if "lod" in path.stem.lower() else path.stem)
        if base not in best or path.stat().st_size > best[base].stat().st_size:
            best[base] = path
    return sorted(best.values())


def index_files(data: Path) -> Files:
    textures: dict[str, list[Path]] = {}
    for path in sorted(data.rglob("*")):
        if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            textures.setdefault(path.name.lower(), []).append(path)
    shaders = {}
    for path in sorted(data.rglob("materials.xml")):
        folder = "" if path.parent.name == "textures" else str(path.parent)
        for material in read_xml(path).iter("material"):
            if material.get("shader"):
                shaders[folder, (material.get("name") or "").lower()] = material.get("shader", "")
    return Files(data, textures, shaders)


def read_xml(path: Path) -> ElementTree.Element:
    return ElementTree.fromstring(path.read_bytes())  # noqa: S314


def load_kart(path: Path, files: Files) -> list[Part]:
    """The kart with its driver and four wheels."""
    root = read_xml(path)
    parts = load_mesh(path.parent / root.get("model-file", ""), files, IDENTITY)
    for wheel in root.iterfind("wheels/*"):
        place = np.eye(4)
        place[:3, 3] = [float(word) for word in wheel.get("position", "0 0 0").split()]
        model = path.parent / wheel.get("model", "")
        if model.is_file():
            parts += load_mesh(model, files, mirrored(place))
    return parts


def load_node(path: Path, files: Files) -> list[Part]:
    """The objects of a node of the library, each at its place; of a group of levels of detail the first."""
    root, parts = read_xml(path), []
    finest_of = {group.get("name"): group.find("static-object") for group in root.iterfind("lod/group")}
    for thing in root:
        if thing.tag not in ("object", "static-object", "track") or thing.get("interaction") == "physicsonly":
            continue
        model = thing.get("model")
        if thing.get("lod_instance") == "true":
            first = finest_of.get(thing.get("lod_group"))
            model = model if first is None else first.get("model")
        if model and (path.parent / model).is_file() and "physics" not in model:
            parts += load_mesh(path.parent / model, files, mirrored(placement(thing)))
    return parts


def placement(thing: ElementTree.Element) -> np.ndarray:
    """The matrix of an element's scale, turns around X, Y and Z (degrees) and position."""
    scale, turn, move = (
        [float(word) for word in thing.get(key, default).split()]
        for key, default in (("scale", "1 1 1"), ("hpr", "0 0 0"), ("xyz", "0 0 0"))
    )
    out = np.diag([*scale, 1.0])
    for axis in range(3):
        c, s = np.cos(np.radians(turn[axis])), np.sin(np.radians(turn[axis]))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        rotation = np.eye(4)
        rotation[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
        out = rotation @ out
    out[:3, 3] = move
    return out


def mirrored(place: np.ndarray) -> np.ndarray:
    """The same placement where Z has the other sign."""
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    return flip @ place @ flip


def load_mesh(path: Path, files: Files, place: np.ndarray) -> list[Part]:
    """The visible parts of an SPM file."""
    parts = []
    for section in read_spm(path.read_bytes()):
        shader = shader_of(section.texture, path.parent, files)
        if shader in INVISIBLE:
            continue
        image = texture_of(section.texture, path.parent, files)
        cut_out = image is not None and shader in CUT_OUT and has_holes(image)
        positions = section.positions * [1, 1, -1] @ place[:3, :3].T + place[:3, 3]
        normals = None if section.normals is None else section.normals * [1, 1, -1] @ np.linalg.inv(place[:3, :3])
        faces = section.faces[:, ::-1] if np.linalg.det(place[:3, :3]) > 0 else section.faces
        uv = section.uv if image is not None else None
        material = Material((0.7, 0.7, 0.7), image if uv is not None else None, cut_out)
        parts.append(Part(material, positions, faces, uv, normals))
    if not parts:
        raise UnusableModel("nothing but light or smoke")
    return parts


def shader_of(texture: str, folder: Path, files: Files) -> str:
    name = texture.lower()
    return files.shaders.get((str(folder), name)) or files.shaders.get(("", name)) or ""


def texture_of(texture: str, folder: Path, files: Files) -> Image.Image | None:
    """The image of that name: in the mesh's folder, else in the shared one, else anywhere."""
    found = files.textures.get(texture.lower(), [])
    if not found:
        return None
    order = sorted(found, key=lambda path: (path.parent != folder, path.parent.name != "textures", str(path)))
    return cached(read_file, str(order[0]))


def read_file(path: str) -> bytes:
    return Path(path).read_bytes()
