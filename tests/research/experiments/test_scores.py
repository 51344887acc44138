"""Scores are computed once."""

import math

import pytest
import torch
from research.experiments.scores import score_once
from support.experiment_cases import context_of


def test_a_score_is_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"miou": torch.tensor(3.5), "gone": math.nan}

    here, folder = context_of(tmp_path), tmp_path / "work" / "a-0"
    assert score_once(context_of(tmp_path, draw_only=True), "scale-2", folder, compute) is None
    for _ in range(2):
        assert score_once(here, "scale-2", folder, compute) == {"miou": 3.5, "gone": None}
    assert calls == [1]
    with pytest.raises(KeyError):  # what fails leaves nothing behind
        score_once(here, "other", folder, lambda: {}["x"])
    assert [path.name for path in (folder / "scores").iterdir()] == ["scale-2.json"]
