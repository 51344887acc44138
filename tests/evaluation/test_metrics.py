"""Metrics compared with scores computed by hand, by loops over pixels from the definitions, and by torchmetrics and scikit-learn; the
states of parts add to the state of the whole."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from torchmetrics import MeanAbsoluteError, MeanAbsolutePercentageError, MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from winwin_hf.evaluation.metrics import (
    DepthMetric,
    FlowMetric,
    SegmentationMetric,
    flow_errors,
    flow_sums,
    segmentation_confusion,
    sparsification,
    sum_rows,
)

NAN = np.nan


def depth_scores(prediction, target, **options):
    """The scores of one image by name, deltas as shares."""
    metric = DepthMetric(**options)
    return dict(zip(metric.row_names, metric.row(prediction, target), strict=True))


def depth_compared(prediction, target, **options):
    return DepthMetric(**options).compared(prediction, target)


def pixels(*vectors):
    """(u, v) of each pixel -> (2, 1, W)."""
    return np.array(vectors, np.float32).T[:, None, :]


# -------------------------------------------------------------------------------------------------------- optical flow


def test_flow_by_hand():
    target = pixels((0, 0), (0, 0), (100, 0), (10, 0), (NAN, 0), (1e9, 0))
    prediction = pixels((0, 0.5), (3, 4), (104, 0), (10, 2), (50, 50), (0, 0))
    # errors 0.5, 5, 4, 2; 4 px of 100 is below 5 %
    occluded = np.array([[False, True, True, False, True, False]])
    sums = flow_sums(prediction, target, occluded)
    assert {name: sums[name] for name in ("n", "epe", "1px", "3px", "5px", "fl")} == {
        "n": 4,
        "epe": 11.5,
        "1px": 3,
        "3px": 2,
        "5px": 0,
        "fl": 1,
    }
    assert [sums[f"n_{band}"] for band in ("s0_10", "s10_40", "s40")] == [2, 1, 1]
    assert [sums[f"epe_{band}"] for band in ("s0_10", "s10_40", "s40")] == [5.5, 2, 4]
    assert [sums[name] for name in ("n_matched", "epe_matched", "n_unmatched", "epe_unmatched")] == [2, 2.5, 2, 9]
    # WAUC: an error of exactly 0.5 px = 10 / 20 meets the thresholds 10 to 100, whose weights times 100 are 91 down to 1.
    meets = [91 * 92 // 2, 1, 21 * 22 // 2, 61 * 62 // 2]
    assert sums["wauc"] == sum(meets)
    metric = FlowMetric()
    metric.update(prediction, target, occluded)
    scores = metric.compute()
    assert np.isnan(scores.pop("ause"))  # no uncertainty was given
    assert scores == {
        "epe": 11.5 / 4,
        "1px": 75.0,
        "3px": 50.0,
        "5px": 0.0,
        "fl": 25.0,
        "wauc": pytest.approx(100 * sum(meets) / (4 * 5050)),
        "epe_s0_10": 2.75,
        "epe_s10_40": 2.0,
        "epe_s40": 4.0,
        "epe_matched": 1.25,
        "epe_unmatched": 4.5,
    }
    metric.update(target[..., :4], target[..., :4])  # a perfect image, weighted by its pixels
    assert metric.compute()["epe"] == pytest.approx(11.5 / 8)
    assert metric.compute()["epe_matched"] == 1.25  # an image without a mask doesn't count here
    errors = flow_errors(prediction, target)
    assert errors.dtype == np.float32 and np.array_equal(errors, [[0.5, 5, 4, 2, NAN, NAN]], equal_nan=True)


def test_sparsification_and_ause():
    error = np.array([4.0, 1.0, 3.0, 2.0])
    curve, best = sparsification(error, error**3, steps=4)
    assert curve.tolist() == best.tolist() == [2.5, 2.0, 1.5, 1.0]
    assert sparsification(error, -error, steps=4)[0].tolist() == [2.5, 3.0, 3.5, 4.0]
    with pytest.raises(ValueError, match=r"shape \(1,\) .* differ"):  # an index of one image's pixels says nothing here
        sparsification(error, error[:1])
    target, metric = np.zeros((2, 2, 3)), FlowMetric()
    target[:, 0, 0] = NAN  # unknown: the uncertainty there doesn't count
    prediction = np.zeros((2, 2, 3))
    prediction[0] = [[9, 1, 2], [3, 4, 5]]
    metric.update(prediction, target, uncertainty=prediction[0])
    assert metric.compute()["ause"] == 0
    metric.update(prediction, target, uncertainty=-prediction[0])
    worst = sparsification(np.arange(1.0, 6), -np.arange(1.0, 6))
    assert metric.compute()["ause"] == pytest.approx((worst[0] - worst[1]).mean() / 3 / 2)  # the mean of two images
    metric.update(target, target, uncertainty=prediction[0])  # no error: every order is best
    assert metric.compute()["ause"] == pytest.approx((worst[0] - worst[1]).mean() / 3 / 3)
    metric.update(prediction, target)
    assert metric.compute()["ause"] == pytest.approx((worst[0] - worst[1]).mean() / 3 / 3)
    with pytest.raises(ValueError, match="differ"):
        metric.update(prediction, target, uncertainty=prediction)


def by_the_definitions(prediction, target, occluded, double):
    """The same scores pixel by pixel, with 100 passes for WAUC; the best of four as in Spring's evaluation."""
    found = []  # error, length, length for 5 %, occluded
    height, width = prediction.shape[1:]
    factor = target.shape[1] // height
    for y, x in itertools.product(range(height), range(width)):
        group = []
        for i, j in itertools.product(range(factor), range(factor)):
            truth = target[:, factor * y + i, factor * x + j].astype(float)
            hidden = occluded[factor * y + i, factor * x + j] if occluded.shape[0] > height else occluded[y, x]
            known = bool(np.isfinite(truth).all() and (abs(truth) < 1e4).all())
            group.append((math.dist(prediction[:, y, x].astype(float), truth), math.hypot(*truth), hidden, known))
        if double == "best":
            errors, lengths, hidden, known = zip(*group, strict=True)
            if all(known):
                found.append((min(errors), sum(lengths) / len(group), max(lengths), sum(hidden) * 2 >= len(group)))
        else:
            found += [(error, length, length, hidden) for error, length, hidden, known in group if known]
    error, length, longest, hidden = map(np.array, zip(*found, strict=True))
    weights = [1 - (i - 1) / 100 for i in range(1, 101)]
    hits = [np.mean(error <= i / 20) for i in range(1, 101)]
    return {
        "epe": error.mean(),
        **{f"{limit}px": 100 * np.mean(error > limit) for limit in (1, 3, 5)},
        "fl": 100 * np.mean((error > 3) & (error / np.maximum(longest, 1e-9) > 0.05)),
        "wauc": 100 * np.dot(weights, hits) / sum(weights),
        "epe_s0_10": error[length < 10].mean(),
        "epe_s10_40": error[(length >= 10) & (length < 40)].mean(),
        "epe_s40": error[length >= 40].mean(),
        "epe_matched": error[~hidden].mean(),
        "epe_unmatched": error[hidden].mean(),
    }


