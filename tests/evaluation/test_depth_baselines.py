"""Depth from a pixel's place alone: what is learnt from training frames, and how it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from accelerate import Accelerator
from support.places import FRAMES

from winwin_hf.evaluation import methods
from winwin_hf.evaluation.depth_baselines import GRID, DepthBaseline, learn

ROOM = FRAMES / "depth" / "7scenes-room"


def ramp(start: float = 1.0, slope: float = 2.0) -> np.ndarray:
    """Depth that grows by `slope` metres from the top row to the bottom one, the same in all columns."""
    return np.broadcast_to(start + slope * (np.arange(120)[:, None] + 0.5) / 120, (120, 160)).astype(np.float32)


def test_the_mean_leaves_out_what_is_unknown():
    holes = ramp()
    holes[:, :80] = np.nan
    holes[40:80] = 0
    found = learn("mean-depth", [holes, ramp(3.0), None])
    assert found.shape == GRID and found.dtype == np.float32
    expected = learn("mean-depth", [ramp(3.0)])
    assert np.allclose(found[:, :38], expected[:, :38], atol=1e-3)  # only the second frame knows these ...
    assert np.allclose(found[25:35], expected[25:35], atol=1e-3)
    assert np.allclose(found[:15, 42:], expected[:15, 42:] - 1, atol=1e-3)  # ... and both these: (1 + 3) / 2 at the top


def test_the_line_is_found():
    noise = np.random.default_rng(0).normal(0, 0.1, (120, 160)).astype(np.float32)
    found = learn("height-depth", [ramp() + noise])
    assert np.allclose(found, learn("mean-depth", [ramp()]), atol=0.05)
    assert np.ptp(found, axis=1).max() == 0


def test_nothing_known_is_an_error():
    with pytest.raises(ValueError, match="no training frame has known depth"):
        learn("mean-depth", [np.full((12, 16), np.nan, np.float32)])


@pytest.mark.parametrize("method", ["mean-depth", "height-depth"])
def test_asked_for_by_name(method):
    predictor = methods.load(f"{method}@seven-scenes:all[:60%]={ROOM}", Accelerator(cpu=True))
    assert isinstance(predictor, DepthBaseline) and (predictor.task, predictor.name) == ("depth-estimation", method)
    depth = predictor(np.zeros((48, 64, 3), np.uint8)).values
    assert depth.shape == (48, 64) and depth.dtype == np.float32 and (depth > 0).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mean-depth", "expected METHOD@NAME:SPLIT=PATH"),
        ("mean-depth@seven-scenes=/x", "expected METHOD@NAME:SPLIT=PATH"),
        ("height-depth@camvid:train=/nowhere", "nowhere"),
    ],
)
def test_what_is_wrong_is_named(name, message):
    with pytest.raises((ValueError, OSError), match=message):
        methods.load(name, Accelerator(cpu=True))
