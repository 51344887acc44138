"""A training of two processes: what happens to one happens to both, and none waits for one that is gone."""

import contextlib
import errno
import gc
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import typer
import yaml
from support.places import HANGS_AFTER, ROOT
from support.small_training import SMALL, same, train, weights, write
from support.two_processes import TwoProcesses

from winwin_hf import processes
from winwin_hf.data.rows import BrokenExample
from winwin_hf.processes import LOCK, connect, locked
from winwin_hf.training import batches, evaluate, loop, rehearsal, state
from winwin_hf.training.state import latest_state

STOPPED = 75  # EX_TEMPFAIL


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_training_resumes_exactly(tmp_path):
    recipe = write(tmp_path)
    assert TwoProcesses(tmp_path, train, recipe, tmp_path / "whole").end() == [0, 0]
    output = tmp_path / "run"
    both = TwoProcesses(tmp_path, train, recipe, output)
    both.wait_for(lambda: latest_state(output) is not None)
    both.signal(1, signal.SIGKILL)
    assert both.end(within=60) == [1, -signal.SIGKILL], both.text()
    assert "winwin: process 0 of 2 lost the connection" in both.text(0), both.text()
    again = TwoProcesses(tmp_path, train, recipe, output, True)
    assert again.end() == [0, 0], again.text()
    assert same(weights(output), weights(tmp_path / "whole"))


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, pytest.param(signal.SIGINT, marks=pytest.mark.fault)]
)
def test_a_signal_to_one_process_stops_both_after_saving(tmp_path, number):
    output = tmp_path / "run"
    recipe = write(tmp_path, optimization={"steps": 100_000}, save_every=100_000)
    both = TwoProcesses(tmp_path, train, recipe, output)
    log = output / "metrics.jsonl"
    both.wait_for(lambda: log.exists() and bool(log.read_text()))
    both.signal(1, number)
    assert both.end() == [STOPPED, STOPPED], both.text()
    assert latest_state(output) is not None


def fails(rank: int, what: str, recipe: Path, output: Path) -> None:
    """A training in which something goes wrong in one process."""
    with pytest.MonkeyPatch.context() as patch:
        if what == "example" and rank == 1:

            def read(*_):
                raise BrokenExample("frame 7: cut short")

            patch.setattr(batches, "next_batch", read)
        if what == "evaluation" and rank == 1:

            def evaluate_windows(*_):
                raise MemoryError("frame 7 is too large")

            patch.setattr(evaluate, "evaluate_windows", evaluate_windows)
        if what == "save" and rank == 0:

            def save_file(*_):
                raise OSError(28, "No space left on device")

            patch.setattr(state, "save_file", save_file)
        if what == "disk":
            look = rehearsal.shutil.disk_usage

            def disk_usage(folder):
                time.sleep(rank)  # by then the main process has taken its folder back
                return look(folder)._replace(free=5000)

            patch.setattr(rehearsal.shutil, "disk_usage", disk_usage)
        train(rank, recipe, output)


@pytest.mark.parametrize(
    ("what", "broken", "said"),
    [
        ("example", 1, "frame 7: cut short"),
        pytest.param("evaluation", 1, "too large", marks=pytest.mark.fault),
        pytest.param("save", 0, "No space left on device", marks=pytest.mark.fault),
        pytest.param("disk", 0, "run has 5 kB free; expected", marks=pytest.mark.fault),
    ],
)
def test_a_failure_of_one_process_ends_both(tmp_path, what, broken, said):
    recipe = write(tmp_path, evaluation={"every": 2, "windows": 2})
    both = TwoProcesses(tmp_path, fails, what, recipe, tmp_path / "run")
    assert both.end(within=60) == [1, 1], both.text()
    assert said in both.text(broken)
    # what the main process alone does or looks at is exchanged, so the other process knows the reason
    other = said if what in ("save", "disk") else f"process {1 - broken} of 2 lost the connection to another one"
    assert other in both.text(1 - broken)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)], ids=["one then two", "two then one"])
