"""Wavefront OBJ and MTL: polygons by material, in one pass over the text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from research.mesh_packages.images import has_holes
from research.mesh_packages.model import Material, Part, UnusableModel

INVISIBLE = 0.05  # a material with less opacity than this isn't drawn


def read_obj(text: str, materials: dict[str, Material | None]) -> list[Part]:
    """The parts of an OBJ. `materials` maps names to materials; None: leave its triangles out."""
    rows: dict[str, list[list[float]]] = {"v": [], "vt": [], "vn": []}
    faces: dict[str, list[tuple[str, ...]]] = {}
    current = faces.setdefault("", [])
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        kind = words[0]
        if kind in rows:
            rows[kind].append([float(word) for word in words[1 : 3 if kind == "vt" else 4]])
        elif kind == "f":
            for corner in range(2, len(words) - 1):
                current.append((words[1], words[corner], words[corner + 1]))
        elif kind == "usemtl":
            current = faces.setdefault(line.split(None, 1)[1].strip() if len(words) > 1 else "", [])
    arrays = {kind: np.array(values, float) for kind, values in rows.items()}
    parts = []
    for name, triangles in faces.items():
        material = materials.get(name, Material())
        if triangles and material is not None:
            parts.append(part_of(triangles, arrays, material))
    return parts


def part_of(triangles: list[tuple[str, ...]], arrays: dict[str, np.ndarray], material: Material) -> Part:
    """One part; its vertices are the different corners v/vt/vn."""
    corners = {corner: None for triangle in triangles for corner in triangle}
    number = {corner: index for index, corner in enumerate(corners)}
    faces = np.array([[number[corner] for corner in triangle] for triangle in triangles])
    columns = zip(*((corner.split("/") + ["", ""])[:3] for corner in corners), strict=True)
    found = []
    for kind, column in zip(arrays, columns, strict=True):
        values = arrays[kind]
        if not len(values) or not all(column):
            found.append(None)
            continue
        index = np.array([int(text) for text in column])
        index = np.where(index < 0, index + len(values), index - 1)
        if index.min() < 0 or index.max() >= len(values):
            raise UnusableModel(f"an index outside of its {kind} list")
        found.append(values[index])
    positions, uv, normals = found
    if positions is None:
        raise UnusableModel("no vertices")
    if uv is not None:
        uv = np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1)
    if material.image is not None and uv is None:
        material = Material(average_colour(material))
    return Part(material, positions, faces, uv if material.image is not None else None, normals)


def average_colour(material: Material) -> tuple[float, float, float]:
    """The mean colour of an image whose place on the mesh isn't known."""
    assert material.image is not None
    red, green, blue = np.asarray(material.image.convert("RGB")).reshape(-1, 3).mean(0) / 255
    return float(red), float(green), float(blue)


def read_mtl(text: str, image: Callable[[str], Image.Image | None]) -> dict[str, Material | None]:
    """Materials by name. `image` returns the PIL image of a file name, or None where it can't be read."""
    materials: dict[str, Material | None] = {}
    material, name = Material(), ""
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        kind, value = words[0].lower(), line.split(None, 1)[1].strip()
        if kind == "newmtl":
            material, name = Material(), value
            materials[name] = material
        elif kind == "kd" and len(words) >= 4:
            red, green, blue = (min(max(float(word), 0.0), 1.0) for word in words[1:4])
            material.colour = red, green, blue
        elif kind == "d" and float(words[-1]) < INVISIBLE:
            materials[name] = None
        elif kind == "map_kd":
            found = image(value)
            if found is not None:
                material.image, material.cut_out = found, has_holes(found)
    return materials
