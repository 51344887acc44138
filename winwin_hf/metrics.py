"""Scores of full frames as sums per image that add exactly, whatever the batches and processes.

What is notable here:
- A `Metric` is its `state`, a flat float64 array: `a.state + b.state` is the metric of both sets of images, so processes
  combine theirs with one reduction. All counts stay exact below 2^53.
- Unknown ground truth (NaN, inf, ignored labels) never counts.
- Outlier percentages are *outliers* (Spring's and KITTI's sense): lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from winwin_hf.windows import UNKNOWN_FLOW


class Metric:
    """Base: `update` with images one by one, `merge` others, `compute` at the end."""

    def __init__(self, length: int) -> None:
        self.state = np.zeros(length, dtype=np.float64)

    def merge(self, other: Metric) -> None:
        """Add another metric's images. Raises ValueError if it is not the same metric."""
        if type(other) is not type(self) or other.state.shape != self.state.shape:
            raise ValueError(f"cannot merge {type(other).__name__} of {other.state.shape} into {type(self).__name__}")
        self.state = self.state + other.state

    def compute(self) -> dict[str, Any]:
        raise NotImplementedError


def _same_size(prediction: np.ndarray, target: np.ndarray) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction of shape {prediction.shape} and target of shape {target.shape} differ")


# -------------------------------------------------------------------------------------------------------- optical flow

FLOW_NAMES = ("n", "epe", "1px", "3px", "fl")


def flow_sums(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Sums over the known pixels of one image. Both arrays: (2, H, W) in pixels; unknown target: NaN, inf, >= 10000 px.

    n: known pixels. epe: sum of end-point errors |prediction - target| (Baker et al. 2011). 1px, 3px: pixels in error by
    more than 1 or 3 px. fl: pixels in error by more than 3 px *and* 5 % of the true length (KITTI 2015).
    """
    _same_size(prediction, target)
    known = (np.abs(target) < UNKNOWN_FLOW).all(axis=0)
    truth = target[:, known].astype(np.float64)
    error = np.linalg.norm(prediction[:, known].astype(np.float64) - truth, axis=0)
    outlier = (error > 3) & (error > 0.05 * np.linalg.norm(truth, axis=0))
    sums = (known.sum(), error.sum(), (error > 1).sum(), (error > 3).sum(), outlier.sum())
    return dict(zip(FLOW_NAMES, map(float, sums), strict=True))


class FlowMetric(Metric):
    """EPE in pixels and the percentages of outliers, over all known pixels of all images (as Sintel, Spring, KITTI)."""

    def __init__(self) -> None:
        super().__init__(len(FLOW_NAMES))

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """One image: (2, H, W) each."""
        sums = flow_sums(prediction, target)
        self.state = self.state + np.array([sums[name] for name in FLOW_NAMES])

    def compute(self) -> dict[str, float]:
        """epe in pixels; 1px, 3px and fl in percent of outliers. NaN if nothing was known."""
        n = self.state[0] if self.state[0] else np.nan
        epe, *counts = (self.state[1:] / n).tolist()
        return {"epe": epe, **{name: 100 * share for name, share in zip(FLOW_NAMES[2:], counts, strict=True)}}


# -------------------------------------------------------------------------------------------------------- segmentation


def segmentation_confusion(prediction: np.ndarray, label: np.ndarray, num_labels: int, ignore: int = 255) -> np.ndarray:
    """(num_labels, num_labels) int64: [true, predicted] counts of the pixels not ignored. Integer arrays (H, W)."""
    _same_size(prediction, label)
    known = label != ignore
    pairs = label[known].astype(np.int64) * num_labels + prediction[known].astype(np.int64)
    for name, values in (("label", label[known]), ("prediction", prediction[known])):
        if values.size and (values.min() < 0 or values.max() >= num_labels):
            raise ValueError(f"{name} holds ids from {values.min()} to {values.max()}; expected 0 to {num_labels - 1}")
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


class SegmentationMetric(Metric):
    """Mean intersection over union (Everingham et al. 2015) from one confusion matrix of all images."""

    def __init__(self, num_labels: int, ignore: int = 255, names: Sequence[str] | None = None) -> None:
        super().__init__(num_labels**2)
        self.num_labels, self.ignore = num_labels, ignore
        self.names = list(names) if names is not None else [str(i) for i in range(num_labels)]

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """One image: integers (H, W) each."""
        self.state = self.state + segmentation_confusion(prediction, label, self.num_labels, self.ignore).ravel()

    def compute(self) -> dict[str, Any]:
        """In percent: miou over the classes that occur in the labels or the predictions, accuracy of pixels, and
        iou, a dict by class name (NaN where a class does not occur)."""
        confusion = self.state.reshape(self.num_labels, self.num_labels)
        right = np.diag(confusion)
        union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
        iou = 100 * np.divide(right, union, out=np.full(self.num_labels, np.nan), where=union > 0)
        total = confusion.sum()
        return {
            "miou": float(np.nanmean(iou)) if total else float("nan"),
            "accuracy": float(100 * right.sum() / total) if total else float("nan"),
            "iou": dict(zip(self.names, iou.tolist(), strict=True)),
        }


# --------------------------------------------------------------------------------------------------------------- depth

DEPTH_NAMES = ("images", "abs_rel", "rmse", "silog", "delta1", "delta2", "delta3")


def depth_sums(
    prediction: np.ndarray, target: np.ndarray, min_depth: float = 1e-3, max_depth: float = float("inf")
) -> dict[str, float]:
    """The scores of one image (Eigen et al. 2014), metres (H, W); images is 1, or all are 0 where nothing is known.

    Known: finite and between `min_depth` and `max_depth`; predictions are clipped to the same range.
    abs_rel: mean |p - t| / t. rmse: metres. silog: 100 * sqrt(var(log p - log t)) (KITTI). delta k: share of pixels with
    max(p / t, t / p) < 1.25^k.
    """
    _same_size(prediction, target)
    known = np.isfinite(target) & (target >= min_depth) & (target <= max_depth)
    if not known.any():
        return dict.fromkeys(DEPTH_NAMES, 0.0)
    truth = target[known].astype(np.float64)
    guess = np.clip(prediction[known].astype(np.float64), min_depth, max_depth)
    ratio = np.maximum(guess / truth, truth / guess)
    scores = (
        1,
        np.mean(np.abs(guess - truth) / truth),
        np.sqrt(np.mean((guess - truth) ** 2)),
        100 * np.std(np.log(guess) - np.log(truth)),
        *(np.mean(ratio < 1.25**k) for k in (1, 2, 3)),
    )
    return dict(zip(DEPTH_NAMES, map(float, scores), strict=True))


class DepthMetric(Metric):
    """Each score is taken per image, then averaged over the images that have known pixels (as BTS and AdaBins do)."""

    def __init__(self, min_depth: float = 1e-3, max_depth: float = float("inf")) -> None:
        super().__init__(len(DEPTH_NAMES))
        self.min_depth, self.max_depth = min_depth, max_depth

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """One image: metres (H, W) each."""
        sums = depth_sums(prediction, target, self.min_depth, self.max_depth)
        self.state = self.state + np.array([sums[name] for name in DEPTH_NAMES])

    def compute(self) -> dict[str, float]:
        """abs_rel, rmse in metres, silog, and delta1 to delta3 in percent. NaN if nothing was known."""
        images = self.state[0] if self.state[0] else np.nan
        scores = dict(zip(DEPTH_NAMES[1:], (self.state[1:] / images).tolist(), strict=True))
        return {name: 100 * value if name.startswith("delta") else value for name, value in scores.items()}
