"""Results -> pictures, legends and sentences (HTML) of the page. Pure functions.

Notable: legends are HTML, not part of a picture, so that they keep their size on a phone and fit a dark page. Names from a
checkpoint's configuration are escaped.

Pictures are RGB uint8 (H, W, 3); flow (2, H, W) is (right, down) in pixels.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from winwin_hf.inference import drawing, figures

ARROWS_SIDE = (
    640  # pixels: the picture under the arrows is at most this long; on a larger one they would be too thin to see
)


def arrows(image: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, int]:
    """The frame with about 20 arrows across its longer side, and their length as a multiple of the motion."""
    height, width = image.shape[:2]
    factor = min(1.0, ARROWS_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)) * np.float32(0.8)
    picture = np.ascontiguousarray(picture.astype(np.uint8))
    step = max(12, max(size) // 20)
    ys, xs = np.arange(step // 2, size[1], step), np.arange(step // 2, size[0], step)
    rows, columns = (np.minimum((at / factor).astype(np.intp), end - 1) for at, end in ((ys, height), (xs, width)))
    motion = flow[:, rows[:, None], columns].transpose(1, 2, 0) * np.float32(factor)
    times = _times(np.hypot(motion[..., 0], motion[..., 1]), step)
    # a dark line below the bright one, visible on any picture
    for colour, thickness in (((0, 0, 0), 3), ((255, 225, 40), 1)):
        for y, line in zip(ys, motion, strict=True):
            for x, (u, v) in zip(xs, line, strict=True):
                tip = round(x + float(u) * times), round(y + float(v) * times)
                cv2.arrowedLine(picture, (int(x), int(y)), tip, colour, thickness, cv2.LINE_AA, tipLength=0.3)
    return picture, times


def _times(lengths: np.ndarray, step: int) -> int:
    """1, 2, 3, 5 or 10, so that usual arrows are visible and the longest cross at most about three cells."""
    usual, longest = (max(float(np.percentile(lengths, share)), 1e-3) for share in (70, 99))
    return max(times for times in (1, 2, 3, 5, 10) if times <= 1 or times <= min(step / 3 / usual, 3 * step / longest))


def error_picture(error: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """The expected error (H, W), pixels -> colours: small is pale, large is dark."""
    return drawing.depth_to_image(error, *bounds)


def error_legend(error: np.ndarray | None = None, bounds: tuple[float, float] | None = None) -> str:
    """The meaning of the colours of `error_picture`, with a warning where the network is unsure everywhere. Without an error, in words."""
    text = (
        "How sure the network is of each point: the number of pixels by which it expects to be wrong. It is often unsure (dark) at edges, "
        "and where something appears or disappears."
    )
    if error is None or bounds is None:
        return scale_legend("sure", "unsure", text)
    low, high = bounds
    text += f" Here it expects {error.mean():.2g} px on average."
    if float(np.percentile(error, 2)) > low + 0.95 * (high - low):
        text += " <b>This checkpoint calls itself unsure of nearly every point, so its confidence tells little.</b>"
    return scale_legend(f"sure: {low:.2g} px", f"unsure: {high:.2g} px", text)


def difference(direct: np.ndarray, tiled: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The difference of two flows: a picture (white where equal), the distances (H, W) in pixels, and the distance that is black."""
    apart = np.hypot(*(direct - tiled))
    scale = max(1.0, float(np.percentile(apart, 99)))
    shade = (255 * (1 - np.clip(apart / scale, 0, 1))).astype(np.uint8)
    return np.repeat(shade[..., None], 3, axis=2), apart, scale


def draw_tiles(picture: np.ndarray, rows: list[int], columns: list[int], tile: tuple[int, int]) -> np.ndarray:
    """Thin red lines where tiles begin and end (not at the frame's own border)."""
    height, width = picture.shape[:2]
    thick = max(1, round(max(height, width) / 960))
    marked = picture.copy()
    for start in rows:
        for y in (start, start + tile[0]):
            if 0 < y < height:
                marked[y : y + thick] = (220, 60, 40)
    for start in columns:
        for x in (start, start + tile[1]):
            if 0 < x < width:
                marked[:, x : x + thick] = (220, 60, 40)
    return marked


