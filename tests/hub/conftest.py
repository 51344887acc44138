"""A small training, as it is left when it has ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.recipes import RECIPE

from winwin_hf import WinWinForOpticalFlow
from winwin_hf.checked import build
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.training.recipe import Recipe
from winwin_hf.training.state import save_model


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Of optical flow; "a" is a set of its recipe."""
    recipe = build(Recipe, RECIPE, "test")
    torch.manual_seed(0)
    save_model(WinWinForOpticalFlow(recipe.config()), tmp_path / "run", recipe, WinWinImageProcessor())
    scores = {"epe": 3.14159, "1px": 50.0, "3px": 20.0, "fl": 19.5, "images": 7, "seconds": 0.1}
    lines = [
        {"step": 4, "a": {**scores, "epe": 9.9, "size": [90, 130]}},
        {"step": 8, "windows": scores, "a": {**scores, "epe": 2.71828, "size": [90, 130]}},
        {"step": 8, "loss": 1.0},
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "run"
