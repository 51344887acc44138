"""The layers of a synthetic scene: their shapes, their paint, and their pixels in either frame.

Notable here:
- Affine maps lead from frame 1 to a layer's texture and to its shape's raster. In frame 2 both are sampled where the motion
  came from, so shape, texture and flow agree.
- A blob's raster is small, and its edge is steepened when it is enlarged. A thin shape is drawn at the frame's size, because
  enlarging would widen its strands.
- Motion blur is the mean of the layer at a few moments of the exposure, moving straight and evenly. It is centred, so the flow
  between the middles of the exposures is that of the sharp scene. Sums are of whole numbers and their count is a power of
  two, so a window has the bits of the full frame.

Source: ours.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from winwin_hf.data.sample import Box
from winwin_hf.data.synthetic.motions import Motion, magnitude
from winwin_hf.data.synthetic.textures import about, compose, desaturate, grid, project, rotation, sample_at

MASK_SIDE, MASK_RADIUS = 96, 36.0  # a blob's raster, and the radius in it that stands for 1
MASK_REACH = 1.28  # no shape reaches further, in radii (edge blur included)
MASK_BLUR = 1.0
_THIN_RADIUS = 160.0  # pixels of a thin shape's raster at most; a larger shape is enlarged
_THIN_LEAST = 8.0  # pixels of either radius at least, or its strokes would reach out of the ellipse
_FLAT_SIDE = 64  # pixels of a gradient's raster
_BLUR_STEP = 2.5  # pixels between the moments of motion blur, up to the most moments
_MOMENTS = (4, 8, 16)

Places = tuple[np.ndarray, np.ndarray]  # maps from frame 1 and from frame 2 (its bending apart)


def shape_mask(rng: np.random.Generator) -> np.ndarray:
    """A smooth blob, an ellipse or a polygon, one in four with holes: a soft mask, uint8 (96, 96)."""
    centre = (MASK_SIDE - 1) / 2
    mask = np.zeros((MASK_SIDE, MASK_SIDE), np.uint8)
    kind = rng.random()
    if kind < 0.4:  # a blob: a circle whose radius varies by a few harmonics
        theta = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        order = np.arange(2, 7)[:, None]
        radius = (rng.normal(0, 0.25, (5, 1)) / order * np.cos(order * theta + rng.uniform(0, 6.3, (5, 1)))).sum(0)
        radius = 0.85 + np.clip(radius * 1.5, -0.6, 0.3)
    elif kind < 0.65:
        theta = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radius = np.full(48, 1.0)
    else:
        corners = int(rng.integers(3, 11))
        theta = (np.arange(corners) + rng.uniform(0, 0.7, corners)) * (2 * np.pi / corners)
        radius = rng.uniform(0.45, 1.15, corners)
    points = centre + MASK_RADIUS * np.stack([np.cos(theta), np.sin(theta)], -1) * radius[:, None]
    cv2.fillPoly(mask, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    if rng.random() < 0.25:
        for x, y, r in np.rint(rng.uniform((20, 20, 3), (75, 75, 14), (int(rng.integers(1, 4)), 3)) * 16).astype(int):
            cv2.circle(mask, (int(x), int(y)), int(r), 0, -1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(mask, (0, 0), MASK_BLUR)


def thin_mask(rng: np.random.Generator, radii: tuple[float, float]) -> np.ndarray:
    """Bars, curved strands or a net in an ellipse of these radii, strokes of 2 to 6 pixels: uint8 (h, w), about its middle."""
    rx, ry = radii
    half = math.ceil(1.15 * rx) + 4, math.ceil(1.15 * ry) + 4
    mask = np.zeros((2 * half[1] + 1, 2 * half[0] + 1), np.uint8)
    kind, t = rng.random(), np.linspace(-1, 1, 33)
    lines: list[np.ndarray] = []  # (n, 2) points in the unit disc
    width = int(rng.integers(2, 5))
    if kind < 0.35:  # bars from rim to rim, or spokes
        width = int(rng.integers(2, 7))
        start = rng.uniform(0, 2 * math.pi)
        for _ in range(int(rng.integers(1, 4))):
            turn = start + rng.normal(0, 0.3)
            end = turn + math.pi + rng.normal(0, 0.4)
            lines.append(np.array([[math.cos(a), math.sin(a)] for a in (turn, end)]))
    elif kind < 0.75:  # strands that run side by side, each with bends of its own
        shared = rng.normal(0, 0.35, 3)
        for _ in range(int(rng.integers(1, 7))):
            order = np.arange(1, 4)[:, None]
            bends = (shared + rng.normal(0, 0.12, 3))[:, None] / order
            y = rng.uniform(-0.5, 0.5) + (bends * np.sin(order * math.pi * t + rng.uniform(0, 0.6))).sum(0)
            lines.append(np.stack([t, np.clip(y, -1, 1)], axis=1))
    else:  # a net: two families of lines, not quite at right angles
        width = int(rng.integers(2, 4))
        gap = rng.uniform(10, 36)
        first = rng.uniform(0, math.pi)
        for angle in (first, first + math.pi / 2 + rng.normal(0, 0.15)):
            c, s = math.cos(angle), math.sin(angle)
            step = gap * math.hypot(c * rx, s * ry) / (rx * ry)
            for at in np.arange(-0.96 + rng.uniform(0, step), 0.97, step):
                length = math.sqrt(1 - at * at)
                along, across = np.array([c, s]) * length, np.array([-s, c]) * at
                lines.append(np.stack([across + along, across - along]))
    for line in lines:
        line = line / np.maximum(1, np.hypot(line[:, :1], line[:, 1:]))
        points = np.rint((line * radii + half) * 16).astype(np.int32)
        cv2.polylines(mask, [points], False, 255, width, cv2.LINE_AA, 4)
    return mask


def flat_image(rng: np.random.Generator) -> np.ndarray:
    """One colour, or with probability 1/2 a gentle gradient of it: uint8 RGB (64, 64, 3)."""
    corners = np.repeat(desaturate(rng.uniform(20, 235, (1, 3)), rng), 4, axis=0)
    steps = rng.normal(0, 14, (4, 1)) + rng.normal(0, 4, (4, 3))
    if rng.random() < 0.5:
        corners = corners + steps
    corners = np.clip(corners, 0, 255).reshape(2, 2, 3)
    return np.rint(cv2.resize(corners, (_FLAT_SIDE, _FLAT_SIDE), interpolation=cv2.INTER_LINEAR)).astype(np.uint8)


class Layer:
    """One layer: where its texture and shape lie in frame 1, and how it moves to frame 2.

    Attributes:
        texture, level: number and prefiltered size in the bank. image: shown instead of the texture if it is not None.
        motion: frame 1 -> frame 2.
        placing, shape: maps from frame 1 and from frame 2 to the texture's and to the mask's pixels; see `Motion.seen`.
        bounds: the box in each frame that contains the shape; not of the background.
        centre, radii, angle: of the shape's ellipse, pixels of frame 1.
    """

    def __init__(self, texture: int, placing: np.ndarray, level: int, motion: Motion, tint: list[float]) -> None:
        self.texture, self.level, self.tint, self.motion = texture, level, tint, motion
        self.image: np.ndarray | None = None
        self.placing = self._both(placing)
        self.shape_seed: int | None = None  # None: the background, everywhere
        self.shape: Places = self.placing
        self.bounds: tuple[Box, Box] = ((0, 0, 0, 0), (0, 0, 0, 0))
        self.centre, self.radii, self.angle = (0.0, 0.0), (0.0, 0.0), 0.0
        self._edge = 1.0  # steepness of the mask's edge, so that it is about one pixel wide in the frame
        self._thin: tuple[float, float] | None = None  # radii of a thin shape's raster
        self._mask: tuple[np.ndarray, np.ndarray] | None = None
        self._exposure, self._moments = 0.0, 1

    def _both(self, first: np.ndarray) -> Places:
        return first, compose(first, self.motion.back)

    def paint(self, image: np.ndarray, centre: tuple[float, float], reach: float) -> None:
        """Shows this image, spread over `reach` pixels about the centre, instead of the texture."""
        side = image.shape[0] - 1
        self.image = image
        self.placing = self._both(about(np.eye(2) * (side / 2 / reach), centre, (side / 2, side / 2)))

    def give_shape(
        self, seed: int, centre: tuple[float, float], radii: tuple[float, float], angle: float, thin: bool = False
    ) -> None:
        self.shape_seed, self.centre, self.radii, self.angle = seed, centre, radii, angle
        if thin:
            self.radii = radii = max(radii[0], _THIN_LEAST), max(radii[1], _THIN_LEAST)
            size = max(1.0, max(radii) / _THIN_RADIUS)  # of a raster's pixel in the frame
            self._thin = radii[0] / size, radii[1] / size
            middle = tuple(float(math.ceil(1.15 * radius) + 4) for radius in self._thin)
            raster = rotation(-angle) / size
        else:
            middle = ((MASK_SIDE - 1) / 2,) * 2
            raster = np.array([[MASK_RADIUS / radii[0]], [MASK_RADIUS / radii[1]]]) * rotation(-angle)
            self._edge = max(1.0, math.sqrt(2 * math.pi * radii[0] * radii[1]) * MASK_BLUR / MASK_RADIUS)
        self.shape = self._both(about(raster, centre, (middle[0], middle[1])))
        if self.motion.affine is not None:
            axes = self.axes()
            there = self.motion.affine[:, :2] @ axes
            self.bounds = _bounds(axes, centre), _bounds(there, self.motion.point(*centre))
        else:
            first, second = self.motion.hull(self.axes(), centre)
            self.bounds = _around(first, 2), _around(second, 2)

    def axes(self) -> np.ndarray:
        """(2, 2): centre + axes @ unit circle is the ellipse that contains the shape."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        (rx, ry) = self.radii
        return np.array([[c * rx, -s * ry], [s * rx, c * ry]]) * MASK_REACH

    def expose(self, exposure: float, frame: tuple[int, int]) -> None:
        """Blurs the layer by its motion during `exposure`, a share of the time between the frames. frame: (height, width)."""
        if self.shape_seed is None:
            height, width = frame
            ends = np.array([[width / 2, 0], [0, height / 2]]) * math.sqrt(2), (width / 2, height / 2)
        else:
            ends = self.axes(), self.centre
        first, _ = self.motion.hull(*ends)
        there = np.stack(self.motion.points(*first))
        path = exposure * float(np.hypot(*(there - first)).max())
        if path < 0.5:  # invisible
            return
        needed = path / _BLUR_STEP
        self._exposure, self._moments = exposure, next((n for n in _MOMENTS if n >= needed), _MOMENTS[-1])
        if self.shape_seed is not None:
            pad = math.ceil(0.65 * path) + 1
            one, two = ((top - pad, left - pad, h + 2 * pad, w + 2 * pad) for top, left, h, w in self.bounds)
            self.bounds = one, two

    def _sample(
        self, image: np.ndarray, maps: Places, frame: int, box: Box, border: int, table: np.ndarray | None, sharp: bool
    ) -> np.ndarray:
        """A texture or mask in the box of a frame, its levels changed by a table: uint8."""
        x, y = self.motion.seen(*maps, box) if frame else grid(maps[0], box)
        if sharp or not self._exposure:
            seen = sample_at(image, x, y, border)
            return seen if table is None else cv2.LUT(seen, table)
        # The motion from frame to frame of what each pixel shows, in pixels of the texture or mask.
        if frame:
            u, v = grid(maps[0], box)
            u, v = u - x, v - y
        else:
            right, down = self.motion.flow(box)
            (a, b), (c, d) = maps[0][:, :2].tolist()
            u, v = a * right + b * down, c * right + d * down
        x, y, u, v = (values.astype(np.float32) for values in (x, y, u, v))
        total = np.zeros(box[2:] + image.shape[2:], np.uint16)
        for moment in range(self._moments):
            time = np.float32(self._exposure * ((moment + 0.5) / self._moments - 0.5))
            seen = sample_at(image, x - time * u, y - time * v, border)
            cv2.add(total, seen if table is None else cv2.LUT(seen, table), total, dtype=cv2.CV_16U)
        return cv2.convertScaleAbs(total, alpha=1 / self._moments)

    def colours(self, image: np.ndarray, frame: int, box: Box) -> np.ndarray:
        """The texture `image` in the box of a frame, uint8 (h, w, 3)."""
        return self._sample(image, self.placing, frame, box, cv2.BORDER_REFLECT_101, None, sharp=False)

    def opacity(self, frame: int, box: Box, sharp: bool = False) -> np.ndarray:
        """The shape's opacity in the box of a frame, uint8 (h, w), 255 is opaque. sharp: without motion blur."""
        mask, table = self._drawn()
        return self._sample(mask, self.shape, frame, box, cv2.BORDER_CONSTANT, table, sharp)

    def opacity_behind(self, motion: Motion, box: Box) -> np.ndarray:
        """The shape's opacity in frame 2, without motion blur, at the places that `motion` moves the box of frame 1 to."""
        mask, table = self._drawn()
        if motion.affine is not None and self.motion.affine is not None:
            x, y = grid(compose(self.shape[1], motion.affine), box)
        else:
            x, y = project(self.shape[0], *self.motion.sources(*motion.forward(box)))
        return cv2.LUT(sample_at(mask, x, y, cv2.BORDER_CONSTANT), table)

    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """(mask, look-up table that steepens its edge), made on first use."""
        if self._mask is None:
            rng = np.random.default_rng(self.shape_seed)
            mask = shape_mask(rng) if self._thin is None else thin_mask(rng, self._thin)
            levels = np.arange(256, dtype=np.float64)
            table = np.clip(np.rint(127.5 + (levels - 127.5) * self._edge), 0, 255).astype(np.uint8)
            self._mask = mask, table
        return self._mask


