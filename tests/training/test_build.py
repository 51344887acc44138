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
from winwin_hf.data.sources import open_source
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.training.build import make_loader, make_model, open_parts
from winwin_hf.training.evaluate import open_set
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


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": {"config": {"patch_size": 3}}}, r"model\.config: patch_size=3"),
        ({"model": {"config": {"hidden_size": 0}}}, r"model\.config: hidden_size=0: expected 1 to"),
        ({"model": {"config": {"hidden_act": "nope"}}}, r"model\.config: hidden_act='nope': expected one of"),
        ({"model": {"config": {"hidden_size": "16"}}}, r"model\.config: .*hidden_size"),
        (
            {"model": {"config": {"decoder_num_hidden_layers": 10**8}}},
            r"model\.config: decoder_num_hidden_layers=100000000",
        ),
        (
            {"model": {"config": {"hidden_size": 2**15, "num_attention_heads": 64}}},
            r"model\.config: .*12,?\d* M parameters take",
        ),
        (
            {"model": {"frozen": ["winwin", "decoder", "head"]}},
            r"model\.frozen: winwin, decoder, head .* nothing is left",
        ),
        ({"model": {"config": {"num_channels": 4}}}, r"model\.config: num_channels=4; expected 3"),
        ({"model": {"attention": "nope"}}, r"model\.attention: 'nope' can't be used here"),
        ({"model": {"attention": "flash_attention_2"}}, r"model\.attention: 'flash_attention_2' can't be used here"),
        (
            {"optimization": {"batch_size": 10**8}},
            r"optimization\.batch_size=100000000: its pixels take .* this machine has",
        ),
        (
            {"optimization": {"batch_size": 10**6}, "second_windows": {"size": [1000, 1000]}},
            r"optimization\.batch_size=1000000: its pixels take .* this machine has",
        ),
        ({"windows": {"kind": "tokens", "tokens": 10**8}}, r"optimization\.batch_size=16: its pixels take"),
    ],
)
def test_what_a_recipe_builds_is_checked_before_memory_is_taken(change: dict[str, Any], says: str):
    sizes = {**RECIPE["model"]["config"], **change.get("model", {}).get("config", {})}
    model = {**change.get("model", {}), "config": sizes}
    recipe = build(Recipe, {**RECIPE, "optimization": {"num_workers": 0}, **change, "model": model}, "recipe")
    with pytest.raises(ValueError, match=says) as error:
        make_model(recipe, open_parts(recipe)[0].source)
    assert "\n" not in str(error.value)


def test_groups_come_from_the_sets_alone():
    config = {**RECIPE["model"]["config"], "semantic_label_groups": [[0, 1]]}
    labels = ["sky", "building", "road"]
    classes = dict.fromkeys(open_source("camvid", CAMVID["path"]).labels or (), "sky")
    data = {"labels": labels, "sets": [{**CAMVID, "classes": classes}]}
    values = {**RECIPE, "task": "semantic-segmentation", "data": data, "evaluation": {}, "model": {"config": config}}
    recipe = build(Recipe, values, "recipe")
    with pytest.raises(ValueError, match=r"model\.config: semantic_label_groups is what data\.labels"):
        make_model(recipe, open_parts(recipe)[0].source)


def test_unknown_pixels_are_those_of_data_sets():
    config = {**RECIPE["model"]["config"], "semantic_loss_ignore_index": 0}
    data = {"name": "camvid", "path": str(FRAMES / "CamVid")}
    recipe = build(
        Recipe,
        {**RECIPE, "task": "semantic-segmentation", "data": data, "evaluation": {}, "model": {"config": config}},
        "recipe",
    )
    with pytest.raises(ValueError, match=r"model\.config: semantic_loss_ignore_index=0; expected 255"):
        make_model(recipe, open_parts(recipe)[0].source)


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ("/dev/zero", r"model\.init: /dev/zero: not a folder; expected a model's folder"),
        ("none.pth", r"model\.init: none\.pth: no such file"),
        ("none", r"model\.init: none: no such folder, nor the name of a bundled"),
    ],
)
def test_what_a_training_starts_from_is_there(init: str, says: str):
    recipe = recipe_of("synthetic flow")
    recipe.model.init = init
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        make_model(recipe, open_parts(recipe)[0].source)


def test_scenes_that_are_scored_have_a_number():
    recipe = recipe_of("synthetic flow")
    recipe.evaluation.sets[0].length = None
    with pytest.raises(ValueError, match="synthetic-flow has no end; expected a length"):
        open_set(recipe, recipe.evaluation.sets[0])
    open_set(recipe)  # windows have a number of their own


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("train[1000:]", r"data: split 'train\[1000:\]' .*3 examples"),
        ("train[:0]", r"data: split 'train\[:0\]' holds none of the 3 examples of train"),
        ("train[2:1]", r"data: split 'train\[2:1\]' .*3 examples"),
        ("train[x]", r"data: split 'train\[x\]': expected a slice such as .* of 3 examples"),
    ],
)
def test_a_slice_holds_examples(split: str, says: str):
    recipe = recipe_of("files")
    recipe.data.split = split
    with pytest.raises(ValueError, match=says):
        open_parts(recipe)
    recipe = recipe_of("synthetic flow")
    recipe.data.split = split
    with pytest.raises(ValueError, match=r"data: split 'train\[.*no end; expected train, val or test"):
        open_parts(recipe)


@pytest.mark.slow  # the new process imports everything
def test_spawned_processes_load_the_same_batches():
    here = next(iter(make_loader(recipe_of("synthetic flow", workers=0), 0, 1, 0, WinWinImageProcessor())))
    loader = make_loader(recipe_of("synthetic flow"), 0, 1, 0, WinWinImageProcessor())
    loader.multiprocessing_context = "spawn"
    there = next(iter(loader))
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        torch.testing.assert_close(there[name], tensor, rtol=0, atol=0, equal_nan=True)
