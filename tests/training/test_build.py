"""A recipe's loader: what it hands to loader processes can be sent there, as Windows and macOS start them."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from support.places import FRAMES
from support.recipes import RECIPE

from winwin_hf.checked import build
from winwin_hf.data.guesses import GuessStrategy
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.training.build import make_loader, make_model, open_parts
from winwin_hf.training.recipe import Recipe

CAMVID = {"name": "camvid", "path": str(FRAMES / "CamVid")}
DATA: dict[str, tuple[str, dict[str, Any]]] = {
    "synthetic flow": ("optical-flow", RECIPE["data"]),
    "guesses": ("optical-flow", RECIPE["data"]),
    "rooms": ("depth-estimation", {"name": "synthetic-depth", "settings": {"height": 90, "width": 130}}),
    "files": ("semantic-segmentation", CAMVID),
    "files, skipping broken ones": ("semantic-segmentation", {**CAMVID, "skip_broken": True}),
    "mixture": ("semantic-segmentation", {"sets": [CAMVID, {**CAMVID, "weight": 2}]}),
}


def recipe_of(kind: str, workers: int = 1) -> Recipe:
    task, data = DATA[kind]
    options = {"batch_size": 2, "num_workers": workers}
    guesses = {"initial_flow": {"probability": 1.0}} if kind == "guesses" else {}
    return build(Recipe, {**RECIPE, "task": task, "data": data, "optimization": options, **guesses}, kind)


@pytest.mark.parametrize("kind", DATA)
def test_what_loader_processes_need_can_be_sent(kind: str):
    loader = make_loader(recipe_of(kind), 0, 1, 0, WinWinImageProcessor())
    for part in (loader.dataset, loader.collate_fn, loader.worker_init_fn):
        assert len(ForkingPickler.dumps(part)) < 2**20  # more than a description would be slow to send


@pytest.mark.parametrize("kind", ["guesses", "files"])
def test_guesses_need_a_model_that_takes_them(kind: str):
    recipe = recipe_of(kind)
    recipe.initial_flow = GuessStrategy(probability=0.5)
    with pytest.raises(ValueError, match=r"initial_flow\.probability: .* matching"):
        make_model(recipe, open_parts(recipe)[0].source)


@pytest.mark.slow  # the new process imports everything
def test_spawned_processes_load_the_same_batches():
    here = next(iter(make_loader(recipe_of("synthetic flow", workers=0), 0, 1, 0, WinWinImageProcessor())))
    loader = make_loader(recipe_of("synthetic flow"), 0, 1, 0, WinWinImageProcessor())
    loader.multiprocessing_context = "spawn"
    there = next(iter(loader))
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        torch.testing.assert_close(there[name], tensor, rtol=0, atol=0, equal_nan=True)
