"""Cards: rendered from facts by one template; licence, scores with their settings, commands that work."""

import re
from collections import Counter

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from support.recipes import RECIPE
from support.results import results_json

from winwin_hf import WinWinBackbone, WinWinForPreTraining, bundled
from winwin_hf.checked import build
from winwin_hf.evaluation.results import read_results
from winwin_hf.hub.cards import card, eval_results, with_scores
from winwin_hf.hub.facts import Facts, read_facts
from winwin_hf.task import DoesNotFit
from winwin_hf.training.recipe import Recipe


def facts_of(architecture: str, **changes) -> Facts:
    recipe = build(Recipe, RECIPE, "test")
    return Facts(recipe.config(), architecture, 12_300_000, **changes)


def metadata(text: str):
    return ModelCard(text).data


def entries(text: str) -> list[tuple]:
    """(set, split, setting of the set, metric, setting of the metric) of each value in a card's model-index."""
    return [
        (e.dataset_type, e.dataset_split, e.dataset_config, e.metric_type, e.metric_config)
        for e in metadata(text).eval_results or []
    ]


@pytest.mark.parametrize("name", bundled.folders())
def test_bundled_cards(name):
    text = (bundled.folders()[name] / "README.md").read_text()
    found = entries(text)
    assert found and max(Counter(found).values()) == 1, "one value for each set, split, setting and metric"
    assert all(setting for *_, setting in found)
    licence = bundled.licence_label(metadata(text).license, metadata(text).get("license_name"))
    assert licence in text.split("## Use")[0], "said at the top"
    assert ("not commercial" in licence) == (name != "winwin-flow")
    assert "accelerate" not in text and re.search(r"^winwin train [a-z-]+ --set", text, re.M)
    assert len(text.splitlines()) < 350


def test_what_a_card_says(run):
    text = card("flow", read_facts(run / "model"), "me/flow")
    data = metadata(text)
    assert (data.library_name, data.pipeline_tag) == ("transformers", "optical-flow-estimation")
    assert (data.license, data.datasets, data.metrics) == ("apache-2.0", ["synthetic-flow"], ["epe", "1px", "fl"])
    assert entries(text) == [
        ("synthetic-flow", "val", "a, at the end of training", key, "one pass") for key in ("epe", "1px", "fl")
    ], "no score of windows"
    assert "| synthetic-flow:val, a, at the end of training | 7 | 2.72 | 50.00 | 19.50 | - |" in text
    assert "9.90" not in text and "8 steps of 2 examples (16 in all)" in text
    assert "winwin train recipe.yaml --set data.path=FOLDER" in text
    assert 'model="me/flow", trust_remote_code=True' in text and "**Licence of the weights: Apache-2.0**" in text


def test_scores_in_several_settings(run, tmp_path):
    results = [
        read_results(results_json(tmp_path, "flow", "flow+coarse", "opencv-dis"), {"flow"}),
        read_results(results_json(tmp_path, "flow", options="--min-pixels 0", figures={"epe": 2.0}), {"flow"}),
        read_results(results_json(tmp_path, "flow", options="--length 2", figures={"epe": 3.0}), {"flow"}),
    ]
    facts = read_facts(run / "model")
    facts.results = results
    text = card("flow", facts, "me/flow")
    assert "| middlebury:train | 4 (-1) | 1.53 | 56.25 | - | 1.53 |" in text
    assert "| middlebury:train, length 2 | 4 (-1) | 3.00 | - | - | 1.53 |" in text
    heads = "| set | **me/flow**, one pass | **me/flow**, coarse | **me/flow**, min_pixels 0 | opencv-dis |"
    assert f"{heads}\n| --- | --- | --- | --- | --- |\n| middlebury:train | 1.53 | 0.534 | 2.00 | -0.466 |" in text
    assert (
        "`winwin evaluate me/flow --data middlebury=FOLDER --length 2` (2026-11-22; AMD EPYC, 1 thread; torch" in text
    )
    found = [entry for entry in entries(text) if entry[0] == "middlebury" and entry[3] == "epe"]
    assert {(entry[2], entry[4]) for entry in found} == {
        (None, "one pass"),
        (None, "coarse"),
        (None, "min_pixels 0"),
        ("length 2", "one pass"),
    }
    assert len(found) == 4


