"""Bundling a training: half-precision weights that load as float32, and a card whose figures are the training's."""

import json
import re

import pytest
import torch
from test_evaluation import RECIPE
from transformers import AutoImageProcessor, AutoModel

from winwin_hf import WinWinForOpticalFlow
from winwin_hf.cards import bundle
from winwin_hf.recipe import Recipe, build
from winwin_hf.training import save_model


@pytest.fixture
def run(tmp_path):
    recipe = build(Recipe, RECIPE, "test")
    torch.manual_seed(0)
    save_model(WinWinForOpticalFlow(recipe.config()), tmp_path / "run", recipe)
    scores = {"epe": 3.14159, "1px": 50.0, "3px": 20.0, "fl": 19.5, "images": 7, "seconds": 0.1}
    lines = [
        {"step": 4, "frames": {**scores, "epe": 9.9, "size": [90, 130]}},
        {"step": 8, "windows": scores, "frames": {**scores, "epe": 2.71828, "size": [90, 130]}},
        {"step": 8, "loss": 1.0},
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "run"


def test_weights_are_half_the_size_and_load_as_float32(run, tmp_path):
    folder = bundle(run, tmp_path / "winwin-x", "Limits.")
    before, after = AutoModel.from_pretrained(run / "model"), AutoModel.from_pretrained(folder)
    assert after.dtype == torch.float32
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, run / "model")]
    assert sizes[0] < 0.6 * sizes[1]
    assert AutoImageProcessor.from_pretrained(folder).patch_size == 16


def test_card_has_the_last_evaluation(run, tmp_path):
    text = (bundle(run, tmp_path / "winwin-x", "Only a test.") / "README.md").read_text()
    assert "2.72" in text and "3.14" in text and "9.90" not in text
    assert "Only a test." in text and "license: apache-2.0" in text and "optical-flow-estimation" in text
    assert re.search(r"8 steps of 2 examples \(16 in all\)", text)


def test_recipe_names_no_folder_of_the_machine(run, tmp_path):
    text = (
        (run / "model" / "recipe.yaml")
        .read_text()
        .replace("name: synthetic-flow", f"name: synthetic-flow\n  path: {run}")
    )
    (run / "model" / "recipe.yaml").write_text(text)
    folder = bundle(run, tmp_path / "winwin-x", "Limits.")
    assert str(run) not in (folder / "recipe.yaml").read_text() + (folder / "README.md").read_text()


def test_unfinished_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="ended"):
        bundle(tmp_path, tmp_path / "x", "")
