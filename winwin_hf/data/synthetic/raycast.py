"""Ray casting against boxes, ellipsoids and cylinders: the depth and the solid that each pixel sees. Source: ours.

Notable here:
- A solid is a unit shape (cube, ball or cylinder of half-sizes 1) moved by one affine map, so there are three intersections,
  each in the solid's own coordinates, in which a ray's parameter is the same as in the world.
- A ray's parameter is its depth, as rays have length 1 along the camera's axis (`Pinhole.rays`).
- A solid is intersected only with the rays of its own bounding box.
- Arithmetic is elementwise, in float32, so a pixel's result doesn't depend on which other pixels are computed.

World: metres, y up. Camera: x right, y down, z forward. Pixel centres at integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from winwin_hf.data.sample import Box
from winwin_hf.data.synthetic.textures import intersect

BOX, BALL, CYLINDER = range(3)
SIGNS = np.array([(x, y, z) for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])  # of a cube's corners
NEAR = 0.05  # metres; nearer surfaces are not seen
Vectors = tuple[np.ndarray, np.ndarray, np.ndarray]  # x, y and z, each of any one shape


@dataclass(frozen=True)
class Solid:
    """
    A box, an ellipsoid or a cylinder in the world.

    kind: BOX, BALL or CYLINDER. centre: (3,) metres. half: (3,) half of its width, height and depth. turn: (3, 3) from the world's
    directions to its own. paints: numbers of its sides' paints: left, right, bottom, top, back, front of a box; one of a ball; round
    side and caps of a cylinder.
    """

    kind: int
    centre: np.ndarray
    half: np.ndarray
    turn: np.ndarray
    paints: tuple[int, ...]

    def local(self, origin: Vectors, direction: Vectors) -> tuple[Vectors, Vectors]:
        """Rays in the coordinates where the solid is its unit shape."""
        return self.at(origin), rotate(self.turn / self.half[:, None], direction)

    @cached_property
    def corners(self) -> np.ndarray:
        """(8, 3), of its bounding box."""
        return (SIGNS * self.half) @ self.turn + self.centre

    def span(self, origin: Vectors, direction: Vectors) -> tuple[np.ndarray, np.ndarray]:
        """(enter, leave): parameters at which rays enter and leave it; they miss it unless enter < leave."""
        o, d = self.local(origin, direction)
        if self.kind == BOX:
            return slabs(o, d, (0, 1, 2))
        if self.kind == BALL:
            return quadric(o, d, (0, 1, 2))
        (enter, leave), (low, high) = quadric(o, d, (0, 2)), slabs(o, d, (1,))
        return np.maximum(enter, low), np.minimum(leave, high)

    def at(self, points: Vectors) -> Vectors:
        """Points in the coordinates where the solid is its unit shape: -1 to 1 on its surface."""
        x, y, z = self.centre.tolist()
        return rotate(self.turn / self.half[:, None], (points[0] - x, points[1] - y, points[2] - z))

    def side(self, p: Vectors) -> np.ndarray:
        """The side that each point (in its own coordinates) lies on, numbered as `paints`."""
        x, y, z = (np.abs(v) for v in p)
        if self.kind == BALL:
            return np.zeros(x.shape, np.int8)
        if self.kind == CYLINDER:
            return (y * y > x * x + z * z).astype(np.int8)
        axis = np.where((x >= y) & (x >= z), 0, np.where(y >= z, 1, 2))
        positive = np.where(axis == 0, p[0], np.where(axis == 1, p[1], p[2])) > 0
        return (2 * axis + positive).astype(np.int8)

    def normal(self, points: Vectors) -> Vectors:
        """Outward unit normals, in the world."""
        p = self.at(points)
        side = self.side(p)
        zero = np.zeros(side.shape)
        if self.kind == BOX:
            sign = np.where(side % 2, 1.0, -1.0)
            n = (
                np.where(side < 2, sign, zero),
                np.where((side > 1) & (side < 4), sign, zero),
                np.where(side > 3, sign, zero),
            )
            return rotate(self.turn.T, n)
        a, b, c = (1 / self.half).tolist()
        x, y, z = p[0] * a, p[1] * b, p[2] * c
        if self.kind == CYLINDER:
            cap = side == 1
            x, y, z = np.where(cap, zero, x), np.where(cap, np.sign(y), zero), np.where(cap, zero, z)
        length = np.sqrt(x * x + y * y + z * z)
        return rotate(self.turn.T, (x / length, y / length, z / length))

    def surface(self, points: Vectors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(side, u, v) of each point; u and v in metres on the side."""
        p = self.at(points)
        side = self.side(p)
        a, b, c = self.half.tolist()
        x, y, z = p[0] * a, p[1] * b, p[2] * c
        if self.kind == BOX:
            return side, np.where(side < 2, z, x), np.where((side > 1) & (side < 4), z, y)
        around = np.arctan2(z, x) * ((a + c) / 2)
        if self.kind == CYLINDER:
            return side, np.where(side == 1, x, around), np.where(side == 1, z, y)
        return side, around, y


def rotate(matrix: np.ndarray, vectors: Vectors) -> Vectors:
    """(3, 3) times vectors, without BLAS, whose rounding depends on the number of vectors."""
    x, y, z = vectors
    return tuple(a * x + b * y + c * z for a, b, c in matrix.tolist())