def test_another_number_of_processes_goes_on_with_the_same_steps(tmp_path, first, then):
    """With batches that make up for it, and nothing that a process draws for itself, it is the training of before."""

    def run(output: Path, processes: int, resume: bool = False, steps: int = 4) -> Path:
        model = {"config": {**SMALL["model"]["config"], "drop_path_rate": 0.0}}
        optimization = {"steps": steps, "batch_size": 4 // processes, "ema_decay": 0.9}
        recipe = write(tmp_path, model=model, optimization=optimization)
        if processes == 1:
            train(0, recipe, output, resume)
        else:
            both = TwoProcesses(tmp_path, train, recipe, output, resume)
            assert both.end() == [0, 0], both.text()
        return output

    whole = weights(run(tmp_path / "whole", first))
    cut = run(tmp_path / "cut", first)
    shutil.rmtree(cut / "state-00000004")
    shutil.rmtree(cut / "model")
    found = weights(run(cut, then, resume=True))
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "whole", cut)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    distance = torch.stack([(found[name] - whole[name]).norm() for name in whole]).norm()
    assert distance < 1e-3 * torch.stack([tensor.norm() for tensor in whole.values()]).norm()


def test_another_number_of_examples_a_step_is_said(tmp_path, caplog):
    train(0, write(tmp_path, optimization={"steps": 2}), tmp_path / "run")
    saved, recipe = latest_state(tmp_path / "run"), loop.load_recipe(tmp_path / "recipe.yaml")
    state.check_same_recipe(recipe, saved, processes=2)
    assert "1 process(es) trained before, and 2 do now: a step has 4 examples instead of 2" in caplog.text
    recipe.optimization.batch_size = 1
    state.check_same_recipe(recipe, saved, processes=2)
    with pytest.raises(ValueError, match=r"optimization\.batch_size: 2, now 1"):
        state.check_same_recipe(recipe, saved, processes=1)


@pytest.mark.parametrize("mixed", [False, True])
def test_another_cache_of_shards_is_the_same_training(tmp_path, mixed):
    """The machine that goes on has other disks; in another order it would be another training."""
    saved = tmp_path / "run" / "state-00000001"
    saved.mkdir(parents=True)
    chosen = {"name": "shards", "path": "s3://b/x", "options": {"cache": "/a", "cache_gb": 5, "tracks": 4}}
    recipe = loop.load_recipe(_shards(tmp_path, chosen, mixed))
    (saved / "recipe.yaml").write_text((tmp_path / "recipe.yaml").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "read_manifest", lambda _: {"processes": 1})
        options = recipe.data.parts()[0].options
        options.update(cache="/b", cache_gb=9)
        state.check_same_recipe(recipe, saved, processes=1)
        options["tracks"] = 8
        with pytest.raises(ValueError, match="started with another recipe"):
            state.check_same_recipe(recipe, saved, processes=1)


def _shards(folder: Path, chosen: dict, mixed: bool) -> Path:
    path = write(folder)
    values = yaml.safe_load(path.read_text())
    values["data"] = {"sets": [chosen]} if mixed else chosen
    path.write_text(yaml.safe_dump(values))
    return path


def drawn(rank: int, state_folder: Path) -> None:
    accelerator = loop.make_accelerator(loop.load_recipe(state_folder / "recipe.yaml"), state_folder.parent)
    model = accelerator.prepare(torch.nn.Linear(1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerator, "load_state", lambda _: torch.manual_seed(0))  # what both begin with
        state.load_state(accelerator, state_folder, None, seed=0, model=model, optimizer=None)
    print("drew", float(torch.rand(())))


def test_new_processes_draw_for_themselves(tmp_path):
    train(0, write(tmp_path, optimization={"steps": 2}), tmp_path / "run")
    both = TwoProcesses(tmp_path, drawn, latest_state(tmp_path / "run"))
    assert both.end() == [0, 0], both.text()
    drew = [next(line for line in both.text(rank).splitlines() if line.startswith("drew")) for rank in range(2)]
    assert drew[0] != drew[1]


def poisons(rank: int, recipe: Path, output: Path) -> None:
    """A training in which one process has a batch of NaN, at the third step."""
    read, count = batches.next_batch, itertools.count()

    def next_batch(loader):
        batch = read(loader)
        if rank == 1 and next(count) == 2:
            batch["pixel_values"].fill_(torch.nan)
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "next_batch", next_batch)
        train(rank, recipe, output)


