"""Kinds of trainings: folders and settings."""

import dataclasses

from research import sizes
from research.experiments import kinds
from research.experiments.kinds import Kind
from support.experiment_cases import context_of


def test_a_kinds_trainings_lie_by_key_and_seed(tmp_path, monkeypatch):
    started = []

    def train_all(runs, context):
        started.extend(runs)
        return {run.name: context.work / run.name for run in runs if run.name != "some/b-1"}

    monkeypatch.setattr(kinds, "train_all", train_all)
    wanted = {"b": Kind("flow-full.yaml", "B"), "a-1": Kind("flow-full.yaml", "A", ("save_every=1",))}
    context = dataclasses.replace(context_of(tmp_path), seeds=2, data={"set": str(tmp_path)})
    found = kinds.train_kinds(context, wanted, "some", "set")
    # all first seeds before all second ones; the one that isn't finished is left out
    assert [run.name for run in started] == ["some/b-0", "some/a-1-0", "some/b-1", "some/a-1-1"]
    assert started[3].overrides == (f"data.path={tmp_path}", "save_every=1", "optimization.seed=1")
    assert list(found) == ["b", "a-1"] and [len(folders) for folders in found.values()] == [1, 2]
    assert [kinds.seed_of(folder) for folder in found["a-1"]] == [0, 1]


def test_about_a_kind():
    kind = Kind("flow-full.yaml", "B", ("optimization.steps=7",))
    assert kind.about([768, 768]) == {
        "label": "B",
        "recipe": "scripts/research/recipes/flow-full.yaml",
        "overrides": ["optimization.steps=7"],
        "tokens": [768, 768],
        "steps": 7,
        "batch_size": kind.load().optimization.batch_size,
    }


def test_frames_are_padded_to_whole_patches():
    assert sizes.grid_of(360, 480) == (23, 30) and sizes.grid_of(32, 33, 8) == (4, 5)
