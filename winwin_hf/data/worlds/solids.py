"""Meshes of our own: boxes, balls, cylinders, cones, ground, and what is put together from them. Source: ours.

All stand on y = 0, with the middle of their base at the origin. Textures are in metres: a texture is `TILE` metres wide unless said.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from winwin_hf.data.worlds.kinds import KINDS, label_of
from winwin_hf.data.worlds.meshes import Material, Mesh, joined, make_mesh

TILE = 2.0  # metres
QUAD = np.array([[0, 1, 2], [0, 2, 3]])


def quads(
    corners: np.ndarray,
    materials: tuple[Material, ...],
    material: np.ndarray | None = None,
    uv: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    kind: str = "other",
) -> Mesh:
    """
    Flat quadrangles.

    Args:
        corners: (n, 4, 3) of each, in turn. material: (n,) index of each one's. uv: (4, 2), the same for all; default: in metres.
        normals: (n, 4, 3), of round things that are made of flat ones.
    """
    corners, count = np.asarray(corners, np.float64), len(corners)
    right, up = corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0]
    if uv is None:
        w, h = (np.sqrt((side**2).sum(1)) / TILE for side in (right, up))
        zero = np.zeros(count)
        places = np.stack([np.stack([zero, w, w, zero], 1), np.stack([zero, zero, h, h], 1)], -1)
    else:
        places = np.broadcast_to(uv, (count, 4, 2))
    if normals is None:
        x, y, z = right.T, up.T, np.empty((3, count))
        z = np.stack([x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]], 1)
        z /= np.maximum(np.sqrt((z**2).sum(1, keepdims=True)), 1e-12)
        normals = np.repeat(z, 4, axis=0)
    faces = (4 * np.arange(count)[:, None, None] + QUAD).reshape(-1, 3)
    which = np.zeros(count, np.int16) if material is None else np.asarray(material, np.int16)
    return make_mesh(
        corners.reshape(-1, 3),
        faces,
        materials,
        np.repeat(which, 2),
        places.reshape(-1, 2),
        np.reshape(normals, (-1, 3)),
        kind,
    )


def quad(corners: np.ndarray, material: Material) -> Mesh:
    """A flat quadrangle, corners (4, 3) in turn."""
    return quads(corners[None], (material,))


def box(size: tuple[float, float, float], material: Material, *, lid: Material | None = None) -> Mesh:
    """width, height, depth in metres. lid: another material on its top."""
    w, h, d = size[0] / 2, size[1], size[2] / 2
    sides = (  # corners in turn, seen from outside
        ((-w, 0, d), (w, 0, d), (w, h, d), (-w, h, d)),
        ((w, 0, -d), (-w, 0, -d), (-w, h, -d), (w, h, -d)),
        ((w, 0, d), (w, 0, -d), (w, h, -d), (w, h, d)),
        ((-w, 0, -d), (-w, 0, d), (-w, h, d), (-w, h, -d)),
        ((-w, h, d), (w, h, d), (w, h, -d), (-w, h, -d)),
        ((-w, 0, -d), (w, 0, -d), (w, 0, d), (-w, 0, d)),
    )
    which = np.array([0, 0, 0, 0, 1, 0]) if lid else None
    return quads(np.array(sides), (material, lid) if lid else (material,), which)


def lathe(radii: np.ndarray, heights: np.ndarray, material: Material, around: int = 20) -> Mesh:
    """What a profile of radii at heights sweeps about the vertical: balls, cylinders, cones, bottles."""
    angles = np.linspace(0, 2 * np.pi, around + 1)
    x, z = radii[:, None] * np.cos(angles), radii[:, None] * np.sin(angles)
    y = np.broadcast_to(heights[:, None], x.shape)
    vertices = np.stack([x, y, z], -1).reshape(-1, 3)
    slope_r, slope_y = np.gradient(radii), np.gradient(heights)
    normal = np.stack(
        [
            slope_y[:, None] * np.cos(angles),
            np.broadcast_to(-slope_r[:, None], x.shape),
            slope_y[:, None] * np.sin(angles),
        ],
        -1,
    )
    normal = normal.reshape(-1, 3) / np.maximum(np.linalg.norm(normal.reshape(-1, 3), axis=1, keepdims=True), 1e-9)
    length = np.concatenate([[0], np.cumsum(np.hypot(np.diff(radii), np.diff(heights)))])
    turn = angles * max(float(radii.max()), 1e-3)
    uv = np.stack(np.broadcast_arrays(turn / TILE, length[:, None] / TILE), -1).reshape(-1, 2)
    return make_mesh(vertices, grid_faces(len(radii), around + 1), (material,), uv=uv, normals=normal)


def grid_faces(rows: int, columns: int) -> np.ndarray:
    """Triangles (2 (rows - 1) (columns - 1), 3) of vertices that lie in rows."""
    i = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = i[:-1, :-1], i[:-1, 1:], i[1:, 1:], i[1:, :-1]
    return np.concatenate([np.stack([a, d, c], -1).reshape(-1, 3), np.stack([a, c, b], -1).reshape(-1, 3)])


def ball(radius: float, material: Material, around: int = 20) -> Mesh:
    angle = np.linspace(-np.pi / 2, np.pi / 2, around // 2 + 1)
    return lathe(radius * np.cos(angle), radius + radius * np.sin(angle), material, around)


def cylinder(radius: float, height: float, material: Material, top: float | None = None, around: int = 16) -> Mesh:
    """top: radius at its upper end; 0: a cone."""
    top = radius if top is None else top
    return lathe(
        np.array([0, radius, radius, top, top, 0.0]), np.array([0, 0, 0, height, height, height]), material, around
    )


def at(mesh: Mesh, place: tuple[float, float, float], axes: np.ndarray | None = None) -> Mesh:
    """A mesh moved, and before that turned."""
    vertices, normals = mesh.vertices, mesh.normals
    if axes is not None:
        vertices, normals = vertices @ axes.T, (normals @ axes.T).astype(np.float32)
    return replace(mesh, vertices=vertices + np.asarray(place), normals=normals, _trees={})


def yawed(angle: float) -> np.ndarray:
    """(3, 3) rotation about the vertical, radians: +z towards +x."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def ground(heights: np.ndarray, xs: np.ndarray, zs: np.ndarray, material: Material, tile: float = TILE) -> Mesh:
    """A surface of heights (len(zs), len(xs)) over a grid, with smooth normals."""
    x, z = np.meshgrid(xs, zs)
    down_z, down_x = np.gradient(heights, zs, xs)
    normals = np.stack([-down_x, np.ones_like(heights), -down_z], -1).reshape(-1, 3)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    vertices = np.stack([x, heights, z], -1).reshape(-1, 3)
    return make_mesh(
        vertices,
        grid_faces(len(zs), len(xs)),
        (material,),
        uv=np.stack([x, z], -1).reshape(-1, 2) / tile,
        normals=normals,
    )


