"""States with right checksums over wrong contents: each is named, and the state before is used."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.forked_training import same_weights
from support.states import sign

from winwin_hf.host_process import unchanged_process
from winwin_hf.training import log, loop
from winwin_hf.training import state as state_module
from winwin_hf.training.log import append_line, logged
from winwin_hf.training.loop import train
from winwin_hf.training.recipe import load_recipe
from winwin_hf.training.soundness import _check_scaler, read_plain
from winwin_hf.training.state import (
    MANIFEST,
    _digest,
    damage_of,
    read_manifest,
    recipe_fault,
    save_model,
    whole_state,
)

NEWEST, BEFORE = "state-00000003", "state-00000002"


def weights(file, change):
    def harm(state: Path) -> None:
        tensors = load_file(state / file)
        name = next(name for name in tensors if tensors[name].ndim == 2)
        change(tensors, name)
        save_file(tensors, state / file)

    return harm


def optimizer(change):
    def harm(state: Path) -> None:
        saved = torch.load(state / "optimizer.bin", weights_only=True)
        change(saved, saved["param_groups"], list(saved["state"].values()))
        torch.save(saved, state / "optimizer.bin")

    return harm


def every(entries, name, value) -> None:
    for entry in entries:
        entry[name] = value(entry[name]) if callable(value) else value


class Foreign:
    def __reduce__(self):
        return os.mkdir, ("planted",)


def foreign(file):
    def harm(state: Path) -> None:
        (state / file).write_bytes(pickle.dumps(Foreign()))

    return harm


def only_a_pickle(state: Path) -> None:
    (state / "model.safetensors").unlink()
    foreign("pytorch_model.bin")(state)


def another(file, value):
    return lambda state: torch.save(value, state / file)


NAN = float("nan")
HARMS = {
    "NaN in the model": (weights("model.safetensors", lambda t, n: t[n].fill_(NAN)), "model.safetensors: .* holds NaN"),
    "NaN in the average": (
        weights("average.safetensors", lambda t, n: t[n].fill_(NAN)),
        "average.safetensors: .*NaN or infinite",
    ),
    "integers": (
        weights("model.safetensors", lambda t, n: t.update({n: t[n].to(torch.int64)})),
        r"model.safetensors: .* is int64 of shape \(\d+, \d+\); expected float32",
    ),
    "shape": (
        weights("average.safetensors", lambda t, n: t.update({n: torch.zeros(3)})),
        r"average.safetensors: .* of shape \(3,\); expected",
    ),
    "lost tensor": (weights("model.safetensors", lambda t, n: t.pop(n)), "model.safetensors: .* is missing"),
    "other tensor": (
        weights("model.safetensors", lambda t, n: t.update(x=t[n].clone())),
        "model.safetensors: x is no tensor of this model",
    ),
    "moments' shape": (
        optimizer(lambda s, g, m: every(m, "exp_avg", torch.zeros(2))),
        r"optimizer.bin: exp_avg of parameter 0 is float32 of shape \(2,\)",
    ),
    "one value as many": (
        optimizer(lambda s, g, m: every(m, "exp_avg", lambda t: torch.zeros(1).expand(t.shape))),
        "optimizer.bin: .* isn't stored whole",
    ),
    "moments' type": (
        optimizer(lambda s, g, m: every(m, "exp_avg_sq", lambda t: t.to(torch.int64))),
        "optimizer.bin: .* is int64",
    ),
    "NaN moments": (
        optimizer(lambda s, g, m: every(m, "exp_avg", lambda t: t * NAN)),
        "optimizer.bin: .* aren't finite",
    ),
    "negative squares": (
        optimizer(lambda s, g, m: every(m, "exp_avg_sq", lambda t: t - 1)),
        "optimizer.bin: .* finite, at least 0",
    ),
    "count": (optimizer(lambda s, g, m: every(m, "step", torch.tensor(NAN))), "optimizer.bin: step of parameter 0 is"),
    "no moments": (
        optimizer(lambda s, g, m: s["state"].clear()),
        "optimizer.bin: no moments; expected those of 3 steps",
    ),
    "one group": (optimizer(lambda s, g, m: g.pop()), "optimizer.bin: 1 groups of parameters; expected 2"),
    "fewer parameters": (optimizer(lambda s, g, m: g[0]["params"].pop()), "optimizer.bin: a group of"),
    "high rate": (optimizer(lambda s, g, m: every(g, "lr", 1e9)), "optimizer.bin: lr is 1000000000.0; expected 0 to"),
    "rate of text": (optimizer(lambda s, g, m: every(g, "lr", "x")), "optimizer.bin: lr is x"),
    "betas": (optimizer(lambda s, g, m: every(g, "betas", (NAN, 0.9))), "optimizer.bin: betas is"),
    "a list": (another("optimizer.bin", [1, 2]), "optimizer.bin: not as a training writes it"),
    "no optimiser": (
        lambda state: (state / "optimizer.bin").write_bytes(b""),
        "optimizer.bin: not readable as tensors",
    ),
    "foreign optimiser": (foreign("optimizer.bin"), "optimizer.bin: not readable as tensors and plain values; nothing"),
    "only a pickle": (only_a_pickle, "state.json: pytorch_model.bin is no file of a state"),
    "no random state": (lambda state: (state / "random_states_0.pkl").unlink(), "random_states_0.pkl is missing"),
    "empty random state": (lambda state: (state / "random_states_0.pkl").write_bytes(b""), "random_states_0.pkl: not"),
    "foreign random state": (foreign("random_states_0.pkl"), "random_states_0.pkl: not readable as tensors"),
    "random state of nothing": (
        another("random_states_0.pkl", {"step": 7}),
        r"random_states_0.pkl: not as a training writes it \(KeyError",
    ),
}


@pytest.fixture(autouse=True)
def not_flushed(monkeypatch) -> None:
    """Waiting for the disk takes longer than all else here."""
    monkeypatch.setattr(state_module, "_flush", lambda _: None)


@pytest.fixture(scope="module")
def training(trained, tmp_path_factory) -> loop.Training:
    """One that went on from a state."""
    output = shutil.copytree(trained, tmp_path_factory.mktemp("sound") / "run")
    recipe = load_recipe(trained.parent / "recipe.yaml")
    with unchanged_process():
        return loop.Training(recipe, output, True, loop.make_accelerator(recipe, output))


@pytest.fixture
def fault(training, monkeypatch):
    """Says what is wrong with a state, for that training."""
    alone = SimpleNamespace(num_processes=1, scaler=None, unwrap_model=lambda model: model)
    monkeypatch.setattr(training, "accelerator", alone)  # each test resets Accelerate's own
    return lambda state: damage_of(state) or training._fault_of(state)


@pytest.fixture
def newest(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained.parent / "states" / NEWEST, tmp_path / NEWEST))


@pytest.mark.parametrize("name", HARMS)
def test_signed_damage_is_named(newest, fault, name):
    harm, said = HARMS[name]
    harm(newest)
    sign(newest)
    found = fault(newest)
    assert re.match(said, found), found
    assert "weights_only" not in found and not Path("planted").exists()


def test_an_undisturbed_state_is_sound(newest, fault):
    assert fault(newest) == ""


def test_the_state_before_is_used(copy, fault, training, monkeypatch, caplog):
    monkeypatch.setattr(training, "folder", copy)
    HARMS["moments' shape"][0](copy / NEWEST)
    sign(copy / NEWEST)
    with caplog.at_level(logging.WARNING, "winwin_hf"):
        assert training._sound_state(copy / NEWEST) == copy / BEFORE
    (line,) = caplog.messages
    assert line.startswith(f"{copy / NEWEST} is damaged (optimizer.bin: exp_avg") and line.endswith(f"from {BEFORE}")
    HARMS["empty random state"][0](copy / BEFORE)
    sign(copy / BEFORE)
    with pytest.raises(
        ValueError, match=rf"no state is whole: {BEFORE} is damaged \(random_states_0.pkl: not readable"
    ):
        training._sound_state(copy / BEFORE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("examples", value) for value in (-5, 10**12, 10**30, 1e300, "20", True)],
        *[("processes", value) for value in (0, -2, "x")],
        *[("seconds", value) for value in (NAN, -1.0, "x")],
        pytest.param("seconds", 10**400, id="more than a float holds"),
        ("cpu_seconds", float("inf")),
        ("step", 3.0),
    ],
)
def test_numbers_of_a_state_out_of_range_are_damage(newest, fault, key, value):
    sign(newest, **{key: value})
    found = fault(newest)
    assert found.startswith(f"state.json: {key} is {value!r:.60}") and "; expected" in found


def test_a_state_whose_recipe_can_t_be_read_is_damaged(copy, caplog):
    (copy / NEWEST / "recipe.yaml").write_bytes(b"\xff\xfe")
    sign(copy / NEWEST)
    assert whole_state(copy, recipe_fault) == copy / BEFORE
    assert "is damaged (recipe.yaml: not a text in UTF-8" in caplog.text


def test_numbers_of_a_gradient_scaler():
    ours = torch.amp.GradScaler("cpu").state_dict()
    _check_scaler(dict(ours), ours)
    for change in ({"scale": NAN}, {"scale": 0.0}, {"growth_factor": "x"}, {"_growth_tracker": -1}, {"more": 1}):
        with pytest.raises(ValueError):
            _check_scaler({**ours, **change}, ours)


def test_each_process_has_a_random_state(newest, fault):
    sign(newest, processes=2)
    assert fault(newest) == "random_states_1.pkl is missing"


def test_no_random_state_of_a_process_that_was_not_there(newest, fault):
    """In two processes the second would take it."""
    foreign("random_states_1.pkl")(newest)
    assert fault(newest) == "random_states_1.pkl: not a file of this training"


def test_files_of_a_state_are_its_own(newest):
    contents = read_manifest(newest)
    contents["files"]["../../../etc/hostname"] = {"bytes": 1, "sha256": ""}

    (newest / MANIFEST).write_text(json.dumps({**contents, "sha256": _digest(contents)}))
    assert damage_of(newest) == "state.json: ../../../etc/hostname is no file of a state"


@pytest.mark.slow
def test_moments_of_another_shape_do_not_reach_the_optimiser(copy, trained):
    """They ended the process by SIGSEGV, or went on over foreign memory."""
    HARMS["moments' shape"][0](copy / NEWEST)
    sign(copy / NEWEST)
    train(trained.parent / "recipe.yaml", output=copy, resume=True)
    assert same_weights(copy, trained)


def test_the_random_state_counts(copy, trained):
    """Else the tests of resuming say nothing about it."""
    path = copy / NEWEST / "random_states_0.pkl"
    saved = read_plain(path)
    saved["torch_manual_seed"] = torch.Generator().manual_seed(9).get_state()
    torch.save(saved, path)
    sign(copy / NEWEST)
    train(trained.parent / "recipe.yaml", output=copy, resume=True)
    assert not same_weights(copy, trained)


def test_a_model_that_is_not_finite_is_never_written(trained, tmp_path):
    from winwin_hf import WinWinForOpticalFlow, WinWinImageProcessor

    model = WinWinForOpticalFlow.from_pretrained(trained / "model")
    torch.nn.init.constant_(model.winwin.norm.weight, NAN)
    with pytest.raises(ValueError, match=r"model: winwin.norm.weight holds NaN"):
        save_model(model, tmp_path, load_recipe(trained / "recipe.yaml"), WinWinImageProcessor(patch_size=16))
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ pipes, devices, links


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 * 10**9)


@pytest.mark.parametrize(
    ("lay", "said"),
    [(pipe, "a pipe; expected a file"), (endless, "a device; expected a file"), (sparse, "3 GB; expected")],
)
def test_a_state_json_that_would_block_or_fill_memory_is_damage(tmp_path, lay, said):
    lay(tmp_path / MANIFEST)
    assert damage_of(tmp_path).startswith(f"state.json: {said}")


@pytest.mark.parametrize(("lay", "said"), [(pipe, "a pipe; expected a file"), (endless, "a device; expected a file")])
def test_a_log_that_would_block_is_refused(tmp_path, lay, said):
    lay(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match=rf"metrics\.jsonl: {said}"):
        logged(tmp_path / "metrics.jsonl", 3)


def test_a_log_is_read_line_by_line_of_bounded_length(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "MAX_LINE", 100)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + bytes(250) + b'\n{"step": 2}\n')
    assert logged(path, 3) == ([{"step": 1}, {"step": 2}], 3)  # a long line counts for each 100 bytes


def test_a_line_of_the_log_goes_through_no_link(tmp_path):
    (tmp_path / "thesis").write_text("precious")
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("thesis")
    with pytest.raises(OSError, match=r"metrics\.jsonl could not be written \(.*a link, which is not followed"):
        append_line(path, "{}")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"a pipe; expected a file"):
        append_line(path, "{}")
    assert (tmp_path / "thesis").read_text() == "precious"


def test_a_state_that_is_a_link_is_used_and_only_the_link_removed(copy, trained, tmp_path):
    """A state that was moved to another disk stopped the training at the third one."""
    elsewhere = tmp_path / "elsewhere"
    for name in (BEFORE, NEWEST):
        (copy / name).rename(elsewhere / name) if elsewhere.exists() else shutil.move(copy / name, elsewhere / name)
        (copy / name).symlink_to(elsewhere / name)
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine" / "thesis").write_text("precious")
    for name in ("state-00000004.tmp", "state-00000001.damaged", ".model-abc"):
        (copy / name).symlink_to(elsewhere / "mine")
    (copy / "state-of-the-art.tmp").mkdir()
    train(trained.parent / "recipe.yaml", output=copy, resume=True)
    assert same_weights(copy, trained)
    assert sorted(path.name for path in copy.glob("state-0*")) == [NEWEST, "state-00000004"]
    assert (elsewhere / BEFORE / MANIFEST).exists() and (elsewhere / "mine" / "thesis").exists()
    assert (copy / "state-of-the-art.tmp").is_dir()
