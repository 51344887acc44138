"""FSDP2: a training whose weights are divided among two processes is the training of one.

With a gradient that isn't clipped the numbers are those of DDP, bit for bit: both add the same two gradients. Its norm is added up in
another order, so a clipped one differs in the last digits.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.places import FRAMES, HANGS_AFTER, ROOT
from support.small_training import SMALL, same, train, weights, write
from support.states import sign
from support.two_processes import TwoProcesses

from winwin_hf.model.modeling_winwin import WinWinForPreTraining
from winwin_hf.training import loop
from winwin_hf.training.recipe import load_recipe
from winwin_hf.training.sharding import asked_for, shards_in
from winwin_hf.training.state import damage_of, latest_state, states_in

resource = pytest.importorskip("resource")  # POSIX
# Seen with PyTorch 2.13. The fused AdamW of 2.8 rounds otherwise where a tensor is divided.
EXACT = torch.__version__.startswith("2.13.")
TOLERANCE = 1e-4 if EXACT else 1e-3  # relative, of losses; float32 sums in another order
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
UNCLIPPED = {"clip_norm": 1e9, "ema_decay": 0.9}
# Nothing that a process draws for itself: then one process and two make the same steps.
CALM = {"config": {**SMALL["model"]["config"], "drop_path_rate": 0.0}}
DATA = {
    "semantic-segmentation": {"name": "camvid", "path": str(FRAMES / "CamVid")},
    "depth-estimation": {"name": "synthetic-depth", "settings": {"height": 64, "width": 96}},
}


def sharded(rank: int, recipe: Path, output: Path, resume: bool = False, **variables: str) -> None:
    os.environ.update({**FSDP2, **variables})
    train(rank, recipe, output, resume)


def run(kind: str, recipe: Path, output: Path, resume: bool = False) -> Path:
    """A training to its end: of one process ("one"), of two by DDP ("ddp") or by FSDP2 ("fsdp")."""
    if kind == "one":
        train(0, recipe, output, resume)
        return output
    both = TwoProcesses(recipe.parent, sharded if kind == "fsdp" else train, recipe, output, resume)
    assert both.end() == [0, 0], both.text()
    assert bool(shards_in(latest_state(output))) == (kind == "fsdp")
    return output


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "norm" in line]


def scores(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{**line[k], "seconds": 0} for line in lines for k in line if isinstance(line[k], dict)]


def cut(folder: Path, copy: Path) -> Path:
    """A copy of a training of four steps that ended after the second."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "state-00000004")
    shutil.rmtree(copy / "model")
    return copy


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    distance = torch.stack([(found[name] - expected[name]).norm() for name in found]).norm()
    assert distance < 1e-3 * torch.stack([tensor.norm() for tensor in expected.values()]).norm()


def assert_same(found: Path, expected: Path) -> None:
    """The same losses and weights, bit for bit where PyTorch rounds alike."""
    if EXACT:
        assert losses(found) == losses(expected) and same(weights(found), weights(expected))
    assert losses(found) == pytest.approx(losses(expected), rel=TOLERANCE)
    assert_close(weights(found), weights(expected))


@pytest.mark.cluster
@pytest.mark.parametrize(
    "task",
    [
        "optical-flow",
        "semantic-segmentation",
        "depth-estimation",
        "pre-training",
    ],
)
def test_each_model_trains_as_in_one_process(tmp_path, task, monkeypatch):
    """Scored on three windows and one frame, which no two processes can share evenly."""

    def by_content(self, pixel_values, *more, **options):  # which patches are hidden, each process draws for itself
        means = torch.nn.functional.avg_pool2d(pixel_values.flatten(0, 1), self.config.patch_size).mean(1)
        means = means.reshape(len(pixel_values), -1)
        options["bool_masked_pos"] = means.argsort(1).argsort(1) < self._num_masked(means.shape[1])
        return forward(self, pixel_values, *more, **options)

    forward = WinWinForPreTraining.forward
    monkeypatch.setattr(WinWinForPreTraining, "forward", by_content)
    monkeypatch.setitem(SMALL, "data", DATA.get(task, SMALL["data"]))
    changes = {"task": task, "model": CALM}
    changes["evaluation"] = {"windows": 3, "sets": [] if task == "pre-training" else [{"label": "a", "length": 1}]}
    recipe = write(tmp_path, **changes, optimization={**UNCLIPPED, "batch_size": 4})
    one = run("one", recipe, tmp_path / "one")
    recipe = write(tmp_path, **changes, optimization=UNCLIPPED)
    ddp, fsdp = run("ddp", recipe, tmp_path / "ddp"), run("fsdp", recipe, tmp_path / "fsdp")
    assert_same(fsdp, ddp)
    assert losses(fsdp) == pytest.approx(losses(one), rel=TOLERANCE)
    assert_close(weights(fsdp), weights(one))
    assert len(scores(fsdp)) == len(scores(ddp)) > 0 and (not EXACT or scores(fsdp) == scores(ddp))