@pytest.mark.parametrize(
    ("double", "factor", "mask"),
    [(None, 1, 1), ("best", 1, 1), ("best", 2, 1), ("best", 2, 2), ("mean", 2, 1), ("mean", 2, 2)],
)
def test_flow_by_the_definitions(double, factor, mask):
    rng = np.random.default_rng(factor + mask)
    prediction = (rng.normal(size=(2, 12, 300)) * 25).astype(np.float32)
    target = prediction.repeat(factor, 1).repeat(factor, 2) + rng.exponential(2, (2, 12 * factor, 300 * factor)).astype(
        np.float32
    )
    target[:, rng.random(target.shape[1:]) < 0.05] = NAN
    occluded = rng.random((12 * mask, 300 * mask)) < 0.4
    metric = FlowMetric(double)
    metric.update(prediction, target, occluded)
    scores = metric.compute()
    assert np.isnan(scores.pop("ause"))
    assert scores == pytest.approx(by_the_definitions(prediction, target, occluded, double), rel=1e-12)


def test_flow_error_on_a_limit():
    """An error of exactly 1, 3 or 5 px is no outlier; exactly 5 % is none either; a threshold of WAUC is met by equality;
    10 and 40 px begin a band."""
    one = np.zeros((2, 1, 1), np.float32)
    for error, limit in ((1, "1px"), (3, "3px"), (5, "5px")):
        assert flow_sums(one + pixels((error, 0)), one)[limit] == 0
        assert flow_sums(one + pixels((np.nextafter(np.float32(error), np.float32(9)), 0)), one)[limit] == 1
    assert flow_sums(pixels((84, 0)), pixels((80, 0)))["fl"] == 0  # 4 px are 5 % of 80 px
    assert flow_sums(pixels((83.5, 0)), pixels((79.5, 0)))["fl"] == 1
    for i in (5, 10, 25, 100):  # i / 20 px that binary numbers hold exactly
        worth = (101 - i) * (102 - i) // 2
        assert flow_sums(pixels((0, i / 20)), one)["wauc"] == worth
        above = np.nextafter(np.float32(i / 20), np.float32(9))
        assert flow_sums(pixels((0, above)), one)["wauc"] == worth - (101 - i)
    assert flow_sums(one, one)["wauc"] == 5050 and flow_sums(pixels((0, 6)), one)["wauc"] == 0
    for length, band in ((9.99, "s0_10"), (10, "s10_40"), (39.99, "s10_40"), (40, "s40")):
        assert flow_sums(one, pixels((0, length)))[f"n_{band}"] == 1