def hills(rng: np.random.Generator, xs: np.ndarray, zs: np.ndarray, rise: float, longest: float) -> np.ndarray:
    """Heights of rolling land, metres: a few waves of random directions, `rise` high, `longest` metres long at most."""
    x, z = np.meshgrid(xs, zs)
    heights = np.zeros(x.shape)
    for octave in range(5):
        length, angle = longest / 2**octave * rng.uniform(0.7, 1.3), rng.uniform(0, 2 * np.pi)
        wave = (x * np.cos(angle) + z * np.sin(angle)) * 2 * np.pi / length
        heights += rise / 1.9**octave * np.sin(wave + rng.uniform(0, 2 * np.pi)) / 2
    return heights


# ------------------------------------------------------------------------------------------------ things of our own shapes

Paints = list[Material]


def own_shape(kind: str, rng: np.random.Generator, paint: Paints, leaves: Material) -> Mesh:
    """A simple thing of a kind, from a few solids; for a kind without one, a box, a ball or a cylinder."""
    label = label_of_kind(kind)

    def some() -> Material:
        return replace(paint[int(rng.integers(len(paint)))], label=label)

    if kind in ("tree", "bush"):
        return _tree(rng, some(), replace(leaves, label=label), kind == "bush")
    if kind in ("person", "animal"):
        return _walker(rng, some, kind == "animal")
    if kind in ("car", "truck"):
        return _car(rng, some, kind == "truck")
    if kind in ("pole", "lamp"):
        height = rng.uniform(3, 9) if kind == "pole" else rng.uniform(0.4, 1.8)
        thin = rng.uniform(0.04, 0.12) if kind == "pole" else 0.015
        parts = [cylinder(thin, height, some(), thin * 0.6)]
        if kind == "lamp":
            parts.append(at(cylinder(0.2, 0.25, some(), 0.12), (0, height - 0.1, 0)))
        elif rng.random() < 0.6:
            reach = rng.uniform(0.5, 2.0)
            parts.append(at(box((reach, 0.08, 0.08), some()), (reach / 2, height - 0.1, 0)))
        return joined(parts, kind)
    if kind == "sign":
        post = cylinder(0.03, 2.4, some())
        plate = box((rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.9), 0.02), some())
        return joined([post, at(plate, (0, 1.8, 0.04))], kind)
    if kind == "fence":
        length, high = rng.uniform(3, 10), rng.uniform(0.8, 1.8)
        posts = [at(box((0.06, high, 0.06), some()), (x, 0, 0)) for x in np.arange(-length / 2, length / 2 + 0.1, 0.5)]
        rails = [at(box((length, 0.07, 0.04), posts[0].materials[0]), (0, y, 0.04)) for y in (0.3 * high, 0.85 * high)]
        return joined(posts + rails, kind)
    if kind in ("table", "chair", "bench", "bed", "sofa"):
        return _seat(rng, some, kind)
    if kind in ("cabinet", "appliance", "door"):
        size = (rng.uniform(0.4, 1.6), rng.uniform(0.5, 2.1), rng.uniform(0.3, 0.7))
        return _as(box(size, some()), kind)
    if kind == "rock":
        lump = ball(0.5, some(), 14)
        bumps = 1 + 0.25 * np.sin(lump.vertices @ rng.normal(0, 4, (3, 3))).mean(1, keepdims=True)
        rough = lump.vertices * bumps * rng.uniform(0.6, 1.4, 3)
        return _as(make_mesh(rough - [0, rough[:, 1].min(), 0], lump.faces, lump.materials, uv=lump.uv), kind)
    return _as(any_solid(rng, some(), rng.uniform(0.1, 0.5) if kind == "thing" else rng.uniform(0.4, 1.5)), kind)


