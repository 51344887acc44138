"""Guesses of the flow: near the truth, blind to nothing but what they should be, the same each time."""

import numpy as np
import pytest

from winwin_hf.data.guesses import GuessStrategy


def truth() -> np.ndarray:
    """Two windows; a small thing in the first moves apart."""
    flow = np.zeros((2, 96, 96, 2), np.float32)
    flow[..., 0] = 40
    flow[0, 30:50, 30:50] = (-5, 3)
    flow[1, :20] = np.nan
    return flow


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_none_is_made_unless_asked_for():
    assert not GuessStrategy()(truth(), rng()).any()
    made = [GuessStrategy(probability=0.5)(truth(), np.random.default_rng(i)).any() for i in range(200)]
    assert 70 < sum(made) < 130


def test_near_the_truth():
    guess = GuessStrategy(probability=1, blur=0, miss=(0.01, 0.01), lost=0)(truth(), rng())
    known = np.isfinite(truth())
    assert np.abs(guess - truth())[known].max() < 0.1 and np.isfinite(guess).all()
    assert guess[1, :20, :, 0] == pytest.approx(
        np.full((20, 96), 40), abs=0.1
    )  # the window's motion where nothing is known


def test_small_things_are_lost():
    guess = GuessStrategy(probability=1, blur=0, miss=(0.01, 0.01), lost=1)(truth(), rng())
    assert guess[..., 0] == pytest.approx(np.full((2, 96, 96), 40), abs=0.1)


def test_misses_are_as_large_as_said_and_smooth():
    misses = []
    for i in range(40):
        strategy = GuessStrategy(probability=1, blur=0, miss=(4, 4), lost=0)
        guess = strategy(truth(), np.random.default_rng(i))
        misses.append((guess - truth())[0])
    assert 2 < np.std(misses) < 4.5  # less between the cells' centres
    assert np.abs(np.diff(misses, axis=2)).max() < 2


def test_unknown_windows_guess_no_motion():
    flow = np.full((1, 32, 32, 2), np.nan, np.float32)
    assert np.abs(GuessStrategy(probability=1, miss=(0.01, 0.01))(flow, rng())).max() < 0.1


@pytest.mark.parametrize("values", [{"probability": 2}, {"lost": -1}, {"blur": -1}, {"miss": (0, 1)}, {"miss": (3, 1)}])
def test_settings_are_checked(values):
    with pytest.raises(ValueError, match=f"GuessStrategy: {next(iter(values))}"):
        GuessStrategy(**values)
