"""
A model as all readers return it, and what is done to each before it is written: size, position, number of triangles.

Space: right-handed, Y up. Texture coordinates: (0, 0) is the upper left corner of the image, as in glTF.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse.csgraph
from PIL import Image

MAX_TRIANGLES = 20_000
MAX_TEXTURED_TRIANGLES = 60_000  # a simplified mesh has no texture coordinates, so textured ones stay as they are
THINNED_TRIANGLES = 45_000  # of the textured parts of a tree that has too many
LEAF_TRIANGLES = 64  # connected triangles of a leaf, or of a twig with leaves
FLAT = 0.004  # a model whose second-longest side is shorter than this share of its longest is a line


Size = tuple[float | None, float | None, float | None] | float


class UnusableModel(Exception):
    """The model can't be a solid object of the set; the message says why."""


@dataclass
class Material:
    """Colour (sRGB, 0 to 1), an image that replaces it, and whether the image's alpha cuts holes."""

    colour: tuple[float, float, float] = (0.8, 0.8, 0.8)
    image: Image.Image | None = None
    cut_out: bool = False


@dataclass
class Part:
    """Triangles of one material: positions (N, 3), faces (M, 3), texture coordinates (N, 2) and normals (N, 3) or None."""

    material: Material
    positions: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None = None
    normals: np.ndarray | None = None


@dataclass
class Item:
    """
    A model of a package that is to be converted; `load` reads its parts.

    `size` is (width, height, depth) in metres, or one of them with None for the others, or a number: the longest side.
    None: the parts are in metres.
    """

    name: str
    class_name: str
    author: str
    licence: str
    load: Callable[[], list[Part]]
    size: Size | None = None


def finish(parts: list[Part], size: Size | None) -> list[Part]:
    """The parts in metres, the middle of the base at the origin, not more triangles than a renderer's scene can hold."""
    parts = [tidy for part in parts if len((tidy := welded(part)).faces)]
    if not parts:
        raise UnusableModel("no triangles")
    place(parts, size)
    extent = np.sort(np.ptp(np.concatenate([part.positions for part in parts]), axis=0))
    if extent[1] < FLAT * extent[2]:
        raise UnusableModel("a line")
    return simplified(parts)


def welded(part: Part) -> Part:
    """The part without unused and repeated vertices, and without triangles of no area."""
    columns = [part.positions, *(array for array in (part.uv, part.normals) if array is not None)]
    table = np.concatenate(columns, axis=1).astype(np.float32)
    if not np.isfinite(table[part.faces.reshape(-1)]).all():
        raise UnusableModel("vertices that aren't finite")
    used, inverse = np.unique(table[part.faces.reshape(-1)], axis=0, return_inverse=True)
    faces = inverse.reshape(-1, 3)
    a, b, c = (used[faces[:, corner], :3] for corner in range(3))
    faces = faces[np.abs(np.cross(b - a, c - a)).sum(1) > 0]
    kept, inverse = np.unique(faces, return_inverse=True)
    used, faces = used[kept], inverse.reshape(-1, 3)
    at = 5 if part.uv is not None else 3
    uv = used[:, 3:5] if part.uv is not None else None
    normals = used[:, at:] if part.normals is not None else None
    return Part(part.material, used[:, :3].astype(np.float64), faces, uv, normals)


def place(parts: list[Part], size: Size | None) -> None:
    """Scale and move the parts in place. A full size stretches each axis by its own factor."""
    points = np.concatenate([part.positions for part in parts])
    low, high = points.min(0), points.max(0)
    extent = high - low
    factor = np.ones(3)
    if isinstance(size, float | int):
        factor[:] = size / extent.max()
    elif size is not None:
        known = [wanted / have for wanted, have in zip(size, extent, strict=True) if wanted and have > 0]
        if not known:
            raise UnusableModel("no extent along the axis whose size is known")
        factor[:] = np.median(known)
        if len(known) > 1:
            for axis, wanted in enumerate(size):
                if wanted and extent[axis] > 0:
                    factor[axis] = wanted / extent[axis]
    base = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    for part in parts:
        part.positions = (part.positions - base) * factor
        if part.normals is not None:
            normals = part.normals / factor
            part.normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def simplified(parts: list[Part]) -> list[Part]:
    """The parts with few enough triangles: those without a texture are simplified."""
    total = sum(len(part.faces) for part in parts)
    if total <= MAX_TRIANGLES:
        return parts
    plain = sum(len(part.faces) for part in parts if part.material.image is None)
    share = max(MAX_TRIANGLES - (total - plain), 0.05 * plain) / plain if plain else 1.0
    if total > MAX_TEXTURED_TRIANGLES and total - plain > THINNED_TRIANGLES:
        share_of_leaves = THINNED_TRIANGLES / (total - plain)
        parts = [thinned(part, share_of_leaves) if part.material.image is not None else part for part in parts]
    for aggression in (4, 7):  # 7, the usual one, loses table legs
        found = [reduced(part, share, aggression) if part.material.image is None else part for part in parts]
        total = sum(len(part.faces) for part in found)
        if total <= MAX_TEXTURED_TRIANGLES:
            return found
    raise UnusableModel(f"{total:,} triangles")


