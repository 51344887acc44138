"""Means, medians and ranges over seeds, as numbers and as text. Values that are None or not finite are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def known(values: Sequence[float | None]) -> list[float]:
    """The values that are there and finite."""
    return [value for value in values if value is not None and math.isfinite(value)]


def mean(values: Sequence[float | None]) -> float:
    """NaN if none is known."""
    return float(np.mean(known(values) or [math.nan]))


def median(values: Sequence[float | None]) -> float:
    """NaN if none is known."""
    return float(np.median(known(values) or [math.nan]))


def median_text(values: Sequence[float | None], digits: int, factor: float = 1) -> str:
    """The median times `factor`; "-" if no value is known."""
    return f"{median(values) * factor:.{digits}f}" if known(values) else "-"


def plus_minus(values: Sequence[float | None], digits: int = 1) -> str:
    """
    "31.2 ± 0.4": the mean and half the range. One value has no range; "-" if no value is known.

    With three seeds a standard deviation would claim too much.
    """
    found = known(values)
    if not found:
        return "-"
    text = f"{sum(found) / len(found):.{digits}f}"
    return text if len(found) == 1 else f"{text} ± {(max(found) - min(found)) / 2:.{digits}f}"


def seeds_text(counts: Sequence[int]) -> str:
    """ "3 seeds", "1 seed", or "1 to 3 seeds" where kinds differ."""
    low, high = min(counts, default=0), max(counts, default=0)
    many = f"{low} to {high}" if low != high else str(high)
    return f"{many} seed{'' if (low, high) == (1, 1) else 's'}"
