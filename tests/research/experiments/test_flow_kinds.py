"""The flow recipes: the paper's tokens, and nothing else that differs than what is compared."""

import dataclasses

import pytest
import torch
from research.experiments import flow_kinds, flow_tables
from research.experiments.context import RECIPES

from winwin_hf import WinWinForOpticalFlow
from winwin_hf.training.recipe import load_recipe


def test_recipes_have_the_papers_tokens():
    counts = {
        key: flow_kinds.tokens(flow_kinds.recipe_of(key))
        for key in ("windows", "crops", "full", "four", "one", "symmetric")
    }
    assert counts == {
        "windows": (72, 200),
        "crops": (132, 132),
        "full": (768, 768),
        "four": (64, 196),
        "one": (72, 196),
        "symmetric": (72, 72),
    }
    spring = (1080, 1920)
    large = {
        name: flow_kinds.tokens(load_recipe(RECIPES / f"flow-{name}-base.yaml"), spring)
        for name in ("windows", "windows-4", "crops", "full")
    }
    assert large == {"windows": (200, 450), "windows-4": (196, 484), "crops": (480, 480), "full": (8160, 8160)}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("flow-*.yaml")), ids=lambda path: path.stem)
def test_recipes_build(path):
    recipe = load_recipe(path)
    with torch.device("meta"):
        model = WinWinForOpticalFlow(recipe.config())
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert 200 < millions < 240 if path.stem.endswith("-base") else 1 < millions < 4
    assert recipe.optimization.steps % recipe.evaluation.every == 0
    assert recipe.data.name == ("spring" if path.stem.endswith("-base") else "synthetic-flow")


def test_small_recipes_differ_in_what_is_compared_alone():
    recipes = {key: dataclasses.asdict(flow_kinds.recipe_of(key)) for key in flow_kinds.KINDS}
    free = {"windows", "second_windows", "output", "evaluation", "optimization"}
    first = recipes["windows"]
    for key, recipe in recipes.items():
        assert {k: v for k, v in recipe.items() if k not in free | {"model"}} == {
            k: v for k, v in first.items() if k not in free | {"model"}
        }, key
        assert recipe["model"]["config"] == first["model"]["config"]
        changed = {k for k, v in recipe["optimization"].items() if v != first["optimization"][k]}
        assert changed <= {"steps", "batch_size"}, key
        assert recipe["evaluation"]["sets"] == first["evaluation"]["sets"]
    for key in (*flow_tables.SECOND_WINDOWS, *flow_tables.FLOW_WINDOWS):
        if key != "windows":
            assert {
                k for k in first["optimization"] if recipes[key]["optimization"][k] != first["optimization"][k]
            } == {"steps"}


def test_tables_end_where_figure_1_is_scored():
    short, whole = load_recipe(RECIPES / flow_kinds.SHORT), flow_kinds.recipe_of("windows")
    assert short.optimization.steps < whole.optimization.steps
    assert short.optimization.steps % whole.evaluation.every == 0
    assert whole.optimization.final_share == 1.0 and whole.evaluation.windows == short.evaluation.windows > 0
    assert (short.windows, short.second_windows) == (whole.windows, whole.second_windows)


def test_a_steps_tokens_are_about_the_same():
    steps = {
        key: sum(flow_kinds.tokens(flow_kinds.recipe_of(key))) * flow_kinds.recipe_of(key).optimization.batch_size
        for key in flow_kinds.FIGURE1
    }
    assert max(steps.values()) < 1.6 * min(steps.values())