def above_ground(part: Part) -> Part:
    """The part cut at Y = 0: foundations and roots lie below."""
    columns = [part.positions, *(array for array in (part.uv, part.normals) if array is not None)]
    corners = np.concatenate(columns, axis=1)[part.faces]
    above = corners[..., 1] >= 0
    pieces = [corners[above.all(1)]]
    for lonely in (True, False):  # one corner above the ground, or one below
        cut = corners[above.sum(1) == (1 if lonely else 2)]
        odd = np.argmax((cut[..., 1] >= 0) == lonely, axis=1)
        a, b, c = (cut[np.arange(len(cut)), (odd + turn) % 3] for turn in range(3))
        ab, ac = (a + (other - a) * (a[:, 1] / (a[:, 1] - other[:, 1]))[:, None] for other in (b, c))
        pieces += [np.stack([a, ab, ac], 1)] if lonely else [np.stack([ab, b, c], 1), np.stack([ab, c, ac], 1)]
    table = np.concatenate(pieces).reshape(-1, corners.shape[2])
    at = 3 if part.uv is None else 5
    uv, normals = part.uv if part.uv is None else table[:, 3:5], part.normals if part.normals is None else table[:, at:]
    return Part(part.material, table[:, :3], np.arange(len(table)).reshape(-1, 3), uv, normals)


def thinned(part: Part, share: float) -> Part:
    """A tree's part with that share of its leaves, which grow so that the crown stays as dense as it was."""
    corners = np.unique(part.positions, axis=0, return_inverse=True)[1].reshape(-1)[part.faces]
    ones = np.ones(2 * len(corners))
    edges = corners[:, [0, 1]].reshape(-1), corners[:, [1, 2]].reshape(-1)
    graph = scipy.sparse.coo_matrix((ones, edges), (corners.max() + 1,) * 2)
    island = scipy.sparse.csgraph.connected_components(graph, directed=False)[1][corners[:, 0]]
    size = np.bincount(island)
    leaf = size <= LEAF_TRIANGLES
    large = size[~leaf].sum()
    share = max((share * len(corners) - large) / max(size[leaf].sum(), 1), 0.0)
    kept = ~leaf | (np.random.default_rng(0).random(len(size)) < share)
    positions, faces = part.positions[part.faces].copy(), part.faces
    middles = (
        np.stack([np.bincount(island, positions.mean(1)[:, axis], len(size)) for axis in range(3)], 1) / size[:, None]
    )
    middle = middles[island][:, None]
    grown = middle + (positions - middle) * min(share**-0.5, 2.0) if share > 0 else positions
    positions = np.where(leaf[island][:, None, None], grown, positions)[kept[island]]
    faces = faces[kept[island]].reshape(-1)
    uv = None if part.uv is None else part.uv[faces]
    normals = None if part.normals is None else part.normals[faces]
    return welded(Part(part.material, positions.reshape(-1, 3), np.arange(len(faces)).reshape(-1, 3), uv, normals))


def reduced(part: Part, share: float, aggression: int) -> Part:
    """An untextured part with about that share of its triangles, without normals; small parts stay as they are."""
    import fast_simplification  # not among the project's own dependencies

    if len(part.faces) <= 100:
        return part
    points, inverse = np.unique(part.positions.astype(np.float32), axis=0, return_inverse=True)
    faces = inverse.reshape(-1)[part.faces].astype(np.int32)
    unit = 100 / np.ptp(points, axis=0).max()  # its thresholds are absolute
    points, faces = fast_simplification.simplify(points * unit, faces, target_reduction=1 - share, agg=aggression)
    return welded(Part(part.material, np.asarray(points, np.float64) / unit, np.asarray(faces, np.int64)))
