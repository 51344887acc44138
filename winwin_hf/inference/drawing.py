"""Predictions as colours: depth, classes and arrows; colours over an image; a frame warped by a flow. sheets.py adds legends.

Notable: `depth_to_image` uses a colour map computed here, whose lightness in OKLab (Ottosson 2020) rises evenly. The colours of flow
are in model/flow_colours_winwin.py, because the pipeline needs them.

Images are uint8 RGB (H, W, 3); flow is (u right, v down) in pixels, (2, H, W) or (H, W, 2), torch or NumPy.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from winwin_hf.model.flow_colours_winwin import as_array, flow_components, flow_to_image
from winwin_hf.model.pixels_winwin import rgb_image


def color_wheel_legend(size: int = 151) -> np.ndarray:
    """The colour of every direction and length, as a disc on white: (size, size, 3)."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    flow = np.stack(np.meshgrid(axis, axis))  # (2, size, size)
    picture = flow_to_image(flow, max_motion=1.0)
    picture[np.hypot(flow[0], flow[1]) > 1] = 255
    return picture


@lru_cache(maxsize=1)
def depth_colors() -> np.ndarray:
    """256 colours from dark blue over magenta and orange to pale yellow, (256, 3) uint8; lightness rises evenly."""
    t = np.linspace(0, 1, 256)
    lightness = 0.22 + 0.74 * t
    angle = np.deg2rad(265 + 200 * t)  # OKLab hue: blue, magenta, red, orange, yellow
    chroma = 0.04 + 0.15 * np.sin(np.pi * np.clip(0.12 + 0.83 * t, 0, 1))
    for _ in range(60):  # colours that sRGB lacks get less saturated ones
        a, b = chroma * np.cos(angle), chroma * np.sin(angle)
        linear = _oklab_to_linear(lightness, a, b)
        outside = ((linear < 0) | (linear > 1)).any(axis=1)
        if not outside.any():
            break
        chroma = np.where(outside, chroma * 0.95, chroma)
    linear = linear.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)


def depth_to_image(depth: Any, minimum: float | None = None, maximum: float | None = None) -> np.ndarray:
    """Depth (H, W) -> colours, near pale and far dark; black where it isn't finite. The range defaults to this picture's own."""
    values = as_array(depth)
    if values.ndim != 2:
        raise ValueError(f"A depth map is (H, W), got a shape of {values.shape}.")
    known = np.isfinite(values)
    low = float(values[known].min(initial=np.inf)) if minimum is None else float(minimum)
    high = float(values[known].max(initial=-np.inf)) if maximum is None else float(maximum)
    if known.any() and high < low:
        raise ValueError(f"The depth range is empty: minimum {low}, maximum {high}.")
    share = (
        (np.where(known, values, low if known.any() else 0) - low) / max(high - low, 1e-12)
        if known.any()
        else values * 0
    )
    picture = depth_colors()[::-1][np.rint(255 * np.nan_to_num(share).clip(0, 1)).astype(np.intp)]
    picture[~known] = 0
    return picture


def default_palette(count: int) -> np.ndarray:
    """`count` colours that differ, (count, 3) uint8; colour k doesn't depend on `count`."""
    k = np.arange(count)
    angle = 2 * np.pi * ((0.08 + k * 0.61803398875) % 1)  # golden-ratio steps keep neighbours apart
    lightness = 0.62 + 0.16 * ((k % 3) - 1)
    linear = _oklab_to_linear(lightness, 0.13 * np.cos(angle), 0.13 * np.sin(angle)).clip(0, 1)
    return np.rint(255 * linear ** (1 / 2.2)).astype(np.uint8)


def segmentation_to_image(labels: Any, palette: Any = None, ignore: int = 255) -> np.ndarray:
    """Class ids (H, W) -> colours; `ignore` is black. `palette` is (classes, 3) in 0..255, or None for `default_palette`."""
    ids = as_array(labels, floating=False)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"Labels are (H, W) whole numbers, got {ids.dtype} of shape {ids.shape}.")
    ids = ids.astype(np.int64)
    known = ids != ignore
    highest = int(ids[known].max(initial=-1))
    colours = default_palette(highest + 1) if palette is None else np.asarray(palette, np.uint8)
    if highest >= len(colours) or ids.min(initial=0) < 0:
        raise ValueError(
            f"Labels go from {ids.min(initial=0)} to {highest}, but the palette has {len(colours)} colours."
        )
    table = np.concatenate([colours, np.zeros((1, 3), np.uint8)])
    return table[np.where(known, ids, len(colours))]


def overlay(image: Any, colours: Any, opacity: float = 0.5) -> np.ndarray:
    """`colours` over `image`, both (H, W, 3) uint8 or PIL."""
    below, above = as_picture(image), as_picture(colours)
    if below.shape != above.shape:
        raise ValueError(
            f"The image is {below.shape[:2]} but the colours are {above.shape[:2]}; expected the same size."
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in 0..1, got {opacity}.")
    return np.rint(below * np.float32(1 - opacity) + above * np.float32(opacity)).astype(np.uint8)


def warp(image2: Any, flow: Any) -> np.ndarray:
    """Frame 2 warped to frame 1: pixel (x, y) of the result is frame 2 at (x + u, y + v), bilinear.

    Black where the flow is unknown or points out of the frame. With the right flow it looks like frame 1, except at occlusions.
    """
    source = as_picture(image2)
    u, v = flow_components(flow)
    height, width = source.shape[:2]
    if u.shape != (height, width):
        raise ValueError(
            f"Frame 2 is {(height, width)} but the flow is {u.shape} (height, width); expected the same size."
        )
    result = np.zeros_like(source)
    rows = max(1, 65536 // max(1, width))
    flat = source.reshape(-1, 3)
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        x = u[band] + np.arange(width, dtype=np.float32)
        y = v[band] + np.arange(band.start, band.stop, dtype=np.float32)[:, None]
        valid = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)  # false for NaN
        x, y = np.where(valid, x, np.float32(0)), np.where(valid, y, np.float32(0))
        left = np.minimum(x.astype(np.intp), max(width - 2, 0))
        up = np.minimum(y.astype(np.intp), max(height - 2, 0))
        fx, fy = (x - left)[..., None], (y - up)[..., None]
        right, down = int(width > 1), width * int(height > 1)
        at = up * width + left
        above = flat[at] * (1 - fx) + flat[at + right] * fx
        below = flat[at + down] * (1 - fx) + flat[at + down + right] * fx
        result[band] = np.rint((above * (1 - fy) + below * fy) * valid[..., None]).astype(np.uint8)
    return result


# ---- what the functions above share ----


def as_picture(image: Any) -> np.ndarray:
    """PIL or an array of any kind -> uint8 (H, W, 3). Raises ValueError for anything else."""
    return rgb_image(image)


def _oklab_to_linear(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """OKLab -> linear sRGB (..., 3), by the two published matrices (Ottosson 2020)."""
    lab = np.stack([lightness, a, b], axis=-1)
    cone = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    )
    rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    return (lab @ cone.T) ** 3 @ rgb.T
