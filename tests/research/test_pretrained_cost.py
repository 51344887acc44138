"""scripts/research/pretrained_cost.py: its probes, its counts, and the pages that are made from them."""

from __future__ import annotations

import json

import pytest
import torch
from research import pretrained_cost
from research.planning.count import MemoryCounter, count_flops
from research.planning.model import Assumptions
from research.pretrained import counting, encoders, probes
from research.pretrained.page import key_of, page, recipes_table
from torch._subclasses.fake_tensor import FakeTensorMode

from winwin_hf import WinWinConfig
from winwin_hf.recipes import recipe_names
from winwin_hf.training.recipe import load_recipe

TINY = {"S": (32, 2, 2)}


@pytest.fixture(scope="module")
def results():
    return json.loads(pretrained_cost.RESULTS.read_text())


def test_the_pages_are_what_the_numbers_say(results):
    assert pretrained_cost.PAGE.read_text() == page(results, Assumptions())
    table = pretrained_cost.RECIPES_PAGE.read_text().split(pretrained_cost.MARKERS[0])[1]
    assert table.split(pretrained_cost.MARKERS[1])[0].strip() == recipes_table(results["recipes"], Assumptions())


def test_every_recipe_on_an_encoder_of_others_is_counted(results):
    names = {
        name for name in recipe_names() if (load_recipe(name).model.init or "").startswith(("facebook/", "naver/"))
    }
    assert {counting.RECIPES[label][0] for label in counting.RECIPES} == names
    assert results["recipes"].keys() == counting.RECIPES.keys()
    for label, values in results["recipes"].items():
        options = load_recipe(counting.RECIPES[label][0]).optimization
        assert (values["batch"], values["steps"]) == (options.batch_size, options.steps)


@pytest.mark.parametrize("kind", ["windows", "full"])
def test_counts_are_of_this_network(results, kind):
    config = WinWinConfig(num_labels=counting.CLASSES, **counting.encoder_fields(("dinov3", "S")))
    kept = counting.kept_of("semantic-segmentation", "1280x720", kind == "full")
    found = results["cases"][key_of("S", "semantic-segmentation", "1280x720", kind)]
    assert count_flops(config, kept) == (found["forward"], found["backward"])


@pytest.mark.parametrize("family", encoders.HUB)
def test_a_pass_beside_transformers(family, monkeypatch):
    monkeypatch.setattr(encoders, "SIZES", TINY)
    found = probes.peer(family, "S", 60, 100, rounds=2, blocks=1)
    assert found["difference"] < 1e-5
    assert {side: len(seconds) for side, seconds in found["cpu_seconds"].items()} == dict.fromkeys(probes.SIDES, 2)
    assert probes.memory(family, "S", 60, 100, None, "ours")["above_gb"] >= 0


@pytest.mark.parametrize("family", encoders.HUB)
def test_our_encoder_holds_no_more_than_transformers(family, monkeypatch):
    """Bytes alive at once in a pass over a frame, counted."""
    monkeypatch.setattr(encoders, "SIZES", TINY)
    peaks = {}
    for side in probes.SIDES:
        model = probes.network(side, family, "S")
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            frame = probes.frame_of(16 if family == "dinov3" else 14, 480, 640)
            with MemoryCounter([*model.parameters(), *model.buffers(), frame]) as counter:
                model(frame)
        peaks[side] = counter.peak
    assert peaks["ours"] <= peaks["transformers"]


def test_steps_in_windows_and_on_frames(monkeypatch):
    monkeypatch.setattr(encoders, "SIZES", {"S": (32, 4, 2)})
    common = {"frame": (64, 96), "precision": "fp32", "batch": 1, "steps": 1}
    for task, head in counting.HEADS.items():
        for windows in ({"kind": "windows", "count": 2, "size": [2, 2]}, {"kind": "full"}):
            found = probes.step("dinov3", "S", head, task=task, windows=windows, **common)
            assert len(found["step_seconds"]) == 1
            assert found["tokens"] == (8 if windows["kind"] == "windows" else 24)
