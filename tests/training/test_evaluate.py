"""Evaluation: full frames as a user would, windows as in training, the same from any number of processes."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from support.recipes import RECIPE
from support.two_processes import in_two_processes
from transformers.modeling_outputs import SemanticSegmenterOutput

from winwin_hf import WinWinForOpticalFlow
from winwin_hf.checked import build
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.outputs_winwin import WinWinOpticalFlowOutput
from winwin_hf.processes import connect
from winwin_hf.training import evaluate as module
from winwin_hf.training.evaluate import evaluate, open_set, precision_here, prediction_of, show
from winwin_hf.training.recipe import EvaluationSet, Recipe


class Oracle(torch.nn.Module):
    """Predicts zero flow, in the layout of its input."""

    dtype = torch.float32

    def __init__(self, config):
        super().__init__()
        self.config = config

    def set_attn_implementation(self, _):
        pass

    def forward(self, pixel_values, **_):
        shape = (*pixel_values.shape[:-3], 2, *pixel_values.shape[-2:])
        return WinWinOpticalFlowOutput(flow=torch.zeros(shape), log_scale=torch.zeros(shape[:-3] + shape[-2:]))


def test_no_guess_made_from_the_truth_is_scored():
    class Strict(Oracle):
        def forward(self, pixel_values, **given):
            assert "initial_flow" not in given
            return super().forward(pixel_values, **given)

    recipe = build(Recipe, {**RECIPE, "initial_flow": {"probability": 1.0}}, "test")
    assert evaluate(Strict(recipe.config()), WinWinImageProcessor(), recipe, Accelerator())["windows"]["images"] == 3


def test_scores_of_zero_flow_are_the_motion():
    recipe = build(Recipe, RECIPE, "test")
    results = evaluate(Oracle(recipe.config()), WinWinImageProcessor(), recipe, Accelerator())
    assert list(results) == ["windows", "a", "b"]
    assert results["a"]["images"] == 2 and results["windows"]["images"] == 3
    assert results["a"]["size"] == [90, 130]
    source = open_set(recipe, recipe.evaluation.sets[0])
    lengths = []
    for example in source.examples(2):
        sample = source.reader(example, np.random.default_rng(0))
        lengths.append(np.linalg.norm(sample.first((0, 0, 90, 130))[1], axis=-1).mean())
    assert results["a"]["epe"] == pytest.approx(np.mean(lengths), rel=1e-5)


def test_is_repeatable_and_leaves_the_model_as_it_was():
    recipe = build(Recipe, RECIPE, "test")
    torch.manual_seed(0)
    model = WinWinForOpticalFlow(recipe.config()).train()
    model.set_attn_implementation("eager")
    first, second = (evaluate(model, WinWinImageProcessor(), recipe, Accelerator()) for _ in range(2))
    assert {k: v["epe"] for k, v in first.items()} == {k: v["epe"] for k, v in second.items()}
    assert model.training and model.config._attn_implementation == "eager"
    show(first, "title")


def test_examples_for_windows_are_read_as_they_are_scored(monkeypatch):
    """So that any number of them takes no memory, and a signal ends the evaluation."""
    read = []
    examples = module.Source.examples

    def endless(self, *_):
        for example in itertools.chain(examples(self, 1), itertools.repeat(None)):
            read.append(example)
            yield example

    monkeypatch.setattr(module.Source, "examples", endless)

    class Ends(Oracle):
        def forward(self, pixel_values, **_):
            raise KeyboardInterrupt

    recipe = build(Recipe, RECIPE, "test")
    with pytest.raises(KeyboardInterrupt):
        evaluate(Ends(recipe.config()), WinWinImageProcessor(), recipe, Accelerator())
    assert len(read) == 1


def test_shares_of_processes_add_up():
    recipe = build(Recipe, RECIPE, "test")
    source = open_set(recipe, EvaluationSet(label="x", length=5))
    whole = [e["index"] for e in source.examples(5)]
    parts = [e["index"] for rank in range(2) for e in source.examples(5, rank, 2)]
    assert whole == sorted(parts) == [0, 1, 2, 3, 4]


def evaluate_there(folder: str, windows: int, frames: int, more: dict) -> None:
    """Scores in one of the processes; each writes what it found."""
    torch.set_num_threads(1)
    connect()
    evaluation = {"windows": windows, "sets": [{"label": "frames", "length": frames}]}
    recipe = build(Recipe, {**RECIPE, "evaluation": evaluation, **more}, "test")
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    found = evaluate(WinWinForOpticalFlow(recipe.config()), WinWinImageProcessor(), recipe, accelerator)
    name = f"{accelerator.num_processes}-{accelerator.process_index}"
    (Path(folder) / name).write_text(json.dumps(found))


DRAWN = {"windows": {"kind": "windows", "count": 2, "tokens": 12, "min_side": 1}}  # a shape for each batch


@pytest.mark.parametrize(("windows", "frames", "more"), [(5, 3, {}), (5, 1, DRAWN), (1, 1, {})])
def test_two_processes_score_each_example_once(tmp_path, windows, frames, more):
    """Neither length is a multiple of two; of one example the second process has none."""
    evaluate_there(str(tmp_path), windows, frames, more)
    in_two_processes(evaluate_there, str(tmp_path), windows, frames, more)
    one, *two = (json.loads((tmp_path / name).read_text()) for name in ("1-0", "2-0", "2-1"))
    for scores in (one, *two):
        for part in scores.values():
            del part["seconds"]
    assert two[0]["frames"] == two[1]["frames"] == one["frames"]  # to the last digit
    assert one["windows"].pop("images") == windows
    for scores in two:
        assert scores["windows"].pop("images") == windows
        assert scores["windows"] == pytest.approx(one["windows"], rel=1e-9, nan_ok=True)


def test_prediction_of_logits_is_the_class():
    logits = torch.zeros(1, 1, 3, 32, 32)
    logits[:, :, 1] = 1
    assert (prediction_of(SemanticSegmenterOutput(logits=logits)) == torch.ones(1, 1, 32, 32)).all()


@pytest.mark.parametrize(
    ("wanted", "has_products", "used"), [("bf16", False, "no"), ("bf16", True, "bf16"), ("no", False, "no")]
)
def test_a_recipe_computes_in_float32_where_its_precision_is_emulated(wanted, has_products, used, monkeypatch, caplog):
    recipe = build(Recipe, {**RECIPE, "optimization": {**RECIPE["optimization"], "mixed_precision": wanted}}, "recipe")
    monkeypatch.setattr(module, "has_half_products", lambda _: has_products)
    assert precision_here(recipe) == used
    assert ("float32 instead of mixed_precision=bf16" in caplog.text) == (used != wanted)
