"""The colours of optical flow (Baker et al. 2011), for the pipeline. NumPy and Pillow only: this file travels with the weights."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .pixels_winwin import check_unmasked

# The wheel: how many steps lead from each pure colour to the next. More steps where the eye tells more hues apart.
WHEEL_STEPS = (("red", 15), ("yellow", 6), ("green", 4), ("cyan", 11), ("blue", 13), ("magenta", 6))


PURE = {
    "red": (255, 0, 0),
    "yellow": (255, 255, 0),
    "green": (0, 255, 0),
    "cyan": (0, 255, 255),
    "blue": (0, 0, 255),
    "magenta": (255, 0, 255),
}


@lru_cache(maxsize=1)
def color_wheel() -> np.ndarray:
    """The 55 hues of the Middlebury code, (55, 3) float32 in 0..255; red points right, yellow down, cyan left."""
    names = [name for name, _ in WHEEL_STEPS]
    rows = []
    for (name, steps), following in zip(WHEEL_STEPS, names[1:] + names[:1], strict=True):
        start, end = np.array(PURE[name], np.float64), np.array(PURE[following], np.float64)
        # Rising channels are floored, falling ones are what remains of 255: so the benchmark's integers come out.
        change = np.floor(255 * np.arange(steps) / steps)[:, None]
        rows.append(start + np.sign(end - start) * change)
    wheel = np.concatenate(rows).astype(np.float32)
    wheel.setflags(write=False)
    return wheel


def flow_to_image(flow: Any, max_motion: float | None = None) -> np.ndarray:
    """Flow -> colours: hue is the direction, saturation the length; standing still is white, unknown (not finite) is black.

    `max_motion` is the length in pixels of full saturation; None takes the longest vector of this flow, so pictures to be
    compared need one given. Longer vectors are darkened, as the benchmark does.
    """
    u, v = flow_components(flow)
    if max_motion is not None and not max_motion > 0:
        raise ValueError(f"max_motion must be a positive number of pixels, got {max_motion}.")
    picture = np.zeros((*u.shape, 3), np.uint8)
    if u.size == 0:
        return picture
    rows = max(1, 65536 // u.shape[1])  # bands of rows whose temporaries stay in the cache: several times faster
    bands = [slice(top, top + rows) for top in range(0, len(u), rows)]
    if max_motion is None:
        longest = 0.0
        for band in bands:
            squared = u[band] * u[band] + v[band] * v[band]
            longest = max(longest, float(np.max(squared, where=np.isfinite(squared), initial=0.0)))
        max_motion = float(np.sqrt(longest)) or 1.0
    wheel = color_wheel()
    count = len(wheel)
    closed = np.concatenate([wheel, wheel[:1]]) / np.float32(255)
    hue, change = closed[:-1], np.diff(closed, axis=0)
    for band in bands:
        x, y = u[band] / np.float32(max_motion), v[band] / np.float32(max_motion)
        known = np.isfinite(x) & np.isfinite(y)
        x, y = np.where(known, x, np.float32(0)), np.where(known, y, np.float32(0))
        length = np.sqrt(x * x + y * y)
        # Angle -pi is hue 0 and +pi is the last hue: one step is missing from the circle, as in the benchmark's code.
        place = (np.arctan2(-y, -x) / np.float32(np.pi) + 1) * np.float32((count - 1) / 2)
        index = np.minimum(place.astype(np.intp), count - 1)
        colour = hue[index] + (place - index)[..., None] * change[index]
        inside = (length <= 1 + 1e-5)[..., None]
        colour = np.where(inside, 1 - np.minimum(length, 1)[..., None] * (1 - colour), colour * np.float32(0.75))
        picture[band] = (colour * (np.float32(255) * known[..., None]) + np.float32(1e-3)).astype(np.uint8)
    return picture


def as_array(values: Any, floating: bool = True) -> np.ndarray:
    """NumPy array of a torch tensor or anything array-like; float32 if `floating`."""
    if hasattr(values, "detach"):  # a torch tensor, without importing torch
        values = values.detach().cpu()
        values = values.float().numpy() if floating else values.numpy()
    check_unmasked("A map", values)
    array = np.asarray(values)
    return array.astype(np.float32, copy=False) if floating else array


def flow_components(flow: Any) -> tuple[np.ndarray, np.ndarray]:
    """(u, v), each (H, W) float32. Both axes of two: (2, H, W) is meant."""
    array = as_array(flow)
    if array.ndim == 3 and array.shape[0] == 2:
        return array[0], array[1]
    if array.ndim == 3 and array.shape[2] == 2:
        return array[..., 0], array[..., 1]
    raise ValueError(f"Flow is (2, H, W) or (H, W, 2), got a shape of {array.shape}.")