def depth_range(depth: np.ndarray) -> tuple[float, float]:
    """The range of the colours in metres: the 1st and the 99th percentile."""
    known = depth[np.isfinite(depth)]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(known, (1, 99)))
    return low, high


def stacked(frame: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A frame and its flow colours in one picture: one below the other, or side by side where the frame is upright."""
    return np.concatenate([frame, colours], axis=0 if frame.shape[1] >= frame.shape[0] else 1)


# ------------------------------------------------------------------ HTML


@lru_cache(maxsize=1)
def _wheel() -> str:
    """The colour wheel as a data URI, transparent around the disc."""
    disc = drawing.color_wheel_legend(192)
    axis = np.linspace(-1, 1, len(disc))
    inside = np.hypot(axis[None, :], axis[:, None]) <= 1
    rgba = np.dstack([disc, np.where(inside, 255, 0).astype(np.uint8)])
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def wheel_legend(scale: float | None = None) -> str:
    """The colour wheel and its meaning."""
    far = "" if scale is None else f" Full colour here is a motion of <b>{scale:.3g} pixels</b> or more."
    return (
        f'<div class="ww-legend"><img src="{_wheel()}" alt="Colour wheel: red is right, yellow is down, cyan is left, '
        'violet is up" width="88" height="88"/><div>The colour says <b>which way</b> a point moves from frame 1 to frame 2: '
        "find it on the wheel, whose middle is the point in frame 1. A stronger colour means a <b>longer</b> motion; white "
        f"points stand still.{far}</div></div>"
    )


def scale_legend(left: str, right: str, text: str) -> str:
    """A bar of the colours from pale to dark with the meaning of its ends, and a sentence."""
    colours = drawing.depth_colors()[::-1]
    stops = ", ".join("#{:02x}{:02x}{:02x}".format(*colours[i]) for i in np.linspace(0, 255, 12).astype(int))
    return (
        f'<div class="ww-scale"><span>{html.escape(left)}</span><i style="background:linear-gradient(to right,{stops})"></i>'
        f"<span>{html.escape(right)}</span></div><p>{text}</p>"
    )


def arrows_text(times: int = 1) -> str:
    longer = f" The motion is small, so arrows are <b>{times} times</b> as long." if times > 1 else ""
    return f"<p>The same motion on frame 1: each arrow begins at a point and ends at <b>its place in frame 2</b>.{longer}</p>"


def depth_legend(low: float, high: float) -> str:
    text = (
        "The colour says how far a point is from the camera, measured along the viewing direction: equal steps of colour are equal "
        f"ratios, and the middle one is {math.sqrt(max(low * high, 0)):.1f} m. Drag the handle to compare."
    )
    return scale_legend(f"near, {low:.1f} m", f"far, {high:.1f} m", text)


def class_legend(labels: np.ndarray | None, names: Sequence[str]) -> str:
    """A swatch, the name and the share of the pixels for each class that occurs. For None: all classes, without shares."""
    palette = drawing.default_palette(len(names))
    shares = dict.fromkeys(names) if labels is None else figures.label_shares(labels, names)
    items = []
    for name, share in shares.items():
        colour = "#{:02x}{:02x}{:02x}".format(*palette[names.index(name)])
        part = "" if share is None else f" <small>{'&lt;1' if share < 0.01 else f'{share * 100:.0f}'}&nbsp;%</small>"
        items.append(f'<span><i style="background:{colour}"></i>{html.escape(name)}{part}</span>')
    return f'<div class="ww-classes">{"".join(items)}</div>'


def summary(parts: list[str], notes: list[str]) -> str:
    """A line of figures; below it, notes on how the input was changed."""
    footnotes = "".join(f'<p class="ww-note">{html.escape(note)}.</p>' for note in notes if note)
    return f'<div class="ww-figures">{"".join(f"<span>{html.escape(part)}</span>" for part in parts)}</div>{footnotes}'
