"""Random variation of frames in training: the settings of recipes (`ImageAugmentation`, `FlowAugmentation`) and the draws.

What is notable here:
- `draw` takes a generator and the frame's size, and returns a fixed description. Pixels are computed later, in the windows only
  (`sample.py`), from a pixel's place and value, so all windows of a frame agree.
- `FlowAugmentation`'s defaults follow RAFT's augmentor for dense flow (Teed and Deng 2020), whose trainings differ in
  `scale`; but factors of brightness and the like are log-uniform, contrast is about mid-grey, hue turns in YIQ and the
  eraser's rectangles are measured in the augmented frame. The rest is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from winwin_hf.checked import FORBID, check_fields, check_order
from winwin_hf.data.resampling import Box, Placement, place

# RGB -> YIQ: Y is the luma of ITU-R BT.601, I and Q span the colours of no luma
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_BLOCK = 64  # side of the blocks in which noise is made


# ------------------------------------------------------------------------------------------------------------ colours


@dataclass(frozen=True)
class Recolour:
    """A fixed change of colours. It depends on no statistics of the pixels, so all windows of an image get the same one."""

    brightness: float = 1.0
    contrast: float = 1.0  # about mid-grey
    saturation: float = 1.0
    gamma: float = 1.0
    hue: float = 0.0  # turns of the colour circle; luma and greys stay

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB (h, w, 3) -> the same."""
        grey = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601
        mix = self.saturation * np.eye(3, dtype=np.float32) + (1 - self.saturation) * grey[None, :]
        if self.hue:
            mix = (mix @ _hue_turn(self.hue)).astype(np.float32)
        levels = np.arange(256) / 255.0
        curve = ((levels**self.gamma * self.brightness - 0.5) * self.contrast + 0.5) * 255.0
        table = np.clip(np.rint(curve), 0, 255).astype(np.uint8)
        return cv2.LUT(cv2.transform(image, mix), table)


