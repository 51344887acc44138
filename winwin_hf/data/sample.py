"""What readers return: a frame whose pixels are computed box by box, and two kinds of it that are backed by arrays.

What is notable here:
- A `Sample` is asked for boxes, never for the whole frame, so the work on pixels (rendering, resizing, jitter) is proportional
  to the windows' area. (A PNG or JPEG must still be decoded whole, a synthetic scene not.)
- `ImageSample` and `FlowSample` are *views*: the augmented frame (resized, flipped, recoloured) exists only inside the boxes.
- A box may extend beyond the frame's bottom and right edge, where the frame is no multiple of the patch: there the image
  repeats its edge and the target is unknown.
- `augmentation.py` draws views, `resampling.py` finds their pixels.

Targets: flow float32 (h, w, 2) pixels, NaN unknown; labels uint8 (h, w), 255 ignored; depth float32 (h, w) metres, NaN
unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np

from winwin_hf.data.augmentation import FlowAugmentation, FlowView, ImageAugmentation, Recolour, Sensor
from winwin_hf.data.formats import IGNORE
from winwin_hf.data.resampling import Box, Placement, flow_between, nearest, render


class Sample(Protocol):
    """One frame (or pair of frames) of `height` x `width` pixels."""

    height: int
    width: int

    def first(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """The first view: image uint8 RGB (h, w, 3) and its target."""
        ...

    def second(self, box: Box) -> np.ndarray:
        """The second view: uint8 RGB (h, w, 3). Optical flow only."""
        ...


Reader = Callable[[dict[str, Any], np.random.Generator], Sample]  # (example, generator) -> sample


def inside(box: Box, height: int, width: int) -> Box:
    """The part of a box that lies in the frame. Raises ValueError for a box that doesn't begin in it."""
    top, left, h, w = box
    if not (0 <= top < height and 0 <= left < width and h > 0 and w > 0):
        raise ValueError(
            f"box (top, left, height, width) = {box} does not begin in the frame of {height}x{width} pixels"
        )
    return top, left, min(h, height - top), min(w, width - left)


def pad_image(image: np.ndarray, box: Box) -> np.ndarray:
    """Repeat the bottom and right edge of an image (h, w, 3) until it has the box's size."""
    below, right = box[2] - image.shape[0], box[3] - image.shape[1]
    return np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else image


def pad_target(target: np.ndarray, box: Box) -> np.ndarray:
    """Append "unknown" (NaN, or 255 for integer labels) at the bottom and right until it has the box's size."""
    below, right = box[2] - target.shape[0], box[3] - target.shape[1]
    if not (below or right):
        return target
    unknown = np.nan if np.issubdtype(target.dtype, np.floating) else IGNORE
    return np.pad(target, ((0, below), (0, right)) + ((0, 0),) * (target.ndim - 2), constant_values=unknown)


# ------------------------------------------------------------------------------------------------------ single images