@pytest.mark.cluster
@pytest.mark.parametrize(
    "offers", ["reshard", "checkpointing", "accumulation", "frozen", "no average, clipped", "bf16"]
)
def test_what_else_a_training_may_be(tmp_path, offers):
    model, optimization, variables = SMALL["model"], dict(UNCLIPPED), {}
    if offers == "reshard":
        variables["FSDP_RESHARD_AFTER_FORWARD"] = "false"
    if offers == "checkpointing":
        variables["FSDP_ACTIVATION_CHECKPOINTING"] = "true"
    if offers == "accumulation":
        optimization["accumulation"] = 2
    if offers == "frozen":
        model = {**model, "frozen": ["winwin"]}
    if offers == "no average, clipped":
        optimization |= {"ema_decay": 0, "clip_norm": 0.5}
    if offers == "bf16":
        optimization["mixed_precision"] = "bf16"
    recipe = write(tmp_path, model=model, optimization=optimization)
    ddp = run("ddp", recipe, tmp_path / "ddp")
    both = TwoProcesses(tmp_path, shards_with, variables, recipe, tmp_path / "fsdp")
    assert both.end() == [0, 0], both.text()
    if offers in ("no average, clipped", "accumulation"):  # gradients are added up over the processes first
        assert losses(tmp_path / "fsdp") == pytest.approx(losses(ddp), rel=TOLERANCE)
        assert_close(weights(tmp_path / "fsdp"), weights(ddp))
    else:
        assert_same(tmp_path / "fsdp", ddp)


def shards_with(rank: int, variables: dict[str, str], recipe: Path, output: Path) -> None:
    sharded(rank, recipe, output, **variables)


@pytest.mark.slow
def test_two_steps_are_those_of_ddp(tmp_path):
    """The least of all this, for every run of the tests."""
    recipe = write(tmp_path, optimization={**UNCLIPPED, "steps": 2})
    ddp, fsdp = run("ddp", recipe, tmp_path / "ddp"), run("fsdp", recipe, tmp_path / "fsdp")
    assert_same(fsdp, ddp)