def _hue_turn(turns: float) -> np.ndarray:
    """RGB -> RGB (3, 3), a turn of the plane of I and Q."""
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    return np.linalg.inv(_YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _YIQ


@dataclass(frozen=True)
class Sensor:
    """A Gaussian blur of standard deviation `blur` pixels, then normal noise of standard deviation `noise` grey levels.

    A pixel's noise depends on `seed` and its place in the frame.
    """

    blur: float = 0.0
    noise: float = 0.0
    seed: int = 0

    def __call__(self, render: Callable[[Box], np.ndarray], box: Box, height: int, width: int) -> np.ndarray:
        """The blurred and noisy box of `render`'s frame of `height` x `width` pixels, in which it lies: uint8 (h, w, 3)."""
        top, left, h, w = box
        reach = math.ceil(3 * self.blur)
        y, x = max(0, top - reach), max(0, left - reach)
        image = render((y, x, min(height, top + h + reach) - y, min(width, left + w + reach) - x))
        if reach:
            side = 2 * reach + 1
            image = cv2.GaussianBlur(image, (side, side), self.blur, borderType=cv2.BORDER_REPLICATE)
            image = image[top - y : top - y + h, left - x : left - x + w]
        if self.noise:
            image = np.clip(np.rint(image + self.noise * self._deviates(box)), 0, 255).astype(np.uint8)
        return image

    def _deviates(self, box: Box) -> np.ndarray:
        """Standard normal deviates of the box, float32 (h, w, 3). Each block has its own generator."""
        top, left, h, w = box
        rows = range(top // _BLOCK, (top + h - 1) // _BLOCK + 1)
        columns = range(left // _BLOCK, (left + w - 1) // _BLOCK + 1)
        shape = (_BLOCK, _BLOCK, 3)
        blocks = [
            [np.random.default_rng([self.seed, r, c]).standard_normal(shape, np.float32) for c in columns] for r in rows
        ]
        whole = np.concatenate([np.concatenate(line, axis=1) for line in blocks])
        y, x = top - rows[0] * _BLOCK, left - columns[0] * _BLOCK
        return whole[y : y + h, x : x + w]


def _draw_recolour(rng: np.random.Generator, factors: tuple[float, float, float, float], hue: float) -> Recolour:
    """factors: x of brightness, contrast, saturation and gamma, which are drawn from [1 / (1 + x), 1 + x]; hue from [-hue, hue]."""
    ranges = np.log1p(factors)
    recolour = Recolour(*np.exp(rng.uniform(-ranges, ranges)).tolist())
    return replace(recolour, hue=float(rng.uniform(-hue, hue))) if hue else recolour


def _at_least(factors: tuple[float, float], height: int, width: int, least: tuple[int, int] | None) -> list[float]:
    """Scales of (height, width), raised to the one at which the frame just has `least` pixels."""
    floor = 0.0 if least is None else max(least[0] / height, least[1] / width)
    return [max(factor, floor) for factor in factors]


# ------------------------------------------------------------------------------------------------------ single images


Pixels = Annotated[int, Field(ge=1, le=16_384)]  # a side
Factor = Annotated[float, Field(gt=0, le=100)]
Exponent = Annotated[float, Field(ge=-6, le=6)]
Count = Annotated[int, Field(ge=1, le=1000)]
# Fields of both kinds of augmentation.
FACTOR = "by a log-uniform factor in [1 / (1 + x), 1 + x]"
Brightness = Annotated[float, Field(ge=0, le=100, description=f"x: brightness changes {FACTOR}.")]
Contrast = Annotated[float, Field(ge=0, le=100, description=f"x: contrast, about mid-grey, changes {FACTOR}.")]
Saturation = Annotated[float, Field(ge=0, le=100, description=f"x: saturation changes {FACTOR}.")]
Gamma = Annotated[float, Field(ge=0, le=100, description=f"x: gamma changes {FACTOR}.")]
Hue = Annotated[
    float, Field(ge=0, le=0.5, description="Largest turn of the colour circle, either way; 0.5: the whole circle.")
]
Least = Annotated[
    tuple[Pixels, Pixels] | None,
    Field(
        description="(height, width) in pixels that a frame has at least: smaller ones are enlarged, so that windows "
        "fit."
    ),
]


@dataclass(frozen=True)
class ImageAugmentation:
    """How single images are varied in training: the `settings` of depth and segmentation sets in a recipe."""

    flip: Annotated[float, Field(ge=0, le=1, description="Probability of a horizontal mirror.")] = 0.5
    scale: Annotated[
        tuple[Factor, Factor],
        Field(description="(lowest, highest) factor, drawn log-uniformly, so halving is as likely as doubling."),
    ] = (0.75, 2.0)
    brightness: Brightness = 0.25
    contrast: Contrast = 0.25
    saturation: Saturation = 0.4
    gamma: Gamma = 0.2
    stretch: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            description="Largest change x of the aspect ratio, a log-uniform factor in [1 / (1 + x), 1 + x]; the "
            "area stays that of `scale`.",
        ),
    ] = 0.0
    rotate: Annotated[
        float,
        Field(
            ge=0,
            le=360,
            description="Largest turn about the centre, degrees, either way. What lies outside the image repeats its "
            "edge and is unknown in the target.",
        ),
    ] = 0.0
    hue: Hue = 0.0
    blur: Annotated[float, Field(ge=0, le=1, description="Probability of a Gaussian blur.")] = 0.0
    blur_sigma: Annotated[
        tuple[Factor, Factor], Field(description="(smallest, largest) standard deviation of the blur, pixels.")
    ] = (0.3, 1.5)
    noise: Annotated[
        float,
        Field(
            ge=0, le=255, description="Largest standard deviation of normal noise, grey levels; drawn uniformly from 0."
        ),
    ] = 0.0
    least: Least = None

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        check_fields(self)
        check_order(self, "scale", "blur_sigma")

    def draw(
        self, rng: np.random.Generator, height: int, width: int
    ) -> tuple[Placement, Recolour, Sensor | None, float]:
        """(placement, colour change, blur and noise, scale) of an image of `height` x `width` pixels.

        The scale is the geometric mean of both sides'. The sensor is None where there is neither blur nor noise.
        """
        scale = float(np.exp(rng.uniform(*np.log(self.scale))))
        mirror = bool(rng.random() < self.flip)
        recolour = _draw_recolour(rng, (self.brightness, self.contrast, self.saturation, self.gamma), self.hue)
        aspect = math.exp(rng.uniform(-1, 1) * math.log1p(self.stretch) / 2)
        degrees = self.rotate * rng.uniform(-1, 1)
        blurred, sigma = rng.random() < self.blur, rng.uniform(*self.blur_sigma)
        sensor = Sensor(float(sigma) if blurred else 0.0, self.noise * rng.random(), int(rng.integers(2**63)))
        down, right = _at_least((scale / aspect, scale * aspect), height, width, self.least)
        size = max(1, round(height * down)), max(1, round(width * right))
        placement = place((height, width), size, mirror, degrees=degrees)
        return placement, recolour, sensor if sensor.blur or sensor.noise else None, math.sqrt(down * right)


# ------------------------------------------------------------------------------------------------------ pairs of frames


@dataclass(frozen=True)
class FlowView:
    """One augmentation of a pair. Its two frames have one size.

    first, second: where each frame's pixels come from. colours: of each. erased: boxes of the second frame that show its mean
    colour.
    """

    first: Placement
    second: Placement
    colours: tuple[Recolour | None, Recolour | None] = (None, None)
    erased: tuple[Box, ...] = ()


@dataclass(frozen=True)
class FlowAugmentation:
    """How pairs of frames are varied in training: the `settings` of flow and stereo sets in a recipe."""

    scale: Annotated[tuple[Exponent, Exponent], Field(description="(lowest, highest) exponent of two.")] = (-0.2, 0.5)
    scale_probability: Annotated[float, Field(ge=0, le=1, description="Share of the pairs that are resized.")] = 0.8
    stretch: Annotated[
        float, Field(ge=0, le=6, description="Each side's own factor is 2^x with x in [-stretch, stretch].")
    ] = 0.2
    stretch_probability: Annotated[
        float, Field(ge=0, le=1, description="Share of the resized pairs that are stretched.")
    ] = 0.8
    flip: Annotated[float, Field(ge=0, le=1, description="Probability of a horizontal mirror.")] = 0.5
    flip_vertical: Annotated[float, Field(ge=0, le=1, description="Probability of a vertical mirror.")] = 0.1
    brightness: Brightness = 0.4
    contrast: Contrast = 0.4
    saturation: Saturation = 0.4
    gamma: Gamma = 0.0
    hue: Hue = 0.16
    asymmetric: Annotated[
        float, Field(ge=0, le=1, description="Share of the pairs whose frames change colours independently.")
    ] = 0.2
    erase: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Probability that rectangles of the second frame show its mean colour. The flow of what they "
            "hide stays.",
        ),
    ] = 0.5
    erase_count: Annotated[tuple[Count, Count], Field(description="(fewest, most) rectangles.")] = (1, 2)
    erase_size: Annotated[
        tuple[Pixels, Pixels],
        Field(description="(shortest, longest) side of a rectangle, pixels of the augmented frame."),
    ] = (50, 100)
    shift: Annotated[
        float,
        Field(
            ge=0,
            le=10_000,
            description="Largest extra shift of the second frame, pixels, either way. The flow includes it; the "
            "frame's edge is repeated.",
        ),
    ] = 0.0
    turn: Annotated[
        float,
        Field(
            ge=0,
            le=360,
            description="Largest extra turn of the second frame about its centre, degrees, either way. The flow "
            "includes it.",
        ),
    ] = 0.0
    least: Least = None

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        check_fields(self)
        check_order(self, "scale", "erase_count", "erase_size")

    def draw(self, rng: np.random.Generator, height: int, width: int) -> FlowView:
        """One augmentation of a pair of frames of `height` x `width` pixels."""
        resized, stretched = rng.random(2) < (self.scale_probability, self.stretch_probability)
        exponents = rng.uniform(*self.scale) + stretched * self.stretch * rng.uniform(-1, 1, 2)
        down, right = (2.0**exponents).tolist() if resized else (1.0, 1.0)
        down, right = _at_least((down, right), height, width, self.least)
        size = max(1, round(height * down)), max(1, round(width * right))
        mirror, upside_down = (rng.random(2) < (self.flip, self.flip_vertical)).tolist()
        x, y, turn = (rng.uniform(-1, 1, 3) * (self.shift, self.shift, self.turn)).tolist()
        first = place((height, width), size, mirror, upside_down)
        second = place((height, width), size, mirror, upside_down, turn, (x, y))
        factors = (self.brightness, self.contrast, self.saturation, self.gamma)
        colours = _draw_recolour(rng, factors, self.hue), _draw_recolour(rng, factors, self.hue)
        if rng.random() >= self.asymmetric:
            colours = colours[0], colours[0]
        erased = tuple(self._rectangle(rng, size) for _ in range(self._erasures(rng)))
        return FlowView(first, second, colours, erased)

    def _erasures(self, rng: np.random.Generator) -> int:
        count = int(rng.integers(*self.erase_count, endpoint=True))
        return count if rng.random() < self.erase else 0

    def _rectangle(self, rng: np.random.Generator, size: tuple[int, int]) -> Box:
        """Begins anywhere in the frame, and is cut off at its end."""
        top, left = (int(rng.integers(side)) for side in size)
        h, w = rng.integers(*self.erase_size, endpoint=True, size=2).tolist()
        return top, left, min(h, size[0] - top), min(w, size[1] - left)
