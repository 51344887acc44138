"""Tables of windows, flow: where the second frame's lie, zero flow on them, and results at figure 1's step."""

import types

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from research.experiments import flow_kinds, flow_tables
from research.experiments.context import RECIPES
from support.experiment_cases import constant, context_of, finish, result, scenes

from winwin_hf import WinWinImageProcessor
from winwin_hf.data.collator import SecondStrategy, WinWinCollator
from winwin_hf.data.sample import FlowSample
from winwin_hf.model.outputs_winwin import WinWinOpticalFlowOutput
from winwin_hf.training.evaluate import evaluate_windows
from winwin_hf.training.recipe import load_recipe
from winwin_hf.windows import Strategy


def second_windows(rule: SecondStrategy):
    image, truth = np.zeros((320, 320, 3), np.uint8), constant(64, 32, (320, 320))  # 4 patches right, 2 down
    strategy = Strategy("windows", count=2, size=(4, 4))
    batch = WinWinCollator(lambda example, rng: FlowSample(image, image, truth), strategy, "optical-flow", second=rule)
    made = batch([{"index": i} for i in range(8)])
    return made["window_positions"], made["second_window_positions"]


def test_symmetric_windows_stay_where_the_first_ones_lie():
    first, second = second_windows(SecondStrategy(size=(4, 4), jitter=0.0, motion_share=0.0))
    assert torch.equal(first, second)
    first, second = second_windows(SecondStrategy(size=(4, 4), jitter=0.0))
    assert not torch.equal(first, second)
    free = (first + torch.tensor([2, 4])).clamp(max=16)
    assert torch.equal(second, free)


def test_zero_flow_is_scored_on_the_windows_of_the_evaluation():
    """As a network that says zero is, by the training's own evaluation."""

    class Still(torch.nn.Module):
        config = types.SimpleNamespace(patch_size=16, id2label=None)

        def forward(self, pixel_values, labels=None, **_):
            batch, count, _, height, width = pixel_values.shape
            return WinWinOpticalFlowOutput(flow=torch.zeros(batch, count, 2, height, width))

    recipe = load_recipe(RECIPES / flow_kinds.SHORT, ["evaluation.windows=3", "data.settings.texture_count=2"])
    found = evaluate_windows(Still(), WinWinImageProcessor(), recipe, Accelerator())
    assert flow_tables.zero_on_windows(recipe)["epe"] == pytest.approx(found["epe"], rel=1e-6) and found["epe"] > 1


def test_tables_compare_with_figure_1_at_their_step(tmp_path, monkeypatch):
    monkeypatch.setattr(flow_tables, "held_out", lambda: scenes((192, 256), 1))
    monkeypatch.setattr(flow_tables, "zero_on_windows", lambda recipe: {"epe": 20.0})
    context = context_of(tmp_path)
    for key in flow_tables.FLOW_WINDOWS:
        finish(context, key)
    flow_tables.table_flow_windows(context)
    found, text = result(context, "table-flow-windows")
    step = load_recipe(RECIPES / flow_kinds.SHORT).optimization.steps
    assert found["step"] == step
    runs = {key: kind["runs"][0] for key, kind in found["kinds"].items()}
    assert runs["windows"]["frames_epe"] == runs["four"]["frames_epe"] == 30 - step / 100
    assert runs["windows"]["seconds"] == pytest.approx(0.4 * step)
    assert runs["windows"]["windows"] == pytest.approx(100 * (20 - step / 200) / 20)
    assert "2 of 6x6 (as in figure 1)" in text
