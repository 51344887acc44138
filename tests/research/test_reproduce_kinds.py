"""Kinds of trainings: their folders, and what is said of them."""

import dataclasses
import math

from research.experiments import kinds
from research.experiments.kinds import Kind
from support.experiment_cases import context_of


def test_a_kinds_trainings_lie_by_key_and_seed(tmp_path, monkeypatch):
    asked = []

    def train_all(runs, context):
        asked.extend(runs)
        return {run.name: context.work / run.name for run in runs if run.name != "some/b-1"}

    monkeypatch.setattr(kinds, "train_all", train_all)
    wanted = {"b": Kind("flow-full.yaml", "B"), "a-1": Kind("flow-full.yaml", "A", ("save_every=1",))}
    context = dataclasses.replace(context_of(tmp_path), seeds=2, data={"set": str(tmp_path)})
    found = kinds.train_kinds(context, wanted, "some", "set")
    # all first seeds before all second ones; the one that isn't finished is left out
    assert [run.name for run in asked] == ["some/b-0", "some/a-1-0", "some/b-1", "some/a-1-1"]
    assert asked[3].overrides == (f"data.path={tmp_path}", "save_every=1", "optimization.seed=1")
    assert list(found) == ["b", "a-1"] and [len(folders) for folders in found.values()] == [1, 2]
    assert [kinds.seed_of(folder) for folder in found["a-1"]] == [0, 1]


def test_what_is_said_of_a_kind():
    kind = Kind("flow-full.yaml", "B", ("optimization.steps=7",))
    assert kind.about([768, 768]) == {
        "label": "B",
        "recipe": "scripts/research/recipes/flow-full.yaml",
        "overrides": ["optimization.steps=7"],
        "tokens": [768, 768],
        "steps": 7,
        "batch_size": kind.load().optimization.batch_size,
    }


def test_medians_leave_out_what_is_unknown():
    assert kinds.middle([60.0, None, 120.0, math.nan], 1, 1 / 60) == "1.5" and kinds.middle([3.0], 2) == "3.00"
    assert kinds.middle([None], 1) == "-" and math.isnan(kinds.median_of([])) and math.isnan(kinds.mean_of([None]))
    assert kinds.mean_of([1.0, None, 2.0]) == 1.5


def test_minutes_are_of_the_clock_that_counts(tmp_path):
    points = [{"step": 1, "seconds": 60.0, "cpu_seconds": 30.0, "value": 5.0}]
    assert kinds.minutes(points, tmp_path) == [(0.5, 5.0)]
    (tmp_path / "machine.json").write_text('{"accelerator": "some"}')
    assert kinds.minutes(points, tmp_path) == [(1.0, 5.0)]


def test_patches_stick_out():
    assert kinds.grid_of(360, 480) == (23, 30) and kinds.grid_of(32, 33, 8) == (4, 5)
