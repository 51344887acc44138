"""Recipes: what is wrong in one is an error that names it."""

from pathlib import Path

import pytest
import yaml
from support.places import RECIPES, ROOT

from winwin_hf.checked import build
from winwin_hf.data.benchmarks.catalog import SETS
from winwin_hf.data.sources import open_source
from winwin_hf.training.recipe import dump_recipe, load_recipe
from winwin_hf.windows import Strategy

RECIPES = sorted(RECIPES.glob("*.yaml"))
RESEARCH = sorted((ROOT / "scripts/research/recipes").glob("*.yaml"))
SMALL = {"task": "optical-flow", "data": {"name": "synthetic-flow"}}


def write(folder: Path, values) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_of_the_repository_are_right(path):
    recipe = load_recipe(path)
    recipe.config()


@pytest.mark.parametrize("path", [*RECIPES, *RESEARCH], ids=lambda p: p.stem)
def test_every_split_that_a_recipe_reads_exists(path):
    """Held-out windows are of the first set's "val", which some benchmarks lack."""
    recipe = load_recipe(path)
    first = recipe.data.parts()[0].name
    read = [(part.name, part.split) for part in recipe.data.parts()]
    read += [(chosen.name or first, chosen.split) for chosen in recipe.evaluation.sets]
    read += [(first, "val")] if recipe.evaluation.windows else []
    for name, split in read:
        assert name not in SETS or split.partition("[")[0] in SETS[name].splits, (name, split)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_round_trip(path, tmp_path):
    recipe = load_recipe(path)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lerning_rate": 1}, "lerning_rate"),
        ({"optimization": {"lerning_rate": 1}}, "lerning_rate"),
        ({"optimization": {"steps": "many"}}, "steps"),
        ({"optimization": {"steps": 0}}, "steps"),
        ({"windows": {"kind": "windows", "sise": [2, 2]}}, "sise"),
        ({"windows": {"kind": "circles"}}, "kind"),
        ({"task": "painting"}, "task"),
        ({"evaluation": {"sets": [{"lable": "x"}]}}, "lable"),
        ({"save_every": 3, "optimization": {"num_workers": 2}}, "save_every"),
    ],
)
def test_errors_name_file_and_key(tmp_path, change, named):
    path = write(tmp_path, {**SMALL, **change})
    with pytest.raises(ValueError, match=named) as error:
        load_recipe(path)
    assert "recipe.yaml" in str(error.value)


def test_model_config_is_checked(tmp_path):
    recipe = load_recipe(write(tmp_path, {**SMALL, "model": {"config": {"hiden_size": 32}}}))
    with pytest.raises(ValueError, match="hiden_size"):
        recipe.config()


def test_overrides(tmp_path):
    path = write(tmp_path, SMALL)
    recipe = load_recipe(path, ["optimization.steps=7", "windows.kind=windows", "windows.size=[2, 3]"])
    assert recipe.optimization.steps == 7
    assert recipe.windows == Strategy("windows", size=(2, 3))
    with pytest.raises(ValueError, match="key=value"):
        load_recipe(path, ["optimization.steps"])


@pytest.mark.parametrize("text", ["- a list", "task: [", "\x00"])
def test_not_a_recipe(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.yaml"):
        load_recipe(path)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_sources_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="imagenet"):
        open_source("imagenet")
    with pytest.raises(ValueError, match="path"):
        open_source("camvid")
    with pytest.raises(ValueError, match="heigth"):
        open_source("synthetic-flow", settings={"heigth": 3})
    with pytest.raises(FileNotFoundError, match="CamVid"):
        open_source("camvid", str(tmp_path))


def test_held_out_scenes_differ():
    settings = {"height": 64, "width": 64, "texture_count": 2}
    train, val = (open_source("synthetic-flow", split=split, settings=settings) for split in ("train", "val"))
    assert next(iter(train.dataset))["seed"] != next(iter(val.dataset))["seed"]
    assert train.reader.settings.texture_seed != val.reader.settings.texture_seed


def test_build_refuses_unknown_keys():
    with pytest.raises(ValueError, match="settings: unknown colour"):
        build(Strategy, {"colour": 1}, "settings")
