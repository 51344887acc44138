"""The classical refinement of a flow: it finds fractions of a pixel, under any method's name with +variational behind it."""

import cv2
import numpy as np
import pytest
from accelerate import Accelerator

from winwin_hf.bundled import examples_folder
from winwin_hf.data.formats import read_image
from winwin_hf.evaluation import methods
from winwin_hf.inference import variational


@pytest.fixture(scope="module")
def shifted():
    """Two frames whose true flow is (1.4, -0.6) everywhere, and that flow."""
    image = cv2.resize(read_image(examples_folder() / "bedroom_1.jpg"), (320, 240), interpolation=cv2.INTER_AREA)
    motion = np.float32([[1, 0, 1.4], [0, 1, -0.6]])
    second = cv2.warpAffine(image, motion, (320, 240), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    flow = np.empty((2, 240, 320), np.float32)
    flow[0], flow[1] = 1.4, -0.6
    return image, second, flow


def error(flow, truth) -> float:
    return float(np.hypot(*(flow - truth))[8:-8, 8:-8].mean())


def test_a_flow_that_is_rounded_is_mended(shifted):
    image, second, truth = shifted
    rounded = np.rint(truth)
    before = rounded.copy()
    refined = variational.refine(rounded, image, second)
    assert refined.shape == truth.shape and refined.dtype == np.float32
    assert error(refined, truth) < 0.4 * error(rounded, truth)
    assert np.array_equal(rounded, before)


def test_any_method_of_flow_can_be_refined(shifted):
    image, second, truth = shifted
    accelerator = Accelerator(cpu=True)
    plain = methods.load("opencv-farneback", accelerator)
    refined = methods.load("opencv-farneback+variational", accelerator)
    assert (refined.name, refined.task, refined.labels) == ("opencv-farneback+variational", "optical-flow", None)
    before, after = plain(image, second), refined(image, second)
    assert after.log_scale is None and after.seconds > 0
    assert np.array_equal(after.values, variational.refine(before.values, image, second))
    assert error(after.values, truth) < error(before.values, truth)


def test_the_network_keeps_its_confidence(shifted):
    refined = methods.load("winwin-flow+variational", Accelerator(cpu=True))
    assert refined.name == "winwin-flow+variational"
    found = refined(*shifted[:2])
    assert found.values.shape == (2, 240, 320) and found.log_scale.shape == found.confidence.shape == (240, 320)


def test_what_cannot_be_refined_is_named(shifted):
    image, second, flow = shifted
    with pytest.raises(ValueError, match="winwin-seg is for semantic segmentation: only flow"):
        methods.load("winwin-seg+variational", Accelerator(cpu=True))
    with pytest.raises(ValueError, match="needs two frames"):
        methods.load("zero+variational", Accelerator(cpu=True))(image)
    with pytest.raises(ValueError, match="expected a flow"):
        variational.refine(flow[:, 1:], image, second)
    with pytest.raises(OSError, match="nothing-of-that-name"):
        methods.load("nothing-of-that-name+variational", Accelerator(cpu=True))
