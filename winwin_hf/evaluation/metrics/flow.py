"""Scores of optical flow, as Sintel, KITTI 2015, VIPER and Spring define them.

Ground truth of twice the resolution (Spring) can be compared in two ways, which give different scores: see `double` in `flow_sums`.
"""

from __future__ import annotations

import numpy as np

from winwin_hf.evaluation.metrics.base import Metric, check_finite, check_same_size
from winwin_hf.model.losses_winwin import UNKNOWN_FLOW

BANDS = ("s0_10", "s10_40", "s40", "matched", "unmatched")
NAMES = (
    *("n", "epe", "1px", "3px", "5px", "fl", "wauc"),
    *(f"{what}_{band}" for band in BANDS for what in ("n", "epe")),
    *("images_ause", "ause"),
)
SPARSIFICATION_STEPS = 20
# An error in ((i - 1) / 20, i / 20] px adds entry i - 1 to WAUC, i = 1 to 100; a larger one adds the last entry, 0. An entry is the
# sum of the weights 1 - (j - 1) / 100 of all thresholds j >= i, times 100, so that all are whole numbers and add exactly.
WAUC_WEIGHTS = np.array([(101 - i) * (102 - i) // 2 for i in range(1, 102)], dtype=np.float64)


class FlowMetric(Metric):
    """
    Scores of flow over all known pixels of all images, as Sintel, Spring and KITTI report them.

    epe: mean end-point error |prediction - target|, pixels (Baker et al. 2011). 1px, 3px, 5px: percent of pixels with a larger error.
    fl: percent of pixels with an error above 3 px *and* 5 % of the true length (KITTI 2015). wauc: sum over the thresholds i / 20 px,
    i = 1 to 100, of the share of pixels with no larger error, weighted by 1 - (i - 1) / 100, over the sum of the weights, in percent;
    higher is better (Richter et al. 2017, VIPER; as Spring computes it). epe_s0_10, epe_s10_40, epe_s40: epe where the true motion is
    below 10 px, from 10 to below 40 px, and from 40 px on (Butler et al. 2012, Sintel). epe_matched, epe_unmatched: epe of pixels that
    are not, and that are occluded (Sintel). ause: area between an image's sparsification curve and the best possible one, as a share of
    its mean error, mean over the images; 0 is best (Ilg et al. 2018).

    Args:
        double: how ground truth of twice the resolution is compared, see `flow_sums`; None: it is an error.
    """

    row_names = NAMES

    def __init__(self, double: str | None = None) -> None:
        super().__init__(len(NAMES))
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
        """
        The sums of one image, in the order of `row_names`.

        Args:
            prediction, target, occluded: see `flow_sums`, as for the errors.
            uncertainty: (H, W), any increasing function of the expected error of each vector, finite where the truth is known; for ause.
        """
        sums = flow_sums(prediction, target, occluded, self.double)
        if uncertainty is not None and sums["n"]:
            error = flow_errors(prediction, target, self.double)
            check_same_size(uncertainty, error)
            known = np.isfinite(error)
            check_finite(uncertainty, known, "uncertainty")
            curve, best = sparsification(error[known], uncertainty[known])
            sums |= {"images_ause": 1.0, "ause": float((curve - best).mean() / curve[0]) if curve[0] else 0.0}
        return np.array([sums[name] for name in NAMES])

    def compute(self, state: np.ndarray | None = None) -> dict[str, float]:
        """All scores of the class's docstring; NaN where no pixel was known."""
        sums = dict(zip(NAMES, (self.state if state is None else state).tolist(), strict=True))
        n = sums["n"] or np.nan
        return {
            "epe": sums["epe"] / n,
            **{name: 100 * (sums[name] / n) for name in ("1px", "3px", "5px", "fl")},
            "wauc": 100 * (sums["wauc"] / n / float(WAUC_WEIGHTS[0])),
            **{f"epe_{band}": sums[f"epe_{band}"] / (sums[f"n_{band}"] or np.nan) for band in BANDS},
            "ause": sums["ause"] / (sums["images_ause"] or np.nan),
        }


def flow_sums(
    prediction: np.ndarray, target: np.ndarray, occluded: np.ndarray | None = None, double: str | None = None
) -> dict[str, float]:
    """
    The sums of one image over its known pixels.

    Args:
        prediction: (2, H, W) in pixels.
        target: (2, H, W) in pixels; unknown where a component is NaN, inf or not below 10000 px. With `double` also (2, 2H, 2W),
            still in pixels of the image (H, W): each prediction then has four true values.
        occluded: (H, W), or of the target's size; True where the pixel's match isn't visible in the other frame.
        double: how the four values are compared. "best": the one with the smallest error counts, where all four are known; the
            motion is their mean length, 5 % are of the longest; a pixel is occluded where at least 2 of 4 are. This is Spring's own
            evaluation (evaluation.py and create_evalfiles.py of github.com/cv-stuttgart/springwebsite, which also samples 1 pixel
            in 40 and rounds to float16). "mean": all known values count, as four pixels.
    Returns:
        n: known pixels. epe: sum of errors. 1px, 3px, 5px, fl: number of outliers. wauc: sum of the pixels' `WAUC_WEIGHTS`.
        n_s0_10, epe_s0_10, ...: n and epe of each of `BANDS`; matched and unmatched are 0 without `occluded`.
        The scores are defined in `FlowMetric`.
    Raises:
        ValueError: sizes that don't fit, or a prediction that isn't finite at a known pixel.
    """
    truths, masks = _flow_truths(prediction, target, occluded, double)
    sums = np.zeros(len(NAMES))
    for rows in _row_slices(prediction):
        hidden = None if masks is None else masks[:, rows]
        sums += _slice_sums(prediction[:, rows], truths[:, :, rows], hidden, double)
    if not np.isfinite(sums).all():
        check_finite(prediction, np.isfinite(flow_errors(np.zeros_like(prediction), target, double)))
    return dict(zip(NAMES, sums.tolist(), strict=True))


def flow_errors(prediction: np.ndarray, target: np.ndarray, double: str | None = None) -> np.ndarray:
    """
    The end-point error of each pixel in pixels, (H, W) float32, NaN where it doesn't count. Arguments of `flow_sums`.

    With double="mean", the mean over the known ones of the four values.
    """
    truths, _ = _flow_truths(prediction, target, None, double)
    result = np.full(prediction.shape[1:], np.nan, dtype=np.float32)
    for rows in _row_slices(prediction):
        error, _, _, known = _compare(prediction[:, rows], truths[:, :, rows], double)
        count = known.sum(axis=0)
        total = np.where(known, error, 0).sum(axis=0)
        np.divide(total, count, out=result[rows], where=count > 0, casting="same_kind")
    return result


def sparsification(error: np.ndarray, uncertainty: np.ndarray, steps: int = SPARSIFICATION_STEPS) -> np.ndarray:
    """
    Mean error of the remaining pixels when the most uncertain ones are removed (Ilg et al. 2018, "Uncertainty estimates ...").

    Args:
        error, uncertainty: (n,), n at least 1; only the order of the uncertainties counts.
    Returns:
        (2, steps): mean error without the share k / steps of the pixels, k = 0, 1, ...; first removed by uncertainty, then by the error
        itself, which is the best possible curve. AUSE is the mean of their difference over the mean error.
    """
    check_same_size(uncertainty, error)
    kept = np.ceil(error.size * (1 - np.arange(steps) / steps)).astype(np.intp)
    curves = []
    for key in (uncertainty, error):
        total = np.cumsum(error[np.argsort(key, kind="stable")], dtype=np.float64)
        curves.append(total[kept - 1] / kept)
    return np.array(curves)


def _row_slices(prediction: np.ndarray) -> list[slice]:
    """Slices of rows whose temporaries stay in the processor's cache: several times faster than whole frames."""
    height, width = prediction.shape[1:]
    step = max(1, 32768 // max(1, width))
    return [slice(top, top + step) for top in range(0, height, step)]


def _flow_truths(
    prediction: np.ndarray, target: np.ndarray, occluded: np.ndarray | None, double: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The K = 1 or 4 true values of each prediction, (K, 2, H, W), without a copy where K is 1, and `occluded`, (K, H, W)."""
    if double not in (None, "best", "mean"):
        raise ValueError(f"double is {double!r}; expected 'best', 'mean' or None")
    if prediction.ndim != 3 or prediction.shape[0] != 2:
        raise ValueError(f"prediction of shape {prediction.shape}; expected flow (2, H, W)")
    height, width = prediction.shape[1:]
    doubled = target.shape == (2, 2 * height, 2 * width)
    if doubled and double is None:
        raise ValueError(
            f"target of shape {target.shape} has twice the size of the prediction {prediction.shape}; if its values are in "
            "pixels of the image, as Spring's, expected double='best' (Spring's own evaluation) or double='mean'"
        )
    if not doubled:
        check_same_size(prediction, target)
    truths = _quarters(target) if doubled else target[None]
    if occluded is None:
        return truths, None
    if occluded.dtype != bool and not np.isin(occluded, (0, 1, 255)).all():
        raise ValueError("occluded holds other values than 0 (visible) and 1 or 255 (occluded)")
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
    """(2, H, W) and (K, 2, H, W) -> error, true length, length for fl's 5 %, known; each (K, H, W), or (1, H, W) with "best".

    In float64: float32 rounds errors across a threshold.
    """
    known = (np.abs(truths) < UNKNOWN_FLOW).all(axis=1)  # false for NaN and inf too
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.subtract(prediction, truths, dtype=np.float64)
        error = np.sqrt(np.square(difference, out=difference).sum(axis=1))
        length = np.sqrt(np.square(truths, dtype=np.float64).sum(axis=1))
    if double == "best" and len(truths) > 1:
        error, known = error.min(axis=0, keepdims=True), known.all(axis=0, keepdims=True)
        return error, length.mean(axis=0, keepdims=True), length.max(axis=0, keepdims=True), known
    return error, length, length, known


def _slice_sums(prediction: np.ndarray, truths: np.ndarray, masks: np.ndarray | None, double: str | None) -> np.ndarray:
    """The sums of some rows of an image, in the order of `NAMES`; all NaN if an error isn't finite."""
    *maps, known = _compare(prediction, truths, double)
    error, length, longest = (values[known] for values in maps)
    if not np.isfinite(error).all():
        return np.full(len(NAMES), np.nan)
    outlier = (error > 3) & (error > 0.05 * longest)
    thresholds = np.clip(np.ceil(error * 20) - 1, 0, 100).astype(np.intp)
    wauc = WAUC_WEIGHTS @ np.bincount(thresholds, minlength=101)
    sums = [error.size, error.sum(), *((error > limit).sum() for limit in (1, 3, 5)), outlier.sum(), wauc]
    groups = [length < 10, (length >= 10) & (length < 40), length >= 40]
    if masks is not None:
        hidden = masks[: len(known)][known]
        groups += [~hidden, hidden]
    for group in groups:
        sums += [group.sum(), error @ group]
    return np.array(sums + [0] * (len(NAMES) - len(sums)), dtype=np.float64)