def test_flow_of_double_resolution_by_hand():
    """Spring: two predictions, each with four true values, in pixels of the small image."""
    prediction = np.zeros((2, 1, 2))
    target = np.zeros((2, 2, 4))
    target[0] = [[1, 2, 5, 5], [3, 4, 5, NAN]]
    best, mean = (flow_sums(prediction, target, double=reading) for reading in ("best", "mean"))
    assert (best["n"], best["epe"], best["1px"]) == (1, 1, 0)  # the second has an unknown value: it doesn't count
    assert (mean["n"], mean["epe"], mean["1px"], mean["3px"]) == (7, 1 + 2 + 3 + 4 + 15, 6, 4)
    assert np.array_equal(flow_errors(prediction, target, "best"), [[1, NAN]], equal_nan=True)
    assert np.array_equal(flow_errors(prediction, target, "mean"), [[2.5, 5]])
    far = np.full((2, 2, 2), 0.0)
    far[0] = [[100, 100], [100, 60]]  # the best error is 3.5 px of a mean length of 90 and a longest of 100
    sums = flow_sums(np.array([[[63.5]], [[0.0]]]), far, double="best")
    assert (sums["3px"], sums["fl"], sums["n_s40"]) == (1, 0, 1)  # 3.5 is above 5 % of 60, not of 100
    half = np.array([[True, True], [False, False]])
    assert flow_sums(np.zeros((2, 1, 1)), far, half, "best")["n_unmatched"] == 1
    assert flow_sums(np.zeros((2, 1, 1)), far, half, "mean")["n_unmatched"] == 2
    assert flow_sums(np.zeros((2, 1, 1)), far, np.array([[True]]), "mean")["n_unmatched"] == 4
    # Ground truth of the image's own size is compared as without `double`.
    assert flow_sums(far, far + 1, double="best") == flow_sums(far, far + 1, double="mean") == flow_sums(far, far + 1)


