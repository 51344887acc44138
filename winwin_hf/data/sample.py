"""What a reader hands to the collator: a frame that is looked at through boxes, and two array-backed kinds of it.

What is notable here:
- A `Sample` is asked for boxes, never for the whole frame, so work on pixels (rendering, resizing, jitter) costs in
  proportion to the windows' area. (A PNG or JPEG must still be decoded whole; the synthetic source need not be.)
- `ImageSample` is a *view*: the augmented frame (resized, flipped, recoloured) exists only where it is looked at.
- A box may stick out of the frame at the bottom and right, where the frame is no multiple of the patch: there the image
  repeats its edge and the target is unknown.

Targets: flow float32 (h, w, 2) pixels, NaN unknown; labels uint8 (h, w), 255 ignored; depth float32 (h, w) metres, NaN
unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Protocol

import cv2
import numpy as np

IGNORE = 255  # the label of pixels that do not count
Box = tuple[int, int, int, int]  # (top, left, height, width) in pixels of the full frame


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


# ------------------------------------------------------------------------------------------------------- augmentation


@dataclass(frozen=True)
class ImageAugmentation:
    """How single images are varied in training; plain fields for recipes.

    flip: probability of a horizontal mirror. scale: (lowest, highest) factor, drawn log-uniformly, so halving is as
    likely as doubling. brightness, contrast, saturation, gamma: each a factor in [1 / (1 + x), 1 + x], log-uniform.
    """

    flip: float = 0.5
    scale: tuple[float, float] = (0.75, 2.0)
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.4
    gamma: float = 0.2

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not (0 < self.scale[0] <= self.scale[1] and 0 <= self.flip <= 1):
            raise ValueError(f"expected 0 < scale[0] <= scale[1] and 0 <= flip <= 1, got {self.scale} and {self.flip}")
        if min(self.brightness, self.contrast, self.saturation, self.gamma) < 0:
            raise ValueError("brightness, contrast, saturation and gamma must not be negative")

    def draw(self, rng: np.random.Generator) -> tuple[float, bool, Recolour]:
        """(scale factor, mirror or not, colour change) of one image."""
        scale = float(np.exp(rng.uniform(*np.log(self.scale))))
        mirror = bool(rng.random() < self.flip)
        ranges = np.log1p([self.brightness, self.contrast, self.saturation, self.gamma])
        return scale, mirror, Recolour(*np.exp(rng.uniform(-ranges, ranges)).tolist())


@dataclass(frozen=True)
class Recolour:
    """A fixed change of colours, the same in all windows of an image: it depends on no statistics of what is shown."""

    brightness: float = 1.0
    contrast: float = 1.0  # about mid-grey
    saturation: float = 1.0
    gamma: float = 1.0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB (h, w, 3) -> the same."""
        grey = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601
        mix = self.saturation * np.eye(3, dtype=np.float32) + (1 - self.saturation) * grey[None, :]
        levels = np.arange(256) / 255.0
        curve = ((levels**self.gamma * self.brightness - 0.5) * self.contrast + 0.5) * 255.0
        table = np.clip(np.rint(curve), 0, 255).astype(np.uint8)
        return cv2.LUT(cv2.transform(image, mix), table)


# ------------------------------------------------------------------------------------------------------------- samples


