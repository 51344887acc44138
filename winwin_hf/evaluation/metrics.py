"""Scores of full frames as sums per image that add, whatever the batches, processes and image sizes.

What is notable here:
- A `Metric` is its `state`, a flat float64 array, and the state of one image is its `row`: `a.state + b.state` is the metric
  of both sets of images, and `compute(row)` are the scores of one image alone.
- Counts add exactly. Sums of errors round in the last bit, so their order matters there: `sum_rows` adds the rows of all
  images with one rounding at the end, and gives the same bits from any order and any number of processes.
- Unknown ground truth (NaN, inf, ignored labels) never counts. A prediction that isn't finite where the ground truth is known
  is a ValueError, as in Spring's evaluation: no figure would be right, and with NaN comparisons it would pass for no outlier.
- Outlier percentages are *outliers* (Spring's and KITTI's sense): lower is better.
- Ground truth of twice the resolution (Spring) has two readings, and a number must say which one it used: `FlowMetric(double=)`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from winwin_hf.windows import UNKNOWN_FLOW


class Metric:
    """Base: `update` with images one by one, `merge` others, `compute` at the end.

    `row_names` names the entries of `state` and of a `row`.
    """

    row_names: Sequence[str]

    def __init__(self, length: int) -> None:
        self.state = np.zeros(length, dtype=np.float64)

    def row(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The sums of one image, float64; no entry is negative. The metric itself stays as it is."""
        raise NotImplementedError

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Add one image."""
        self.state = self.state + self.row(prediction, target)

    def merge(self, other: Metric) -> None:
        """Add another metric's images. Raises ValueError if it is not the same metric."""
        if type(other) is not type(self) or other.state.shape != self.state.shape:
            raise ValueError(f"cannot merge {type(other).__name__} of {other.state.shape} into {type(self).__name__}")
        self.state = self.state + other.state

    def compute(self, state: np.ndarray | None = None) -> dict[str, Any]:
        """The scores of `state`, such as one image's row; without it, of all images so far."""
        raise NotImplementedError


def sum_rows(rows: Iterable[np.ndarray]) -> np.ndarray:
    """The sum of the rows of any number of images (at least one), rounded once: the same bits in any order."""
    whole, parts = np.zeros(1), defaultdict(list)
    for row in rows:
        floor = np.floor(row)
        whole = whole + floor  # whole numbers below 2^53: exact
        rest = row - floor
        for i in np.flatnonzero(rest):
            parts[i].append(rest[i])
    for i, values in parts.items():
        whole[i] = math.fsum([whole[i], *values])
    return whole


def _same_size(prediction: np.ndarray, target: np.ndarray) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction of shape {prediction.shape} and target of shape {target.shape} differ")


def _need_finite(prediction: np.ndarray, known: np.ndarray) -> None:
    """prediction (..., H, W), known (H, W)."""
    with np.errstate(over="ignore"):  # what overflows when it is squared is as useless as infinity
        finite = np.isfinite(np.square(prediction, dtype=np.float64))
    bad = known & ~finite.reshape(-1, *known.shape).all(axis=0)
    if bad.any():
        y, x = np.argwhere(bad)[0]
        raise ValueError(
            f"prediction isn't finite at {bad.sum()} pixels with known ground truth, first at row {y}, column {x}; "
            "expected a number everywhere"
        )


# -------------------------------------------------------------------------------------------------------- optical flow

