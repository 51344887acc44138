"""`winwin recipes`, and bare names where a recipe is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from support.places import RECIPES, ROOT
from typer.testing import CliRunner, Result

from winwin_hf.cli.main import app
from winwin_hf.recipes import list_recipes, recipe_names, recipe_path
from winwin_hf.task import TASKS
from winwin_hf.training.recipe import load_recipe


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_list_has_every_recipe_with_its_task_and_purpose():
    assert recipe_names() == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    shown = run("recipes", "list").output
    for recipe in list_recipes():
        assert recipe.task in TASKS and recipe.task == load_recipe(recipe.name).task
        assert len(recipe.summary) <= 130 and recipe.summary.endswith(".")
        assert recipe.name in shown and recipe.summary in shown


def test_shown_recipe_is_the_file():
    result = run("recipes", "show", "camvid")
    assert result.exit_code == 0
    assert result.output == (RECIPES / "camvid.yaml").read_text()


@pytest.mark.parametrize("name", ["../../etc/passwd", "mine.yaml"])
def test_only_the_packages_recipes_are_shown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "b")
    Path(name).write_text("root:x:0:0")
    result = run("recipes", "show", name)
    assert result.exit_code == 2 and "root" not in result.output
    assert result.stderr == f"winwin: {name}: a file; expected a name of `winwin recipes list`\n"
    Path("camvid").write_text("root:x:0:0")  # a file of a recipe's name
    assert run("recipes", "show", "camvid").output == (RECIPES / "camvid.yaml").read_text()


@pytest.mark.parametrize("command", [["recipes", "show"], ["train"], ["evaluate", "zero", "--recipe"]])
def test_unknown_name_gets_the_nearest_ones(command: list[str]):
    result = run(*command, "camvidd")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "camvidd" in result.stderr and "did you mean camvid or " in result.stderr


def test_a_file_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camvid").mkdir()  # such as the data set's folder
    assert recipe_path("camvid") == RECIPES / "camvid.yaml"
    (tmp_path / "camvid").rmdir()
    (tmp_path / "camvid").write_text("task: optical-flow\n")
    assert recipe_path("camvid") == Path("camvid")


def test_commands_take_bare_names(monkeypatch: pytest.MonkeyPatch):
    calls = []
    training, evaluation = types.ModuleType("winwin_hf.training.loop"), types.ModuleType("winwin_hf.training.evaluate")
    training.TrainingStopped = KeyboardInterrupt  # type: ignore[attr-defined]
    training.train = lambda recipe, **options: calls.append(recipe)  # type: ignore[attr-defined]
    evaluation.evaluate_by_recipe = lambda checkpoint, recipe, **options: calls.append(recipe)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "winwin_hf.training.loop", training)
    monkeypatch.setitem(sys.modules, "winwin_hf.training.evaluate", evaluation)
    assert run("train", "camvid", "--set", "data.path=x").exit_code == 0
    assert run("evaluate", "winwin-seg", "--recipe", "camvid").exit_code == 0
    assert calls == [RECIPES / "camvid.yaml"] * 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("winwin train camvid-", "camvid-full camvid-windows"),
        ("winwin recipes show pretrain-se", "pretrain-segmentation"),
        ("winwin evaluate winwin-f", "winwin-flow"),
    ],
)
def test_shell_completes_names(words: str, expected: str):
    code = "import sys; sys.argv = ['winwin']; from winwin_command import app; app()"
    request = {"_WINWIN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **request}, capture_output=True, text=True
    )
    assert done.stdout.split() == expected.split(), done.stderr
