"""What all metrics share: sums of images that add exactly, and the checks of their input."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from winwin_hf.model.pixels_winwin import check_unmasked


class Metric(ABC):
    """Base class: `update` with images one by one, `merge` other metrics, then `compute`.

    Attributes:
        state: the sum of the rows of all images so far, float64.
        row_names: the name of each entry of `state` and of a row.
    """

    row_names: Sequence[str]

    def __init__(self, length: int) -> None:
        self.state = np.zeros(length, dtype=np.float64)

    @abstractmethod
    def row(self, prediction: np.ndarray, target: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        """The sums of one image, float64, none negative; `state` does not change. Further arguments: maps that a metric can use."""

    def fitted(self, prediction: np.ndarray) -> np.ndarray:
        """A method's prediction in the set's terms, where they differ."""
        return prediction

    def update(self, prediction: np.ndarray, target: np.ndarray, *args: Any, **kwargs: Any) -> None:
        """Adds one image; arguments of `row`. Raises ValueError for what is no array of numbers, and for a masked one."""
        beside = {f"map {number}": values for number, values in enumerate(args)}
        for name, values in {"prediction": prediction, "target": target, **beside, **kwargs}.items():
            if values is not None:
                check_numbers(name, values)
        self.state = self.state + self.row(prediction, target, *args, **kwargs)

    def options(self) -> dict[str, Any]:
        """What it was made with."""
        return {name: value for name, value in vars(self).items() if name not in ("state", "row_names")}

    def merge(self, other: Metric) -> None:
        """Adds another metric's images. Raises ValueError if it is not the same metric, or has other options."""
        if type(other) is type(self) and repr(self.options()) != repr(other.options()):
            raise ValueError(f"cannot merge a {type(self).__name__} of {other.options()} into one of {self.options()}")
        if type(other) is not type(self) or other.state.shape != self.state.shape:
            raise ValueError(f"cannot merge {type(other).__name__} of {other.state.shape} into {type(self).__name__}")
        self.state = self.state + other.state

    @abstractmethod
    def compute(self, state: np.ndarray | None = None) -> dict[str, Any]:
        """The scores of `state`, such as one image's row; without it, of all images so far."""


def sum_rows(rows: Iterable[np.ndarray]) -> np.ndarray:
    """The sum of the rows of any number of images (at least one), rounded once: the same bits in any order."""
    whole, fractions = np.zeros(1), defaultdict(list)
    for row in rows:
        floor = np.floor(row)
        whole = whole + floor  # whole numbers below 2^53: exact
        fraction = row - floor
        for i in np.flatnonzero(fraction):
            fractions[i].append(fraction[i])
    for i, values in fractions.items():
        whole[i] = math.fsum([whole[i], *values])
    return whole


def check_same_size(prediction: np.ndarray, target: np.ndarray) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction of shape {prediction.shape} and target of shape {target.shape} differ")


def check_numbers(name: str, values: Any) -> None:
    """Raises ValueError, which names the argument, for an array of NumPy that isn't of real numbers, or masks some of them."""
    check_unmasked(name, values)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        what = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise ValueError(f"{name} is of {what}; expected an array of real numbers")


def check_finite(prediction: np.ndarray, known: np.ndarray, name: str = "prediction") -> None:
    """Raises ValueError where `prediction` (..., H, W), or its square, isn't finite at a pixel of `known` (H, W)."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.square(prediction, dtype=np.float64))
    bad = known & ~finite.reshape(-1, *known.shape).all(axis=0)
    if bad.any():
        y, x = np.argwhere(bad)[0]
        raise ValueError(
            f"{name} isn't finite at {bad.sum()} pixels with known ground truth, first at row {y}, column {x}; "
            "expected a number everywhere"
        )