class ImageSample:
    """An image with a target per pixel, seen resized to `height` x `width`, mirrored and recoloured (default: as is).

    Images are interpolated linearly, with area averaging where they shrink; targets (labels, depth) take the nearest
    pixel, so no label and no depth is invented between two objects.
    """

    def __init__(
        self,
        image: np.ndarray,
        target: np.ndarray,
        height: int | None = None,
        width: int | None = None,
        mirror: bool = False,
        recolour: Recolour | None = None,
    ) -> None:
        """`image` uint8 (H, W, 3) and `target` (H, W) as stored; the rest describes the view."""
        if image.shape[:2] != target.shape[:2]:
            raise ValueError(f"image of {image.shape[:2]} and target of {target.shape[:2]} pixels differ in size")
        self.image, self.target, self.mirror, self.recolour = image, target, mirror, recolour
        self.height = image.shape[0] if height is None else height
        self.width = image.shape[1] if width is None else width

    def first(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        top, left, h, w = inside(box, self.height, self.width)
        stored_h, stored_w = self.image.shape[:2]
        if (stored_h, stored_w) == (self.height, self.width):  # no resizing: exact pixels
            left = self.width - left - w if self.mirror else left
            step = -1 if self.mirror else 1
            image = self.image[top : top + h, left : left + w][:, ::step]
            target = self.target[top : top + h, left : left + w][:, ::step]
        else:
            image, target = self._render(top, left, h, w)
        image = image if self.recolour is None else self.recolour(np.ascontiguousarray(image))
        return pad_image(image, box), pad_target(target, box)

    def second(self, box: Box) -> np.ndarray:
        raise ValueError("a single image has no second view")

    def _render(self, top: int, left: int, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of the resized frame, computed from the stored pixels beneath it only."""
        stored_h, stored_w = self.image.shape[:2]
        step_y, step_x = stored_h / self.height, stored_w / self.width  # stored pixels for one pixel of the view
        # nearest stored pixel of each row and column; a mirrored column counts from the right
        rows = np.minimum(((np.arange(top, top + h) + 0.5) * step_y).astype(int), stored_h - 1)
        columns = np.minimum(((np.arange(left, left + w) + 0.5) * step_x).astype(int), stored_w - 1)
        # linear interpolation looks at 2x2 pixels: where the image shrinks, render k times too large, then average
        k = max(ceil(step_y - 1e-6), ceil(step_x - 1e-6), 1)
        # pixel i of the k times larger view has its centre at (left + (i + 0.5) / k) * step - 0.5 of the stored image
        scale_x, shift_x = step_x / k, (left + 0.5 / k) * step_x - 0.5
        scale_y, shift_y = step_y / k, (top + 0.5 / k) * step_y - 0.5
        if self.mirror:
            columns = stored_w - 1 - columns
            scale_x, shift_x = -scale_x, stored_w - 1 - shift_x
        matrix = np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(self.image, matrix, (w * k, h * k), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        if k > 1:
            image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
        return image, self.target[np.ix_(rows, columns)]


def augmented_view(
    image: np.ndarray, target: np.ndarray, augmentation: ImageAugmentation | None, rng: np.random.Generator
) -> tuple[ImageSample, float]:
    """A randomly resized, mirrored and recoloured view, and the scale it was resized by; None is the plain image, 1."""
    if augmentation is None:
        return ImageSample(image, target), 1.0
    scale, mirror, recolour = augmentation.draw(rng)
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return ImageSample(image, target, height, width, mirror, recolour), scale


class FlowSample:
    """Two frames of one size and the flow from the first to the second, as arrays; no augmentation."""

    def __init__(self, image1: np.ndarray, image2: np.ndarray, flow: np.ndarray) -> None:
        """`image1`, `image2` uint8 (H, W, 3); `flow` float32 (H, W, 2) in pixels, NaN where unknown."""
        if not image1.shape[:2] == image2.shape[:2] == flow.shape[:2]:
            sizes = ", ".join(f"{a.shape[0]}x{a.shape[1]}" for a in (image1, image2, flow))
            raise ValueError(f"the two frames and the flow differ in size: {sizes}")
        self.image1, self.image2, self.flow = image1, image2, flow
        self.height, self.width = image1.shape[:2]

    def first(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        top, left, h, w = inside(box, self.height, self.width)
        view = (slice(top, top + h), slice(left, left + w))
        return pad_image(self.image1[view], box), pad_target(self.flow[view], box)

    def second(self, box: Box) -> np.ndarray:
        top, left, h, w = inside(box, self.height, self.width)
        return pad_image(self.image2[top : top + h, left : left + w], box)
