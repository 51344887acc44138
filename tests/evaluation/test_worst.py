"""Pictures of the worst images."""

from __future__ import annotations

import numpy as np
import pytest

from winwin_hf.evaluation import worst
from winwin_hf.evaluation.scoring import Frame


@pytest.mark.parametrize("task", ["optical-flow", "depth-estimation", "semantic-segmentation"])
def test_picture_of_a_frame(task):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    target = {
        "optical-flow": rng.normal(size=(2, 80, 120)),
        "depth-estimation": rng.uniform(1, 5, (40, 60)),
        "semantic-segmentation": rng.integers(0, 11, (40, 60)),
    }[task]
    if task != "semantic-segmentation":
        target[..., :5] = np.nan
    prediction = {
        "optical-flow": np.zeros((2, 40, 60)),
        "depth-estimation": np.ones((40, 60)),
        "semantic-segmentation": np.zeros((40, 60), int),
    }[task]
    picture = worst.draw(Frame(0, "x", image, None, target), prediction, task, {"epe": 1.0})
    assert picture.dtype == np.uint8 and picture.shape[1] > 4 * 400
