"""Scores of metric depth, as the field reports them on NYUv2 and KITTI."""

from __future__ import annotations

import math

import numpy as np

from winwin_hf.evaluation.metrics.base import Metric, check_finite, check_same_size

NAMES = ("images", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")


class DepthMetric(Metric):
    """
    Scores of depth (Eigen et al. 2014): each per image, then the mean over the images with known pixels (BTS, AdaBins, KITTI).

    With p the prediction, t the truth, d = log p - log t, and means over an image's scored pixels:
    abs_rel: mean |p - t| / t. sq_rel: mean (p - t)^2 / t, metres (KITTI's server divides by t^2). rmse: sqrt(mean (p - t)^2),
    metres. rmse_log: sqrt(mean d^2). log10: mean |log10 p - log10 t|. silog: 100 sqrt(mean d^2 - (mean d)^2), KITTI's. delta1 to
    delta3: percent of pixels with max(p / t, t / p) < 1.25^k; higher is better, for all others lower.

    A mean over all pixels of all images would weigh an image by its number of known pixels; where those are sparse, it differs.

    Args:
        min_depth, max_depth: metres. Ground truth outside is unknown; the prediction is clipped to them, after `align`.
        crop: score only the pixels inside: "eigen" (NYUv2: rows 45 to 470 and columns 41 to 600 of 480 x 640, in proportion for
            other sizes) or "garg" (KITTI, Garg et al. 2016: fractions of the height and the width).
        align: fit the prediction to the truth first, over the image's scored pixels: "median" (scale it so that the medians agree,
            Zhou et al. 2017) or "least-squares" (scale and shift of the *depth*; Ranftl et al. 2020 fit disparity instead).
    """

    row_names = NAMES

    def __init__(
        self,
        min_depth: float = 1e-3,
        max_depth: float = float("inf"),
        crop: str | None = None,
        align: str | None = None,
    ) -> None:
        super().__init__(len(NAMES))
        if (
            not all(
                isinstance(depth, int | float | np.number) and not isinstance(depth, bool)
                for depth in (min_depth, max_depth)
            )
            or not 0 < min_depth < max_depth
        ):
            raise ValueError(
                f"min_depth is {min_depth!r} and max_depth {max_depth!r}; expected 0 < min_depth < max_depth"
            )
        if align not in (None, "median", "least-squares"):
            raise ValueError(f"align is {align!r}; expected 'median', 'least-squares' or None")
        if crop not in (None, "eigen", "garg"):
            raise ValueError(f"crop is {crop!r}; expected 'eigen', 'garg' or None")
        self.min_depth, self.max_depth, self.crop, self.align = min_depth, max_depth, crop, align

    def row(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The scores of one image (delta1 to delta3 as shares), after a 1; zeros where nothing is known. Arguments of `compared`."""
        known, guess = self.compared(prediction, target)
        if not guess.size:
            return np.zeros(len(NAMES))
        truth = target[known].astype(np.float64)
        difference, ratio = guess - truth, np.maximum(guess / truth, truth / guess)
        log = np.log(guess) - np.log(truth)
        scores = (
            1,
            np.mean(np.abs(difference) / truth),
            np.mean(difference**2 / truth),
            np.sqrt(np.mean(difference**2)),
            np.sqrt(np.mean(log**2)),
            np.mean(np.abs(log)) / math.log(10),
            100 * np.std(log),
            *(np.mean(ratio < 1.25**k) for k in (1, 2, 3)),
        )
        return np.array(scores, dtype=np.float64)

    def compute(self, state: np.ndarray | None = None) -> dict[str, float]:
        """abs_rel, sq_rel, rmse, rmse_log, log10, silog, delta1, delta2 and delta3; NaN where nothing was known."""
        state = self.state if state is None else state
        images = state[0] if state[0] else np.nan
        scores = dict(zip(NAMES[1:], (state[1:] / images).tolist(), strict=True))
        return {name: 100 * value if name.startswith("delta") else value for name, value in scores.items()}

    def compared(self, prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        The pixels that are scored, bool (H, W), and the aligned and clipped prediction there, metres, float64 (number of pixels,).

        Args:
            prediction, target: metres (H, W); the target is unknown where it isn't finite.
        Raises:
            ValueError: sizes that don't fit, a prediction that isn't finite at a scored pixel, or one whose median isn't positive
                with align="median".
        """
        check_same_size(prediction, target)
        if target.ndim != 2:
            raise ValueError(f"target of shape {target.shape}; expected depth (H, W)")
        known = np.isfinite(target) & (target >= self.min_depth) & (target <= self.max_depth)
        if self.crop is not None:
            inside = np.zeros(target.shape, dtype=bool)
            inside[_crop_slices(self.crop, *target.shape)] = True
            known &= inside
        check_finite(prediction, known)
        guess, truth = prediction[known].astype(np.float64), target[known].astype(np.float64)
        if self.align == "median" and guess.size:
            median = np.median(guess)
            if median <= 0:
                raise ValueError(f"the prediction's median is {median} m; only a positive one can be scaled to agree")
            guess *= np.median(truth) / median
        elif self.align == "least-squares" and guess.size:
            centred = guess - guess.mean()
            spread = centred @ centred
            scale = centred @ truth / spread if spread > 0 else 0.0
            guess = scale * centred + truth.mean()
        return known, np.clip(guess, self.min_depth, self.max_depth)


def _crop_slices(name: str, height: int, width: int) -> tuple[slice, slice]:
    if name == "eigen":
        return slice(45 * height // 480, 471 * height // 480), slice(41 * width // 640, 601 * width // 640)
    rows = slice(int(0.40810811 * height), int(0.99189189 * height))
    return rows, slice(int(0.03594771 * width), int(0.96405229 * width))
