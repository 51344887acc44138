"""Guesses of the flow, like those of a first pass at half the size, to train networks that start from one. Source: ours.

At test time such a pass gives the initial flow (`coarse_flow` in inference/flow.py). Its flow is blurred at the edges of objects, has small
errors everywhere and large ones in places, and at times misses a small object, which then seems to move with its surroundings.
No bundled checkpoint was trained with guesses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from winwin_hf.checked import FORBID, check_fields, check_order
from winwin_hf.model.losses_winwin import UNKNOWN_FLOW
from winwin_hf.windows import robust_mean

CELL = 32  # pixels between two independent errors
Deviation = Annotated[float, Field(gt=0, le=1000)]


@dataclass(frozen=True)
class GuessStrategy:
    """How the true flow is degraded until it is a guess, such as a coarser pass would give."""

    probability: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the examples that get a guess; the others have none, as in a single pass. 0: no "
            "guesses.",
        ),
    ] = 0.0
    blur: Annotated[
        float, Field(ge=0, le=1000, description="Largest radius of the average over the true flow, pixels.")
    ] = 24.0
    miss: Annotated[
        tuple[Deviation, Deviation],
        Field(description="Smallest and largest standard deviation of the smooth error that is added, pixels."),
    ] = (0.25, 8.0)
    lost: Annotated[
        float, Field(ge=0, le=1, description="Probability that a window's guess is its most frequent motion alone.")
    ] = 0.3

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        check_fields(self)
        check_order(self, "miss")

    def __call__(self, targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Guesses for one example's windows, float32 (N, h, w, 2). targets: their true flows, unknown where NaN or huge."""
        if rng.random() >= self.probability:
            return np.zeros(targets.shape, np.float32)
        return np.stack([self._guess(target, rng) for target in targets])

    def _guess(self, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        motion = np.nan_to_num(robust_mean(target)).astype(np.float32)  # zero where nothing is known
        known = (np.abs(target) < UNKNOWN_FLOW).all(axis=-1, keepdims=True)
        guess = np.where(known, target, motion).astype(np.float32)
        radius, lost = round(rng.uniform(0, self.blur)), rng.random() < self.lost
        if lost:
            guess[:] = motion
        elif radius:
            cv2.blur(guess, (2 * radius + 1,) * 2, guess, borderType=cv2.BORDER_REPLICATE)
        height, width = guess.shape[:2]
        deviation = math.exp(rng.uniform(math.log(self.miss[0]), math.log(self.miss[1])))
        cells = rng.normal(0, deviation, (height // CELL + 2, width // CELL + 2, 2)).astype(np.float32)
        return guess + cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
