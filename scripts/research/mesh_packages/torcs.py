"""torcs-data: cars with their wheels, trees, buildings and signs in AC3D's format, in metres."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from research.mesh_packages.classes import LEFT_OUT, SCENERY, first_match
from research.mesh_packages.copyrights import copyright_of, read_copyright
from research.mesh_packages.images import cached, has_holes
from research.mesh_packages.model import Item, Material, Part, UnusableModel

POLYGON, STRIP = 0, 4  # of a surface; the others are lines
ReadImage = Callable[[str], Image.Image | None]
Materials = dict[tuple[str, int], Material]
Surface = tuple[int, list[tuple[int, int, int]], list[list[float]]]  # material, triangles, corners (vertex, u, v)
WHEELS = ("Front Right", "Front Left", "Rear Right", "Rear Left")


def items(root: Path) -> Iterator[Item]:
    """The cars' best meshes and the objects beside the tracks."""
    paragraphs = read_copyright(next(root.rglob("copyright")).read_text(encoding="utf-8"))
    game = next(root.rglob("games/torcs"))
    textures = {path.name.lower(): path for path in sorted((game / "data" / "textures").iterdir())}
    for car in sorted(path for path in (game / "cars").iterdir() if (path / f"{path.name}.acc").exists()):
        terms = copyright_of(f"data/cars/models/{car.name}/{car.name}.acc", paragraphs)
        yield Item(car.name, "car", terms.authors, terms.licence, partial(load_car, game, car))
    for path in sorted((game / "data" / "objects").glob("*.ac")):
        class_name = first_match(path.stem, SCENERY)
        terms = copyright_of(f"data/data/objects/{path.name}", paragraphs)
        if class_name is not None and class_name != LEFT_OUT:
            yield Item(path.stem, class_name, terms.authors, terms.licence, partial(load_object, path, textures))


def load_object(path: Path, textures: dict[str, Path]) -> list[Part]:
    near = {file.name.lower(): file for file in path.parent.iterdir()}
    return read_ac(path.read_text(encoding="latin-1"), lambda name: read_texture(name, {**textures, **near}))


def read_texture(name: str, files: dict[str, Path]) -> Image.Image | None:
    path = files.get(name.rpartition("/")[2].lower())
    return None if path is None else cached(read_file, str(path))


def read_file(path: str) -> bytes:
    return Path(path).read_bytes()


def load_car(game: Path, folder: Path) -> list[Part]:
    """The body on its wheels."""
    parts = load_object(folder / f"{folder.name}.acc", {})
    settings = re.sub(
        r"<!DOCTYPE.*?\]>|<!DOCTYPE[^>]*>|&[\w-]+;",
        "",
        (folder / f"{folder.name}.xml").read_text("latin-1"),
        flags=re.S,
    )
    root = ElementTree.fromstring(settings.encode("latin-1"))  # noqa: S314
    for name in WHEELS:
        parts += wheel(game, root, name)
    return parts


def wheel(game: Path, root: ElementTree.Element, name: str) -> list[Part]:
    """The wheel that the settings name, else a cylinder, at its place."""
    axle = name.split()[0]
    x = number(root, f"{axle} Axle", "xpos")
    y = number(root, f"{name} Wheel", "ypos")
    rim = number(root, f"{name} Wheel", "rim diameter") * 0.0254
    width = number(root, f"{name} Wheel", "tire width") / 1000
    radius = rim / 2 + width * number(root, f"{name} Wheel", "tire height-width ratio")
    height = (
        radius - number(root, f"{name} Wheel", "ride height", 100) / 1000
    )  # of the axle above the body's lowest point
    model = root.find(".//attstr[@name='3d wheel directory']")
    if model is not None:
        found = load_object(game / "wheels" / model.get("val", "") / "wheel0.acc", {})
        for part in found:  # a cylinder of diameter and width 1; its rim is at negative Z
            part.positions = part.positions * [2 * radius, 2 * radius, width]
            part.normals = None
    else:
        found = [cylinder(radius, width)]
    for part in found:
        side = -1 if y < 0 else 1
        part.positions = part.positions * [side, 1, side] + [x, height, -y]
    return found


def number(root: ElementTree.Element, section: str, name: str, default: float | None = None) -> float:
    found = root.find(f".//section[@name='{section}']/attnum[@name='{name}']")
    if found is None:
        if default is None:
            raise UnusableModel(f"no {name} in the car's settings")
        return default
    return float(found.get("val", "0"))


