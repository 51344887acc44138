"""The places of synthetic worlds: what stands where in a street, on open land, in a room and in a heap. Source: ours.

Lengths are metres and those of real things, so that depth can be told from one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from winwin_hf.data.worlds.builder import Builder, Light, Scene
from winwin_hf.data.worlds.casting import still, turned
from winwin_hf.data.worlds.kinds import KINDS, label_of
from winwin_hf.data.worlds.library import Library
from winwin_hf.data.worlds.meshes import WHITE, Material, Mesh, joined, tint_of
from winwin_hf.data.worlds.settings import WorldSettings
from winwin_hf.data.worlds.solids import any_solid, at, box, ground, hills, quad, quads, yawed
from winwin_hf.data.worlds.subjects import add_subjects


def build(settings: WorldSettings, rng: np.random.Generator, library: Library, step: int) -> Scene:
    """A world of one of the places."""
    names = list(settings.places)
    shares = np.array([settings.places[name] for name in names], np.float64)
    name = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    return {"street": street, "land": land, "room": room, "heap": heap}[name](Builder(settings, rng, library, step))


def street(b: Builder) -> Scene:
    """A road between pavements and houses, with traffic, trees, poles, signs and people."""
    rng = b.rng
    lanes = rng.uniform(5.5, 11.0)
    walk = rng.uniform(1.5, 4.5)
    setback = rng.uniform(0, 5) if rng.random() < 0.5 else 0.0
    slope = rng.normal(0, 0.02)
    b.height = lambda x, z: slope * z
    b.curve = rng.normal(0, 0.0015) if rng.random() < 0.5 else 0.0
    edge, wall = lanes / 2, lanes / 2 + walk
    xs = np.array([-edge, edge])
    zs = np.linspace(-20, 160, 40)
    road = Material(asphalt(rng, lanes), (1.0, 1.0, 1.0), label_of("road"))
    flat = np.zeros((len(zs), 2)) + slope * zs[:, None]
    piece = ground(flat, xs, zs, road)
    across = (piece.vertices[:, 0] + edge) / lanes
    b.strip(replace(piece, uv=np.stack([across, piece.vertices[:, 2] / 8.0], 1).astype(np.float32)))
    kerb = rng.uniform(0.06, 0.18)
    stone = b.coat(0.5, "pavement", (0.35, 0.75))
    beyond = replace(b.coat(0.1, "tree"), tint=(0.45, 0.6, 0.3)) if setback else stone
    for side in (-1, 1):
        for inner, outer, material in ((edge, wall, stone), (wall, wall + max(setback, 0.01) + 60, beyond)):
            strip = np.sort(np.array([side * inner, side * outer]))
            b.strip(ground(flat + kerb, strip, zs, material))
        foot, top = (np.stack([np.full(len(zs), side * edge), y + slope * zs, zs], 1) for y in (-0.4, kerb))
        b.strip(quads(np.stack([foot[:-1], foot[1:], top[1:], top[:-1]], 1), (stone,)))
        _houses(b, side, wall + setback, slope)
    plain = b.height
    b.height = lambda x, z: plain(x, z) + (kerb if abs(x) > edge else 0.0)
    driving = rng.random() < 0.6
    eye = np.array(
        [rng.uniform(-0.35, 0.35) * lanes if driving else rng.choice([-1, 1]) * rng.uniform(edge, wall), 0.0, 0.0]
    )
    b.free(eye[0], 0.0, 1.2)
    for _ in range(int(rng.integers(2, 14))):  # parked and moving
        kind = str(rng.choice(["car", "truck", "motorcycle", "bicycle"], p=[0.7, 0.1, 0.08, 0.12]))
        side, z = rng.choice([-1, 1]), rng.uniform(3, 70)
        parked = rng.random() < 0.5
        x = side * (edge - 1.1 if parked else lanes / 4)
        speed = 0.0 if parked else rng.uniform(0, KINDS[kind].speed)
        b.stand(kind, x, z, (0.0 if side < 0 else math.pi) + rng.normal(0, 0.05), speed)
    for kind, count in (("tree", 8), ("bush", 5), ("pole", 7), ("sign", 4), ("bench", 2), ("fence", 3), ("other", 1)):
        for _ in range(int(rng.integers(0, count + 1))):
            along = kind in ("pole", "sign", "tree")
            x = edge + (rng.uniform(0.3, 0.8) if along else rng.uniform(0.3, walk + setback))
            yaw = rng.choice([-1, 1]) * math.pi / 2 if kind in ("fence", "bench") else None
            b.stand(kind, rng.choice([-1, 1]) * x, rng.uniform(2, 80), yaw)
    for _ in range(int(rng.integers(b.s.people[0], b.s.people[1] + 1))):
        kind = "person" if rng.random() < 0.88 else "animal"
        crossing = rng.random() < 0.2
        x = rng.uniform(-edge, edge) if crossing else rng.choice([-1, 1]) * rng.uniform(edge + 0.3, wall)
        yaw = rng.choice([-1, 1]) * math.pi / 2 if crossing else rng.choice([0, 1]) * math.pi
        b.stand(kind, x, rng.uniform(2.5, 40), yaw + rng.normal(0, 0.3), rng.uniform(0, KINDS[kind].speed))
    high = rng.uniform(1.0, 2.2)
    place = np.array([eye[0], b.height(eye[0], 0) + high, 0.0])
    turn = rng.normal(0, 0.12) if driving else rng.uniform(-1.2, 1.2)
    aim = place + [math.sin(turn), slope + rng.normal(-0.03, 0.06), math.cos(turn)]
    move, spin = b.hand(0.4)
    if rng.random() < 0.7:
        speed = rng.uniform(0, 18) if driving else rng.uniform(0, 2)
        ahead = np.array([0.0, slope, 1.0]) * speed * b.seconds * rng.choice([1, -1], p=[0.9, 0.1])
        move = 0.3 * move + ahead
    view = b.look(place, aim, rng.normal(0, 0.02), move, spin)
    add_subjects(b, view, {"person": 6, "animal": 1, "bicycle": 1, "car": 1, "other": 1}, 9.0, (wall, math.inf))
    return b.scene(view, b.daylight())


def _houses(b: Builder, side: int, wall: float, slope: float) -> None:
    """A row of houses along one side, with windows and doors."""
    rng = b.rng
    z = rng.uniform(-15, 0)
    while z < 130:
        if rng.random() < 0.2:  # a gap
            z += rng.uniform(3, 25)
            continue
        wide, storeys = rng.uniform(5, 22), int(rng.integers(1, 8))
        storey = rng.uniform(2.6, 3.8)
        high, deep = storeys * storey + rng.uniform(0.3, 1.5), rng.uniform(6, 14)
        facade = b.coat(0.5, "building", (0.3, 0.9))
        base = slope * (z + wide / 2)
        house = box((deep, high + 3, wide), facade)
        if rng.random() < 0.4:
            roof = b.coat(0.5, "building", (0.15, 0.5))
            parts = [house, _gable(deep, wide, high + 3, roof)]
        else:
            parts = [house]
        parts = [at(part, (side * (wall + deep / 2), base - 3, z + wide / 2)) for part in parts]
        near = wall - 0.03
        panels: list[tuple[np.ndarray, int]] = []  # corners, material
        pane = Material(WHITE, tint_of(rng.uniform(0.05, 0.35) * np.array([0.8, 0.95, 1.1])), label_of("window"), 0.6)
        frame = b.coat(0.8, "building", (0.5, 0.95))
        w, h, gap = rng.uniform(0.8, 1.6), storey * rng.uniform(0.4, 0.65), rng.uniform(0.8, 2.2)
        door = b.coat(0.7, "door", (0.1, 0.6))
        door_at = int(rng.integers(0, max(1, int(wide / (w + gap)))))
        for floor in range(storeys):
            for n in range(max(1, int((wide - gap) / (w + gap)))):
                left = z + gap / 2 + n * (w + gap)
                low = base + floor * storey + (storey - h) * 0.6
                if floor == 0 and n == door_at:
                    panels.append((_panel(side, near, left, base, w * 0.8, 2.1), 2))
                    continue
                if rng.random() < 0.05:
                    continue
                panels.append((_panel(side, near + 0.015, left - 0.08, low - 0.08, w + 0.16, h + 0.16), 1))
                panels.append((_panel(side, near, left, low, w, h), 0))
        if panels:
            corners, which = zip(*panels, strict=True)
            parts.append(quads(np.stack(corners), (pane, frame, door), np.array(which)))
        middle = z + wide / 2
        turn, there = yawed(b.heading(middle)), (b.curve * middle**2, 0.0, middle)
        b.fixed += [at(at(part, (0.0, 0.0, -middle)), there, turn) for part in parts]
        z += wide + (rng.uniform(0, 6) if rng.random() < 0.3 else 0)


def _panel(side: int, x: float, z: float, y: float, wide: float, high: float) -> np.ndarray:
    """Corners (4, 3) of an upright rectangle beside the road."""
    x, top, end = side * x, y + high, z + wide
    return np.array([[x, y, z], [x, y, end], [x, top, end], [x, top, z]])


def _gable(deep: float, wide: float, base: float, material: Material) -> Mesh:
    w, d, ridge = wide / 2, deep / 2, base + 0.35 * deep
    slopes = [
        np.array([[s * (d + 0.3), base, -w], [s * (d + 0.3), base, w], [0, ridge, w], [0, ridge, -w]]) for s in (-1, 1)
    ]
    ends = [np.array([[-d, base, z], [d, base, z], [0, ridge, z], [0, ridge, z]]) for z in (-w, w)]
    return joined([quad(corners, material) for corners in (*slopes, *ends)])


def asphalt(rng: np.random.Generator, lanes: float) -> np.ndarray:
    """A road seen from above, uint8 RGB (256, 256, 3): its width by 8 metres, with markings."""
    grey = rng.uniform(50, 125)
    coarse = cv2.resize(
        rng.normal(0, rng.uniform(2, 9), (32, 32)).astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC
    )
    image = grey + coarse[..., None] + rng.normal(0, rng.uniform(2, 10), (256, 256, 1)) + rng.normal(0, 2, 3)
    image = np.clip(np.repeat(image, 3, 2) if image.shape[2] == 1 else image, 0, 255).astype(np.uint8)
    white, thin = int(rng.uniform(150, 240)), max(2, round(0.13 / lanes * 256))
    if rng.random() < 0.7:
        dashed = slice(0, int(rng.choice([110, 150, 256])))
        image[dashed, 128 - thin // 2 : 128 + (thin + 1) // 2] = white
    if rng.random() < 0.5:
        inset = int(0.25 / lanes * 256)
        for x in (inset, 255 - inset - thin):
            image[:, x : x + thin] = white
    return image


def land(b: Builder) -> Scene:
    """Rolling ground with trees, rocks, animals, people and some houses, seen from the ground or from a drone."""
    rng = b.rng
    drone = rng.random() < 0.35
    # finer near the camera, and far enough that no edge shows before the horizon
    zs, xs = _spaced(-30, 400, 70), np.concatenate([-_spaced(0, 400, 34)[:0:-1], _spaced(0, 400, 34)])
    rise = math.exp(rng.uniform(math.log(0.05), math.log(8)))
    heights = hills(rng, xs, zs, rise, rng.uniform(40, 160))
    tile = rng.uniform(1.5, 8)
    grass = b.coat(0.15)
    if rng.random() < 0.7:
        grass = replace(grass, tint=tint_of(np.array(grass.tint) * [0.6, 0.85, 0.35]), label=label_of("tree"))
    b.fixed.append(ground(heights, xs, zs, grass, tile))
    b.height = _surface(heights, xs, zs)
    b.free(0, 0, 1.5)
    crowd = rng.uniform(0.3, 1.5)
    for kind, count in (
        ("tree", 16),
        ("bush", 12),
        ("rock", 8),
        ("person", 6),
        ("animal", 7),
        ("building", 3),
        ("fence", 3),
        ("bench", 1),
        ("other", 2),
        ("boat", 1),
    ):
        for _ in range(int(rng.integers(0, max(1, round(count * crowd)) + 1))):
            z = (4 if kind in ("person", "animal", "rock", "bush") else 8) + rng.exponential(20)
            x = rng.uniform(-0.75, 0.75) * (z + 3)
            moves = KINDS[kind].speed > 0 and rng.random() < 0.6
            if z < 150:
                b.stand(kind, x, z, speed=rng.uniform(0, KINDS[kind].speed) if moves else 0.0)
    if rng.random() < 0.15:
        b.fly(b.mesh("plane"), np.array([rng.uniform(-15, 15), rng.uniform(8, 25), rng.uniform(20, 60)]), 1.0)
    high = math.exp(rng.uniform(math.log(4), math.log(30))) if drone else rng.uniform(0.8, 2.0)
    place = np.array([0.0, max(b.height(0, 0), b.height(0, 1.0)) + high, 0.0])
    aim = place + [rng.normal(0, 0.3), -rng.uniform(0.1, 1.2) if drone else rng.normal(-0.05, 0.1), 1.0]
    move, spin = b.hand(1.5 if drone else 1.0)
    if drone:
        move = move + rng.normal(0, 4, 3) * [1, 0.3, 1] * b.seconds
    view = b.look(place, aim, rng.normal(0, 0.04), move, spin)
    if not drone:
        add_subjects(b, view, {"person": 6, "animal": 2, "bush": 1, "other": 1}, 9.0, (math.inf, math.inf))
    return b.scene(view, b.daylight())


def _spaced(start: float, end: float, count: int) -> np.ndarray:
    """Numbers from start to end, five times as dense at the start as at the end."""
    share = np.linspace(0, 1, count)
    return start + (end - start) * (0.3 * share + 0.7 * share**2)


def _surface(heights: np.ndarray, xs: np.ndarray, zs: np.ndarray) -> Callable[[float, float], float]:
    """Height at (x, z) of the ground over a grid."""

    def height(x: float, z: float) -> float:
        i = min(float(np.interp(z, zs, np.arange(len(zs)))), len(zs) - 1.001)
        j = min(float(np.interp(x, xs, np.arange(len(xs)))), len(xs) - 1.001)
        r, c = int(i), int(j)
        low, high = (heights[k, c] + (j - c) * (heights[k, c + 1] - heights[k, c]) for k in (r, r + 1))
        return float(low + (i - r) * (high - low))

    return height


def room(b: Builder) -> Scene:
    """A furnished room, with things on its furniture."""
    rng = b.rng
    wide, long, tall = rng.uniform(2.4, 8), rng.uniform(2.8, 9), rng.uniform(2.3, 3.4)
    _walls(b, wide, long, tall)
    place = np.array([rng.uniform(-0.42, 0.42) * wide, rng.uniform(0.5, 1.9), -rng.uniform(0.2, 0.47) * long])
    b.free(place[0], place[2], 0.45)
    kinds = ["chair", "table", "sofa", "bed", "cabinet", "lamp", "appliance", "plant", "person", "thing", "other"]
    weights = np.array([5, 3, 1.5, 1, 4, 1, 2, 1.5, 0.7, 2, 0.5])
    for _ in range(int(rng.integers(6, 28))):
        kind = str(rng.choice(kinds, p=weights / weights.sum()))
        mesh = b.mesh(kind)
        size = mesh.bounds[1] - mesh.bounds[0]
        if size[1] > tall - 0.05 or max(size[0], size[2]) > min(wide, long) * 0.8:
            continue
        against = kind in ("sofa", "bed", "cabinet", "appliance") or rng.random() < 0.2
        side = int(rng.integers(3))  # left, right, opposite
        if against and side < 2:
            sign = (-1, 1)[side]
            x, z, yaw = sign * (wide / 2 - size[2] / 2 - 0.02), rng.uniform(-0.45, 0.45) * long, -sign * math.pi / 2
        elif against:
            x, z, yaw = rng.uniform(-0.45, 0.45) * wide, long / 2 - size[2] / 2 - 0.02, math.pi
        else:
            x, z = rng.uniform(-0.42, 0.42) * wide, rng.uniform(-0.4, 0.45) * long
            yaw = float(rng.choice([0, 1, 2, 3])) * math.pi / 2 + rng.normal(0, 0.3)
        if not b.stand(kind, x, z, yaw, rng.uniform(0, 1.0) if kind == "person" else 0.0, mesh):
            continue
        if kind in ("table", "cabinet", "appliance") and 0.25 < size[1] < 1.4:
            for _ in range(int(rng.integers(0, 5))):
                _put(b, x, z, yaw, size)
    lamps = np.stack(
        [rng.uniform(-0.4, 0.4, 2) * wide, rng.uniform(0.75, 0.97, 2) * tall, rng.uniform(-0.4, 0.4, 2) * long], 1
    )
    aim = np.array([rng.uniform(-0.35, 0.35) * wide, place[1] + rng.normal(-0.35, 0.35), rng.uniform(0.1, 0.5) * long])
    move, spin = b.hand(0.8)
    move = np.clip(place + move, *(np.array([[-0.45, 0.2, -0.47], [0.45, 0.9, 0.45]]) * [wide, tall, long])) - place
    view = b.look(place, aim, rng.normal(0, 0.05), move, spin)
    who = {"person": 6, "animal": 1, "chair": 1, "plant": 0.5, "thing": 1, "other": 0.5}
    add_subjects(b, view, who, 4.5, (wide / 2, long / 2))
    return b.scene(view, Light(rng.uniform(0.35, 0.8), None, lamps))


def _put(b: Builder, x: float, z: float, yaw: float, size: np.ndarray) -> None:
    """A small thing on top of a piece of furniture."""
    rng = b.rng
    mesh = b.mesh(str(rng.choice(["thing", "thing", "thing", "lamp", "plant"])))
    extent = mesh.bounds[1] - mesh.bounds[0]
    if extent.max() > 0.7 or max(extent[0], extent[2]) > 0.8 * min(size[0], size[2]):
        return
    spot = yawed(yaw) @ [rng.uniform(-0.35, 0.35) * size[0], size[1], rng.uniform(-0.3, 0.3) * size[2]]
    b.moving.append((mesh, still(spot + [x, 0, z], yawed(rng.uniform(-3.1, 3.1)))))


def _walls(b: Builder, wide: float, long: float, tall: float) -> None:
    rng, x, z = b.rng, wide / 2, long / 2
    paper = b.coat(0.75, None, (0.4, 0.95))
    walls = [paper if rng.random() < 0.7 else b.coat(0.5, None, (0.3, 0.95)) for _ in range(4)]
    floor, ceiling = b.coat(0.35, None, (0.2, 0.8)), b.coat(0.85, None, (0.7, 1.0))
    corners = {
        "left": ((-x, 0, -z), (-x, 0, z), (-x, tall, z), (-x, tall, -z)),
        "right": ((x, 0, z), (x, 0, -z), (x, tall, -z), (x, tall, z)),
        "far": ((-x, 0, z), (x, 0, z), (x, tall, z), (-x, tall, z)),
        "near": ((x, 0, -z), (-x, 0, -z), (-x, tall, -z), (x, tall, -z)),
    }
    for places, material in zip(corners.values(), walls, strict=True):
        b.fixed.append(quad(np.array(places, np.float64), material))
    b.fixed.append(quad(np.array([(-x, 0, -z), (x, 0, -z), (x, 0, z), (-x, 0, z)], np.float64), floor))
    b.fixed.append(quad(np.array([(-x, tall, z), (x, tall, z), (x, tall, -z), (-x, tall, -z)], np.float64), ceiling))
    edge = b.coat(0.9, None, (0.5, 0.95))
    high = rng.uniform(0.05, 0.15)
    for sign in (-1, 1):
        b.fixed.append(at(box((0.015, high, long), edge), (sign * x, 0, 0)))
    b.fixed.append(at(box((wide, high, 0.015), edge), (0, 0, z)))
    for _ in range(int(rng.integers(0, 6))):  # doors, windows and pictures on the walls
        what = str(rng.choice(["door", "window", "picture"], p=[0.3, 0.35, 0.35]))
        w, h, low = {"door": (0.9, 2.05, 0.0), "window": (1.3, 1.2, 0.9), "picture": (0.7, 0.5, 1.2)}[what]
        w, h = w * rng.uniform(0.7, 1.6), h if what == "door" else h * rng.uniform(0.6, 1.4)
        if low + h > tall - 0.05:
            continue
        glass = what == "window" and rng.random() < 0.6
        material = (
            Material(WHITE, (0.95, 0.97, 1.0), label_of("window"))
            if glass
            else b.coat(0.3 if what == "picture" else 0.6)
        )
        panel = box((w, h, 0.03), replace(material, label=label_of({"door": "door", "window": "window"}.get(what))))
        border = box((w + 0.12, h + 0.1, 0.02), edge)
        inset = rng.uniform(0.015, 0.035)  # no two in one plane
        if (where := int(rng.integers(3))) == 2:
            turn, spot = 0.0, (rng.uniform(-0.5, 0.5) * max(wide - w, 0), low, z - inset)
        else:
            turn, spot = math.pi / 2, ((-1, 1)[where] * (x - inset), low, rng.uniform(-0.5, 0.5) * max(long - w, 0))
        b.fixed += [at(border, (spot[0], max(0, spot[1] - 0.05), spot[2]), yawed(turn)), at(panel, spot, yawed(turn))]


def heap(b: Builder) -> Scene:
    """Things of all kinds that fly about before a curved wall, turned in any way: for motion alone."""
    rng = b.rng
    back = rng.uniform(8, 25)
    xs, zs = np.linspace(-3 * back, 3 * back, 30), np.linspace(-2 * back, 2 * back, 30)
    wall = ground(hills(rng, xs, zs, rng.uniform(0, 4), rng.uniform(10, 60)), xs, zs, b.coat(0.05), rng.uniform(2, 12))
    lean = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # what lies on the ground stands before the camera
    b.fixed.append(at(wall, (0, 0, back), turned(rng.normal(0, 0.25, 3)) @ lean))
    kinds = [k for k in KINDS if k not in ("window", "door", "carpet", "other")]
    for _ in range(int(rng.integers(4, 26))):
        kind = str(rng.choice(kinds))
        depth = rng.uniform(0.12, 0.85) * back
        size = depth * math.exp(rng.uniform(math.log(0.08), math.log(0.6)))
        mesh = any_solid(rng, b.coat(0.2), 1.0) if rng.random() < 0.25 else b.mesh(kind)
        scale = float(size / np.linalg.norm(mesh.bounds[1] - mesh.bounds[0]))
        place = np.array([rng.uniform(-0.8, 0.8) * depth, rng.uniform(-0.6, 0.6) * depth, depth])
        b.fly(mesh, place, 0.03 * depth * min(b.seconds * 10, 4), scale)
    move, spin = b.hand(0.5)
    light = replace(b.daylight(), fog=0.0)
    if light.sun is not None:  # never from behind the wall alone
        light.sun = np.array([light.sun[0], light.sun[1], -abs(light.sun[2]) - 0.3])
        light.sun /= np.linalg.norm(light.sun)
    return b.scene(b.look(np.zeros(3), np.array([0, 0, 1.0]), rng.normal(0, 0.1), move * 4, spin), light)