# ------------------------------------------------------------------ states


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """The same training by DDP and by FSDP2, with its recipe beside it."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write(folder, optimization=UNCLIPPED)
    return {kind: run(kind, recipe, folder / kind) for kind in ("ddp", "fsdp")}


@pytest.mark.cluster
@pytest.mark.parametrize(("first", "then"), [("fsdp", "fsdp"), ("fsdp", "ddp"), ("ddp", "fsdp")])
def test_resumes_exactly_sharded_or_not(tmp_path, trained, first, then):
    """Drop path and the data's order go on where they were: the weights are those of the training that wasn't cut."""
    output = cut(trained[first], tmp_path / "run")
    found = run(then, trained[first].parent / "recipe.yaml", output, resume=True)
    assert_same(found, trained["ddp"])
    if first == then:  # with any PyTorch
        assert same(weights(found), weights(trained[first])) and losses(found) == losses(trained[first])


@pytest.mark.cluster
@pytest.mark.parametrize(("first", "then"), [("fsdp", "one"), ("one", "fsdp")])
def test_resumes_on_another_number_of_processes(tmp_path, first, then):
    def recipe(kind: str) -> Path:
        return write(tmp_path, model=CALM, optimization={**UNCLIPPED, "batch_size": 4 if kind == "one" else 2})

    whole = run(first, recipe(first), tmp_path / "whole")
    found = run(then, recipe(then), cut(whole, tmp_path / "run"), resume=True)
    assert losses(found) == pytest.approx(losses(whole), rel=TOLERANCE)
    assert_close(weights(found), weights(whole))


@pytest.mark.cluster
def test_a_signal_saves_and_a_killed_process_ends_the_other(tmp_path):
    recipe, output = write(tmp_path, optimization={"steps": 100_000}, save_every=2), tmp_path / "run"
    both = TwoProcesses(tmp_path, sharded, recipe, output)
    both.wait_for(lambda: latest_state(output) is not None)
    both.signal(1, signal.SIGKILL)
    assert both.end()[0] == 1, both.text()
    assert "winwin: process 0 of 2 lost the connection" in both.text(0), both.text()
    again = TwoProcesses(tmp_path, sharded, recipe, output, True)
    last = latest_state(output)
    again.wait_for(lambda: latest_state(output) != last)
    again.signal(1, signal.SIGTERM)
    assert again.end() == [75, 75], again.text()
    assert damage_of(latest_state(output)) == "" and len(states_in(output)) == 2


def on_a_full_disk(rank: int, recipe: Path, output: Path) -> None:
    """The second process can't write its part: files can't grow to its size."""
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    sharded(rank, recipe, output)


@pytest.mark.cluster
def test_a_part_that_cannot_be_written_ends_both_and_leaves_no_state(tmp_path):
    both = TwoProcesses(tmp_path, on_a_full_disk, write(tmp_path), tmp_path / "run")
    assert both.end() == [1, 1], both.text()
    for rank in range(2):
        said = "state-00000002 could not be written (File too large); there is no state before it"
        assert said in both.text(rank), both.text()
    assert not list((tmp_path / "run").glob("state-*"))


def part(state: Path) -> Path:
    return shards_in(state)[-1]


def changed(change: Callable[[dict, dict], object]) -> Callable[[Path], None]:
    """Changes the tensors, or the list of their places, of the second process's part."""

    def harm(state: Path) -> None:
        with safe_open(part(state), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
            places = json.loads(file.metadata()["DCP_SHARDING_INFO"])
        change(tensors, places)
        save_file(tensors, part(state), {"DCP_SHARDING_INFO": json.dumps(places)})

    return harm


WEIGHT = "winwin.layers.0.mlp.up_proj.weight"
HARMS = {
    "cut short": (lambda state: part(state).write_bytes(part(state).read_bytes()[:-1]), "not written to its end"),
    "a pickle": (lambda state: part(state).write_bytes(pickle.dumps(print)), "no safetensors file"),
    "no part": (lambda state: part(state).unlink(), "its parts overlap, or one is missing|has 32 rows|is missing"),
    "NaN": (changed(lambda t, p: t[WEIGHT].fill_(float("nan"))), f"{WEIGHT} holds NaN"),
    "negative squares": (changed(lambda t, p: t[f"exp_avg_sq.{WEIGHT}"].sub_(1)), "finite, at least 0"),
    "a lost tensor": (changed(lambda t, p: t.pop(f"module.{WEIGHT}")), f"module.{WEIGHT} has 32 rows"),
    "another tensor": (changed(lambda t, p: (t.update(x=torch.zeros(3)), p.update(x=p[WEIGHT]))), "x is no tensor"),
    "the same rows twice": (changed(lambda t, p: p[WEIGHT].update(saved_offsets=[0, 0])), "its parts overlap"),
    "rows beyond the end": (changed(lambda t, p: p[WEIGHT].update(saved_offsets=[99, 0])), "its parts overlap"),
    "no places": (changed(lambda t, p: p.clear()), "not as a training writes it"),
    "integers": (
        changed(lambda t, p: t.update({WEIGHT: t[WEIGHT].to(torch.int64)})),
        "its parts are of several types|int64",
    ),
    "a file beside it": (
        lambda state: shutil.copy(part(state), state / "shard-00009.safetensors"),
        "no file of a state|not a file",
    ),
}


@pytest.mark.cluster
@pytest.mark.parametrize("harm", HARMS)
def test_parts_with_right_checksums_over_wrong_contents_are_refused(tmp_path, trained, harm, caplog):
    """Whoever goes on from them. The state before is used."""
    shutil.copytree(trained["fsdp"], tmp_path / "run")
    change, said = HARMS[harm]
    change(tmp_path / "run" / "state-00000004")
    sign(tmp_path / "run" / "state-00000004")
    shutil.rmtree(tmp_path / "run" / "model")
    recipe = load_recipe(trained["fsdp"].parent / "recipe.yaml")
    accelerator = loop.make_accelerator(recipe, tmp_path / "run")
    training = loop.Training(recipe, tmp_path / "run", resume=True, accelerator=accelerator)
    assert training.step == 2
    assert re.search(rf"state-00000004 is damaged \(.*({said})", caplog.text), caplog.text


@pytest.mark.cluster
def test_a_flipped_bit_of_a_part_is_found(tmp_path, trained):
    shutil.copytree(trained["fsdp"] / "state-00000004", tmp_path / "state-00000004")
    assert damage_of(tmp_path / "state-00000004") == ""
    data = bytearray(part(tmp_path / "state-00000004").read_bytes())
    data[len(data) // 2] ^= 1
    part(tmp_path / "state-00000004").write_bytes(data)
    assert damage_of(tmp_path / "state-00000004") == f"{part(tmp_path / 'state-00000004').name} has another checksum"


# ------------------------------------------------------------------ launches


@pytest.mark.cluster
def test_accelerate_launches_our_configuration_on_cpus(tmp_path):
    """With blocks that are computed again; there is no other memory to offload to."""
    recipe, output = write(tmp_path, optimization={"steps": 2}), tmp_path / "run"
    command = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "scripts/launch/fsdp2.yaml")]
    command += ["--num_processes", "2", "--main_process_port", "0"]
    command += [str(ROOT / "scripts/train.py"), str(recipe), "--output", str(output)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=HANGS_AFTER
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(shards_in(latest_state(output))) == 2 and (output / "model").exists()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"FSDP_VERSION": "1"}, "FSDP_VERSION=1: expected 2"),
        ({}, "FSDP_VERSION=1: expected 2"),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "SIZE_BASED_WRAP: expected TRANSFORMER_BASED_WRAP"),
        (
            {"FSDP_TRANSFORMER_CLS_TO_WRAP": "WinWinLayer,BertLayer"},
            "BertLayer: expected WinWinDecoderLayer or WinWinLayer",
        ),
        ({"FSDP_IGNORED_MODULES": "head"}, "FSDP_IGNORED_MODULES=head: expected none"),
        ({"FSDP_MIXED_PRECISION_POLICY": "fp8"}, "FSDP_MIXED_PRECISION_POLICY=fp8: expected none"),
        ({"FSDP_OFFLOAD_PARAMS": "maybe"}, "FSDP_OFFLOAD_PARAMS=maybe: expected true or false"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD"}, "FSDP_RESHARD_AFTER_FORWARD=FULL_SHARD: expected true or false"),
    ],
)
def test_fsdp_of_another_kind_is_refused(variables, said, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", variables.get("FSDP_VERSION", "2") if variables else "1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if not variables:
        monkeypatch.delenv("FSDP_VERSION")
    with pytest.raises(ValueError, match=said):
        asked_for()


def test_a_single_process_has_nobody_to_share_with(tmp_path, monkeypatch):
    for name, value in FSDP2.items():
        monkeypatch.setenv(name, value)
    train(0, write(tmp_path, optimization={"steps": 2}), tmp_path / "run")
    assert not shards_in(latest_state(tmp_path / "run")) and os.environ["ACCELERATE_USE_FSDP"] == "true"