def cylinder(radius: float, width: float, corners: int = 24) -> Part:
    """A dark tyre around the Z axis."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    ring = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], axis=1)
    sides = [np.column_stack([ring, np.full(corners, z)]) for z in (-width / 2, width / 2)]
    positions = np.concatenate([*sides, [[0, 0, -width / 2], [0, 0, width / 2]]])
    i = np.arange(corners)
    j = (i + 1) % corners
    low, high = np.full(corners, 2 * corners), np.full(corners, 2 * corners + 1)
    faces = [(i, j, corners + j), (i, corners + j, corners + i), (low, j, i), (high, corners + i, corners + j)]
    return Part(Material((0.05, 0.05, 0.05)), positions, np.concatenate([np.stack(f, axis=1) for f in faces]))


class Lines:
    """The words of an AC3D file, line by line."""

    def __init__(self, text: str) -> None:
        self.lines, self.at = text.splitlines(), 0

    def next(self) -> list[str]:
        self.at += 1
        return self.lines[self.at - 1].split()

    def more(self) -> bool:
        return self.at < len(self.lines)


def read_ac(text: str, image: ReadImage) -> list[Part]:
    """
    The parts of an AC3D file (.ac, or TORCS's .acc with normals, several textures and triangle strips).

    `image` returns the PIL image of a texture's file name, or None.
    """
    if not text.startswith("AC3D"):
        raise UnusableModel("not an AC3D file")
    lines, colours, parts = Lines(text), [], []
    lines.next()
    materials: Materials = {}
    while lines.more():
        words = lines.next()
        if words[:1] == ["MATERIAL"]:
            at = words.index("rgb")
            red, green, blue = (float(word) for word in words[at + 1 : at + 4])
            colours.append((red, green, blue))
        elif words[:1] == ["OBJECT"]:
            read_object(lines, np.eye(4), colours, image, materials, parts)
    return parts


def read_object(
    lines: Lines,
    place: np.ndarray,
    colours: list[tuple[float, float, float]],
    image: ReadImage,
    materials: Materials,
    parts: list[Part],
) -> None:
    """One object and its children, up to its line "kids"."""
    texture, repeat, local = "", np.ones(2), np.eye(4)
    vertices: list[list[float]] = []
    while lines.more():
        words = lines.next()
        kind = words[0] if words else ""
        if kind == "texture" and (len(words) < 3 or words[2] == "base"):
            texture = words[1].strip('"')
        elif kind == "texrep":
            repeat = np.array([float(word) for word in words[1:3]])
        elif kind == "loc":
            local[:3, 3] = [float(word) for word in words[1:4]]
        elif kind == "rot":
            local[:3, :3] = np.array([float(word) for word in words[1:10]]).reshape(3, 3).T
        elif kind == "numvert":
            vertices = [[float(word) for word in lines.next()] for _ in range(int(words[1]))]
        elif kind == "numsurf":
            surfaces = [read_surface(lines) for _ in range(int(words[1]))]
            parts += parts_of(surfaces, vertices, place @ local, texture, repeat, colours, image, materials)
        elif kind == "kids":
            for _ in range(int(words[1])):
                lines.next()
                read_object(lines, place @ local, colours, image, materials, parts)
            return


def read_surface(lines: Lines) -> Surface:
    """One surface: a polygon or a strip of triangles; lines have no triangles."""
    kind = int(lines.next()[1], 16) & 15
    material = 0
    while True:
        words = lines.next()
        if words[0] == "mat":
            material = int(words[1])
        elif words[0] == "refs":
            break
    corners = [[float(word) for word in lines.next()[:3]] for _ in range(int(words[1]))]
    if kind == STRIP:
        triangles = [(i, i + 1, i + 2) if i % 2 == 0 else (i + 1, i, i + 2) for i in range(len(corners) - 2)]
    elif kind == POLYGON:
        triangles = [(0, i, i + 1) for i in range(1, len(corners) - 1)]
    else:
        triangles = []
    return material, triangles, corners


def parts_of(
    surfaces: list,
    vertices: list[list[float]],
    place: np.ndarray,
    texture: str,
    repeat: np.ndarray,
    colours: list,
    image,
    materials: dict,
) -> Iterator[Part]:
    """One part for each material of an object's surfaces."""
    table = np.array(vertices, float)
    positions = table[:, :3] @ place[:3, :3].T + place[:3, 3] if len(table) else table
    for number in sorted({surface[0] for surface in surfaces}):
        corners, faces = [], []
        for material, triangles, refs in surfaces:
            if material == number and triangles:
                faces += [[corner + len(corners) for corner in triangle] for triangle in triangles]
                corners += refs
        if not faces:
            continue
        key = texture, number
        if key not in materials:
            found = image(texture) if texture else None
            colour = colours[number] if number < len(colours) else (0.8, 0.8, 0.8)
            materials[key] = Material(colour, found, found is not None and has_holes(found))
        refs = np.array(corners)
        index = refs[:, 0].astype(int)
        uv = refs[:, 1:3] * repeat
        normals = table[index, 3:6] @ place[:3, :3].T if table.shape[1] >= 6 else None
        textured = materials[key].image is not None
        flipped = np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1) if textured else None
        yield Part(materials[key], positions[index], np.array(faces), flipped, normals)
