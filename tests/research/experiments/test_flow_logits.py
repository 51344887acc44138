"""Logits scaled with the number of tokens, flow: every part is reached, and put back."""

import math

import numpy as np
import pytest
import torch
from research.experiments import flow_kinds, flow_logits, predicting
from support.experiment_cases import context_of, network_of, result, scenes
from support.model_cases import make


def test_logits_are_scaled_and_put_back():
    network, pair = network_of(), next(iter(scenes().read()))
    recipe = flow_kinds.recipe_of("windows")
    before = predicting.predict(network, pair).flow
    ratios = flow_logits.log_ratios(network.model, recipe, 3072)
    assert ratios["self"] == pytest.approx(math.log(3072) / math.log(72))
    assert ratios["cross"] == pytest.approx(math.log(3072) / math.log(200))
    assert ratios["encoder"] == pytest.approx(2 * math.log(3072) / (math.log(72) + math.log(200)))
    assert ratios["matching"] == pytest.approx(math.log(4 * 3072) / math.log(800))

    def change(attention: float, matching: float, ratios=ratios) -> float:
        with flow_logits.scaled_logits(network.model, ratios, attention, matching):
            return float(np.abs(predicting.predict(network, pair).flow - before).max())

    assert change(0, 0) == 0
    assert change(1, 0) > 1e-3 and change(0, 1) > 1e-3
    ones = dict.fromkeys(ratios, 1.0)
    assert change(1, 1, ones) == 0
    # each of the parts is reached
    for name in ratios:
        assert change(1, 1, {**ones, name: 1.5}) > 1e-5, name
    assert change(0, 0) == 0  # as it was


def test_only_the_global_matching_is_scaled():
    model = make("optical-flow", "matching")
    seen = []
    attend = model.matching.attend
    model.matching.attend = lambda query, *rest, **options: (
        seen.append(query.clone()),
        attend(query, *rest, **options),
    )[1]
    views = torch.randn(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(views[0], views[1])
        with flow_logits.scaled_logits(
            model, dict.fromkeys(("encoder", "self", "cross"), 1.0) | {"matching": 2.0}, 1, 1
        ):
            model(views[0], views[1])
        model(views[0], views[1])
    assert len(seen) == 6 and torch.equal(seen[4], seen[0])
    torch.testing.assert_close(seen[2], 2 * seen[0])
    assert seen[3].norm(dim=-1).mean() == pytest.approx(float(seen[1].norm(dim=-1).mean()), rel=1e-3)


def test_logit_scaling_without_trainings(tmp_path, monkeypatch):
    monkeypatch.setattr(flow_logits, "LOGIT_SIZES", ((64, 96),))
    monkeypatch.setattr(flow_logits, "LOGIT_PAIRS", 1)
    context = context_of(tmp_path)
    monkeypatch.setattr(flow_logits, "VARIANTS", {key: flow_logits.VARIANTS[key] for key in flow_logits.DRAWN})
    flow_logits.logit_scaling(context)
    found, text = result(context, "logit-scaling-flow")
    assert list(found["results"]) == [predicting.CHECKPOINT]
    one = found["results"][predicting.CHECKPOINT]["sizes"]["64x96"]
    assert one["tokens"] == 24 and set(one["variants"]) == set(flow_logits.DRAWN)
    assert one["variants"]["both"]["epe"] != one["variants"]["none"]["epe"]
    assert "zero flow" in text