def label_of_kind(kind: str) -> int:
    return label_of(KINDS[kind].label)


def any_solid(rng: np.random.Generator, material: Material, size: float) -> Mesh:
    """A box, ball, cylinder, cone or vase about so large."""
    shape = int(rng.integers(5))
    a, b, c = size * rng.uniform(0.4, 1.0, 3)
    if shape == 0:
        return box((a, b, c), material)
    if shape == 1:
        return ball(a / 2, material).scaled(np.array([1.0, b / a, c / a]))
    if shape < 4:
        return cylinder(a / 2, b, material, None if shape == 2 else a * rng.uniform(0, 0.4))
    heights = np.linspace(0, b, 12)
    radii = a / 2 * (0.6 + 0.4 * np.sin(heights / b * rng.uniform(2, 7) + rng.uniform(0, 6)))
    radii[[0, -1]] = 0
    return lathe(radii, heights, material)


def _as(mesh: Mesh, kind: str) -> Mesh:
    return replace(mesh, kind=kind)


def _tree(rng: np.random.Generator, bark: Material, leaves: Material, bush: bool) -> Mesh:
    """A trunk, and a crown of cards with leaves, or a cone of rings."""
    height = rng.uniform(0.5, 2) if bush else rng.uniform(3, 12)
    trunk = 0.0 if bush else height * rng.uniform(0.15, 0.4)
    parts = [] if bush else [cylinder(0.03 * height, 0.7 * height, bark, 0.01 * height, 10)]
    wide, crown = height * rng.uniform(0.2, 0.4), height - trunk
    count, cone = int(rng.integers(35, 80)), rng.random() < 0.35
    up, angle, side = rng.uniform(0, 1, count), rng.uniform(0, 2 * np.pi, count), crown * rng.uniform(0.2, 0.45, count)
    reach = wide * (1 - up if cone else np.sqrt(np.maximum(0.05, 1 - (2 * up - 1) ** 2))) * rng.uniform(0.3, 1, count)
    middle = np.stack([reach * np.cos(angle), trunk + up * crown * 0.9, reach * np.sin(angle)], 1)
    right, over = (rng.normal(size=(count, 3)) for _ in range(2))
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    over -= right * (over * right).sum(1, keepdims=True)
    over /= np.linalg.norm(over, axis=1, keepdims=True)
    turn = np.stack([-right - over, right - over, right + over, over - right], 1)
    corners = middle[:, None] + side[:, None, None] / 2 * turn
    corners[..., 1] = np.maximum(corners[..., 1], 0.02)
    outward = corners - [0, trunk + crown * 0.3, 0]  # lit as a round crown is, not card by card
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    card = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    parts.append(quads(corners, (leaves,), uv=card, normals=outward))
    return joined(parts, "bush" if bush else "tree")


