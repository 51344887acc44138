"""Figures 1 and 5, flow: results of finished, unfinished and missing trainings."""

import dataclasses

import pytest
from research.experiments import figure4, flow, flow_kinds, flow_logits, flow_tables, kinds, tilings
from research.experiments.context import Context
from support.experiment_cases import context_of, finish, result, scenes


@pytest.fixture
def context(tmp_path, monkeypatch) -> Context:
    """Small frames, few of them."""
    monkeypatch.setattr(flow, "held_out", lambda: scenes((192, 256), 1))
    monkeypatch.setattr(flow, "SIZES", ((96, 128), (192, 256)))
    for name in ("SIZE_PAIRS", "TIMED_PAIRS"):
        monkeypatch.setattr(flow, name, 1)
    return context_of(tmp_path)


def test_figure_1(context):
    for key in flow_kinds.FIGURE1:
        finish(context, key)
    flow.figure1(context)
    found, text = result(context, "figure1-flow")
    assert set(found["kinds"]) == {"windows", "crops", "full", "crops-tiled"}
    run = found["kinds"]["full"]["runs"][0]
    options = flow_kinds.recipe_of("full").optimization
    assert run["seconds_per_pair"] == pytest.approx(0.4 / options.batch_size)
    assert run["curve"][-1] == [pytest.approx(0.4 * options.steps / 60), pytest.approx(30 - options.steps / 100)]
    assert run["frames"]["passes"] == 1 and found["kinds"]["crops-tiled"]["runs"][0]["frames"]["passes"] == 4
    assert "longer than a crop is high (176 px)" in text and "1 seed" not in text
    # a second time nothing is predicted or trained
    flow.figure1(dataclasses.replace(context, draw_only=True))


def test_figure_1_of_some_trainings(context):
    finish(context, "windows")
    finish(context, "windows", 1)
    finish(context, "crops")
    full = finish(context, "full")
    context = dataclasses.replace(context, seeds=2)
    # a second seed of two kinds, and the third kind, are not there yet
    (full / "model" / "config.json").unlink()
    draw_only = dataclasses.replace(context, draw_only=True)
    flow.figure1(draw_only)
    assert not context.output.exists() or not list(context.output.glob("*.png"))  # nothing was scored
    monkey = kinds.train_all
    try:
        kinds.train_all = lambda runs, context: monkey(runs, dataclasses.replace(context, draw_only=True))
        flow.figure1(context)
    finally:
        kinds.train_all = monkey
    found, text = result(context, "figure1-flow")
    assert [len(kind["runs"]) for kind in found["kinds"].values()] == [2, 1, 0, 1]
    assert "| - |" in text


def test_figure_5(context):
    for key in flow_kinds.FIGURE1:
        finish(context, key)
    flow.figure5(context)
    found, text = result(context, "figure5-flow")
    assert "192x256" in text and len(found["kinds"]["windows"]["runs"]) == 1
    tiled, crops = (found["kinds"][key]["runs"][0]["0"]["relative"] for key in ("crops-tiled", "crops"))
    assert tiled == crops  # the smallest frame fits into one tile


def test_missing_trainings_are_reported(context):
    draw_only = dataclasses.replace(context, draw_only=True)
    for module in (flow, flow_tables, flow_logits, figure4, tilings):
        for experiment in module.EXPERIMENTS.values():
            experiment.function(draw_only)
    assert not context.output.exists()
    assert "nothing is" in (context.work.parent / "console.txt").read_text()
