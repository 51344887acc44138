"""Motions of a synthetic scene's layers from frame 1 to frame 2: affine maps, planes in perspective, smooth bending.

Notable here:
- A `Motion` is p -> outer(q + b(q)), q = inner(p): an affine `inner`, a bending b (or none), an affine map or a homography
  `outer`. That form is kept when a turn comes before it, so a limb can move with its body.
- An affine motion is applied directly (`textures.grid`).
- Forward, bending is exact on a pixel grid at the cost of a few products: sin(u + v) of a column's u and a row's v.
- Backward, the bending's shift is found by fixed-point iteration on a grid of `STEP` pixels that is tied to the frame, and
  interpolated in between. Values and weights are short binary fractions, so the sums are exact in float64 and a window has
  the bits of the full frame, in whatever order they are summed. The error is below 0.02 pixels.

Coordinates: pixel centres at integers, x right, y down. Maps are 2 x 3 (affine) or 3 x 3 (homography), float64. Source: ours.
"""

from __future__ import annotations

import math

import numpy as np

from winwin_hf.data.sample import Box
from winwin_hf.data.synthetic.textures import about, compose, grid, invert, point, project

STEP = 8  # pixels between the places at which the inverse of a bending is computed
_TAIL = 1.0  # sigma of the log-normal motion magnitude
MARGIN = 64  # pixels about the frame in which no perspective may fold
_TILT = 0.25  # largest relative change of a plane's depth from its centre to its rim
_WAVES = (80.0, 500.0)  # wavelengths of a bending, pixels
_GRADIENT = (
    0.25  # bound of a bending's gradient: below 1 it is invertible, and each iteration shrinks the error by this factor
)
_CURVATURE = 0.01  # bound of its second derivative, per pixel, so that the interpolation is precise
_CLOSE = 0.004  # pixels: error at which the iteration stops
_FRACTION = 1024.0  # shifts are multiples of 1 / 1024 pixel


def _taps() -> np.ndarray:
    """Catmull-Rom weights of the four nodes about each of `STEP` pixels between two nodes, (4, STEP)."""
    t = (np.arange(STEP) + 0.5) / STEP
    return 0.5 * np.stack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3]
    )  # each a multiple of 1 / 8192


_TAPS = _taps()