class ImageSample:
    """An image with a target per pixel, seen through `placement`, recoloured and blurred (default: as stored).

    Images are interpolated linearly, with area averages where they shrink. Targets (labels, depth) take the nearest pixel, so
    no label and no depth is invented between two objects. A window is the same crop of the whole view, bit for bit.
    """

    def __init__(
        self,
        image: np.ndarray,
        target: np.ndarray,
        placement: Placement | None = None,
        recolour: Recolour | None = None,
        sensor: Sensor | None = None,
    ) -> None:
        """
        Args:
            image, target: uint8 (H, W, 3) and (H, W), as stored.
            placement: where the view's pixels come from; None: the whole image, in its own size.
        """
        if image.shape[:2] != target.shape[:2]:
            raise ValueError(f"image of {image.shape[:2]} and target of {target.shape[:2]} pixels differ in size")
        self.image, self.target, self.recolour, self.sensor = image, target, recolour, sensor
        self.placement = Placement(*image.shape[:2]) if placement is None else placement
        self.height, self.width = self.placement.height, self.placement.width

    def first(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        part = inside(box, self.height, self.width)
        if self.sensor is None:
            image = self._coloured(part)
        else:
            image = self.sensor(self._coloured, part, self.height, self.width)
        return pad_image(image, box), pad_target(nearest(self.target, self.placement, part), box)

    def second(self, box: Box) -> np.ndarray:
        raise ValueError("a single image has no second view")

    def _coloured(self, part: Box) -> np.ndarray:
        return _recoloured(render(self.image, self.placement, part), self.recolour)


def augmented_view(
    image: np.ndarray, target: np.ndarray, augmentation: ImageAugmentation | None, rng: np.random.Generator
) -> tuple[ImageSample, float]:
    """A randomly varied view (None: the plain image), and the scale it is resized by: the geometric mean of its two sides'."""
    if augmentation is None:
        return ImageSample(image, target), 1.0
    placement, recolour, sensor, scale = augmentation.draw(rng, *image.shape[:2])
    return ImageSample(image, target, placement, recolour, sensor), scale


# ------------------------------------------------------------------------------------------------------ pairs of frames


class FlowSample:
    """Two frames and the flow from the first to the second, seen through `view` (default: as stored).

    Images are rendered as in `ImageSample`; flow is that between the views, see `flow_between`. A window is the same crop
    of the whole view, bit for bit.
    """

    def __init__(
        self,
        image1: np.ndarray,
        image2: np.ndarray,
        flow: np.ndarray,
        occluded: np.ndarray | None = None,
        view: FlowView | None = None,
    ) -> None:
        """
        Args:
            image1, image2: uint8 (H, W, 3).
            flow: float32 (H, W, 2) in pixels of the images, NaN where unknown. Of (2 H, 2 W, 2), as Spring's, every
                second pixel is taken.
            occluded: bool (H, W), or (2 H, 2 W) likewise: the first frame's content isn't visible in the second.
        """
        size = image1.shape[:2]
        flow = _of_size(flow, size)
        occluded = None if occluded is None else _of_size(occluded, size).astype(bool, copy=False)
        arrays = (image1, image2, flow) if occluded is None else (image1, image2, flow, occluded)
        if any(array.shape[:2] != size for array in arrays):
            sizes = ", ".join(f"{a.shape[0]}x{a.shape[1]}" for a in arrays)
            names = "the two frames and the flow" if occluded is None else "the two frames, the flow and the occlusion"
            raise ValueError(f"{names} differ in size: {sizes}")
        self.image1, self.image2, self.occluded = image1, image2, occluded
        self.flow = np.ascontiguousarray(flow, np.float32)
        self.view = FlowView(Placement(*size), Placement(*size)) if view is None else view
        self.height, self.width = self.view.first.height, self.view.first.width

    def first(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        part = inside(box, self.height, self.width)
        image = _recoloured(render(self.image1, self.view.first, part), self.view.colours[0])
        return pad_image(image, box), pad_target(self._flow(part), box)

    def second(self, box: Box) -> np.ndarray:
        part = inside(box, self.height, self.width)
        image = self._erase(render(self.image2, self.view.second, part), part)
        return pad_image(_recoloured(image, self.view.colours[1]), box)

    def occlusion(self, box: Box) -> np.ndarray:
        """bool (h, w): the first view's content isn't visible in the second; True outside the frame.

        That is what `occluded` marks, what was erased, and what leaves the frame if the second view lies elsewhere than the
        first. Raises ValueError for a pair without `occluded`.
        """
        if self.occluded is None:
            raise ValueError("this pair of frames has no occlusion mask")
        part = inside(box, self.height, self.width)
        hidden = nearest(self.occluded, self.view.first, part).copy()
        top, left, h, w = part
        flow = self._flow(part)
        column = np.floor(flow[..., 0] + np.arange(left, left + w) + 0.5)
        row = np.floor(flow[..., 1] + np.arange(top, top + h)[:, None] + 0.5)
        for y, x, height, width in self.view.erased:
            hidden |= (row >= y) & (row < y + height) & (column >= x) & (column < x + width)
        if self.view.first != self.view.second:
            hidden |= (row < 0) | (row >= self.height) | (column < 0) | (column >= self.width)
        return pad_target(hidden, box)

    def _flow(self, part: Box) -> np.ndarray:
        return flow_between(self.flow, self.view.first, self.view.second, part)

    def _erase(self, image: np.ndarray, part: Box) -> np.ndarray:
        """Fills the erased boxes with the stored second frame's mean colour."""
        boxes = [(y - part[0], x - part[1], height, width) for y, x, height, width in self.view.erased]
        pieces = [(slice(max(y, 0), max(y + h, 0)), slice(max(x, 0), max(x + w, 0))) for y, x, h, w in boxes]
        pieces = [piece for piece in pieces if image[piece].size]
        if not pieces:
            return image
        mean = np.rint(cv2.mean(self.image2)[:3]).astype(np.uint8)
        image = np.array(image)  # a copy: it may be the stored frame itself
        for piece in pieces:
            image[piece] = mean
        return image


def _of_size(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Every second pixel of an array of twice the size; others as they are."""
    return array[::2, ::2] if array.shape[:2] == (2 * size[0], 2 * size[1]) else array


def _recoloured(image: np.ndarray, recolour: Recolour | None) -> np.ndarray:
    return image if recolour is None else recolour(np.ascontiguousarray(image))


def augmented_pair(
    image1: np.ndarray,
    image2: np.ndarray,
    flow: np.ndarray,
    augmentation: FlowAugmentation | None,
    rng: np.random.Generator,
    occluded: np.ndarray | None = None,
) -> FlowSample:
    """A randomly varied view of a pair; None is the plain pair. See `FlowSample` for the arrays."""
    view = None if augmentation is None else augmentation.draw(rng, *image1.shape[:2])
    return FlowSample(image1, image2, flow, occluded, view)