def _walker(rng: np.random.Generator, some, animal: bool) -> Mesh:
    if animal:
        long, high = rng.uniform(0.5, 1.6), rng.uniform(0.3, 1.0)
        skin = some()
        body = at(ball(0.5, skin).scaled(np.array([0.4 * high, 0.5 * high, long])), (0, 0.5 * high, 0))
        legs = [
            at(cylinder(0.06 * high, 0.6 * high, skin), (x * 0.12 * high, 0, z * 0.35 * long))
            for x in (-1, 1)
            for z in (-1, 1)
        ]
        head = at(ball(0.18 * high, skin), (0, 0.85 * high, 0.55 * long))
        return joined([body, head, *legs], "animal")
    tall = rng.uniform(1.2, 1.95)
    skin, shirt, trousers = some(), some(), some()
    legs = [at(cylinder(0.05 * tall, 0.48 * tall, trousers, 0.06 * tall), (x * 0.055 * tall, 0, 0)) for x in (-1, 1)]
    arms = [
        at(cylinder(0.028 * tall, 0.36 * tall, shirt, 0.035 * tall), (x * 0.15 * tall, 0.44 * tall, 0)) for x in (-1, 1)
    ]
    body = at(
        cylinder(0.09 * tall, 0.36 * tall, shirt, 0.12 * tall).scaled(np.array([1.1, 1, 0.7])), (0, 0.46 * tall, 0)
    )
    head = at(ball(0.065 * tall, skin).scaled(np.array([0.9, 1.2, 1.0])), (0, 0.84 * tall, 0))
    return joined([body, head, *legs, *arms], "person")


def _car(rng: np.random.Generator, some, truck: bool) -> Mesh:
    long, wide, high = (rng.uniform(6, 11), 2.4, rng.uniform(2.5, 3.6)) if truck else (rng.uniform(3.5, 5), 1.8, 1.5)
    paint, glass, rubber = replace(some(), gloss=0.5), replace(some(), tint=(0.15, 0.17, 0.2), gloss=0.7), some()
    rubber = replace(rubber, tint=(0.1, 0.1, 0.1))
    parts = [at(box((wide, 0.45 * high, long), paint), (0, 0.22 * high, 0))]
    cabin = long * (0.25 if truck else 0.5)
    parts.append(
        at(
            box((0.86 * wide, 0.36 * high, cabin), glass, lid=paint),
            (0, 0.66 * high, long * (0.36 if truck else -0.05)),
        )
    )
    if truck:
        parts.append(at(box((wide, 0.75 * high, 0.7 * long), some()), (0, 0.3 * high, -0.14 * long)))
    upright = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    for x in (-1, 1):
        for z in (-0.32, 0.32):
            wheel = at(
                cylinder(0.22 * min(high, 1.8), 0.2, rubber),
                (x * wide / 2 + 0.1, 0.2 * min(high, 1.8), z * long),
                upright,
            )
            parts.append(wheel)
    return joined(parts, "truck" if truck else "car")


def _seat(rng: np.random.Generator, some, kind: str) -> Mesh:
    wide = {"table": (0.6, 1.8), "chair": (0.4, 0.6), "bench": (1.2, 2.0), "bed": (0.9, 1.8), "sofa": (1.2, 2.2)}[kind]
    deep = {"table": (0.5, 1.0), "chair": (0.4, 0.55), "bench": (0.35, 0.5), "bed": (1.9, 2.1), "sofa": (0.8, 1.0)}[
        kind
    ]
    high = {"table": (0.4, 0.8), "chair": (0.4, 0.5), "bench": (0.4, 0.5), "bed": (0.35, 0.6), "sofa": (0.35, 0.45)}[
        kind
    ]
    w, d, h = rng.uniform(*wide), rng.uniform(*deep), rng.uniform(*high)
    wood, cloth = some(), some()
    thick = 0.04 if kind in ("table", "chair", "bench") else h * 0.7
    leg = rng.uniform(0.015, 0.05)
    parts = [at(box((w, thick, d), cloth), (0, h - thick, 0))]
    for x in (-1, 1):
        for z in (-1, 1):
            parts.append(at(box((2 * leg, h, 2 * leg), wood), (x * (w / 2 - leg), 0, z * (d / 2 - leg))))
    if kind in ("chair", "sofa", "bench", "bed"):
        back = rng.uniform(0.3, 0.55)
        parts.append(at(box((w, back, 0.05 if kind != "sofa" else 0.2), cloth), (0, h, -d / 2)))
    if kind == "sofa":
        parts += [at(box((0.15, h + 0.2, d), cloth), (x * w / 2, 0, 0)) for x in (-1, 1)]
    return joined(parts, kind)
