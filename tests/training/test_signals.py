"""Signals, loader processes that die, and what is drawn after resuming."""

from __future__ import annotations

import json
import multiprocessing.connection
import os
import signal
import time

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from support.forked_training import same_weights, write_recipe

from winwin_hf import pools
from winwin_hf.training import loop
from winwin_hf.training import state as states
from winwin_hf.training.loop import TrainingStopped, train
from winwin_hf.training.state import (
    KEPT_STATES,
    damage_of,
    latest_state,
    states_in,
)

# ------------------------------------------------------------------ signals and loader processes


def at_step(monkeypatch, step: int, act) -> None:
    """Calls `act` before a training's step after `step` others."""
    train_step = loop.Training.train_step

    def acting(self, batches):
        if self.step == step:
            act()
        train_step(self, batches)

    monkeypatch.setattr(loop.Training, "train_step", acting)


def workers() -> list:
    found = multiprocessing.active_children()
    assert found
    return found


@pytest.mark.slow
def test_a_signal_for_the_whole_group_saves_with_loader_processes(tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path, optimization={"num_workers": 2}, save_every=100)
    train(recipe, output=tmp_path / "whole")

    def stop() -> None:
        for worker in workers():
            os.kill(worker.pid, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        at_step(patch, 1, stop)
        with pytest.raises(TrainingStopped, match=r"^stopped at step 2; continue from state-00000002 with --resume$"):
            train(recipe, output=tmp_path / "run")
    assert not multiprocessing.active_children()
    assert [path.name for path in (tmp_path / "run").glob("state-*")] == ["state-00000002"]
    train(recipe, output=tmp_path / "run", resume=True)
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_signal_in_the_middle_of_a_save_lets_it_end(tmp_path, monkeypatch):
    save, sent = Accelerator.save_state, []

    def stopping(self, *arguments, **options):
        for process in [*(worker.pid for worker in workers()), os.getpid()] if not sent else ():
            os.kill(process, signal.SIGTERM)
        sent.append(save(self, *arguments, **options))

    recipe = write_recipe(tmp_path, optimization={"num_workers": 1})
    monkeypatch.setattr(Accelerator, "save_state", stopping)
    with pytest.raises(TrainingStopped, match=r"^stopped at step 2; continue from state-00000002 with --resume$"):
        train(recipe, output=tmp_path / "run")
    assert [damage_of(state) for state in sorted((tmp_path / "run").glob("state-*"))] == ["", ""]


def test_a_loader_process_that_dies_is_one_error_and_the_step_is_kept(tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path, optimization={"num_workers": 1, "steps": 12}, save_every=100)
    train(recipe, output=tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda: workers()[0].kill())
        says = r"^at step \d+ a loader process \(pid \d+\) was ended by SIGKILL \(.*memory.*\); continue from state-\d+ with --resume$"
        with pytest.raises(ChildProcessError, match=says):
            train(recipe, output=tmp_path / "run")
    assert latest_state(tmp_path / "run") is not None
    train(recipe, output=tmp_path / "run", resume=True)
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_death_of_a_loader_process_waits_while_a_state_is_saved(tmp_path, monkeypatch):
    """torch raises where the training is; here that is the middle of a save."""
    save, alive = loop.save_state, []

    def killing(accelerator, output, progress, *others):
        if progress["step"] == 1 and not alive:
            worker = workers()[0]
            worker.kill()
            multiprocessing.connection.wait([worker.sentinel])  # without asking for its end, which torch does
            time.sleep(0.1)
            alive.append(worker.is_alive())
        save(accelerator, output, progress, *others)

    monkeypatch.setattr(loop, "save_state", killing)
    with pytest.raises(ChildProcessError):
        train(write_recipe(tmp_path, optimization={"num_workers": 1, "steps": 12}), output=tmp_path / "run")
    assert alive == [False]
    assert (
        damage_of(tmp_path / "run" / "state-00000001") == "" or latest_state(tmp_path / "run").name > "state-00000001"
    )


@pytest.mark.slow
def test_a_signal_breaks_an_evaluation_off_and_resuming_does_it_again(tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path, evaluation={"every": 2, "windows": 2, "sets": [{"label": "a", "length": 3}]})
    train(recipe, output=tmp_path / "whole")
    evaluate = loop.evaluate
    for place in (1, 2):
        count = [0]

        def stopping(*arguments, count=count, place=place):
            count[0] += 1
            if count[0] == place:
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(*arguments)

        output = tmp_path / f"run-{place}"
        with monkeypatch.context() as patch:
            patch.setattr(loop, "evaluate", stopping)
            with pytest.raises(TrainingStopped, match=f"at step {2 * place}; continue from state-{2 * place:08d}"):
                train(recipe, output=output)
        assert latest_state(output).name == f"state-{2 * place:08d}"
        assert '"a"' not in (output / "metrics.jsonl").read_text().splitlines()[-1]
        train(recipe, output=output, resume=True)
        assert same_weights(output, tmp_path / "whole")
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "a" in line] == [2, 4]


