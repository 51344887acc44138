"""Recipes: what is wrong in one is an error that names it."""

import dataclasses
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from support.places import RECIPES, ROOT

from winwin_hf.checked import build
from winwin_hf.data.augmentation import FlowAugmentation, ImageAugmentation
from winwin_hf.data.benchmarks.catalog import SETS
from winwin_hf.data.collator import SecondStrategy
from winwin_hf.data.guesses import GuessStrategy
from winwin_hf.data.sources import open_source
from winwin_hf.data.synthetic.rooms import RoomSettings
from winwin_hf.data.synthetic.settings import SceneSettings
from winwin_hf.model.configuration_winwin import RANGES, WinWinConfig
from winwin_hf.training.recipe import (
    DataRecipe,
    DataSetRecipe,
    EvaluationRecipe,
    EvaluationSet,
    ModelRecipe,
    OptimizationRecipe,
    Recipe,
    dump_recipe,
    load_recipe,
)
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
        ({"save_every": -1}, "save_every: .*got -1"),
        ({"save_every": 0}, "save_every"),
        ({"log_every": 0}, "log_every"),
        ({"optimization": {"warmup_steps": -50}}, "warmup_steps"),
        ({"optimization": {"final_share": -3}}, "final_share"),
        ({"optimization": {"weight_decay": -0.1}}, "weight_decay"),
        ({"optimization": {"clip_norm": -1}}, "clip_norm"),
        ({"optimization": {"betas": [0.9, 1.0]}}, r"betas\.1"),
        ({"optimization": {"betas": [-0.1, 0.9]}}, r"betas\.0"),
        ({"optimization": {"ema_decay": 1}}, "ema_decay"),
        ({"optimization": {"learning_rate": 0}}, "learning_rate"),
        ({"optimization": {"learning_rate": float("nan")}}, "learning_rate: .*finite"),
        ({"optimization": {"learning_rate": float("inf")}}, "learning_rate: .*finite"),
        ({"optimization": {"num_workers": 10**6}}, "num_workers"),
        ({"optimization": {"seed": -1}}, "seed"),
        ({"windows": {"kind": "windows", "size": [0, 2]}}, r"windows\.size\.0"),
        ({"second_windows": {"factor": float("inf")}}, r"second_windows\.factor"),
        ({"second_windows": {"motion_share": 1.5}}, r"second_windows\.motion_share"),
        ({"task": "semantic-segmentation", "second_windows": {"jitter": 7}}, "second_windows: .* has one view"),
        ({"task": "depth-estimation", "initial_flow": {"blur": 3}}, "initial_flow: depth-estimation has no flow"),
    ],
)
def test_errors_name_file_and_key(tmp_path, change, named):
    path = write(tmp_path, {**SMALL, **change})
    with pytest.raises(ValueError, match=named) as error:
        load_recipe(path)
    assert "recipe.yaml" in str(error.value)