def test_epe_of_one_component_is_torchmetrics_absolute_error():
    rng = np.random.default_rng(0)
    target, prediction = rng.normal(size=(2, 2, 30, 40))
    target[1], prediction[1] = 0, 0
    reference = MeanAbsoluteError()
    reference.update(torch.from_numpy(prediction[0]), torch.from_numpy(target[0]))
    metric = FlowMetric()
    metric.update(prediction, target)
    assert metric.compute()["epe"] == pytest.approx(float(reference.compute()), rel=1e-6)


# -------------------------------------------------------------------------------------------------------- segmentation


def test_segmentation_by_hand():
    label = np.array([[0, 0, 1, 1, 255]], np.uint8)
    prediction = np.array([[0, 1, 1, 2, 2]])
    assert segmentation_confusion(prediction, label, 4).tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0] * 4, [0] * 4]
    metric = SegmentationMetric(4, names=("a", "b", "c", "d"))
    metric.update(prediction, label)
    scores = metric.compute()
    assert scores["accuracy"] == 50
    assert scores["iou"]["a"] == 50 and scores["iou"]["b"] == pytest.approx(100 / 3) and scores["iou"]["c"] == 0
    assert math.isnan(scores["iou"]["d"])
    assert scores["miou"] == pytest.approx((50 + 100 / 3 + 0) / 3)  # d occurs nowhere and does not count
    assert scores["mean_accuracy"] == 50  # c is in no label
    assert metric.state[metric.row_names.index("a as b")] == 1 and len(metric.row_names) == 16


def test_segmentation_as_torchmetrics_and_scikit_learn():
    rng = np.random.default_rng(1)
    pairs = [(rng.integers(0, 6, size), rng.integers(0, 6, size)) for size in ((9, 11), (20, 5), (3, 3))]
    metric, jaccard = SegmentationMetric(6), MulticlassJaccardIndex(6, average=None, ignore_index=255)
    micro, macro = (MulticlassAccuracy(6, average=average, ignore_index=255) for average in ("micro", "macro"))
    for prediction, label in pairs:
        label[0] = 255
        metric.update(prediction, label)
        for reference in (jaccard, micro, macro):
            reference.update(torch.from_numpy(prediction), torch.from_numpy(label))
    scores = metric.compute()
    assert list(scores["iou"].values()) == pytest.approx((100 * jaccard.compute()).tolist(), rel=1e-6)
    assert scores["miou"] == pytest.approx(100 * float(jaccard.compute().mean()), rel=1e-6)
    assert scores["accuracy"] == pytest.approx(100 * float(micro.compute()), rel=1e-6)
    assert scores["mean_accuracy"] == pytest.approx(100 * float(macro.compute()), rel=1e-6)
    predicted, true = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    known = true != 255
    assert (confusion_matrix(true[known], predicted[known]) == metric.state.reshape(6, 6)).all()
    assert scores["mean_accuracy"] == pytest.approx(100 * balanced_accuracy_score(true[known], predicted[known]))


# --------------------------------------------------------------------------------------------------------------- depth


def test_depth_by_hand():
    target = np.array([[1.0, 2.0, NAN, 0.0, np.inf]])
    prediction = np.array([[1.5, 2.0, 9.0, 9.0, 9.0]])
    scores = depth_scores(prediction, target)
    assert scores["images"] == 1 and scores["abs_rel"] == pytest.approx(0.25)
    assert scores["sq_rel"] == pytest.approx(0.125)
    assert scores["rmse"] == pytest.approx(math.sqrt(0.125))
    assert scores["rmse_log"] == pytest.approx(math.log(1.5) / math.sqrt(2))
    assert scores["log10"] == pytest.approx(math.log10(1.5) / 2)
    assert scores["silog"] == pytest.approx(100 * math.log(1.5) / 2)
    assert (scores["delta1"], scores["delta2"], scores["delta3"]) == (0.5, 1.0, 1.0)
    metric = DepthMetric(max_depth=1.2)  # clips the prediction and drops the second pixel
    metric.update(prediction, target)
    assert metric.compute()["abs_rel"] == pytest.approx(0.2)
    metric.update(prediction, np.full_like(target, NAN))  # an image without ground truth changes nothing
    metric.update(np.ones((1, 1)), np.ones((1, 1)))
    assert metric.compute()["abs_rel"] == pytest.approx(0.1) and metric.compute()["delta1"] == 100