def take(vectors: Vectors, where: Any) -> Vectors:
    """The vectors at an index or mask."""
    x, y, z = vectors
    return x[where], y[where], z[where]


def slabs(o: Vectors, d: Vectors, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(enter, leave) of the slabs |x_i| <= 1 of these axes; enter > leave where rays miss."""
    enter = leave = None
    for axis in axes:
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1.0 / d[axis]
            one, other = (-1.0 - o[axis]) * inverse, (1.0 - o[axis]) * inverse
        low, high = np.fmin(one, other), np.fmax(one, other)
        enter = low if enter is None else np.maximum(enter, low)
        leave = high if leave is None else np.minimum(leave, high)
    assert enter is not None and leave is not None
    return enter, leave


def quadric(o: Vectors, d: Vectors, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(enter, leave) of the sum of x_i^2 <= 1 over these axes; (inf, -inf) where rays miss."""
    a = sum(d[i] * d[i] for i in axes)
    b = sum(o[i] * d[i] for i in axes)
    c = sum(o[i] * o[i] for i in axes) - 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(b * b - a * c)
        enter, leave = (-b - root) / a, (-b + root) / a
    missed = ~np.isfinite(root) | ~np.isfinite(enter)
    within = missed & (a == 0) & (c < 0)  # along a cylinder, and in it
    far = np.where(within, -np.inf, np.inf)
    return np.where(missed, far, enter), np.where(missed, -far, leave)


@dataclass(frozen=True)
class Pinhole:
    """A camera at `position` (3,) whose axes are the rows of `axes` (3, 3) in the world; `focal` in pixels, centre (x, y)."""

    position: np.ndarray
    axes: np.ndarray
    focal: float
    centre: tuple[float, float]

    def rays(self, rows: np.ndarray, columns: np.ndarray) -> Vectors:
        """Directions in the world through pixels, of the broadcast shape; a ray's parameter is depth along the camera's axis."""
        x, y = (columns - self.centre[0]) / self.focal, (rows - self.centre[1]) / self.focal
        x, y = np.broadcast_arrays(x.astype(np.float32), y.astype(np.float32))
        return rotate(self.axes.T, (x, y, np.ones_like(x)))

    def bounds(self, solid: Solid) -> Box | None:
        """The pixels (top, left, height, width) that can show a solid: all if it reaches behind the camera; None if it is behind."""
        x, y, z = rotate(self.axes, tuple((solid.corners - self.position).T))
        if z.max() < NEAR:
            return None
        if z.min() < NEAR:
            return -(10**6), -(10**6), 2 * 10**6, 2 * 10**6
        columns, rows = self.focal * x / z + self.centre[0], self.focal * y / z + self.centre[1]
        top, left = math.floor(rows.min()), math.floor(columns.min())
        return top, left, math.ceil(rows.max()) - top + 1, math.ceil(columns.max()) - left + 1


@dataclass
class Hits:
    """The ends of rays: depth (...), and index of the solid (...), -1 for the room's walls."""

    depth: np.ndarray
    solid: np.ndarray


@dataclass
class World:
    """A room (a box seen from inside) and the solids in it."""

    room: Solid
    solids: list[Solid] = field(default_factory=list)

    def cast(self, camera: Pinhole, rows: np.ndarray, columns: np.ndarray, box: Box | None = None) -> Hits:
        """
        Depth and solid that the camera sees at rows (h, 1) and columns (1, w).

        box: (top, left, height, width) of these pixels if they are consecutive; solids outside it are then skipped.
        """
        position: Vectors = tuple(camera.position.tolist())
        direction = camera.rays(rows, columns)
        _, depth = slabs(*self.room.local(position, direction), (0, 1, 2))
        solid = np.full(depth.shape, -1, np.int16)
        for index, one in enumerate(self.solids):
            bounds = camera.bounds(one)
            part = box if box is None or bounds is None else intersect(box, bounds)
            if bounds is None or (box is not None and part is None):
                continue
            where: tuple[slice, slice] = (slice(None), slice(None))
            if box is not None and part is not None:
                top, left = part[0] - box[0], part[1] - box[1]
                where = (slice(top, top + part[2]), slice(left, left + part[3]))
            enter, leave = one.span(position, take(direction, where))
            nearer = (enter < leave) & (enter > NEAR) & (enter < depth[where])
            depth[where][nearer] = enter[nearer]
            solid[where][nearer] = index
        return Hits(depth, solid)

    def lit(self, points: Vectors, lamp: np.ndarray) -> np.ndarray:
        """Whether each point sees a lamp (3,), bool."""
        towards: Vectors = tuple(to - p for to, p in zip(lamp.tolist(), points, strict=True))
        free = np.ones(points[0].shape, bool)
        if not free.size:
            return free
        reach = [
            (min(float(p.min()), to), max(float(p.max()), to)) for p, to in zip(points, lamp.tolist(), strict=True)
        ]
        for one in self.solids:
            ends = one.corners
            if any(low > b or high < a for (a, b), low, high in zip(reach, ends.min(0), ends.max(0), strict=True)):
                continue  # not between any of them and the lamp
            enter, leave = one.span(points, towards)
            # a ray that begins on its surface and leads away leaves it at 0, up to rounding
            free &= ~((enter < leave) & (enter < 1.0) & (leave > 1e-3))
        return free
