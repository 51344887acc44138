"""What a reader hands to the collator: a frame that is looked at through boxes, and two array-backed kinds of it.

What is notable here:
- A `Sample` is asked for boxes, never for the whole frame, so work on pixels (rendering, resizing, jitter) costs in
  proportion to the windows' area. (A PNG or JPEG must still be decoded whole; the synthetic source need not be.)
- `ImageSample` and `FlowSample` are *views*: the augmented frame (resized, flipped, recoloured) exists only where it is
  looked at.
- A box may stick out of the frame at the bottom and right, where the frame is no multiple of the patch: there the image
  repeats its edge and the target is unknown.
- How a view is drawn is in `augmentation.py`, where its pixels come from in `resampling.py`.

Targets: flow float32 (h, w, 2) pixels, NaN unknown; labels uint8 (h, w), 255 ignored; depth float32 (h, w) metres, NaN
unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, Protocol

import cv2
import numpy as np

from winwin_hf.data.augmentation import FlowAugmentation, FlowView, ImageAugmentation, Recolour, Sensor
from winwin_hf.data.formats import IGNORE
from winwin_hf.data.resampling import Box, Placement, flow_between, nearest, render


class Sample(Protocol):
    """One frame (or pair of frames) of `height` x `width` pixels, seen through boxes."""

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
    """The part of a box that lies in the frame. Raises ValueError where there is none or it begins outside."""
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
    """An image with a target per pixel, seen resized to `height` x `width`, mirrored and recoloured (default: as is).

    Images are interpolated linearly, with area averaging where they shrink; targets (labels, depth) take the nearest
    pixel, so no label and no depth is invented between two objects.

    With a `placement` a window is the same crop of the whole view, bit for bit. Without one, as in the recipes that came
    before there were any, it differs in a few of 10,000 pixels by a grey level where the view is resized: OpenCV's
    `warpAffine` rounds from a window's corner.
    """

    def __init__(
        self,
        image: np.ndarray,
        target: np.ndarray,
        height: int | None = None,
        width: int | None = None,
        mirror: bool = False,
        recolour: Recolour | None = None,
        placement: Placement | None = None,
        sensor: Sensor | None = None,
    ) -> None:
        """`image` uint8 (H, W, 3) and `target` (H, W) as stored; the rest describes the view.

        placement: instead of height, width and mirror.
        """
        if image.shape[:2] != target.shape[:2]:
            raise ValueError(f"image of {image.shape[:2]} and target of {target.shape[:2]} pixels differ in size")
        self.image, self.target, self.mirror = image, target, mirror
        self.recolour, self.placement, self.sensor = recolour, placement, sensor
        if placement is not None:
            height, width = placement.height, placement.width
        self.height = image.shape[0] if height is None else height
        self.width = image.shape[1] if width is None else width

    def first(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        part = inside(box, self.height, self.width)
        if self.sensor is None:
            image = self._coloured(part)
        else:
            image = self.sensor(self._coloured, part, self.height, self.width)
        return pad_image(image, box), pad_target(self._target(part), box)

    def second(self, box: Box) -> np.ndarray:
        raise ValueError("a single image has no second view")

    def _coloured(self, part: Box) -> np.ndarray:
        image = self._resized(part) if self.placement is None else render(self.image, self.placement, part)
        return image if self.recolour is None else self.recolour(np.ascontiguousarray(image))

    def _target(self, part: Box) -> np.ndarray:
        if self.placement is not None:
            return nearest(self.target, self.placement, part)
        top, left, h, w = part
        stored_h, stored_w = self.image.shape[:2]
        # nearest stored pixel of each row and column; a mirrored column counts from the right
        rows = np.minimum(((np.arange(top, top + h) + 0.5) * (stored_h / self.height)).astype(int), stored_h - 1)
        columns = np.minimum(((np.arange(left, left + w) + 0.5) * (stored_w / self.width)).astype(int), stored_w - 1)
        return self.target[np.ix_(rows, stored_w - 1 - columns if self.mirror else columns)]

    def _resized(self, part: Box) -> np.ndarray:
        """The part of the resized frame, computed from the stored pixels beneath it only."""
        top, left, h, w = part
        stored_h, stored_w = self.image.shape[:2]
        if (stored_h, stored_w) == (self.height, self.width):  # no resizing: exact pixels
            left = self.width - left - w if self.mirror else left
            return self.image[top : top + h, left : left + w][:, :: -1 if self.mirror else 1]
        step_y, step_x = stored_h / self.height, stored_w / self.width  # stored pixels for one pixel of the view
        # linear interpolation looks at 2x2 pixels: where the image shrinks, render k times too large, then average
        k = max(ceil(step_y - 1e-6), ceil(step_x - 1e-6), 1)
        # pixel i of the k times larger view has its centre at (left + (i + 0.5) / k) * step - 0.5 of the stored image
        scale_x, shift_x = step_x / k, (left + 0.5 / k) * step_x - 0.5
        scale_y, shift_y = step_y / k, (top + 0.5 / k) * step_y - 0.5
        if self.mirror:
            scale_x, shift_x = -scale_x, stored_w - 1 - shift_x
        matrix = np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(self.image, matrix, (w * k, h * k), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA) if k > 1 else image


def augmented_view(
    image: np.ndarray, target: np.ndarray, augmentation: ImageAugmentation | None, rng: np.random.Generator
) -> tuple[ImageSample, float]:
    """A randomly resized, mirrored and recoloured view, and the scale it was resized by; None is the plain image, 1.

    A stretched view's scale is the geometric mean of its two sides': depth is divided by that.
    """
    if augmentation is None:
        return ImageSample(image, target), 1.0
    if augmentation.extended:
        placement, recolour, sensor, scale = augmentation.draw_view(rng, *image.shape[:2])
        return ImageSample(image, target, recolour=recolour, placement=placement, sensor=sensor), scale
    scale, mirror, recolour = augmentation.draw(rng)
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return ImageSample(image, target, height, width, mirror, recolour), scale


# ------------------------------------------------------------------------------------------------------ pairs of frames


class FlowSample:
    """Two frames and the flow from the first to the second, seen as `view` says (default: as they are).

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
            occluded: bool (H, W), or (2 H, 2 W) likewise: what the first frame shows can't be seen in the second.
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
        """bool (h, w): what the first view shows is not to be seen in the second; True outside the frame.

        Hidden is what `occluded` says, what was erased, and, if the second view lies elsewhere than the first, what that
        puts outside. Raises ValueError where the pair has no `occluded`.
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
        """Fill what lies in erased boxes with the stored second frame's mean colour."""
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
