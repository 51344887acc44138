"""Pictures to look at: predictions in colours with their legends, and titled pictures in a grid.

Images are uint8 RGB (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from winwin_hf.inference import drawing
from winwin_hf.model.flow_colours_winwin import flow_to_image


def flow_picture(flow: np.ndarray, max_motion: float | None = None) -> np.ndarray:
    """Flow (2, H, W) in the Middlebury colours, with the colour wheel in the lower right corner."""
    picture = flow_to_image(flow, max_motion)
    height, width = picture.shape[:2]
    side = min(height, width) // 5
    if side >= 24:
        picture[height - side :, width - side :] = drawing.color_wheel_legend(side)
    return picture


def depth_picture(depth: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """
    Depth (H, W) in colours, near pale and far dark, from `low` to `high`; default: its 1st and its 99th percentile.

    Equal steps of colour are equal ratios, so that what is near differs although something is far away.
    """
    lowest, highest = (a if b is None else float(b) for a, b in zip(depth_ends(depth), (low, high), strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):  # what isn't positive is black
        return drawing.depth_to_image(np.log(depth), np.log(lowest), np.log(highest))


def depth_ends(depth: np.ndarray) -> tuple[float, float]:
    """The depths of the palest and the darkest colour of `depth_picture`, in the unit of `depth`; 1 and 1 where none is known."""
    known = depth[np.isfinite(depth) & (depth > 0)]
    low, high = np.percentile(known, (1, 99)) if known.size else (1.0, 1.0)
    return float(low), float(high)


def segmentation_picture(image: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The classes' colours over the image; to the right the legend of the classes that occur."""
    palette = drawing.default_palette(len(names))
    below = drawing.overlay(image, drawing.segmentation_to_image(labels.astype(np.int64), palette), opacity=0.6)
    seen = [index for index in range(len(names)) if (labels == index).any()]
    side = legend([names[index] for index in seen], palette[seen])
    height = max(below.shape[0], side.shape[0])
    sheet = np.full((height, below.shape[1] + side.shape[1], 3), 255, np.uint8)
    sheet[: below.shape[0], : below.shape[1]] = below
    sheet[: side.shape[0], below.shape[1] :] = side
    return sheet


def segmentation_pair(image: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """The image and its classes with their legend for a `panel`: of one size, so that both come out equally large."""
    picture = segmentation_picture(image, labels, names)
    beside = np.full_like(picture, 255)
    beside[: image.shape[0], : image.shape[1]] = image
    return [("image", beside), ("classes", picture)]


def legend(names: Sequence[str], palette: Any = None, height: int = 20) -> np.ndarray:
    """A column of colour swatches with the class names beside them."""
    colours = drawing.default_palette(len(names)) if palette is None else np.asarray(palette, np.uint8)
    if len(colours) < len(names):
        raise ValueError(f"{len(names)} names but a palette of {len(colours)} colours.")
    font = _font(int(height * 0.65))
    width = height + 12 + max((int(font.getlength(name)) for name in names), default=0)
    picture = Image.new("RGB", (width, max(1, height * len(names))), "white")
    draw = ImageDraw.Draw(picture)
    for row, (name, colour) in enumerate(zip(names, colours, strict=False)):
        top = row * height
        draw.rectangle([2, top + 2, height - 3, top + height - 3], fill=tuple(int(c) for c in colour))
        draw.text((height + 6, top + height // 2), name, fill="black", font=font, anchor="lm")
    return np.asarray(picture)


def prediction_sheet(
    task: str, images: Sequence[np.ndarray], values: np.ndarray, labels: Sequence[str] | None = None
) -> np.ndarray:
    """
    A prediction beside the images it was made for; for flow also the second frame warped to the first.

    Args:
        task: a name of task.py. images: as many as it takes.
        values, labels: as in `Prediction` and `Method`.
    """
    if task == "optical-flow":
        pictures = [("frame 1", images[0]), ("flow", flow_picture(values)), ("frame 2", images[1])]
        pictures.append(("frame 2 warped to frame 1", drawing.warp(images[1], values)))
    elif task == "semantic-segmentation":
        pictures = segmentation_pair(images[0], values, labels or ())
    else:
        pictures = [("image", images[0]), ("depth, near pale, far dark", depth_picture(values))]
    return panel(pictures)


def panel(pictures: Sequence[tuple[str, Any]], columns: int = 2, width: int = 480, gap: int = 8) -> np.ndarray:
    """Titled pictures in a grid on white, filled row by row; each is scaled to `width` pixels and keeps its proportions."""
    if not pictures:
        raise ValueError("panel needs at least one (title, picture).")
    if columns < 1 or width < 1:
        raise ValueError(f"panel needs at least one column and a positive width, got columns={columns}, width={width}.")
    title_height = 22
    font = _font(14)
    cells = []
    for title, item in pictures:
        picture = Image.fromarray(drawing.as_picture(item))
        size = (width, max(1, round(picture.height * width / picture.width)))
        filter_ = Image.Resampling.LANCZOS if width < picture.width else Image.Resampling.BICUBIC
        cells.append((title, picture if picture.size == size else picture.resize(size, filter_)))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [title_height + max(picture.height for _, picture in row) for row in rows]
    across = min(columns, len(cells))
    sheet = Image.new("RGB", (across * width + (across + 1) * gap, sum(heights) + (len(rows) + 1) * gap), "white")
    draw = ImageDraw.Draw(sheet)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, (title, picture) in enumerate(row):
            left = gap + column * (width + gap)
            draw.text((left + 2, top + title_height // 2), title, fill="black", font=font, anchor="lm")
            sheet.paste(picture, (left, top + title_height))
        top += height + gap
    return np.asarray(sheet)


def _font(size: int) -> Any:
    return ImageFont.load_default(max(8, size))