def test_depth_as_torchmetrics():
    rng = np.random.default_rng(2)
    target, prediction = rng.uniform(0.5, 20, (2, 30, 40))
    t, p = torch.from_numpy(target), torch.from_numpy(prediction)
    scores = depth_scores(prediction, target)
    pairs = {
        "abs_rel": (MeanAbsolutePercentageError(), p, t),
        "rmse": (MeanSquaredError(squared=False), p, t),
        "rmse_log": (MeanSquaredError(squared=False), p.log(), t.log()),
        "log10": (MeanAbsoluteError(), p.log10(), t.log10()),
        "sq_rel": (MeanSquaredError(), p / t.sqrt(), t.sqrt()),  # ((p - t) / sqrt(t))^2
    }
    for name, (reference, *arguments) in pairs.items():
        assert scores[name] == pytest.approx(float(reference(*arguments)), rel=1e-5), name
    d = np.log(prediction) - np.log(target)
    assert scores["silog"] == pytest.approx(100 * math.sqrt(np.mean(d**2) - np.mean(d) ** 2), rel=1e-9)
    assert depth_scores(3 * prediction, target)["silog"] == pytest.approx(scores["silog"], rel=1e-9)  # scale-invariant


def test_depth_is_aligned_on_request():
    rng = np.random.default_rng(3)
    target = rng.uniform(1, 9, (20, 30))
    target[:3] = NAN
    wrong_scale, wrong_both = target / 3, (target - 2) / 5
    wrong_scale[:3], wrong_both[:3] = 1e6, -1e6  # where nothing is known, they aren't looked at
    assert depth_scores(wrong_scale, target, align="median")["rmse"] == pytest.approx(0, abs=1e-12)
    assert depth_scores(wrong_both, target, align="least-squares")["rmse"] == pytest.approx(0, abs=1e-9)
    assert depth_scores(wrong_both, target, align="median")["rmse"] > 0.1
    noisy = target + rng.normal(size=target.shape)
    known, guess = depth_compared(noisy, target, align="least-squares")
    slope, shift = np.polyfit(noisy[known], target[known], 1)
    assert guess == pytest.approx(np.maximum(slope * noisy[known] + shift, 1e-3), rel=1e-9)
    _, guess = depth_compared(noisy, target, max_depth=5, align="median")  # scaled by what counts, then clipped
    counts = target <= 5
    assert guess.max() == 5 and np.median(guess) == pytest.approx(np.median(target[counts]))
    _, guess = depth_compared(np.ones_like(target), target, align="least-squares")  # any scale fits a constant
    assert guess == pytest.approx(np.nanmean(target))
    with pytest.raises(ValueError, match=r"median is 0\.0 m"):
        depth_scores(np.zeros((2, 2)), np.ones((2, 2)), align="median")


def test_depth_crops():
    """NYU's Eigen crop; Garg's on KITTI frames of 375 x 1242."""
    known, _ = depth_compared(np.ones((480, 640)), np.ones((480, 640)), crop="eigen")
    assert known[45:471, 41:601].all() and known.sum() == (471 - 45) * (601 - 41)
    known, _ = depth_compared(np.ones((960, 1280)), np.ones((960, 1280)), crop="eigen")
    assert known[90:942, 82:1202].all() and known.sum() == 852 * 1120
    known, _ = depth_compared(np.ones((375, 1242)), np.ones((375, 1242)), crop="garg")
    assert known[153:371, 44:1197].all() and known.sum() == (371 - 153) * (1197 - 44)
    target = np.ones((480, 640))
    prediction = target.copy()
    prediction[:45] = NAN  # outside the crop
    assert DepthMetric(crop="eigen").row(prediction, target)[1] == 0


# ----------------------------------------------------------------------------------------------------------- all of them