def hang(
    rng: np.random.Generator, parent: Layer, unit: float
) -> tuple[tuple[float, float], tuple[float, float], float, Motion] | None:
    """A limb of a layer: centre, radii and angle of its shape, and its motion, which is the parent's after a turn about the
    joint. None where the parent's perspective would distort it too much.

    unit: of the scene's motion, pixels; the turn moves the limb's end by about as much.
    """
    size = math.sqrt(parent.radii[0] * parent.radii[1])
    long, thick = size * rng.uniform(0.6, 1.5), rng.uniform(0.2, 0.55)
    around, lean = rng.uniform(0, 2 * math.pi), rng.uniform(-1, 1)
    turn = unit * magnitude(rng) * rng.choice((-1, 1)) / (1.6 * long)
    x, y = (parent.axes() / MASK_REACH @ (0.75 * math.cos(around), 0.75 * math.sin(around))).tolist()
    joint = parent.centre[0] + x, parent.centre[1] + y
    angle = math.atan2(y, x) + lean  # outwards
    centre = joint[0] + 0.8 * long * math.cos(angle), joint[1] + 0.8 * long * math.sin(angle)
    motion = parent.motion.after(about(rotation(min(0.6, max(-0.6, turn))), joint, joint))
    reach = MASK_REACH * long * 1.1
    corners = np.array(centre)[:, None] + reach * np.array([[-1, 1, -1, 1], [-1, -1, 1, 1]])
    if motion.depth(*corners).min() < 0.5:
        return None
    return centre, (long, long * thick), angle, motion


def _bounds(axes: np.ndarray, centre: tuple[float, float]) -> Box:
    """Bounding box of the ellipse centre + axes @ unit circle, with two pixels to spare."""
    x, y = np.hypot(axes[:, 0], axes[:, 1]) + 2
    left, top = math.floor(centre[0] - x), math.floor(centre[1] - y)
    return top, left, math.ceil(centre[1] + y) - top + 1, math.ceil(centre[0] + x) - left + 1


def _around(points: np.ndarray, spare: float) -> Box:
    """Bounding box of points (2, n)."""
    (left, top), (right, bottom) = points.min(1) - spare, points.max(1) + spare
    left, top = math.floor(left), math.floor(top)
    return top, left, math.ceil(bottom) - top + 1, math.ceil(right) - left + 1
