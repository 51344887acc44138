"""The image processor's options: which there are, and what they may be."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

# Lowest and highest value of the options that are numbers, and numpy's letters of their types.
NUMBERS: dict[str, tuple[float, float, str]] = {
    "image_mean": (-1e6, 1e6, "iuf"),
    "image_std": (1e-6, 1e6, "iuf"),
    "rescale_factor": (1e-9, 1e6, "iuf"),
    "patch_size": (1, 4096, "iu"),
    "min_pixels": (0, 1e9, "iu"),
    "ignore_index": (-(2**31), 2**31, "iu"),
    "resample": (0, 5, "iu"),
    "size": (1, 65_536, "iuf"),
}
FLAGS = ("do_resize", "do_rescale", "do_normalize", "do_pad")
QUALITIES = ("fast", "best")
MEDIAN_SIZES = (3, 5)  # that OpenCV has for float32
RESIZING = ("do_resize", "size", "min_pixels", "quality", "do_pad", "patch_size")  # options that decide about sizes


def check_resizing(options: Mapping[str, Any]) -> None:
    """Raises TypeError for an option that isn't one of `RESIZING`."""
    if unknown := set(options) - set(RESIZING):
        raise TypeError(f"unexpected options {sorted(unknown)}; expected some of {', '.join(RESIZING)}.")


def check_quality(quality: Any) -> None:
    """Raises ValueError where it is none of QUALITIES, and not None."""
    if quality is not None and (not isinstance(quality, str) or quality not in QUALITIES):
        raise ValueError(f"quality {str(quality)[:80]!r}: expected {' or '.join(QUALITIES)}.")


def check_settings(options: Mapping[str, Any]) -> None:
    """Raises ValueError for an option of `NUMBERS` that isn't numbers in its range, one of `FLAGS` that is neither true nor false, and an
    unknown quality or filter. None is left to the methods."""
    check_quality(options.get("quality"))
    for name in FLAGS:
        if not isinstance(options.get(name), bool | np.bool_ | None):
            raise ValueError(f"{name}={repr(options[name])[:80]}: expected true or false.")
    side = options.get("median_size")
    if side is not None and (
        isinstance(side, bool) or not isinstance(side, Integral) or side not in (0, *MEDIAN_SIZES)
    ):
        raise ValueError(f"median_size={repr(side)[:80]}: expected 0 (no filter), 3 or 5.")
    for name, (low, high, kinds) in NUMBERS.items():
        value: Any = options.get(name)
        sized = name == "size" and (
            isinstance(value, Mapping) or hasattr(value, "longest_edge")
        )  # transformers' SizeDict
        parts = dict(value) if sized else {name: value}
        for part in () if value is None else parts.values():
            numbers = np.asarray(part)
            if name in ("image_mean", "image_std") and numbers.size not in (1, 3):
                raise ValueError(f"{name}={str(value)[:80]}: expected one number, or three.")
            if numbers.dtype.kind not in kinds or not numbers.size or not ((numbers >= low) & (numbers <= high)).all():
                what = "whole numbers" if "f" not in kinds else "numbers"
                raise ValueError(
                    f"{name}={str(parts if sized else value)[:80]}: expected {what} from {low:g} to {high:g}."
                )