def without_range(hint: Any, bounds: frozenset[str] = frozenset()) -> bool:
    """Whether a number in a type has no lowest or no highest value beside it."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        limits = [limit for note in notes for limit in getattr(note, "metadata", ())]
        found = {
            side for side in ("ge", "gt", "le", "lt") for limit in limits if getattr(limit, side, None) is not None
        }
        return without_range(inner, bounds | found)
    if hint in (int, float):
        return not (bounds & {"ge", "gt"} and bounds & {"le", "lt"})
    return get_origin(hint) is not Literal and any(without_range(part, bounds) for part in get_args(hint))


SECTIONS = (
    *(Recipe, ModelRecipe, DataSetRecipe, DataRecipe, EvaluationSet, EvaluationRecipe, OptimizationRecipe),
    *(Strategy, SecondStrategy, GuessStrategy, FlowAugmentation, ImageAugmentation, SceneSettings, RoomSettings),
)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_number_has_a_range_beside_it(section):
    hints = get_type_hints(section, include_extras=True)
    assert [name for name, hint in hints.items() if name[0] != "_" and without_range(hint)] == []
    assert section.__pydantic_config__["allow_inf_nan"] is False


def test_every_number_of_a_config_has_a_range():
    numbers = {
        f.name
        for f in dataclasses.fields(WinWinConfig)
        if f.name in WinWinConfig.__annotations__ and f.name[0] != "_" and re.search(r"\b(int|float)\b", str(f.type))
    }
    assert numbers == set(RANGES)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghij")
)

MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
        (BOMB, "aliases"),
        ("a: &a [*a]", "aliases"),
        (MERGES, "aliases"),
        ("task: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
        ("task: !!python/name:os.system", "could not determine a constructor"),
        ("day: 2001-99-99", "month must be in"),
        ("x: 1" + " " * 200_000, "characters; expected at most"),
    ],
    ids=["nested", "bomb", "circle", "merges", "code", "name", "date", "long"],
)
def test_a_recipe_is_plain_text(tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"^recipe\\.yaml: (?s:.*){says}") as error:
        load_recipe("recipe.yaml")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_aliases_that_repeat_little_are_read(tmp_path):
    (tmp_path / "recipe.yaml").write_text("task: optical-flow\ndata: &d {name: synthetic-flow}\nmodel: {config: {}}\n")
    (tmp_path / "twice.yaml").write_text(
        "task: optical-flow\ndata: {sets: [&d {name: synthetic-flow, length: 3}, {<<: *d, split: val}, *d]}\n"
    )
    assert len(load_recipe(tmp_path / "twice.yaml").data.sets) == 3
    assert load_recipe(tmp_path / "recipe.yaml").data.name == "synthetic-flow"


def test_a_value_that_is_no_yaml_names_the_override(tmp_path):
    path = write(tmp_path, SMALL)
    with pytest.raises(ValueError, match=r"override 'output=\{a': expected YAML"):
        load_recipe(path, ["output={a"])
    path.write_bytes(b"task: \xaf")
    with pytest.raises(ValueError, match=r"recipe\.yaml: not a text in UTF-8 \(byte 6 is 0xaf\)"):
        load_recipe(path)


@pytest.mark.parametrize("key", ["return_dict", "dtype", "output_hidden_states", "problem_type", "architectures"])
def test_model_config_has_the_packages_own_fields(tmp_path, key):
    recipe = load_recipe(write(tmp_path, SMALL), [f"model.config.{key}=true"])
    with pytest.raises(ValueError, match=f"model.config: unknown {key}"):
        recipe.config()


@pytest.mark.parametrize(("text", "value"), [("1e-6", 1e-6), ("1.0e-6", 1e-6), ("2E+1", 20.0), ("5e-1", 0.5)])
def test_numbers_as_people_write_them(tmp_path, text, value):
    recipe = load_recipe(write(tmp_path, SMALL), [f"model.config.layer_norm_eps={text}"])
    assert recipe.model.config["layer_norm_eps"] == value
    assert load_recipe(write(tmp_path, SMALL), ["output=e1-6"]).output == "e1-6"


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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "task: optical-flow\ndata: {name: synthetic-flow}\ntask: depth-estimation\n",
            "'task' stands twice in one section",
        ),
        (
            "task: optical-flow\ndata: {name: synthetic-flow}\nlog_every: true\n",
            "log_every: expected a number, got true",
        ),
        (
            "task: optical-flow\ndata: {name: synthetic-flow}\noptimization: {steps: true}\n",
            "optimization.steps: expected a number, got true or false",
        ),
        (
            "task: optical-flow\ndata: {name: synthetic-flow}\nwindows: {kind: windows, size: [true, 6]}\n",
            "windows.size.0: expected a number, got true or false",
        ),
    ],
)
def test_what_yaml_and_pydantic_would_take(tmp_path, text, says):
    """A key that stands twice, of which the last would win; true as the number 1."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(says)):
        load_recipe(path)


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    with path.open("wb") as file:
        file.truncate(10**12)  # a hole: it takes no room
    with pytest.raises(ValueError, match="expected a YAML recipe of at most 200,000 characters"):
        load_recipe(path)