class Bending:
    """A smooth field of shifts b(q), pixels: the sum of K plane sine waves.

    Args:
        waves: (K, 3) radians per pixel in x and y, and the phase.
        shifts: (K, 2) amplitude in x and y, pixels.
    """

    def __init__(self, waves: np.ndarray, shifts: np.ndarray) -> None:
        self.waves, self.shifts = waves, shifts
        self.reach: tuple[float, float] = tuple(np.abs(shifts).sum(0).tolist())  # no shift is longer, in x and in y
        length, steepness = np.hypot(*shifts.T), np.hypot(waves[:, 0], waves[:, 1])
        self.gradient, most = float(length @ steepness), max(float(length.sum()), 1e-9)
        shrink = math.log(max(self.gradient, 1e-9))  # of the error, by each round
        self.rounds = max(1, math.ceil(math.log(_CLOSE / most) / shrink)) if most > _CLOSE else 1

    def at(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shift at any places: two arrays of their shape."""
        dx, dy = np.zeros_like(x), np.zeros_like(y)
        for (u, v, phase), (right, down) in zip(self.waves.tolist(), self.shifts.tolist(), strict=True):
            wave = np.sin(u * x + (v * y + phase))
            dx += right * wave
            dy += down * wave
        return dx, dy

    def on(self, affine: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """The shift at affine(p) for each pixel p of the box, (h, w) each."""
        top, left, height, width = box
        xs = np.arange(left, left + width, dtype=np.float64)
        ys = np.arange(top, top + height, dtype=np.float64)
        (a, b, c), (d, e, f) = affine.tolist()
        dx, dy = np.zeros((height, width)), np.zeros((height, width))
        for (u, v, phase), (right, down) in zip(self.waves.tolist(), self.shifts.tolist(), strict=True):
            across, along = (u * a + v * d) * xs, ((u * b + v * e) * ys + (u * c + v * f + phase))[:, None]
            wave = np.sin(across) * np.cos(along) + np.cos(across) * np.sin(along)
            dx += right * wave
            dy += down * wave
        return dx, dy

    def undo(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """d with (q + d) + b(q + d) = q for q = (x, y), to `_CLOSE` pixels."""
        dx, dy = np.zeros_like(x), np.zeros_like(y)
        for _ in range(self.rounds):
            shift = self.at(x + dx, y + dy)
            dx, dy = -shift[0], -shift[1]
        return dx, dy

    def undo_on(self, plane: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """`undo` at plane(p) for each pixel p of the box, (h, w) each, interpolated between the frame's nodes."""
        top, left, height, width = box
        first = top // STEP - 2, left // STEP - 2  # node n lies at n STEP + (STEP - 1) / 2
        last = (top + height - 1) // STEP + 2, (left + width - 1) // STEP + 2
        ys, xs = (np.arange(a, b + 1) * STEP + (STEP - 1) / 2 for a, b in zip(first, last, strict=True))
        nodes = np.stack(self.undo(*project(plane, xs[None, :], ys[:, None])))
        nodes = np.rint(nodes * _FRACTION) / _FRACTION
        down = nodes[:, :-3, None] * _TAPS[0, :, None]
        for tap in range(1, 4):
            down += nodes[:, tap : nodes.shape[1] - 3 + tap, None] * _TAPS[tap, :, None]
        # From here the pixels between nodes 1 and 2 come first: those before them lie left of or above the box.
        skip = [start - (n * STEP + STEP + (STEP - 1) // 2 + 1) for start, n in ((top, first[0]), (left, first[1]))]
        rows = down.reshape(2, -1, nodes.shape[2])[:, skip[0] : skip[0] + height]
        across = np.lib.stride_tricks.sliding_window_view(rows, 4, axis=2).reshape(-1, 4) @ _TAPS
        shift = across.reshape(2, height, -1)[:, :, skip[1] : skip[1] + width]
        return shift[0], shift[1]


class Motion:
    """One layer's motion, frame 1 -> frame 2.

    Attributes:
        affine: the map itself, 2 x 3, where it is affine; else None.
        outer, bend, inner: the parts; without bending `outer` alone.
        back: frame 2 -> frame 1 but for the bending, 2 x 3 or 3 x 3.
    """

    def __init__(self, outer: np.ndarray, bend: Bending | None = None, inner: np.ndarray | None = None) -> None:
        if bend is None and inner is not None:
            outer, inner = compose(outer, inner), None
        self.outer, self.bend = outer, bend
        self.affine = outer if bend is None and len(outer) == 2 else None
        self.inner = np.eye(2, 3) if inner is None else inner
        self._outer_back, self._inner_back = invert(outer), invert(self.inner)
        self.back = self._outer_back if inner is None else compose(self._inner_back, self._outer_back)
        self._undone: tuple[Box, np.ndarray, np.ndarray] | None = None

    def after(self, first: np.ndarray) -> Motion:
        """The motion that takes p where this one takes first(p)."""
        if self.bend is None:
            return Motion(compose(self.outer, first))
        return Motion(self.outer, self.bend, compose(self.inner, first))

    def forward(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """The place in frame 2 of each pixel of a box of frame 1, (x, y) as float64 (h, w) each."""
        if self.bend is None:
            return grid(self.outer, box)
        x, y = grid(self.inner, box)
        dx, dy = self.bend.on(self.inner, box)
        return project(self.outer, x + dx, y + dy)

    def flow(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """forward(p) - p."""
        if self.affine is not None:
            return grid(self.affine - np.eye(2, 3), box)
        x, y = self.forward(box)
        top, left, height, width = box
        x -= np.arange(left, left + width)
        y -= np.arange(top, top + height)[:, None]
        return x, y

    def points(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places in frame 2 of any places of frame 1."""
        x, y = project(self.inner, x, y)
        if self.bend is not None:
            dx, dy = self.bend.at(x, y)
            x, y = x + dx, y + dy
        return project(self.outer, x, y)

    def sources(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places in frame 1 of any places of frame 2; not interpolated, so slower than `seen` for many pixels."""
        x, y = project(self._outer_back, x, y)
        if self.bend is not None:
            dx, dy = self.bend.undo(x, y)
            x, y = x + dx, y + dy
        return project(self._inner_back, x, y)

    def seen(self, first: np.ndarray, second: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """For each pixel of a box of frame 2, the place it shows, in the coordinates that the affine `first` maps frame 1 to.

        second: compose(first, self.back), computed once by the caller.
        """
        x, y = grid(second, box)
        if self.bend is not None:
            (a, b), (c, d) = (first[:, :2] @ self._inner_back[:, :2]).tolist()
            dx, dy = self._undo(box)
            x += a * dx + b * dy
            y += c * dx + d * dy
        return x, y

    def _undo(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """The bending's shift back. It is cached: a layer's texture and shape are sampled at the same places."""
        assert self.bend is not None
        if self._undone is not None:
            (top, left, height, width), dx, dy = self._undone
            y, x = box[0] - top, box[1] - left
            if y >= 0 and x >= 0 and y + box[2] <= height and x + box[3] <= width:
                at = np.s_[y : y + box[2], x : x + box[3]]
                return dx[at], dy[at]
        self._undone = (box, *self.bend.undo_on(self._outer_back, box))
        return self._undone[1], self._undone[2]

    def point(self, x: float, y: float) -> tuple[float, float]:
        if self.affine is not None:
            return point(self.affine, x, y)
        u, v = self.points(np.array([x]), np.array([y]))
        return float(u[0]), float(v[0])

    def jacobian(self, x: float, y: float) -> np.ndarray:
        """2 x 2: the derivative of the motion at a place."""
        if self.affine is not None:
            return self.affine[:, :2]
        u, v = self.points(x + np.array([1.0, -1.0, 0, 0]), y + np.array([0, 0, 1.0, -1.0]))
        return np.array([[u[0] - u[1], u[2] - u[3]], [v[0] - v[1], v[2] - v[3]]]) / 2

    def depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The homography's denominator at places of frame 1: 1 at its centre, 0 on the plane's horizon."""
        if len(self.outer) == 2:
            return np.ones_like(x)
        x, y = project(self.inner, x, y)
        return self.outer[2, 0] * x + self.outer[2, 1] * y + self.outer[2, 2]

    def hull(self, axes: np.ndarray, centre: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """Corners in frame 1 and in frame 2, (2, n) each, of a polygon that contains the ellipse centre + axes @ unit circle.

        With no horizon between the corners, a homography keeps the polygon convex.
        """
        angles = np.arange(16) * (math.pi / 8)
        corners = axes @ np.stack([np.cos(angles), np.sin(angles)]) / math.cos(math.pi / 16)
        first = corners + np.array(centre)[:, None]
        second = np.stack(project(self.inner, *first))
        if self.bend is not None:
            right, down = self.bend.reach
            second = np.concatenate([second + [[x], [y]] for x in (-right, right) for y in (-down, down)], axis=1)
        return first, np.stack(project(self.outer, *second))


def magnitude(rng: np.random.Generator) -> float:
    """Log-normal with mean 1 (before the cut at 6)."""
    return min(6.0, math.exp(_TAIL * float(rng.standard_normal()) - _TAIL**2 / 2))


def in_perspective(
    rng: np.random.Generator,
    affine: np.ndarray,
    centre: tuple[float, float],
    unit: float,
    reach: float,
    frame: tuple[int, int] | None = None,
) -> np.ndarray:
    """A homography that agrees with the affine map at the centre: a plane that turns in depth and approaches.

    Args:
        unit: of the scene's motion, pixels.
        reach: distance from the centre to which the layer extends, pixels; the perspective is weaker for larger layers.
        frame: (height, width): the plane must not fold within it and `MARGIN` pixels around it, in either frame; None: within
            the reach.
    """
    strength = unit / 10 * math.sqrt(magnitude(rng))
    approach = math.exp(min(0.2, max(-0.2, strength * 0.03 * float(rng.standard_normal()))))
    pull = strength * 0.06 * rng.standard_normal(2)
    pull *= min(1.0, _TILT / max(float(np.hypot(*pull)), 1e-9)) / reach
    target = point(affine, *centre)
    linear = approach * affine[:, :2]
    if frame is not None:
        height, width = frame
        x, y = (np.array([-MARGIN, -MARGIN, side + MARGIN, side + MARGIN], float) for side in (width, height))
        corners = np.stack([x, y[[0, 2, 0, 2]]])
        first = pull @ (corners - np.array(centre)[:, None])
        second = pull @ np.linalg.inv(linear) @ (corners - np.array(target)[:, None])
        pull *= min(1.0, _TILT / max(np.abs(first).max(), np.abs(second).max(), 1e-9))
    flat = about(linear, centre, target)
    depth = np.array([pull[0], pull[1], -pull[0] * centre[0] - pull[1] * centre[1]])
    upper = flat + np.outer(target, depth)
    return np.vstack([upper, depth + (0, 0, 1)])


def draw_bending(rng: np.random.Generator, unit: float) -> Bending:
    """Two or three waves with amplitudes in proportion to the motion's unit (pixels), limited by the bounds of gradient and
    curvature."""
    count = int(rng.integers(2, 4))
    steepness = 2 * math.pi / np.exp(rng.uniform(math.log(_WAVES[0]), math.log(_WAVES[1]), count))
    along, aside, phase = rng.uniform(0, 2 * math.pi, (3, count))
    length = 0.3 * unit * np.array([magnitude(rng) for _ in range(count)])
    length *= min(1.0, _GRADIENT / max(float(length @ steepness), 1e-9))
    length *= min(1.0, _CURVATURE / max(float(length @ steepness**2), 1e-9))
    waves = np.stack([steepness * np.cos(along), steepness * np.sin(along), phase], axis=1)
    return Bending(waves, length[:, None] * np.stack([np.cos(aside), np.sin(aside)], axis=1))
