"""What rays hit in a world of meshes. Source: ours; the intersections are Embree's.

Notable:
- Each mesh has a tree of its own, in its own coordinates, that is made once a process: a world costs nothing to build, and a body is
  moved by moving the rays.
- A ray's parameter is its depth along the camera's axis, the same in all coordinates.
- Embree names the triangle; where in it the ray ends is computed anew in float64, so that flow is exact to a thousandth of a pixel.
- Arithmetic is elementwise, so a pixel's result doesn't depend on which other pixels are computed.

World: metres, y up. Camera: x right, y down, z forward. Pixel centres at integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from winwin_hf.data.synthetic.raycast import SIGNS, Vectors, rotate, take
from winwin_hf.data.worlds.atlas import Atlas
from winwin_hf.data.worlds.meshes import Mesh

NOTHING = -1  # body of a ray that ends in the sky
HOLES = 12  # surfaces with holes that a ray goes through at most
STEP = 1e-4  # metres, and share of the depth, by which a ray that went through a hole goes on behind it


def vectors(parts: Iterable[np.ndarray]) -> Vectors:
    """Three arrays, x, y and z, as vectors."""
    x, y, z = parts
    return x, y, z


def turned(omega: np.ndarray) -> np.ndarray:
    """(3, 3) rotation by the vector's length, radians, about its direction (Rodrigues)."""
    angle = float(np.linalg.norm(omega))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = (omega / angle).tolist()
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@dataclass(frozen=True, eq=False)
class Pose:
    """
    Where something is at any time from frame 1 (0) to frame 2 (1).

    place: (3,) at frame 1. axes: (3, 3) rotation from its own directions to the world's. move: (3,) metres and spin: (3,) radians, in
    the world, until frame 2. middle: (3,) in its own coordinates, the point that it spins about. scale: by which it is larger than itself.
    """

    place: np.ndarray
    axes: np.ndarray
    move: np.ndarray
    spin: np.ndarray
    middle: np.ndarray
    scale: float = 1.0
    _known: dict[float, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """(axes (3, 3), place (3,)): a point p of its own is at scale * axes @ p + place."""
        if time not in self._known:
            axes = turned(time * self.spin) @ self.axes
            middle = self.scale * self.middle
            place = self.place + self.axes @ middle + time * self.move - axes @ middle
            self._known[time] = axes, place
        return self._known[time]


def still(place: Sequence[float] | np.ndarray, axes: np.ndarray | None = None, scale: float = 1.0) -> Pose:
    """A pose without motion."""
    zero = np.zeros(3)
    return Pose(np.asarray(place, np.float64), np.eye(3) if axes is None else axes, zero, zero, zero, scale)


@dataclass(frozen=True, eq=False)
class Body:
    """A mesh in the world. first: number of its first material in the world's atlas."""

    mesh: Mesh
    pose: Pose
    first: int = 0
    _corners: dict[float, np.ndarray] = field(default_factory=dict, repr=False)

    def corners(self, time: float) -> np.ndarray:
        """(8, 3), of its bounding box."""
        if time not in self._corners:
            axes, place = self.pose.at(time)
            low, high = self.mesh.bounds
            box = np.where(SIGNS > 0, high, low)
            self._corners[time] = self.pose.scale * box @ axes.T + place
        return self._corners[time]

    def ball(self, time: float) -> tuple[np.ndarray, float]:
        """(middle, radius) of a ball around it."""
        corners = self.corners(time)
        middle = corners.mean(0)
        return middle, float(np.sqrt(((corners - middle) ** 2).sum(1).max()))

    def inward(self, points: Vectors, time: float) -> Vectors:
        """Points of the world in its own coordinates."""
        axes, place = self.pose.at(time)
        x, y, z = place.tolist()
        return rotate(axes.T / self.pose.scale, (points[0] - x, points[1] - y, points[2] - z))

    def inward_direction(self, direction: Vectors, time: float) -> Vectors:
        """Directions of the world in its own coordinates; a ray's parameter stays the same."""
        axes, _ = self.pose.at(time)
        return rotate(axes.T / self.pose.scale, direction)

    def outward(self, points: Vectors, time: float) -> Vectors:
        """Points of its own in the world."""
        axes, place = self.pose.at(time)
        moved = rotate(axes * self.pose.scale, points)
        return vectors(p + c for p, c in zip(moved, place.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class View:
    """A camera that moves: `pose`'s axes are its right, down and forward. focal: pixels. centre: (x, y)."""

    pose: Pose
    focal: float
    centre: tuple[float, float]

    def rays(self, time: float, rows: np.ndarray, columns: np.ndarray) -> Vectors:
        """Directions in the world through pixels (n,), float64; a ray's parameter is depth along the camera's axis."""
        axes, _ = self.pose.at(time)
        x, y = (columns - self.centre[0]) / self.focal, (rows - self.centre[1]) / self.focal
        return rotate(axes, (x, y, np.ones_like(x)))

    def project(self, time: float, points: Vectors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, columns, depth) of points of the world; where the depth isn't positive they are behind the camera."""
        axes, place = self.pose.at(time)
        a, b, c = place.tolist()
        x, y, z = rotate(axes.T, (points[0] - a, points[1] - b, points[2] - c))
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.focal * y / z + self.centre[1], self.focal * x / z + self.centre[0], z

    def box(self, corners: np.ndarray, time: float) -> tuple[float, float, float, float] | None:
        """(top, left, bottom, right) that something with these corners can cover; None if it is behind the camera."""
        rows, columns, depth = self.project(time, tuple(corners.T))
        if depth.max() <= 0:
            return None
        if depth.min() < 0.02:
            return -np.inf, -np.inf, np.inf, np.inf
        return rows.min() - 1, columns.min() - 1, rows.max() + 1, columns.max() + 1


@dataclass(frozen=True, eq=False)
class Hits:
    """The ends of n rays. body: int32, `NOTHING` for the sky. face: int32. u, v: float64, weights of the triangle's second and third
    corner. depth: float64, inf for the sky."""

    body: np.ndarray
    face: np.ndarray
    u: np.ndarray
    v: np.ndarray
    depth: np.ndarray


def cast(
    bodies: Sequence[Body],
    view: View,
    time: float,
    rows: np.ndarray,
    columns: np.ndarray,
    atlas: Atlas,
    exact: bool = True,
) -> Hits:
    """
    What the camera sees at a time at pixels (n,), which may lie between pixels' centres.

    exact: find the rays' ends in float64, as truth needs; Embree's own are good to some 1e-5 of the depth.
    """
    count = len(rows)
    body = np.full(count, NOTHING, np.int32)
    face, depth = np.zeros(count, np.int32), np.full(count, np.inf, np.float32)
    u, v = np.zeros(count, np.float32), np.zeros(count, np.float32)
    direction = view.rays(time, rows, columns)
    _, eye = view.pose.at(time)
    lowest, highest, first, last = rows.min(), rows.max(), columns.min(), columns.max()
    for index, one in enumerate(bodies):
        box = view.box(one.corners(time), time)
        if box is None or box[0] > highest or box[2] < lowest or box[1] > last or box[3] < first:
            continue
        top, left, bottom, right = box
        near = np.flatnonzero((rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right))
        if not len(near):
            continue
        origin = one.inward(tuple(eye.tolist()), time)
        inner = one.inward_direction(take(direction, near), time)
        limit = depth[near]
        found, far, s, t = _trace(one, time, origin, inner, limit, view.focal, atlas)
        nearer = far < limit
        where = near[nearer]
        body[where], face[where], depth[where] = index, found[nearer], far[nearer]
        u[where], v[where] = s[nearer], t[nearer]
    if not exact:
        return Hits(body, face, u, v, depth)
    return _refined(bodies, time, body, face, direction, eye)


def _trace(
    body: Body,
    time: float,
    origin: Vectors,
    direction: Vectors,
    limit: np.ndarray,
    focal: float,
    atlas: Atlas,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(face, depth, u, v) at which rays in the body's coordinates first meet it, where nothing nearer than `limit` hides it."""
    mesh = body.mesh
    tree = mesh.tree(time)
    rays, eye = np.empty((len(limit), 3), np.float32), np.empty((len(limit), 3), np.float32)
    for k in range(3):
        rays[:, k], eye[:, k] = direction[k], origin[k]
    hit = tree.run(eye, rays, output=True)
    faces, depth, u, v = hit["primID"], hit["tfar"], hit["u"], hit["v"]
    depth[(faces < 0) | (depth >= limit)] = np.inf
    if not mesh.cut.any():
        return faces, depth, u, v
    todo = np.flatnonzero(np.isfinite(depth))
    for turn in range(HOLES):
        todo = todo[mesh.cut[faces[todo]]]
        todo = todo[_alpha(body, faces[todo], u[todo], v[todo], depth[todo], focal, atlas) < 128]
        if not len(todo):
            break
        start = depth[todo] * np.float32(1 + STEP) + np.float32(STEP)
        depth[todo] = np.inf
        if turn == HOLES - 1:
            break
        hit = tree.run(eye[todo] + rays[todo] * start[:, None], rays[todo], output=True)
        far = start + hit["tfar"]
        found = (hit["primID"] >= 0) & (far < limit[todo])
        todo = todo[found]
        faces[todo], depth[todo] = hit["primID"][found], far[found]
        u[todo], v[todo] = hit["u"][found], hit["v"][found]
    return faces, depth, u, v


def _alpha(
    body: Body, face: np.ndarray, u: np.ndarray, v: np.ndarray, depth: np.ndarray, focal: float, atlas: Atlas
) -> np.ndarray:
    material = body.first + body.mesh.material[face].astype(np.int32)
    s, t = _within(body.mesh.uv, body.mesh.faces[face], u, v)
    footprint = depth / focal * (body.mesh.density[face] / np.float32(body.pose.scale)) * atlas.side[material]
    return atlas.sample(material, s, t, footprint)[:, 3]


def _within(values: np.ndarray, corners: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
    """Values (V, k) of vertices at places (u, v) of triangles with these corners (n, 3): k arrays (n,)."""
    w = 1 - u - v
    a, b, c = (values[corners[:, i]] for i in range(3))
    return tuple(w * a[:, k] + u * b[:, k] + v * c[:, k] for k in range(values.shape[1]))


def _refined(
    bodies: Sequence[Body], time: float, body: np.ndarray, face: np.ndarray, direction: Vectors, eye: np.ndarray
) -> Hits:
    """The rays' ends in float64, on the plane of the triangle that each hits (Moeller and Trumbore 1997)."""
    u, v, depth = np.zeros(len(body)), np.zeros(len(body)), np.full(len(body), np.inf)
    for index in np.unique(body[body >= 0]).tolist():
        mine, one = np.flatnonzero(body == index), bodies[index]
        d = one.inward_direction(take(direction, mine), time)
        o = one.inward(tuple(eye.tolist()), time)
        corners, vertices = one.mesh.faces[face[mine]], one.mesh.at(time)
        a = vertices[corners[:, 0]]
        e, g = vertices[corners[:, 1]] - a, vertices[corners[:, 2]] - a
        s = vectors(o[k] - a[:, k] for k in range(3))
        p, q = _cross(d, tuple(g.T)), _cross(s, tuple(e.T))
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / _dot(tuple(e.T), p)
            u[mine] = np.clip(np.nan_to_num(_dot(s, p) * inverse), 0, 1)
            v[mine] = np.clip(np.nan_to_num(_dot(d, q) * inverse), 0, 1 - u[mine])
            depth[mine] = _dot(tuple(g.T), q) * inverse
    depth[~np.isfinite(depth) | (depth <= 0)] = np.inf  # rays along a triangle's plane
    return Hits(np.where(np.isinf(depth), NOTHING, body).astype(np.int32), face, u, v, depth)


def _cross(a: Vectors, b: Vectors) -> Vectors:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _dot(a: Vectors, b: Vectors) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def points_of(bodies: Sequence[Body], hits: Hits, time: float, view: View, infinite: Vectors) -> Vectors:
    """
    Where in the world the surfaces that were hit are at a time.

    infinite: direction of each ray; the sky's points lie far along it.
    """
    _, eye = view.pose.at(time)
    out = vectors(np.empty(len(hits.body)) for _ in range(3))
    sky = hits.body == NOTHING
    for index in np.unique(hits.body).tolist():
        mine = np.flatnonzero(hits.body == index)
        if index == NOTHING:
            points = vectors(e + 1e9 * d for e, d in zip(eye.tolist(), take(infinite, sky), strict=True))
        else:
            one = bodies[index]
            corners = one.mesh.faces[hits.face[mine]]
            points = one.outward(vectors(_within(one.mesh.at(time), corners, hits.u[mine], hits.v[mine])), time)
        for whole, part in zip(out, points, strict=True):
            whole[mine] = part
    return out


@dataclass(frozen=True, eq=False)
class Surfaces:
    """What n rays see but the sky: material (n,), normals towards the eye (3 x (n,) float32), u, v and footprint for `Atlas.sample`."""

    material: np.ndarray
    normal: Vectors
    u: np.ndarray
    v: np.ndarray
    footprint: np.ndarray


def surfaces_of(
    bodies: Sequence[Body], hits: Hits, time: float, direction: Vectors, focal: float, atlas: Atlas
) -> Surfaces:
    """hits: none of them the sky's."""
    count = len(hits.body)
    material = np.zeros(count, np.int32)
    u, v, density = (np.zeros(count, np.float32) for _ in range(3))
    normal = vectors(np.zeros(count, np.float32) for _ in range(3))
    for index in np.unique(hits.body).tolist():
        mine, one = np.flatnonzero(hits.body == index), bodies[index]
        face, s, t = hits.face[mine], hits.u[mine], hits.v[mine]
        corners = one.mesh.faces[face]
        material[mine] = one.first + one.mesh.material[face]
        u[mine], v[mine] = _within(one.mesh.uv, corners, s, t)
        density[mine] = one.mesh.density[face] / np.float32(one.pose.scale)
        axes, _ = one.pose.at(time)
        for whole, part in zip(normal, rotate(axes, vectors(_within(one.mesh.normals, corners, s, t))), strict=True):
            whole[mine] = part
    length = np.sqrt(np.maximum(_dot(normal, normal), 1e-12))
    ray = vectors(np.asarray(d, np.float32) for d in direction)
    along = _dot(normal, ray) / length
    sign = np.where(along > 0, -1.0, 1.0).astype(np.float32) / length
    slant = np.maximum(np.abs(along) / np.sqrt(_dot(ray, ray)), 0.15)
    footprint = (hits.depth / focal).astype(np.float32) * density * atlas.side[material] / np.sqrt(slant)
    return Surfaces(material, vectors(n * sign for n in normal), u, v, footprint)


def hidden(
    bodies: Sequence[Body], time: float, points: Vectors, towards: Vectors, atlas: Atlas, focal: float, distance: float
) -> np.ndarray:
    """
    Whether something lies between each point and a light, bool (n,).

    towards: from each point to the light, if `distance` is 1; to a light far away in a unit direction with a `distance` of inf.
    """
    out = np.zeros(len(points[0]), bool)
    if not len(out):
        return out
    sideways = _sideways(vectors(d[0] for d in towards)) if np.isinf(distance) else None
    if sideways is not None:  # light that comes from one direction: a body's shadow is a tube
        flat = [np.asarray(_dot(points, axis), np.float32) for axis in sideways]
        spans = [(float(values.min()), float(values.max())) for values in flat]
    for one in bodies:
        middle, radius = one.ball(time)
        if sideways is not None:
            at = [float(_dot(vectors(middle), axis)) for axis in sideways]
            reach = radius * 1.001 + 1e-3
            if any(m + reach < low or m - reach > high for m, (low, high) in zip(at, spans, strict=True)):
                continue
            near = np.flatnonzero((np.abs(flat[0] - at[0]) < reach) & (np.abs(flat[1] - at[1]) < reach) & ~out)
        else:
            to = vectors(m - p for m, p in zip(middle.tolist(), points, strict=True))
            along = np.clip(_dot(to, towards) / _dot(towards, towards), 0, distance)
            off = vectors(t - along * d for t, d in zip(to, towards, strict=True))
            near = np.flatnonzero(~out & (_dot(off, off) < radius * radius))
        if not len(near):
            continue
        origin = one.inward(take(points, near), time)
        inner = one.inward_direction(take(towards, near), time)
        limit = np.full(len(near), distance, np.float32)
        _, far, _, _ = _trace(one, time, origin, inner, limit, 1e3 if not np.isfinite(focal) else focal, atlas)
        out[near] = np.isfinite(far)
    return out


def _sideways(direction: Vectors) -> tuple[Vectors, Vectors]:
    """Two unit vectors at right angles to a direction and to each other."""
    along = np.array(direction, np.float64)
    one = np.cross(along, np.eye(3)[int(np.argmin(np.abs(along)))])
    one /= np.linalg.norm(one)
    other = np.cross(along, one) / np.linalg.norm(along)
    return vectors(one), vectors(other)


def joined_hits(parts: Sequence[Hits]) -> Hits:
    """The hits of several sets of rays, one after the other."""
    names = ("body", "face", "u", "v", "depth")
    return Hits(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def hits_at(hits: Hits, where: Any) -> Hits:
    """The hits at an index or mask."""
    return Hits(hits.body[where], hits.face[where], hits.u[where], hits.v[where], hits.depth[where])
