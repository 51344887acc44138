"""Scores of predictions, and the real sets that they are taken on."""

import numpy as np
import pytest
from research.experiments import fields, predicting
from research.experiments.context import Context
from research.experiments.predicting import Way
from support.experiment_cases import network_of, scenes


def test_score_is_the_mean_over_all_pixels():
    network, frames = network_of("conv"), scenes()
    found = predicting.score(network, frames.read(), Way(), (0.0, 8.0))
    errors = [fields.errors_of(predicting.predict(network, pair).flow, pair.flow)[0] for pair in frames.read()]
    assert found["epe"] == pytest.approx(float(np.mean(errors)), rel=1e-5)
    lengths = [np.hypot(pair.flow[..., 0], pair.flow[..., 1]) for pair in frames.read()]
    assert found["zero"] == pytest.approx(float(np.mean(lengths)), rel=1e-5)
    assert found["relative"] == pytest.approx(100 * found["epe"] / found["zero"])
    assert found["pairs"] == 2 and found["passes"] == 1


def test_real_sets_are_those_of_the_command_line(tmp_path, real_data):
    sets = predicting.real_sets(Context(data={"sintel": str(real_data("Sintel")), "textures": "nowhere"}), 2)
    assert [one.key for one in sets] == ["sintel-clean"]
    pairs = list(sets[0].read())
    assert len(pairs) == 2 and pairs[0].size == (436, 1024) and np.isfinite(pairs[0].flow).all()
