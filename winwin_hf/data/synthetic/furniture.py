"""The furniture of a synthetic room: tables, chairs, shelves, cupboards, frames of bars, balls and boxes, of a few solids each.

Sizes are those of real furniture, in metres: from them a network can tell depth in one image. Every side has a texture of the bank or
one colour. Source: ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from winwin_hf.data.synthetic.raycast import BALL, BOX, CYLINDER, Pinhole, Solid
from winwin_hf.data.synthetic.textures import LEVELS, desaturate, rotation

SIDES = {BOX: 6, BALL: 1, CYLINDER: 2}
PIECES = {
    "table": 3,
    "chair": 3,
    "shelf": 2,
    "cupboard": 3,
    "frame": 2,
    "heap": 3,
    "hanging": 2,
}  # relative frequencies
Size = tuple[float, float, float]
Painter = Callable[[bool], int]  # (is it for the room itself) -> number of a new paint


@dataclass(frozen=True)
class Paint:
    """
    What one side of a solid is painted with.

    texture: number in the bank; None: one colour. colour: (3,) 0 to 255; a texture is multiplied by colour / 255. density: the
    texture's pixels a metre. turn: (2, 2) rotation of the texture. shift: (2,) pixels.
    """

    texture: int | None
    colour: np.ndarray
    density: float
    turn: np.ndarray
    shift: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, fresh: int, count: int, plain: float, room: bool) -> Paint:
        """fresh, count: first texture of the bank and number of textures to choose from. plain: probability of one colour; on
        walls it is 1.5 times as high."""
        number = None if rng.random() < plain * (1.5 if room else 1.0) else fresh + int(rng.integers(count))
        low, high = (40.0, 255.0) if number is None else (200.0, 255.0)
        colour = desaturate(np.clip(rng.uniform(low, high) + rng.normal(0, 40, 3), 20, 255), rng).astype(np.float32)
        density = math.exp(rng.uniform(*np.log((60, 400) if room else (150, 900))))
        quarter = rotation(math.pi / 2 * int(rng.integers(4)) + (rng.normal(0, 0.3) if rng.random() < 0.3 else 0))
        return cls(number, colour, density, quarter, rng.uniform(0, 512, 2))

    def level(self, distance: float, focal: float) -> int:
        """The prefiltered size of the texture whose pixels, seen frontally from `distance`, are about as large as the frame's."""
        return int(np.clip(round(math.log2(max(self.density * distance / focal, 1e-3))), 0, LEVELS - 1))

    def place(self, u: np.ndarray, v: np.ndarray, level: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (x, y) of the texture at this level for points (u, v) on a side, in metres."""
        (a, b), (c, d) = (self.turn * self.density).tolist()
        x, y = a * u + b * v + self.shift[0], c * u + d * v + self.shift[1]
        return (x + 0.5) / 2**level - 0.5, (y + 0.5) / 2**level - 0.5


def upright(yaw: float) -> np.ndarray:
    """(3, 3) of a solid turned about the vertical."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])


class Builder:
    """One piece of furniture in its own coordinates, the middle of its foot at the origin."""

    def __init__(self, rng: np.random.Generator, paint: Painter):
        self.rng, self.paint = rng, paint
        self.parts: list[Solid] = []

    def add(
        self,
        kind: int,
        middle: tuple[float, float, float],
        size: tuple[float, float, float],
        paint: int | None = None,
        turn: np.ndarray | None = None,
    ) -> None:
        """Adds a solid. size: full width, height and depth around `middle`."""
        paint = self.paint(False) if paint is None else paint
        turn = np.eye(3) if turn is None else turn
        self.parts.append(Solid(kind, np.array(middle), np.array(size) / 2, turn, (paint,) * SIDES[kind]))

    def put(self, at: np.ndarray, yaw: float) -> list[Solid]:
        """The parts in the room's coordinates."""
        turn = upright(yaw)
        return [Solid(p.kind, turn.T @ p.centre + at, p.half, p.turn @ turn, p.paints) for p in self.parts]

    def things(self, wide: float, deep: float, height: float, most: int, largest: float = 0.35) -> None:
        """Adds up to `most` small objects on a surface."""
        for _ in range(int(self.rng.integers(most + 1))):
            size = np.exp(self.rng.uniform(math.log(0.04), math.log(largest), 3))
            kind = int(self.rng.choice([BOX, BOX, BALL, CYLINDER]))
            if kind != BOX:
                size[2] = size[0]
            x, z = (
                (self.rng.uniform(-0.5, 0.5) * max(side - s, 0.0)) for side, s in ((wide, size[0]), (deep, size[2]))
            )
            self.add(kind, (x, height + size[1] / 2, z), tuple(size), turn=upright(self.rng.uniform(0, math.pi)))

    def legs(self, wide: float, deep: float, height: float, paint: int) -> None:
        thick, kind = self.rng.uniform(0.025, 0.07), int(self.rng.choice([BOX, CYLINDER]))
        for x in (-1, 1):
            for z in (-1, 1):
                middle = (x * (wide - thick) / 2, height / 2, z * (deep - thick) / 2)
                self.add(kind, middle, (thick, height, thick), paint)

    def table(self) -> None:
        u = self.rng.uniform
        wide, deep, height, thick = u(0.6, 1.8), u(0.5, 0.9), u(0.4, 0.95), u(0.02, 0.06)
        legs = self.paint(False)
        self.legs(wide, deep, height, legs)
        self.add(BOX, (0, height - thick / 2, 0), (wide, thick, deep), legs if u() < 0.5 else None)
        self.things(wide, deep, height, 5)

    def chair(self) -> None:
        u = self.rng.uniform
        side, height, back = u(0.36, 0.5), u(0.4, 0.5), u(0.35, 0.6)
        paint = self.paint(False)
        self.legs(side, side, height, paint)
        self.add(BOX, (0, height, 0), (side, u(0.02, 0.1), side), paint if u() < 0.5 else None)
        self.add(BOX, (0, height + back / 2, side / 2), (side, back, u(0.02, 0.08)), paint)

    def shelf(self) -> None:
        u = self.rng.uniform
        wide, deep, height, boards = u(0.5, 1.2), u(0.25, 0.45), u(0.8, 2.1), int(self.rng.integers(3, 6))
        paint = self.paint(False)
        for x in (-1, 1):
            self.add(BOX, (x * wide / 2, height / 2, 0), (0.025, height, deep), paint)
        if u() < 0.6:
            self.add(BOX, (0, height / 2, deep / 2), (wide, height, 0.01), None if u() < 0.5 else paint)
        for i in range(boards):
            level = height * (i + 0.1) / boards
            self.add(BOX, (0, level, 0), (wide, 0.025, deep), paint)
            self.things(wide, deep, level + 0.0125, 3, min(0.3, 0.8 * height / boards))

    def cupboard(self) -> None:
        u = self.rng.uniform
        wide, deep, height = u(0.4, 1.4), u(0.35, 0.7), u(0.4, 2.1)
        self.add(BOX, (0, height / 2, 0), (wide, height, deep))
        if u() < 0.4:  # a door or a drawer of another colour
            self.add(BOX, (0, height * u(0.4, 0.6), -deep / 2), (wide * u(0.4, 0.95), height * u(0.3, 0.9), 0.02))
        if height < 1.4:
            self.things(wide, deep, height, 4)

    def frame(self) -> None:
        """Bars, wheels and a body that lean in any direction, like a bicycle, a machine or a heap of tools."""
        u = self.rng.uniform
        wide, height = u(0.5, 1.8), u(0.5, 1.2)
        paint = self.paint(False)
        for _ in range(int(self.rng.integers(3, 10))):
            lean = lean_by(self.rng, 1.2)
            length, thick = u(0.2, 0.6) * wide, u(0.015, 0.07)
            middle = (u(-0.4, 0.4) * wide, u(0.25, 0.9) * height, u(-0.15, 0.15))
            self.add(CYLINDER, middle, (thick, length, thick), paint if u() < 0.7 else None, lean)
        for _ in range(int(self.rng.integers(0, 4))):
            size = (u(0.1, 0.5) * wide, u(0.1, 0.4) * height, u(0.1, 0.35))
            middle = (u(-0.35, 0.35) * wide, u(0.3, 0.8) * height, u(-0.05, 0.05))
            self.add(int(self.rng.choice([BOX, BALL])), middle, size, turn=lean_by(self.rng, 0.4))
        for x in (-0.5, 0.5):
            if u() < 0.7:
                radius = u(0.2, 0.35)
                flat = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # a wheel stands on its rim
                self.add(CYLINDER, (x * wide * 0.8, radius, 0), (2 * radius, u(0.04, 0.18), 2 * radius), turn=flat)

    def heap(self) -> None:
        """Boxes, balls and drums on the floor, some on top of others."""
        u, height = self.rng.uniform, 0.0
        for _ in range(int(self.rng.integers(1, 4))):
            size = np.exp(self.rng.uniform(math.log(0.15), math.log(0.8), 3))
            kind = int(self.rng.choice([BOX, BOX, CYLINDER, BALL]))
            if kind != BOX:
                size[2] = size[0]
            self.add(kind, (u(-0.1, 0.1), height + size[1] / 2, u(-0.1, 0.1)), tuple(size), turn=upright(u(0, math.pi)))
            height += size[1]

    def hanging(self) -> None:
        """A picture, a board or a cupboard on a wall, or a lamp from the ceiling."""
        u = self.rng.uniform
        self.add(BOX, (0, u(1.2, 1.9), 0), (u(0.3, 1.5), u(0.3, 0.9), u(0.02, 0.35)))


def lean_by(rng: np.random.Generator, angle: float) -> np.ndarray:
    """(3, 3): a turn about the vertical, then a lean of about `angle` (standard deviation, radians)."""
    lean = rng.normal(0, angle)
    c, s = math.cos(lean), math.sin(lean)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ upright(rng.uniform(0, 2 * math.pi))


def furnish(
    rng: np.random.Generator, room: Solid, camera: Pinhole, pieces: tuple[int, int], nearest: float, paint: Painter
) -> list[Solid]:
    """Solids in the room (floor at y = 0), none nearer than `nearest` to the camera; about half of the pieces stand at a wall."""
    names, weights = list(PIECES), np.array(list(PIECES.values()), float)
    found: list[Solid] = []
    for _ in range(int(rng.integers(pieces[0], pieces[1], endpoint=True))):
        name = str(rng.choice(names, p=weights / weights.sum()))
        builder = Builder(rng, paint)
        getattr(builder, name)()
        wide, _, long = room.half
        at = np.array([rng.uniform(-1, 1) * wide, 0.0, rng.uniform(-1, 1) * long])
        yaw = rng.uniform(0, 2 * math.pi)
        if name in ("shelf", "cupboard", "hanging") or rng.random() < 0.4:  # its back to one of the walls
            wall = int(rng.integers(4))
            yaw = math.pi / 2 * wall
            back = upright(yaw).T @ np.array([0.0, 0.0, 1.0])
            depth = max(part.half[2] + abs(part.centre[2]) for part in builder.parts)
            at = np.where(np.abs(back) > 0.5, back * (room.half - depth - 0.01), at)
            at[1] = 0.0
        solids = builder.put(at, yaw)
        middle = np.mean([solid.centre for solid in solids], axis=0)
        reach = max(float(np.linalg.norm(solid.corners - middle, axis=1).max()) for solid in solids)
        if float(np.linalg.norm((middle - camera.position)[[0, 2]])) > reach + nearest:
            found += solids
    return found