@pytest.mark.fault
def test_both_stop_where_the_loss_is_not_finite(tmp_path):
    both = TwoProcesses(tmp_path, poisons, write(tmp_path), tmp_path / "run")
    assert both.end() == [1, 1]
    for rank in range(2):
        assert "at step 3 the loss is nan" in both.text(rank) and "the last good state is" in both.text(rank)


@pytest.mark.fault
def test_one_of_two_killed_at_random_moments(tmp_path, record_property):
    """Twenty kills, of either process, from the moment they know of each other: in the first steps, in a save, at the end."""
    recipe = write(tmp_path, save_every=1)
    start = time.monotonic()
    assert TwoProcesses(tmp_path, train, recipe, tmp_path / "whole").end() == [0, 0]
    takes, whole = time.monotonic() - start, weights(tmp_path / "whole")
    rng, slowest, trainings = np.random.default_rng(0), 0.0, 0
    for kill in range(20):
        output, victim = tmp_path / f"run-{trainings}", kill % 2
        both = TwoProcesses(tmp_path, train, recipe, output, True)
        lock, holder = output / ".lock", f"{both.processes[0].pid} on "
        both.wait_for(lambda lock=lock, holder=holder: lock.exists() and lock.read_text().startswith(holder))
        both.processes[victim].join(rng.uniform(0, takes))
        both.signal(victim, signal.SIGKILL)  # reaches nobody where it has just ended
        start = time.monotonic()
        codes = both.end(within=60)
        slowest = max(slowest, time.monotonic() - start)
        assert codes[1 - victim] in (0, 1), both.text()
        if (output / "model").exists() or kill == 19:
            last = TwoProcesses(
                tmp_path, train, recipe, output, True
            )  # it may have been killed after the model was written
            assert last.end() == [0, 0], last.text()
            assert same(weights(output), whole)
            trainings += 1
    record_property("trainings", trainings)
    record_property("seconds until the other ended, at most", round(slowest, 1))


