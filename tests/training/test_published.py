"""What of a training is published: its last scores, and its recipe without folders of the machine."""

import pytest
from support.places import RECIPES

from winwin_hf import bundled
from winwin_hf.checked import build
from winwin_hf.training.published import base_model, forget_folders, last_evaluation, package_recipe
from winwin_hf.training.recipe import Recipe, load_recipe


def recipe_of(*names: str, **changes) -> Recipe:
    sets = [{"name": name} for name in names]
    data = sets[0] if len(sets) == 1 else {"sets": sets}
    return build(Recipe, {"task": "optical-flow", "data": data, **changes}, "test")


def test_the_last_evaluation(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": {"epe": 3}}\n{"step": 2, "a": {"epe": 2}}\n{"step": 3, "loss": 2.0}\n')
    assert last_evaluation(path) == (2, {"a": {"epe": 2}})
    path.write_text('{"step": 1, "loss": 2.0}\n')
    assert last_evaluation(path) == (None, {})
    path.write_text("no JSON")
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        last_evaluation(path)


def test_a_recipe_without_folders_of_the_machine():
    recipe = recipe_of("hub", "camvid", model={"init": "/home/me/runs/pre/model"}, output="/home/me/runs/x")
    recipe.data.sets[0].path, recipe.data.sets[1].path = "them/set", "/home/me/CamVid"
    forget_folders(recipe)
    assert [part.path for part in recipe.data.parts()] == ["them/set", None]
    assert (recipe.model.init, recipe.output) == ("model", "runs/x")
    assert base_model(recipe) is None
    assert base_model(recipe_of("camvid", model={"init": "them/base"})) == "them/base"
    assert base_model(recipe_of("camvid", model={"init": "runs/base"})) is None


def test_folders_of_textures_and_caches_are_forgotten():
    data = {
        "sets": [
            {
                "name": "synthetic-worlds",
                "path": "/me/meshes",
                "length": 5,
                "settings": {"textures": "/me/photos", "far": 9.0},
            },
            {"name": "shards", "path": "hf://datasets/them/set", "options": {"cache": "/me/cache", "tracks": 2}},
        ]
    }
    recipe = build(Recipe, {"task": "optical-flow", "data": data}, "test")
    forget_folders(recipe)
    worlds, shards = recipe.data.sets
    assert (worlds.path, worlds.settings) == (None, {"far": 9.0})
    assert (shards.path, shards.options) == ("hf://datasets/them/set", {"tracks": 2})


def test_the_packages_recipe_of_a_checkpoint():
    found = {name: package_recipe(load_recipe(folder / "recipe.yaml")) for name, folder in bundled.folders().items()}
    known = {
        "winwin-depth": "depth-worlds-subjects-large-windows",
        "winwin-flow": "flow-worlds-larger-windows",
        "winwin-seg": "street-scenes-large-windows",
    }
    assert found == {name: known[name] for name in found}
    recipe = load_recipe(RECIPES / "camvid.yaml")
    forget_folders(recipe)
    assert package_recipe(recipe) == "camvid"
    recipe.optimization.steps += 1
    assert package_recipe(recipe) is None