BANDS = ("s0_10", "s10_40", "s40", "matched", "unmatched")
FLOW_NAMES = (
    *("n", "epe", "1px", "3px", "5px", "fl", "wauc"),
    *(f"{what}_{band}" for band in BANDS for what in ("n", "epe")),
    *("images_ause", "ause"),
)
SPARSIFICATION_STEPS = 20
# WAUC: what an error in ((i - 1) / 20, i / 20] px is worth, i = 1 to 100, and one beyond: the weights 1 - (j - 1) / 100 of all
# thresholds j >= i, times 100 so that they are whole numbers.
WORTH = np.array([(101 - i) * (102 - i) // 2 for i in range(1, 102)], dtype=np.float64)


def flow_sums(
    prediction: np.ndarray, target: np.ndarray, occluded: np.ndarray | None = None, double: str | None = None
) -> dict[str, float]:
    """
    Sums over the known pixels of one image.

    Args:
        prediction: (2, H, W) in pixels.
        target: (2, H, W) in pixels; unknown where a component is NaN, inf or not below 10000 px. With `double` also
            (2, 2H, 2W), each prediction then has four true values, still in pixels of the image (H, W).
        occluded: (H, W), or of the target's size; True where the pixel's match can't be seen in the other frame.
        double: how the four are compared. "best": the one with the smallest error counts, where all four are known; the
            motion is their mean length, 5 % are of the longest; a doubled `occluded` is the majority (2 of 4 suffice). So
            does Spring's own evaluation (evaluation.py and create_evalfiles.py of github.com/cv-stuttgart/springwebsite,
            which also samples 1 pixel in 40 and rounds to float16). "mean": all known ones count, as four pixels.
    Returns:
        n: known pixels. epe: sum of end-point errors |prediction - target| (Baker et al. 2011). 1px, 3px, 5px: pixels in
        error by more. fl: pixels in error by more than 3 px *and* 5 % of the true length (KITTI 2015).
        wauc: sum over the thresholds i / 20 px, i = 1 to 100, of the pixels in error by no more, times their weight
        1 - (i - 1) / 100 (Richter et al. 2017, VIPER; as Spring computes it), times 100.
        n_s0_10, epe_s0_10, n_s10_40, ... n_s40, ...: by true motion below 10 px, 10 to below 40 px, and from 40 px on (Butler
        et al. 2012, Sintel). n_matched, ..., n_unmatched, ...: not occluded and occluded; 0 without `occluded`.
    Raises:
        ValueError: sizes that don't fit, or a prediction that isn't finite at a known pixel.
    """
    truths, masks = _flow_truths(prediction, target, occluded, double)
    sums = np.zeros(len(FLOW_NAMES))
    for rows in _bands_of_rows(prediction):
        hidden = None if masks is None else masks[:, rows]
        sums += _flow_block(prediction[:, rows], truths[:, :, rows], hidden, double)
    if not np.isfinite(sums).all():
        _need_finite(prediction, np.isfinite(flow_errors(np.zeros_like(prediction), target, double)))
    return dict(zip(FLOW_NAMES, sums.tolist(), strict=True))


def flow_errors(prediction: np.ndarray, target: np.ndarray, double: str | None = None) -> np.ndarray:
    """The end-point error of each pixel, (H, W) float32, NaN where it doesn't count; for pictures. Arguments of `flow_sums`;
    with "mean", the mean over the known ones of the four."""
    truths, _ = _flow_truths(prediction, target, None, double)
    result = np.full(prediction.shape[1:], np.nan, dtype=np.float32)
    for rows in _bands_of_rows(prediction):
        error, _, _, known = _compare(prediction[:, rows], truths[:, :, rows], double)
        count = known.sum(axis=0)
        total = np.where(known, error, 0).sum(axis=0)
        np.divide(total, count, out=result[rows], where=count > 0, casting="same_kind")
    return result


def _bands_of_rows(prediction: np.ndarray) -> list[slice]:
    """Slices of rows whose temporaries stay in the processor's cache: several times faster than whole frames."""
    height, width = prediction.shape[1:]
    step = max(1, 32768 // max(1, width))
    return [slice(top, top + step) for top in range(0, height, step)]


def _flow_truths(
    prediction: np.ndarray, target: np.ndarray, occluded: np.ndarray | None, double: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The one or four true values of each prediction, (K, 2, H, W) without copying where K is 1, and `occluded` (K, H, W)."""
    if double not in (None, "best", "mean"):
        raise ValueError(f"double is {double!r}; expected 'best', 'mean' or None")
    if prediction.ndim != 3 or prediction.shape[0] != 2:
        raise ValueError(f"prediction of shape {prediction.shape}; expected flow (2, H, W)")
    height, width = prediction.shape[1:]
    doubled = target.shape == (2, 2 * height, 2 * width)
    if doubled and double is None:
        raise ValueError(
            f"target of shape {target.shape} has twice the size of the prediction {prediction.shape}; if its values are in "
            "pixels of the image, as Spring's, say how to compare: double='best' (Spring's own evaluation) or 'mean'"
        )
    if not doubled:
        _same_size(prediction, target)
    truths = _quarters(target) if doubled else target[None]
    if occluded is None:
        return truths, None
    if occluded.shape == (height, width):
        return truths, np.broadcast_to(occluded.astype(bool), (len(truths), height, width))
    if not doubled or occluded.shape != target.shape[1:]:
        raise ValueError(f"occluded of shape {occluded.shape}; expected {(height, width)} or the target's size")
    masks = _quarters(occluded.astype(bool))
    return truths, np.broadcast_to(masks.sum(axis=0) >= 2, masks.shape) if double == "best" else masks


def _quarters(array: np.ndarray) -> np.ndarray:
    """(..., 2H, 2W) -> (4, ..., H, W)"""
    return np.stack([array[..., row::2, column::2] for row in (0, 1) for column in (0, 1)])


def _compare(
    prediction: np.ndarray, truths: np.ndarray, double: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(2, H, W) and (K, 2, H, W) -> error, true length, the length that 5 % are taken of, and what is known; each (K, H, W),
    or (1, H, W) where only the best of the K counts. In float64: float32 rounds errors across a threshold."""
    known = (np.abs(truths) < UNKNOWN_FLOW).all(axis=1)  # false for NaN and inf too
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.subtract(prediction, truths, dtype=np.float64)
        error = np.sqrt(np.square(difference, out=difference).sum(axis=1))
        length = np.sqrt(np.square(truths, dtype=np.float64).sum(axis=1))
    if double == "best" and len(truths) > 1:
        error, known = error.min(axis=0, keepdims=True), known.all(axis=0, keepdims=True)
        return error, length.mean(axis=0, keepdims=True), length.max(axis=0, keepdims=True), known
    return error, length, length, known


def _flow_block(prediction: np.ndarray, truths: np.ndarray, masks: np.ndarray | None, double: str | None) -> np.ndarray:
    maps = _compare(prediction, truths, double)
    known = maps[-1]
    error, length, longest = (values[known] for values in maps[:-1])
    if not np.isfinite(error).all():
        return np.full(len(FLOW_NAMES), np.nan)
    outlier = (error > 3) & (error > 0.05 * longest)
    places = np.clip(np.ceil(error * 20) - 1, 0, 100).astype(np.intp)
    worth = WORTH @ np.bincount(places, minlength=101)
    sums = [error.size, error.sum(), *((error > limit).sum() for limit in (1, 3, 5)), outlier.sum(), worth]
    groups = [length < 10, (length >= 10) & (length < 40), length >= 40]
    if masks is not None:
        hidden = masks[: len(known)][known]
        groups += [~hidden, hidden]
    for group in groups:
        sums += [group.sum(), error @ group]
    return np.array(sums + [0] * (len(FLOW_NAMES) - len(sums)), dtype=np.float64)


def sparsification(error: np.ndarray, uncertainty: np.ndarray, steps: int = SPARSIFICATION_STEPS) -> np.ndarray:
    """
    Mean error of what is left when the most uncertain pixels are left out (Ilg et al. 2018, "Uncertainty estimates ...").

    Args:
        error, uncertainty: (n,), n at least 1; any increasing function of the uncertainty does as well.
    Returns: (2, steps): without a share k / steps of the pixels, k = 0, 1, ...; first by the uncertainty, then by the error itself,
        which nothing can beat. The mean of their difference over the mean error is the AUSE.
    """
    kept = np.ceil(error.size * (1 - np.arange(steps) / steps)).astype(np.intp)
    curves = []
    for key in (uncertainty, error):
        total = np.cumsum(error[np.argsort(key, kind="stable")], dtype=np.float64)
        curves.append(total[kept - 1] / kept)
    return np.array(curves)


class FlowMetric(Metric):
    """EPE in pixels and the percentages of outliers, over all known pixels of all images (as Sintel, Spring, KITTI).

    `double`: how ground truth of twice the resolution is compared, see `flow_sums`; without it, such is an error.
    """

    row_names = FLOW_NAMES

    def __init__(self, double: str | None = None) -> None:
        super().__init__(len(FLOW_NAMES))
        if double not in (None, "best", "mean"):
            raise ValueError(f"double is {double!r}; expected 'best', 'mean' or None")
        self.double = double

    def row(
        self,
        prediction: np.ndarray,
        target: np.ndarray,
        occluded: np.ndarray | None = None,
        uncertainty: np.ndarray | None = None,
    ) -> np.ndarray:
        """One image: see `flow_sums` for shapes and errors. uncertainty: (H, W), how wrong each vector is believed to be, in any unit."""
        sums = flow_sums(prediction, target, occluded, self.double)
        if uncertainty is not None and sums["n"]:
            error = flow_errors(prediction, target, self.double)
            _same_size(uncertainty, error)
            known = np.isfinite(error)
            curve, best = sparsification(error[known], uncertainty[known])
            sums |= {"images_ause": 1.0, "ause": float((curve - best).mean() / curve[0]) if curve[0] else 0.0}
        return np.array([sums[name] for name in FLOW_NAMES])

    def update(
        self,
        prediction: np.ndarray,
        target: np.ndarray,
        occluded: np.ndarray | None = None,
        uncertainty: np.ndarray | None = None,
    ) -> None:
        self.state = self.state + self.row(prediction, target, occluded, uncertainty)

    def compute(self, state: np.ndarray | None = None) -> dict[str, float]:
        """epe in pixels; 1px, 3px, 5px and fl in percent of outliers; wauc in percent, higher is better; epe_s0_10,
        epe_s10_40, epe_s40, epe_matched and epe_unmatched in pixels; ause, the area between an image's sparsification curve and
        the best possible one as a share of its mean error, the mean over the images: 0 is best. Always all of them, NaN where
        nothing was known."""
        sums = dict(zip(FLOW_NAMES, (self.state if state is None else state).tolist(), strict=True))
        n = sums["n"] or np.nan
        return {
            "epe": sums["epe"] / n,
            **{name: 100 * (sums[name] / n) for name in ("1px", "3px", "5px", "fl")},
            "wauc": 100 * (sums["wauc"] / n / float(WORTH[0])),
            **{f"epe_{band}": sums[f"epe_{band}"] / (sums[f"n_{band}"] or np.nan) for band in BANDS},
            "ause": sums["ause"] / (sums["images_ause"] or np.nan),
        }


# -------------------------------------------------------------------------------------------------------- segmentation


def segmentation_confusion(prediction: np.ndarray, label: np.ndarray, num_labels: int, ignore: int = 255) -> np.ndarray:
    """(num_labels, num_labels) int64: [true, predicted] counts of the pixels not ignored. Whole numbers (H, W).

    Raises ValueError for other types, and for ids outside 0 to num_labels - 1 at pixels that aren't ignored."""
    _same_size(prediction, label)
    known = label != ignore
    ids = {"label": label[known], "prediction": prediction[known]}
    for name, values in ids.items():
        if values.dtype.kind not in "biu":
            raise ValueError(f"{name} is of type {values.dtype}; expected whole numbers")
        if values.size and (values.min() < 0 or values.max() >= num_labels):
            raise ValueError(f"{name} holds ids from {values.min()} to {values.max()}; expected 0 to {num_labels - 1}")
    pairs = ids["label"].astype(np.int64) * num_labels + ids["prediction"]
    return np.bincount(pairs.astype(np.int64), minlength=num_labels**2).reshape(num_labels, num_labels)


class SegmentationMetric(Metric):
    """Mean intersection over union (Everingham et al. 2015) from one confusion matrix of all images.

    All entries are counts: states add exactly. `names` are the classes'.
    """

    def __init__(self, num_labels: int, ignore: int = 255, names: Sequence[str] | None = None) -> None:
        if num_labels < 1:
            raise ValueError(f"num_labels is {num_labels}; expected at least 1")
        super().__init__(num_labels**2)
        self.num_labels, self.ignore = num_labels, ignore
        self.names = list(names) if names is not None else [str(i) for i in range(num_labels)]
        if len(set(self.names)) != num_labels:
            raise ValueError(f"names has {len(set(self.names))} different entries; expected {num_labels}, one a class")

    @property
    def row_names(self) -> list[str]:  # type: ignore[override]
        return [f"{true} as {predicted}" for true in self.names for predicted in self.names]

    def row(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """One image: whole numbers (H, W) each; the confusion matrix, flat. Errors: see `segmentation_confusion`."""
        return segmentation_confusion(prediction, target, self.num_labels, self.ignore).ravel().astype(np.float64)

    def compute(self, state: np.ndarray | None = None) -> dict[str, Any]:
        """In percent: miou over the classes that occur in the labels or the predictions, accuracy of pixels, mean_accuracy
        (share of a class's pixels that are right, mean over the classes in the labels) and iou, a dict by class name (NaN
        where a class does not occur)."""
        confusion = (self.state if state is None else state).reshape(self.num_labels, self.num_labels)
        right, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
        nan = np.full(self.num_labels, np.nan)
        iou = 100 * np.divide(right, true + predicted - right, out=nan.copy(), where=true + predicted > 0)
        recall = 100 * np.divide(right, true, out=nan.copy(), where=true > 0)
        total = true.sum()
        return {
            "miou": float(np.nanmean(iou)) if total else float("nan"),
            "accuracy": float(100 * right.sum() / total) if total else float("nan"),
            "mean_accuracy": float(np.nanmean(recall)) if total else float("nan"),
            "iou": dict(zip(self.names, iou.tolist(), strict=True)),
        }


# --------------------------------------------------------------------------------------------------------------- depth

DEPTH_NAMES = (
    *("images", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog"),
    *("delta1", "delta2", "delta3"),
)


def depth_sums(
    prediction: np.ndarray,
    target: np.ndarray,
    min_depth: float = 1e-3,
    max_depth: float = float("inf"),
    crop: str | None = None,
    align: str | None = None,
) -> dict[str, float]:
    """The scores of one image (Eigen et al. 2014), metres (H, W); images is 1, or all are 0 where nothing is known.

    Arguments and errors: see `depth_compared`. With p the prediction, t the truth and d = log p - log t:
    abs_rel: mean |p - t| / t. sq_rel: mean (p - t)^2 / t, metres (KITTI's server divides by t^2). rmse: metres. rmse_log:
    sqrt(mean d^2). log10: mean |log10 p - log10 t|. silog: 100 * sqrt(mean d^2 - (mean d)^2) (KITTI). delta k: share of pixels
    with max(p / t, t / p) < 1.25^k.
    """
    known, guess = depth_compared(prediction, target, min_depth, max_depth, crop, align)
    if not guess.size:
        return dict.fromkeys(DEPTH_NAMES, 0.0)
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
    return dict(zip(DEPTH_NAMES, map(float, scores), strict=True))


def depth_compared(
    prediction: np.ndarray,
    target: np.ndarray,
    min_depth: float = 1e-3,
    max_depth: float = float("inf"),
    crop: str | None = None,
    align: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    What of a depth map is scored.

    Args:
        prediction, target: metres (H, W).
        min_depth, max_depth: metres; ground truth outside is unknown, and the prediction is clipped to them, last.
        crop: None, "eigen" (NYUv2: rows 45 to 470 and columns 41 to 600 of 480 x 640, in proportion for other sizes), "garg"
            (KITTI; Garg et al. 2016: fractions of the height and the width).
        align: None, "median" (the prediction is scaled so that the medians agree; Zhou et al. 2017), "least-squares" (scale and
            shift of the *depth* that fit best; Ranftl et al. 2020 fit disparity instead). Over the image's scored pixels.
    Returns:
        Which pixels count (H, W), and the prediction there, metres (n,) float64.
    Raises:
        ValueError: sizes that don't fit, an unknown `crop` or `align`, a prediction that isn't finite at a pixel that counts, or
            one whose median isn't positive where medians are to agree.
    """
    _same_size(prediction, target)
    if target.ndim != 2:
        raise ValueError(f"target of shape {target.shape}; expected depth (H, W)")
    known = np.isfinite(target) & (target >= min_depth) & (target <= max_depth)
    if crop is not None:
        inside = np.zeros(target.shape, dtype=bool)
        inside[_crop(crop, *target.shape)] = True
        known &= inside
    _need_finite(prediction, known)
    guess, truth = prediction[known].astype(np.float64), target[known].astype(np.float64)
    if align not in (None, "median", "least-squares"):
        raise ValueError(f"align is {align!r}; expected 'median', 'least-squares' or None")
    if align and guess.size:
        if align == "median":
            middle = np.median(guess)
            if middle <= 0:
                raise ValueError(f"the prediction's median is {middle} m; only a positive one can be scaled to agree")
            guess *= np.median(truth) / middle
        else:
            centred = guess - guess.mean()
            spread = centred @ centred
            scale = centred @ truth / spread if spread > 0 else 0.0
            guess = scale * centred + truth.mean()
    return known, np.clip(guess, min_depth, max_depth)


def _crop(name: str, height: int, width: int) -> tuple[slice, slice]:
    if name == "eigen":
        return slice(45 * height // 480, 471 * height // 480), slice(41 * width // 640, 601 * width // 640)
    if name == "garg":
        rows = slice(int(0.40810811 * height), int(0.99189189 * height))
        return rows, slice(int(0.03594771 * width), int(0.96405229 * width))
    raise ValueError(f"crop is {name!r}; expected 'eigen', 'garg' or None")


class DepthMetric(Metric):
    """Each score is taken per image, then averaged over the images that have known pixels (as BTS, AdaBins and KITTI do).

    The alternative, one average over all pixels of all images, weighs an image by its known pixels; where those are sparse, the
    two differ. Arguments: see `depth_compared`.
    """

    row_names = DEPTH_NAMES

    def __init__(
        self,
        min_depth: float = 1e-3,
        max_depth: float = float("inf"),
        crop: str | None = None,
        align: str | None = None,
    ) -> None:
        super().__init__(len(DEPTH_NAMES))
        if not 0 < min_depth < max_depth:
            raise ValueError(f"min_depth is {min_depth} and max_depth {max_depth}; expected 0 < min_depth < max_depth")
        self.min_depth, self.max_depth, self.crop, self.align = min_depth, max_depth, crop, align
        depth_compared(np.ones((1, 1)), np.ones((1, 1)), crop=crop, align=align)  # raises for unknown names, at once

    def row(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """One image: metres (H, W) each."""
        sums = depth_sums(prediction, target, self.min_depth, self.max_depth, self.crop, self.align)
        return np.array([sums[name] for name in DEPTH_NAMES])

    def compute(self, state: np.ndarray | None = None) -> dict[str, float]:
        """abs_rel, sq_rel and rmse in metres, rmse_log, log10, silog, and delta1 to delta3 in percent. NaN if nothing was
        known."""
        state = self.state if state is None else state
        images = state[0] if state[0] else np.nan
        scores = dict(zip(DEPTH_NAMES[1:], (state[1:] / images).tolist(), strict=True))
        return {name: 100 * value if name.startswith("delta") else value for name, value in scores.items()}
