"""Resampling of augmented frames: pure functions, a box at a time.

What is notable here:
- A `Placement` is an affine map from the view's pixels to stored ones; `place` makes it from sizes, flips, a turn and a shift.
- A box is the same crop of the whole view, bit for bit: coordinates are computed in float64 from a pixel's place in the view,
  and `cv2.remap` uses one pixel's coordinates only (`cv2.warpAffine` accumulates from the box's corner, so its rounding differs).
- Where a view only mirrors or moves by whole pixels, stored pixels are copied.
- Flow is never averaged over two motions, nor depth or labels over two objects.

Coordinates: pixel centres at integers, x right, y down. Source: ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from winwin_hf.data.formats import IGNORE

Box = tuple[int, int, int, int]  # (top, left, height, width) in pixels of the full frame
Affine = tuple[float, float, float, float, float, float]  # (x, y) -> (a x + b y + c, d x + e y + f)

ONE_MOTION = 1.0  # stored pixels: neighbours whose flows differ by more belong to different motions


@dataclass(frozen=True)
class Placement:
    """A view of `height` x `width` pixels; its point (x, y) shows the stored point `matrix` (x, y)."""

    height: int
    width: int
    matrix: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def place(
    stored: tuple[int, int],
    size: tuple[int, int],
    mirror: bool = False,
    upside_down: bool = False,
    degrees: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Placement:
    """A stored array of (height, width) resized to `size`, flipped, turned clockwise about its centre, then moved.

    `shift` is (right, down) in pixels of the view.
    """
    (stored_h, stored_w), (height, width) = stored, size
    step_x, step_y = stored_w / width, stored_h / height  # stored pixels for one pixel of the view
    a, c = (-step_x, stored_w - 0.5 - 0.5 * step_x) if mirror else (step_x, 0.5 * step_x - 0.5)
    e, f = (-step_y, stored_h - 0.5 - 0.5 * step_y) if upside_down else (step_y, 0.5 * step_y - 0.5)
    # undo the shift and the turn first: p = R^T (p' - centre - shift) + centre
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = (width - 1) / 2, (height - 1) / 2
    back_x = x - (cos * (x + shift[0]) + sin * (y + shift[1]))
    back_y = y - (cos * (y + shift[1]) - sin * (x + shift[0]))
    return Placement(height, width, (a * cos, a * sin, a * back_x + c, -e * sin, e * cos, e * back_y + f))


def inverse(matrix: Affine) -> Affine:
    """Stored point -> point of the view."""
    a, b, c, d, e, f = matrix
    scale = a * e - b * d
    a, b, d, e = e / scale, -b / scale, -d / scale, a / scale
    return a, b, -(a * c + b * f), d, e, -(d * c + e * f)


def compose(outer: Affine, inner: Affine) -> Affine:
    """First `inner`, then `outer`."""
    a, b, c, d, e, f = outer
    A, B, C, D, E, F = inner
    return a * A + b * D, a * B + b * E, a * C + b * F + c, d * A + e * D, d * B + e * E, d * C + e * F + f


def coordinates(matrix: Affine, box: Box, times: tuple[int, int] = (1, 1)) -> tuple[np.ndarray, np.ndarray]:
    """x and y (float64) of the box's pixels under an affine map, of shapes that broadcast to (h, w).

    times: (vertical, horizontal) factor by which the view is subdivided: each pixel becomes times[0] x times[1] finer ones.
    """
    top, left, h, w = box
    a, b, c, d, e, f = matrix
    x = (np.arange(left * times[1], (left + w) * times[1]) + 0.5) / times[1] - 0.5
    y = (np.arange(top * times[0], (top + h) * times[0]) + 0.5) / times[0] - 0.5
    mapped_x = (a * x)[None, :] + ((b * y + c)[:, None] if b else c)
    mapped_y = (e * y + f)[:, None] + ((d * x)[None, :] if d else 0.0)
    return mapped_x, mapped_y


def _line(step: float, offset: float, start: int, length: int, stored: int) -> slice | None:
    """The stored pixels offset + step * (start, start + 1, ...) as a slice; None if they are none or lie outside."""
    if abs(step) != 1 or offset != round(offset):
        return None
    first, sign = round(offset + step * start), round(step)
    last = first + sign * (length - 1)
    if min(first, last) < 0 or max(first, last) >= stored:
        return None
    return slice(first, last + 1) if sign > 0 else slice(first, last - 1 if last else None, -1)


def _whole_pixels(matrix: Affine, box: Box, stored: tuple[int, ...]) -> tuple[slice, slice] | None:
    """The stored pixels that the box shows, if it shows each unchanged; else None."""
    a, b, c, d, e, f = matrix
    if b or d:
        return None
    rows, columns = _line(e, f, box[0], box[2], stored[0]), _line(a, c, box[1], box[3], stored[1])
    return None if rows is None or columns is None else (rows, columns)


def render(image: np.ndarray, placement: Placement, box: Box) -> np.ndarray:
    """The image uint8 (H, W, 3) in the box: linear interpolation, area averages where it shrinks, its edge repeated.

    Where stored pixels are shown unchanged, the result is a view of them.
    """
    matrix = placement.matrix
    exact = _whole_pixels(matrix, box, image.shape)
    if exact is not None:
        return image[exact]
    # linear interpolation uses 2x2 pixels: where the image shrinks, render it k times larger, then average
    a, b, _, d, e, _ = matrix
    ky, kx = (max(1, math.ceil(math.hypot(*step) - 1e-6)) for step in ((b, e), (a, d)))
    x, y = np.broadcast_arrays(*coordinates(matrix, box, (ky, kx)))
    x, y = x.astype(np.float32), y.astype(np.float32)
    shown = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(shown, (box[3], box[2]), interpolation=cv2.INTER_AREA) if max(ky, kx) > 1 else shown


def nearest(target: np.ndarray, placement: Placement, box: Box) -> np.ndarray:
    """The target (H, W, ...) in the box, each pixel the nearest stored one.

    Outside: NaN; for integers `IGNORE`; for booleans True.
    """
    exact = _whole_pixels(placement.matrix, box, target.shape)
    if exact is not None:
        return target[exact]
    x, y = (np.floor(v + 0.5).astype(np.intp) for v in coordinates(placement.matrix, box))
    height, width = target.shape[:2]
    shown = target[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    if outside.any():
        shown[outside] = {"f": np.nan, "c": complex(np.nan, np.nan)}.get(target.dtype.kind, IGNORE)
    return shown


def flow_between(flow: np.ndarray, first: Placement, second: Placement, box: Box) -> np.ndarray:
    """Flow from the first to the second view of a pair, float32 (h, w, 2) in pixels of the views, in a box of the first.

    A stored point q moves to q + flow(q); in the views, first^-1(q) moves to second^-1(q + flow(q)). Flow at q is interpolated
    where its four neighbours are known and differ by at most `ONE_MOTION`; elsewhere the nearest pixel's is used, so NaN stays.

    flow: float32 (H, W, 2), contiguous, from the stored first frame to the stored second, in stored pixels.
    """
    exact = _whole_pixels(first.matrix, box, flow.shape)
    moved = flow[exact] if exact is not None else _interpolate(flow, first, box)
    back = inverse(second.matrix)
    a, b, _, d, e, _ = back
    if (a, b, d, e) == (1.0, 0.0, 0.0, 1.0):
        seen = moved
    elif b == 0 and d == 0:
        seen = moved * np.array([a, e], np.float32)
    else:
        u, v = moved[..., 0], moved[..., 1]  # no matrix product: its rounding depends on the box's size
        seen = np.stack([np.float32(a) * u + np.float32(b) * v, np.float32(d) * u + np.float32(e) * v], axis=-1)
    if first.matrix != second.matrix:  # still content moves, too
        a, b, c, d, e, f = compose(back, first.matrix)
        x, y = coordinates((a - 1, b, c, d, e - 1, f), box)
        seen = seen + np.stack(np.broadcast_arrays(x, y), axis=-1).astype(np.float32)
    return seen


def _interpolate(flow: np.ndarray, placement: Placement, box: Box) -> np.ndarray:
    """Stored flow at the box's pixels, float32 (h, w, 2); see `flow_between`."""
    height, width = flow.shape[:2]
    pairs = flow.view(np.complex64)[..., 0]  # (u, v) as one number, to gather faster
    x, y = coordinates(placement.matrix, box)
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    x0, y0 = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    neighbours = (pairs[rows, columns] for rows in (y0, y1) for columns in (x0, x1))
    a, b, c, d = (neighbour.view(np.float32) for neighbour in neighbours)  # (h, 2 w)
    right, down = (np.repeat(v.astype(np.float32), 2, axis=1) for v in (x - x0, y - y0))
    down = down[:, :1] if y.shape[1] == 1 else down
    with np.errstate(invalid="ignore"):  # NaN fails the comparison, as it should
        spread = np.maximum(np.maximum(a, b), np.maximum(c, d)) - np.minimum(np.minimum(a, b), np.minimum(c, d))
        upper, lower = a + (b - a) * right, c + (d - c) * right
        blend = upper + (lower - upper) * down
    smooth = spread <= ONE_MOTION
    values = np.where(smooth[:, ::2] & smooth[:, 1::2], blend.view(np.complex64), nearest(pairs, placement, box))
    return values.view(np.float32).reshape(box[2], box[3], 2)
