"""Results -> what is shown: pictures for their boxes, legends and sentences as HTML. Pure functions.

Notable: legends are HTML, not part of a picture, so that they keep their size on a phone and follow a dark page. Names that come
from a checkpoint's configuration are escaped.

Pictures are RGB uint8 (H, W, 3); flow (H, W, 2) is (right, down) in pixels.
"""

from __future__ import annotations

import base64
import html
import io
from functools import lru_cache

import numpy as np
from PIL import Image

from winwin_hf import tasks, visualization

ARROW_WIDTH = 960  # the widest picture that arrows are drawn on: on a larger one they would be too thin to see


def full_colour(*flows: np.ndarray) -> float:
    """The motion in pixels that gets the fullest colour: what 99 % of the pixels don't exceed, and a pixel at least.

    The longest vector of all is often a single wrong one, beside which everything else would be pale.
    """
    return max(1.0, *(float(np.percentile(np.hypot(flow[..., 0], flow[..., 1]), 99)) for flow in flows))


def arrows(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The frame with about 24 arrows across its longer side, each as long as the motion."""
    height, width = image.shape[:2]
    factor = min(1.0, ARROW_WIDTH / max(height, width))
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        rows = np.linspace(0, height - 1, size[1]).round().astype(np.intp)
        columns = np.linspace(0, width - 1, size[0]).round().astype(np.intp)
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
        flow = flow[np.ix_(rows, columns)] * np.float32(factor)
    dimmed = (image * np.float32(0.75)).astype(np.uint8)  # yellow shows on it wherever it is
    return visualization.flow_arrows(dimmed, flow, step=max(12, max(image.shape[:2]) // 24))


def confidence_picture(confidence: np.ndarray) -> np.ndarray:
    """Confidence (H, W) in 0..1 -> colours: sure is pale, unsure is dark."""
    return visualization.depth_to_image(1 - confidence, minimum=0.0, maximum=1.0)


def difference(direct: np.ndarray, tiled: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """How far two flows are apart: picture (same is white, different is dark), the distances (H, W) in pixels, its full scale."""
    apart = np.hypot(*np.moveaxis(direct - tiled, -1, 0))
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
    """From the 1st to the 99th percentile, metres: the range of the colours."""
    known = depth[np.isfinite(depth)]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(known, (1, 99)))
    return low, high


def stacked(frame: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A frame and its flow colours in one picture of even size: below each other, or side by side where the frame is upright."""
    sheet = np.concatenate([frame, colours], axis=0 if frame.shape[1] >= frame.shape[0] else 1)
    return sheet[: sheet.shape[0] // 2 * 2, : sheet.shape[1] // 2 * 2]


# ------------------------------------------------------------------ HTML


@lru_cache(maxsize=1)
def _wheel() -> str:
    """The colour wheel as a data URI, transparent around the disc."""
    disc = visualization.color_wheel_legend(192)
    axis = np.linspace(-1, 1, len(disc))
    inside = np.hypot(axis[None, :], axis[:, None]) <= 1
    rgba = np.dstack([disc, np.where(inside, 255, 0).astype(np.uint8)])
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def wheel_legend(scale: float | None = None) -> str:
    """The wheel, and what its colours mean."""
    far = "" if scale is None else f" Full colour here is a motion of <b>{scale:.3g} pixels</b> or more."
    return (
        f'<div class="ww-legend"><img src="{_wheel()}" alt="Colour wheel: red is right, yellow is down, cyan is left, '
        'violet is up" width="88" height="88"/><div>The colour says <b>which way</b> a point moves from frame 1 to frame 2: '
        "look for it on the wheel, whose middle is where the point was. The stronger the colour, the <b>further</b>; white "
        f"stands still.{far}</div></div>"
    )


def scale_legend(left: str, right: str, text: str) -> str:
    """A bar of the pale-to-dark colours with what its ends mean, and a sentence."""
    colours = visualization.depth_colors()[::-1]
    stops = ", ".join("#{:02x}{:02x}{:02x}".format(*colours[i]) for i in np.linspace(0, 255, 12).astype(int))
    return (
        f'<div class="ww-scale"><span>{html.escape(left)}</span><i style="background:linear-gradient(to right,{stops})"></i>'
        f"<span>{html.escape(right)}</span></div><p>{text}</p>"
    )


def class_legend(labels: np.ndarray | None, names: list[str]) -> str:
    """A swatch, the name and the share of the pixels for each class that occurs; all classes, without shares, for None."""
    palette = visualization.default_palette(len(names))
    shares = {name: None for name in names} if labels is None else tasks.label_shares(labels, names)
    items = []
    for name, share in shares.items():
        colour = "#{:02x}{:02x}{:02x}".format(*palette[names.index(name)])
        part = "" if share is None else f" <small>{'&lt;1' if share < 0.01 else f'{share * 100:.0f}'}&nbsp;%</small>"
        items.append(f'<span><i style="background:{colour}"></i>{html.escape(name)}{part}</span>')
    return f'<div class="ww-classes">{"".join(items)}</div>'


def summary(parts: list[str], notes: list[str]) -> str:
    """One line of figures, and what was done to the input below it."""
    said = "".join(f'<p class="ww-note">{html.escape(note)}.</p>' for note in notes if note)
    return f'<div class="ww-figures">{"".join(f"<span>{html.escape(part)}</span>" for part in parts)}</div>{said}'