def test_first_weights_and_sets_of_the_hub():
    recipe = build(Recipe, {"task": "optical-flow", "data": {"name": "hub"}, "model": {"init": "them/base"}}, "test")
    recipe.data.path = "them/set"
    data = metadata(card("flow", facts_of("WinWinForOpticalFlow", recipe=recipe), "me/flow"))
    assert data.base_model == "them/base" and data.datasets == ["them/set"]


@pytest.mark.parametrize("model", [WinWinForPreTraining, WinWinBackbone])
def test_without_a_recipe_or_scores(model, tmp_path):
    model(build(Recipe, RECIPE, "test").config()).save_pretrained(tmp_path)
    text = card("x", read_facts(tmp_path), "me/x")
    assert "No recipe came with these weights" in text and "**Licence of the weights: unknown" in text
    assert 'AutoModel.from_pretrained("me/x", trust_remote_code=True)' in text
    assert metadata(text).eval_results is None


def test_every_kind_of_card_has_no_holes(run):
    """Jinja prints nothing for a name that it doesn't know."""
    for architecture in ("WinWinForOpticalFlow", "WinWinForSemanticSegmentation", "WinWinForDepthEstimation"):
        facts = facts_of(architecture, recipe=build(Recipe, RECIPE, "test"))
        for repo_id in (None, "me/x"):
            text = card("x", facts, repo_id).split("---", 2)[2]
            assert not re.search(r"[{}]|None|\n\n\n| [.,;] | $|undefined", text, re.M)


def test_a_card_that_came_with_the_weights_is_kept_and_gets_the_scores(tmp_path):
    own = "---\nlicense: cc-by-nc-sa-4.0\nmodel-index: []\n---\n\n# CroCo\n\nTheirs.\n"
    facts = facts_of("WinWinForOpticalFlow")
    assert with_scores(own, "x", facts, "me/x") == own
    facts.results = [read_results(results_json(tmp_path, "x", "zero"), {"x"})]
    text = with_scores(own, "x", facts, "me/x")
    assert "Theirs." in text and "**me/x**" in text
    assert metadata(text).license == "cc-by-nc-sa-4.0" and len(metadata(text).eval_results) == 2


def test_limits(run):
    assert "It has only seen synthetic-flow." in card("x", read_facts(run / "model"))
    facts = read_facts(run / "model")
    facts.limits = "Mine."
    assert "Mine." in card("x", facts)


def test_eval_results_are_of_data_sets_of_the_hub(tmp_path):
    local = facts_of("WinWinForOpticalFlow", results=[read_results(results_json(tmp_path, "flow", "zero"), {"flow"})])
    assert eval_results(local, "me/flow", {}) == {}
    ours = eval_results(local, "me/flow", {"middlebury": "them/middlebury#train"})
    (entry,) = parse_eval_result_entries(yaml.safe_load(yaml.safe_dump(ours["middlebury.yaml"])))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("them/middlebury", "train", 1.5336)
    assert entry.date == "2026-11-22T14:32:06+00:00" and entry.notes.startswith("EPE px, middlebury:train, one pass")
    path = results_json(tmp_path, "flow", data="hub", path="them/set")
    there = facts_of("WinWinForOpticalFlow", results=[read_results(path, {"flow"})])
    (entry,) = eval_results(there, "me/flow", {})["set.yaml"]
    assert entry["dataset"] == {"id": "them/set", "task_id": "default"}
    with pytest.raises(ValueError, match="--hub-dataset middlebury=nowhere"):
        eval_results(local, "me/flow", {"middlebury": "nowhere"})
    with pytest.raises(
        DoesNotFit, match="--hub-dataset nope: no such set among the scores; expected some of middlebury"
    ):
        eval_results(local, "me/flow", {"nope": "them/middlebury"})
