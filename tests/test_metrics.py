"""Scores worked out by hand; sums of parts are the sum of the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

from winwin_hf.metrics import DepthMetric, FlowMetric, SegmentationMetric, depth_sums, flow_sums, segmentation_confusion

NAN = np.nan


def pixels(*vectors):
    """(u, v) of each pixel -> (2, 1, W)."""
    return np.array(vectors, np.float32).T[:, None, :]


def test_flow_by_hand():
    target = pixels((0, 0), (0, 0), (100, 0), (10, 0), (NAN, 0), (1e9, 0))
    prediction = pixels((0, 0.5), (3, 4), (104, 0), (10, 2), (50, 50), (0, 0))
    # errors 0.5, 5, 4, 2; 4 px of 100 is below 5 %
    assert flow_sums(prediction, target) == {"n": 4, "epe": 11.5, "1px": 3, "3px": 2, "fl": 1}
    metric = FlowMetric()
    metric.update(prediction, target)
    assert metric.compute() == {"epe": 11.5 / 4, "1px": 75.0, "3px": 50.0, "fl": 25.0}
    metric.update(target[..., :4], target[..., :4])  # a perfect image, weighted by its pixels
    assert metric.compute()["epe"] == pytest.approx(11.5 / 8)


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


def test_depth_by_hand():
    target = np.array([[1.0, 2.0, NAN, 0.0, np.inf]])
    prediction = np.array([[1.5, 2.0, 9.0, 9.0, 9.0]])
    scores = depth_sums(prediction, target)
    assert scores["images"] == 1 and scores["abs_rel"] == pytest.approx(0.25)
    assert scores["rmse"] == pytest.approx(math.sqrt(0.125))
    assert scores["silog"] == pytest.approx(100 * math.log(1.5) / 2)
    assert (scores["delta1"], scores["delta2"], scores["delta3"]) == (0.5, 1.0, 1.0)
    metric = DepthMetric(max_depth=1.2)  # clips the prediction and drops the second pixel
    metric.update(prediction, target)
    assert metric.compute()["abs_rel"] == pytest.approx(0.2)
    metric.update(prediction, np.full_like(target, NAN))  # an image without ground truth changes nothing
    metric.update(np.ones((1, 1)), np.ones((1, 1)))
    assert metric.compute()["abs_rel"] == pytest.approx(0.1) and metric.compute()["delta1"] == 100


def make(kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "flow":
        metric, pair = FlowMetric(), rng.normal(size=(2, 2, 6, 7))
    elif kind == "segmentation":
        metric, pair = SegmentationMetric(5), rng.integers(0, 5, (2, 6, 7))
    else:
        metric, pair = DepthMetric(), rng.random((2, 6, 7)) + 0.1
    metric.update(*pair)
    return metric, pair


@pytest.mark.parametrize("kind", ["flow", "segmentation", "depth"])
def test_states_add(kind):
    """Two processes with an image each have, summed, the state of one process with both."""
    (one, _), (two, pair) = make(kind, 0), make(kind, 1)
    both, _ = make(kind, 0)
    both.update(*pair)
    assert one.state.dtype == np.float64 and one.state.ndim == 1
    assert (one.state + two.state == both.state).all()
    one.merge(two)
    assert str(one.compute()) == str(both.compute())


@pytest.mark.parametrize("metric", [FlowMetric(), SegmentationMetric(3), DepthMetric()])
def test_nothing_known_is_nan(metric):
    scores = metric.compute()
    assert all(math.isnan(v) for v in scores.values() if not isinstance(v, dict))


def test_clear_errors():
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) and target of shape \(2, 4, 5\)"):
        flow_sums(np.zeros((2, 4, 4)), np.zeros((2, 4, 5)))
    with pytest.raises(ValueError, match="label holds ids from 0 to 7; expected 0 to 2"):
        segmentation_confusion(np.zeros((1, 2), int), np.array([[0, 7]]), 3)
    with pytest.raises(ValueError, match="prediction holds ids"):
        segmentation_confusion(np.array([[0, 3]]), np.array([[0, 1]]), 3)
    with pytest.raises(ValueError, match="cannot merge FlowMetric"):
        DepthMetric().merge(FlowMetric())