# --------------------------------------------------------------------------------------------------------------------- launches


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE says that 2 processes were started, and this one finds 1"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE says that 4"),
        ({"SLURM_STEP_NUM_TASKS": "3"}, "SLURM_STEP_NUM_TASKS says that 3"),
        ({"ACCELERATE_DYNAMO_BACKEND": "no", "MASTER_PORT": "29500"}, "started only this one"),
        ({"ACCELERATE_USE_FSDP": "true"}, "configured for FSDP, which isn't supported"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "configured for DeepSpeed"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "configured for Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "configured for a parallelism_config"),
    ],
)
def test_a_launch_whose_processes_would_work_alone_is_refused(variables, said, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        connect()


@pytest.mark.parametrize(
    "variables",
    [{}, {"WORLD_SIZE": "1"}, {"SLURM_STEP_NUM_TASKS": "1"}, {"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "4"}],
)
def test_one_process_that_was_started_alone_is_none_of_our_business(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert connect().num_processes == 1


def test_processes_that_fail_to_meet_say_so(monkeypatch):
    monkeypatch.setattr(processes.PartialState, "_shared_state", {"backend": "gloo"})
    with (
        pytest.raises(
            ConnectionError, match=r"^this process could not be connected to the others \(Gloo connectFullMesh failed\)"
        ),
        processes.lost_process_named(),
    ):
        raise RuntimeError("Gloo connectFullMesh failed")


def trains_unconnected(rank: int, recipe: Path, output: Path) -> None:
    del os.environ["ACCELERATE_USE_CPU"]  # torchrun on a machine without a GPU
    train(rank, recipe, output)


@pytest.mark.skipif(torch.cuda.is_available(), reason="they are connected by GPUs")
def test_processes_that_accelerate_does_not_connect_write_nothing(tmp_path):
    both = TwoProcesses(tmp_path, trains_unconnected, write(tmp_path), tmp_path / "run")
    assert both.end() == [1, 1]
    assert not (tmp_path / "run").exists()
    refused = []
    for rank in range(2):  # some versions of PyTorch print a line of Gloo's before
        text = "\n" + both.text(rank)
        refused.append("\nwinwin: WORLD_SIZE says that 2 processes were started, and this one finds 1" in text)
        # the other one may have left before this one came
        assert refused[-1] or "\nwinwin: this process could not be connected to the others" in text
        assert not refused[-1] or "ACCELERATE_USE_CPU=true torchrun --nproc_per_node N" in text
    assert any(refused)


def outlives(rank: int, recipe: Path, output: Path) -> None:
    """A training that says which DDP is alive when its connections are closed."""
    close = torch.distributed.destroy_process_group

    def closing(*args):
        print("alive:", sum(isinstance(found, torch.nn.parallel.DistributedDataParallel) for found in gc.get_objects()))
        close(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "destroy_process_group", closing)
        train(rank, recipe, output)


@pytest.mark.slow
def test_no_ddp_outlives_its_connections(tmp_path):
    """PyTorch 2.13 waits for good where it is DDP that closes them, once in 150 trainings: the lock of Python and a thread."""
    both = TwoProcesses(tmp_path, outlives, write(tmp_path, optimization={"steps": 1}), tmp_path / "run")
    assert both.end() == [0, 0], both.text()
    assert all("alive: 0" in both.text(rank) for rank in range(2))


def asks(rank: int) -> None:
    connect()
    assert processes.any_process(rank == 1) and not processes.any_process(False)


def test_processes_agree(tmp_path):
    both = TwoProcesses(tmp_path, asks)
    assert both.end() == [0, 0], both.text()


def test_accumulation_is_the_recipes_whatever_the_launcher_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    recipe = loop.load_recipe(write(tmp_path))
    assert loop.make_accelerator(recipe, tmp_path).gradient_accumulation_steps == 1


def launch(
    launcher: list[str], recipe: Path, output: Path, log: Path, *more: str, **variables: str
) -> subprocess.Popen:
    """`python -m LAUNCHER scripts/train.py RECIPE --output OUTPUT`, in a session of its own."""
    script = [str(ROOT / "scripts" / "train.py"), str(recipe), "--output", str(output), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    with log.open("w") as file:
        command = [sys.executable, "-m", *launcher, *script]
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("number", "victims"), [(signal.SIGKILL, "one"), (signal.SIGTERM, "one"), (signal.SIGTERM, "torchrun")]
)
def test_torchrun_ends_all_and_the_training_resumes_exactly(tmp_path, number, victims):
    recipe, output, log = write(tmp_path, optimization={"steps": 12}), tmp_path / "run", tmp_path / "log.txt"
    whole = tmp_path / "whole"
    assert TwoProcesses(tmp_path, train, recipe, whole).end() == [0, 0]
    started = launch(TORCHRUN, recipe, output, log, ACCELERATE_USE_CPU="true")
    while latest_state(output) is None:
        assert started.poll() is None, log.read_text()
        time.sleep(0.01)
    ranks = psutil.Process(started.pid).children()
    (ranks[1] if victims == "one" else started).send_signal(number)
    assert started.wait(60) != 0, log.read_text()
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
    assert not (output / "model").exists(), "it had ended before"
    if number == signal.SIGTERM:
        assert log.read_text().count("continue from state-") == 2
    again = launch(TORCHRUN, recipe, output, log, "--resume", ACCELERATE_USE_CPU="true")
    assert again.wait(HANGS_AFTER) == 0, log.read_text()
    assert same(weights(output), weights(whole))


@pytest.mark.fault
@pytest.mark.skipif(torch.cuda.is_available(), reason="with GPUs these are right")
@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        (["torch.distributed.run", "--standalone", "--nproc_per_node", "2"], "WORLD_SIZE says that 2"),
        (["accelerate.commands.launch", "--cpu", "--num_processes", "2"], "started only this one"),
        (["accelerate.commands.launch", "--num_processes", "2"], "started only this one"),
        (
            ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "29645"],
            "WORLD_SIZE",
        ),
        (
            [
                *("accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"),
                *("--num_processes", "2", "--main_process_port", "29647"),
            ],
            "WORLD_SIZE",
        ),
    ],
)
def test_launches_on_a_cpu_that_would_train_alone_say_what_to_do(tmp_path, launcher, said):
    log = tmp_path / "log.txt"
    assert launch(launcher, write(tmp_path), tmp_path / "run", log).wait(HANGS_AFTER) != 0
    assert said in log.read_text() and "ACCELERATE_USE_CPU=true torchrun --nproc_per_node N" in log.read_text()
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------------------- lock


def hold(rank: int, folder: Path) -> None:
    if rank == 0:
        with locked(folder):
            (folder / "held").touch()
            signal.pause()


def test_a_folder_in_use_is_refused_until_its_holder_is_dead(tmp_path):
    folder = tmp_path / "run"
    holder = TwoProcesses(tmp_path, hold, folder)
    while not (folder / "held").exists():
        assert holder.processes[0].is_alive(), holder.text()
    with (
        pytest.raises(FileExistsError, match=rf"run: process {holder.processes[0].pid} on .* is training"),
        locked(folder),
    ):
        pass
    holder.signal(0, signal.SIGKILL)
    holder.end()
    with locked(folder):
        assert (folder / ".lock").read_text().startswith(f"{os.getpid()} on ")


@pytest.mark.parametrize("lay", ["link", "hard link", "link to nothing", "pipe", "folder", "file"])
def test_a_lock_that_is_no_lock_is_left_as_it_is(tmp_path, lay):
    """A link called .lock led to a file of the user's, which the lock's text replaced."""
    folder, precious = tmp_path / "run", tmp_path / "keep.txt"
    folder.mkdir()
    precious.write_text("precious")
    lock = folder / LOCK
    {
        "link": lambda: lock.symlink_to("../keep.txt"),
        "hard link": lambda: lock.hardlink_to(precious),
        "link to nothing": lambda: lock.symlink_to("../new.txt"),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
        "file": lambda: lock.write_text("mine"),
    }[lay]()
    with (
        pytest.raises(OSError, match=rf"{lock}: (a link, which is|a pipe;|a folder;|not a run's lock)"),
        locked(folder),
    ):
        pass
    assert precious.read_text() == "precious" and not (tmp_path / "new.txt").exists()
    assert lay != "file" or lock.read_text() == "mine"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='': expected a whole number from 1 to"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE=x: expected a whole number from 1 to"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE=0: expected a whole number from 1 to"),
        ({"WORLD_SIZE": "2", "RANK": "5"}, "RANK=5: expected 0 to 1, as WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "1", "RANK": "5"}, "RANK=5: expected 0, as WORLD_SIZE is 1"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK=x: expected a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "2"}, "LOCAL_RANK=2: expected 0 to 1, as WORLD_SIZE is 2"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x: expected a whole number"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE=0: expected"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "2"}, "OMPI_COMM_WORLD_RANK=2: expected 0 to 1"),
        ({"PMI_SIZE": "1.5"}, "PMI_SIZE=1.5: expected"),
        ({"SLURM_STEP_NUM_TASKS": "-1"}, "SLURM_STEP_NUM_TASKS=-1: expected"),
        ({"MASTER_PORT": "abc"}, "MASTER_PORT=abc: expected a whole number from 0 to 65535"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999: expected"),
        (
            {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "no.such.host.invalid"},
            "MASTER_ADDR=no.such.host.invalid: no such machine",
        ),
    ],
)
def test_a_process_that_can_t_exist_waits_for_nobody(variables, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "NAMED_WITHIN", 0.0)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        connect()
    with pytest.raises(typer.Exit) as ended:
        train(0, write(tmp_path), tmp_path / "run")
    assert ended.value.exit_code == 2 and capsys.readouterr().err.startswith(f"winwin: {said}")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_names_the_lock(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as error, locked(tmp_path):
        pass
    assert error.value.filename == str(tmp_path / LOCK) and not list(tmp_path.iterdir())


def test_a_training_that_the_lock_refuses_leaves_the_others_folder(tmp_path, monkeypatch):
    """Two that start at once both find no folder, and the second must not tidy up what the first has just made."""
    folder = tmp_path / "run"

    @contextlib.contextmanager
    def taken(folder: Path):
        folder.mkdir()
        (folder / LOCK).write_text("123 on host")
        (folder / "recipe.yaml").write_text("theirs")
        raise FileExistsError(f"{folder}: process 123 is training in this folder")
        yield

    monkeypatch.setattr(loop, "locked", taken)
    with pytest.raises(FileExistsError, match="process 123"):
        loop.train(write(tmp_path), output=folder)
    assert (folder / "recipe.yaml").read_text() == "theirs"
