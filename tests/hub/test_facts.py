"""What is known of a checkpoint: read from its files, kept in card.json, without folders of the machine."""

import pytest
from support.places import RECIPES
from support.results import results_json

from winwin_hf import bundled
from winwin_hf.checked import build
from winwin_hf.evaluation.results import read_results
from winwin_hf.hub.facts import base_model, datasets_of, forget_folders, package_recipe, read_facts, write_facts
from winwin_hf.training.recipe import Recipe, load_recipe


def recipe_of(*names: str, **changes) -> Recipe:
    sets = [{"name": name} for name in names]
    data = sets[0] if len(sets) == 1 else {"sets": sets}
    return build(Recipe, {"task": "optical-flow", "data": data, **changes}, "test")


def test_the_last_evaluation_of_the_training(run):
    facts = read_facts(run / "model")
    assert facts.step == 8
    found = {(score.options, score.run): score.metrics["epe"] for score in facts.scores()}
    assert found == {
        ("a, at the end of training", "one pass"): 2.71828,
        ("windows as in training, at the end of training", "windows as in training"): 3.14159,
    }
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert read_facts(run / "model").evaluation == {}
    (run / "metrics.jsonl").write_text("no JSON")
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        read_facts(run / "model")


def test_the_newer_of_two_scores(run, tmp_path):
    names = {"x"}
    old = read_results(results_json(tmp_path, "x", "x+coarse", options="--length 3"), names)
    new = read_results(
        results_json(tmp_path, "x", date="2026-11-23", figures={"epe": 9.0}, options="--length 3"), names
    )
    other = read_results(results_json(tmp_path, "x", figures={"epe": 7.0}), names)
    for order in ([old, new, other], [new, other, old]):
        scores = [score for score in read_facts(run / "model", results=order).scores() if score.date]
        found = {(score.run, score.options): score.metrics["epe"] for score in scores}
        assert len(scores) == 3
        assert found == {("one pass", "length 3"): 9.0, ("coarse", "length 3"): 0.53356, ("one pass", ""): 7.0}


def test_card_json_keeps_everything(run, tmp_path):
    facts = read_facts(
        run / "model", "Limits.", "photographs (CC0)", [read_results(results_json(tmp_path, "x"), {"x"})]
    )
    facts.hours, facts.training_notes, facts.evaluation["a"]["fl"] = 0.2, "Notes.", float("nan")
    write_facts(run / "model" / "card.json", facts)
    again = read_facts(run / "model")
    assert (again.limits, again.photographs, again.hours, again.step) == ("Limits.", "photographs (CC0)", 0.2, 8)
    assert again.training_notes == "Notes." and again.scores() == facts.scores()
    assert "fl" not in again.evaluation["a"] and again.evaluation["a"]["size"] == [90, 130]
    assert read_facts(run / "model", limits="Others.").limits == "Others."


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


def test_a_recipe_without_folders_of_the_machine():
    recipe = recipe_of("hub", "camvid", model={"init": "/home/me/runs/pre/model"}, output="/home/me/runs/x")
    recipe.data.sets[0].path, recipe.data.sets[1].path = "them/set", "/home/me/CamVid"
    forget_folders(recipe)
    assert [part.path for part in recipe.data.parts()] == ["them/set", None]
    assert (recipe.model.init, recipe.output) == ("model", "runs/x")
    assert datasets_of(recipe) == ["them/set", "camvid"] and base_model(recipe) is None
    assert base_model(recipe_of("camvid", model={"init": "them/base"})) == "them/base"
    assert base_model(recipe_of("camvid", model={"init": "runs/base"})) is None


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


def test_the_packages_recipe_of_a_checkpoint():
    found = {name: package_recipe(read_facts(folder).recipe) for name, folder in bundled.folders().items()}
    known = {"winwin-depth": "depth-rooms", "winwin-flow": "flow-wide-windows", "winwin-seg": "camvid"}
    assert found == {name: known[name] for name in found}
    recipe = load_recipe(RECIPES / "camvid.yaml")
    forget_folders(recipe)
    assert package_recipe(recipe) == "camvid"
    recipe.optimization.steps += 1
    assert package_recipe(recipe) is None