def make(kind, seed):
    rng = np.random.default_rng(seed)
    size = (6 + seed, 7)
    if kind == "flow":
        return FlowMetric(), (*rng.normal(size=(2, 2, *size)), rng.random(size) < 0.5)
    if kind == "segmentation":
        return SegmentationMetric(5), tuple(rng.integers(0, 5, (2, *size)))
    return DepthMetric(), tuple(rng.random((2, *size)) + 0.1)


KINDS = ["flow", "segmentation", "depth"]


@pytest.mark.parametrize("kind", KINDS)
def test_states_add(kind):
    """Two processes with an image each have, summed, the state of one process with both."""
    (one, image), (two, other) = make(kind, 0), make(kind, 1)
    both, _ = make(kind, 0)
    row = one.row(*image)
    assert not one.state.any()  # a row changes nothing
    assert row.dtype == np.float64 and row.shape == (len(one.row_names),) == one.state.shape and (row >= 0).all()
    one.update(*image)
    two.update(*other)
    assert (one.state == row).all()
    both.update(*image)
    both.update(*other)
    assert (one.state + two.state == both.state).all()
    single = str(one.compute())
    one.merge(two)
    assert str(one.compute()) == str(both.compute())
    assert str(one.compute(row)) == single  # one image's line of a table


@pytest.mark.parametrize("kind", KINDS)
def test_rows_sum_to_the_same_bits_in_any_order(kind):
    metric = make(kind, 0)[0]
    rows = [metric.row(*make(kind, seed)[1]) for seed in range(40)]
    total = sum_rows(rows)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(40)]
    assert (sum_rows(shuffled) == total).all() and (sum_rows(iter(rows[::-1])) == total).all()
    assert (total == [math.fsum(column) for column in zip(*rows, strict=True)]).all()


def test_rounding_depends_on_the_order_without_sum_rows():
    rows = [np.array([0.1 * i**3, i]) for i in range(1, 30)]
    assert len({float(sum(part)[0]) for part in (rows, rows[::-1])}) == 2
    assert sum_rows(rows)[0] == sum_rows(rows[::-1])[0] == math.fsum(0.1 * i**3 for i in range(1, 30))


@pytest.mark.parametrize("metric", [FlowMetric(), SegmentationMetric(3), DepthMetric()])
def test_nothing_known_is_nan(metric):
    scores = metric.compute()
    assert all(math.isnan(v) for v in scores.values() if not isinstance(v, dict))