@pytest.mark.parametrize(
    "name",
    ["SIGUSR1", *(pytest.param(name, marks=pytest.mark.fault) for name in pools.WARNINGS if name != "SIGUSR1")],
)
def test_a_schedulers_warning_saves_and_stops_like_sigterm(tmp_path, monkeypatch, name):
    """To the whole process group, with a loader process, as Slurm and terminals send it."""
    number = getattr(signal, name)

    def stop() -> None:
        for process in [*(worker.pid for worker in workers()), os.getpid()]:
            os.kill(process, number)

    with monkeypatch.context() as patch:
        at_step(patch, 1, stop)
        with pytest.raises(TrainingStopped, match=r"^stopped at step 2; continue from state-00000002 with --resume$"):
            train(write_recipe(tmp_path, optimization={"num_workers": 1}, save_every=100), output=tmp_path / "run")
    assert damage_of(tmp_path / "run" / "state-00000002") == ""
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.parametrize("where", ["_write_manifest", "_flush", "remove_tree"])
def test_ctrl_c_inside_a_save_leaves_nothing_half_written(tmp_path, monkeypatch, where):
    recipe = write_recipe(tmp_path, save_every=1)
    train(recipe, output=tmp_path / "whole")
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        original, calls = getattr(states, where), []

        def interrupted(folder, *args, **kwargs):
            calls.append(folder)
            if len(states_in(output)) == KEPT_STATES and (where != "remove_tree" or not kwargs):
                raise KeyboardInterrupt
            return original(folder, *args, **kwargs)

        patch.setattr(states, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, output=output)
    assert calls and not list(output.glob("*.tmp"))
    assert len(states_in(output)) >= KEPT_STATES and damage_of(latest_state(output)) == ""
    train(recipe, output=output, resume=True)
    assert same_weights(output, tmp_path / "whole")


def test_nohup_and_a_callers_own_warnings_stay():
    """`nohup` ignores SIGHUP; submitit and others have a handler of SIGUSR2 that asks for the job's requeue."""
    got = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGUSR2, lambda *_: got.append(1))
    try:
        with loop.StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGUSR2)
            assert not stop.requested and got == [1]
            signal.raise_signal(signal.SIGUSR1)
            assert stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGUSR2, before[1])


def test_an_ignored_signal_stays_ignored():
    """A shell's background job ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with loop.StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.requested
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------ everything that draws


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "pre-training"},
        pytest.param(
            {"model": {"config": {"attention_dropout": 0.3, "drop_path_rate": 0.5, "num_hidden_layers": 3}}},
            marks=pytest.mark.slow,
        ),
        pytest.param({"optimization": {"num_workers": 1, "ema_decay": 0.0, "accumulation": 2}}, marks=pytest.mark.slow),
    ],
    ids=["masks", "dropout and drop path", "no average, accumulation"],
)
def test_what_is_drawn_is_the_same_after_resuming(tmp_path, monkeypatch, changes):
    """Killed after an evaluation, in the second epoch of three examples."""
    changes = json.loads(json.dumps(changes))
    if "model" in changes:
        from support.recipes import RECIPE

        changes["model"]["config"] = {**RECIPE["model"]["config"], **changes["model"]["config"]}
    data = {
        "sets": [{"name": "synthetic-flow", "length": 3, "settings": {"height": 64, "width": 96, "texture_count": 2}}]
    }
    recipe = write_recipe(
        tmp_path,
        **changes,
        evaluation={"every": 2, "windows": 2, "sets": [] if "task" in changes else [{"label": "a", "length": 1}]},
        save_every=100,
    )
    import yaml

    values = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**values, "data": data}))
    train(recipe, output=tmp_path / "whole")

    def die() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        at_step(patch, 3, die)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, output=tmp_path / "run")
    assert latest_state(tmp_path / "run").name == "state-00000002"
    torch.manual_seed(123)  # nothing of the process that resumes may count
    train(recipe, output=tmp_path / "run", resume=True)
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_loss_that_is_not_finite_names_step_and_examples(tmp_path, monkeypatch):
    """Nothing is logged before the first save, so the save itself has to notice."""
    monkeypatch.setattr(loop, "learning_rate", lambda *_: 1e25)
    recipe = write_recipe(tmp_path, save_every=1, log_every=100, optimization={"steps": 20})
    says = r"^at step \d+ the loss is .*examples example \d+, example \d+; the last good state is .*state-\d+$"
    with pytest.raises(FloatingPointError, match=says):
        train(recipe, output=tmp_path / "run")
    for state in (tmp_path / "run").glob("state-*"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(state / "model.safetensors").values())
    assert not (tmp_path / "run" / "model").exists()
