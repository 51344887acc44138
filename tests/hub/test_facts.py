"""What is known of a checkpoint: read from its files, kept in card.json, without folders of the machine."""

import pytest
import yaml
from support.results import results_json
from support.shards import make_rows

from winwin_hf.data.rows import table
from winwin_hf.data.shards import write_shards
from winwin_hf.evaluation.results import read_results
from winwin_hf.hub.facts import read_facts, write_facts


def test_the_last_evaluation_of_the_training(run):
    facts = read_facts(run / "model")
    assert facts.step == 8
    found = {(score.options, score.run): score.metrics["epe"] for score in facts.scores()}
    assert found == {
        ("a, at the end of training", "one pass"): 2.71828,
        ("windows as in training, at the end of training", "windows as in training"): 3.14159,
    }


def test_the_newer_of_two_scores(run, tmp_path):
    names = {"x"}
    old = read_results(results_json(tmp_path, "x", "x+coarse", options="--length 3"), names)
    new = read_results(
        results_json(tmp_path, "x", date="2026-11-23", figures={"epe": 9.0}, options="--length 3"), names
    )
    other = read_results(results_json(tmp_path, "x", figures={"epe": 7.0}), names)
    for order in ([old, new, other], [new, other, old]):
        facts = read_facts(run / "model")
        facts.results = order
        scores = [score for score in facts.scores() if score.date]
        found = {(score.run, score.options): score.metrics["epe"] for score in scores}
        assert len(scores) == 3
        assert found == {("one pass", "length 3"): 9.0, ("coarse", "length 3"): 0.53356, ("one pass", ""): 7.0}


def test_card_json_keeps_everything(run, tmp_path):
    facts = read_facts(run / "model")
    facts.limits, facts.photographs = "Limits.", "photographs (CC0)"
    facts.results = [read_results(results_json(tmp_path, "x"), {"x"})]
    facts.hours, facts.training_notes, facts.evaluation["a"]["fl"] = 0.2, "Notes.", float("nan")
    write_facts(run / "model" / "card.json", facts)
    again = read_facts(run / "model")
    assert (again.limits, again.photographs, again.hours, again.step) == ("Limits.", "photographs (CC0)", 0.2, 8)
    assert again.training_notes == "Notes." and again.scores() == facts.scores()
    assert "fl" not in again.evaluation["a"] and again.evaluation["a"]["size"] == [90, 130]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("card.json", "{}"),
        ("card.json", "nothing"),
        ("config.json", "{}"),
        ("config.json", "x"),
        ("config.json", '{"model_type": "bert"}'),
    ],
)
def test_files_that_are_something_else(run, name, content):
    (run / "model" / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        read_facts(run / "model")


@pytest.mark.parametrize(
    ("name", "terms", "says"),
    [
        ("synthetic-flow", "and, in part, photographs. The licence of these photographs is unknown", "layered scenes"),
        ("camvid", "CC BY-NC 4.0", "CamVid (Brostow"),
        ("mine", "research only, by me", "research only, by me"),
    ],
)
def test_shards_are_what_they_are_made_of(run, tmp_path, name, terms, says):
    """A network that was trained on shards has the terms of what is in them."""
    rows = table(make_rows(tmp_path / "rows", "optical-flow", 2), "optical-flow")
    write_shards(rows, tmp_path / "shards", task="optical-flow", name=name, split="train", terms=terms)
    recipe = yaml.safe_load((run / "model" / "recipe.yaml").read_text())
    recipe["data"] = {"name": "shards", "path": str(tmp_path / "shards"), "settings": {}}
    (run / "model" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    facts = read_facts(run / "model")
    assert facts.data_sets() == [name] and says in facts.terms.text
    assert facts.terms.unknown == (name == "synthetic-flow") and facts.terms.restricted == (name != "synthetic-flow")
    write_facts(run / "model" / "card.json", facts)
    recipe["data"]["path"] = None  # as it is published
    (run / "model" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    again = read_facts(run / "model")
    assert (again.data_sets(), again.terms) == (facts.data_sets(), facts.terms)


def test_shards_of_the_hub_are_told_from_those_of_a_folder(run, tmp_path):
    rows = table(make_rows(tmp_path / "rows", "optical-flow", 2), "optical-flow")
    write_shards(
        rows, tmp_path / "shards", task="optical-flow", name="mine", split="train", terms="research only, by me"
    )
    recipe = yaml.safe_load((run / "model" / "recipe.yaml").read_text())
    places = ("hf://datasets/them/set", str(tmp_path / "shards"), "hf://datasets/you/set")
    recipe["data"] = {"sets": [{"name": "shards", "path": place, "settings": {}} for place in places]}
    (run / "model" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    facts = read_facts(run / "model")
    assert facts.data_sets() == ["shards", "mine"]
    for said in ("`hf://datasets/them/set` on the Hub", "`hf://datasets/you/set` on the Hub", "research only, by me"):
        assert said in facts.terms.text


def test_terms(run):
    facts = read_facts(run / "model")
    assert facts.terms.licence == "apache-2.0"
    text = (run / "model" / "recipe.yaml").read_text()
    (run / "model" / "recipe.yaml").write_text(
        text.replace("name: synthetic-flow", "name: synthetic-flow\n  path: /home/me/photos")
    )
    facts = read_facts(run / "model")
    assert facts.terms.unknown and "licence of these photographs is unknown" in facts.terms.text
    facts.photographs, facts.recipe.model.init = "photographs (CC0)", "winwin-flow"
    assert facts.terms.licence_name == "as-the-training-data-and-the-first-weights"
    facts.init_licence = "apache-2.0"
    assert facts.terms.licence == "apache-2.0"