@pytest.mark.parametrize("value", [NAN, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_prediction_that_is_not_finite_is_an_error(value, dtype):
    """It neither counts as an inlier nor makes all sums NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 1e300 as float32
        value = dtype(value)
    target = np.full((2, 40, 50), 2.0, dtype)
    target[:, 7, 9] = NAN
    prediction = target.copy()
    prediction[1, 7, 9] = value
    assert flow_sums(prediction, target)["n"] == 1999 and depth_scores(prediction[1], target[1])["rmse"] == 0
    prediction[1, 30, 20] = prediction[0, 31, 2] = value
    for run in (
        lambda: flow_sums(prediction, target),
        lambda: flow_sums(prediction, target.repeat(2, 1).repeat(2, 2), double="best"),
        lambda: flow_sums(prediction, target.repeat(2, 1).repeat(2, 2), double="mean"),
    ):
        with pytest.raises(ValueError, match=r"isn't finite at 2 pixels .* first at row 30, column 20"):
            run()
    with pytest.raises(ValueError, match=r"isn't finite at 1 pixels .* first at row 30, column 20"):
        depth_scores(prediction[1], target[1])


def test_clear_errors():
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) and target of shape \(2, 4, 5\)"):
        flow_sums(np.zeros((2, 4, 4)), np.zeros((2, 4, 5)))
    with pytest.raises(ValueError, match=r"\(4, 4, 2\); expected flow \(2, H, W\)"):
        flow_sums(np.zeros((4, 4, 2)), np.zeros((4, 4, 2)))
    with pytest.raises(ValueError, match=r"twice the size.*double='best'"):
        flow_sums(np.zeros((2, 4, 4)), np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match=r"occluded of shape \(4, 5\); expected \(4, 4\)"):
        flow_sums(np.zeros((2, 4, 4)), np.zeros((2, 4, 4)), np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match="double is 'min'"):
        FlowMetric("min")
    with pytest.raises(ValueError, match="label holds ids from 0 to 7; expected 0 to 2"):
        segmentation_confusion(np.zeros((1, 2), int), np.array([[0, 7]]), 3)
    with pytest.raises(ValueError, match="prediction holds ids"):
        segmentation_confusion(np.array([[0, 3]]), np.array([[0, 1]]), 3)
    with pytest.raises(ValueError, match="prediction is of type float64; expected whole numbers"):
        segmentation_confusion(np.array([[0, NAN]]), np.array([[0, 1]]), 3)
    with pytest.raises(ValueError, match="names has 2 different entries; expected 3"):
        SegmentationMetric(3, names=("a", "b"))
    with pytest.raises(ValueError, match="num_labels is 0"):
        SegmentationMetric(0)
    with pytest.raises(ValueError, match=r"target of shape \(2, 3, 3\); expected depth"):
        depth_scores(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match="crop is 'nyu'; expected 'eigen', 'garg' or None"):
        DepthMetric(crop="nyu")
    with pytest.raises(ValueError, match="align is 'mean'; expected 'median', 'least-squares' or None"):
        DepthMetric(align="mean")
    with pytest.raises(ValueError, match="expected 0 < min_depth < max_depth"):
        DepthMetric(min_depth=0)
    with pytest.raises(ValueError, match="cannot merge FlowMetric"):
        DepthMetric().merge(FlowMetric())


@pytest.mark.parametrize("metric", [FlowMetric(), DepthMetric(), SegmentationMetric(3)], ids=lambda m: type(m).__name__)
def test_masked_and_complex_arrays_are_refused(metric):
    """`np.asarray` drops a mask, and what it hides would count."""
    values = np.zeros((2, 4, 4)) if isinstance(metric, FlowMetric) else np.ones((4, 4), int)
    masked = np.ma.masked_array(values, mask=values == values)
    metric.update(values, np.ma.masked_array(values))  # nothing is hidden
    for pair in ((values, masked), (masked, values)):
        with pytest.raises(ValueError, match="is a masked array; expected"):
            metric.update(*pair)
    for wrong, kind in ((values.astype(complex), "complex128"), (values.tolist(), "list")):
        with pytest.raises(ValueError, match=f"prediction is of {kind}; expected an array of real numbers"):
            metric.update(wrong, values)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (DepthMetric(max_depth=3), DepthMetric()),
        (DepthMetric(align="median"), DepthMetric()),
        (FlowMetric("best"), FlowMetric("mean")),
        (SegmentationMetric(3), SegmentationMetric(3, ignore=2)),
        (SegmentationMetric(3), SegmentationMetric(3, names=("a", "b", "c"))),
    ],
)
def test_metrics_of_other_options_are_not_merged(one, other):
    with pytest.raises(ValueError, match="cannot merge a"):
        one.merge(other)
    one.merge(one)


def test_maps_beside_flow_are_finite():
    zero = np.zeros((2, 4, 4))
    target = np.full((2, 4, 4), 3.0)
    target[:, 0, 0] = NAN
    odd = np.ones((4, 4))
    odd[0, 0] = NAN
    assert np.isfinite(FlowMetric().compute(FlowMetric().row(zero, target, uncertainty=odd))["ause"])
    with pytest.raises(ValueError, match="occluded holds other values"):
        FlowMetric().row(zero, target, odd)
    with pytest.raises(ValueError, match="occluded holds other values"):
        FlowMetric().row(zero, target, np.full((4, 4), 0.5))
    odd[2, 3] = np.inf
    with pytest.raises(ValueError, match=r"uncertainty isn't finite at 1 pixels .* row 2, column 3"):
        FlowMetric().row(zero, target, uncertainty=odd)
