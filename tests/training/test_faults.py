"""Trainings that are killed and stopped again and again end with the weights of one that never was.

`WINWIN_FAULTS=100` is the number of faults of each test; by default 20.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.forked_training import ForkedTraining, same_weights, write_recipe
from support.places import HANGS_AFTER, ROOT

from winwin_hf.cli.train import RESUMABLE
from winwin_hf.processes import LOCK
from winwin_hf.training import loop
from winwin_hf.training.state import damage_of, states_in

pytestmark = pytest.mark.fault

FAULTS = int(os.environ.get("WINWIN_FAULTS", "20"))
ORPHANS_END_WITHIN = 30.0  # seconds; a loader process looks for its parent every five
# What changes files, of https://docs.python.org/3/library/audit_events.html
FILE_EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree", "os.chmod"}
EVALUATION = {"every": 2, "windows": 1, "sets": [{"label": "a", "length": 1}]}


class Whole:
    """A training that isn't disturbed, for each number of loader processes: its recipe, output and seconds."""

    def __init__(self, folder: Path):
        self.folder, self.known = folder, {}

    def __call__(self, workers: int) -> tuple[Path, Path, float]:
        if workers not in self.known:
            options = {"num_workers": workers, "steps": 8}
            folder = self.folder / f"{workers}-workers"
            recipe = write_recipe(folder, optimization=options, evaluation=EVALUATION, save_every=max(1, workers))
            training = ForkedTraining(recipe, folder / "run")
            assert training.wait() == 0, training.text
            self.known[workers] = recipe, folder / "run", training.seconds
        return self.known[workers]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


def members(group: int) -> list[psutil.Process]:
    """The living processes of a group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, ProcessLookupError):
            pass
    return found


def assert_nobody_stays(group: int) -> None:
    end = time.monotonic() + ORPHANS_END_WITHIN
    while members(group):
        assert time.monotonic() < end, members(group)
        time.sleep(0.2)


def assert_promises(output: Path) -> None:
    """What holds at every moment: a state under its own name is whole, and so is a model."""
    for state in states_in(output)[:2]:
        assert damage_of(state) == "", state
    if (output / "model").exists():
        assert {"config.json", "model.safetensors", "recipe.yaml"} <= {p.name for p in (output / "model").iterdir()}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_killed_at_random_moments(whole, tmp_path, workers, record_property):
    recipe, undisturbed, seconds = whole(workers)
    rng = random.Random(workers)
    kills = saves = finished = 0
    while kills < FAULTS:
        output, alone = tmp_path / f"run-{finished}", rng.random() < 0.5
        training = ForkedTraining(recipe, output)
        time.sleep(rng.uniform(0.0, 1.1 * seconds))
        training.signal(signal.SIGKILL, group=not alone)
        code = training.wait()
        assert code in (0, -signal.SIGKILL), training.text
        assert_nobody_stays(training.pid)
        assert_promises(output)
        kills += code == -signal.SIGKILL
        saves += bool(list(output.glob("state-*.tmp")))
        if code == 0:
            assert same_weights(output, undisturbed)
            finished += 1
    last = ForkedTraining(recipe, output)
    assert last.wait() == 0, last.text
    assert same_weights(output, undisturbed)
    print(f"{kills} kills, {saves} inside a save, {finished + 1} trainings")


def test_killed_at_every_file_operation(whole, tmp_path):
    """Before each of FAULTS operations on the output folder, spread over all of a training: inside of saves, of logging, of the model."""
    recipe, undisturbed, _ = whole(0)

    def counting(output: Path, at: int, note: Path):
        count = [0]

        def hook(event: str, arguments: tuple) -> None:
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (writes or event in FILE_EVENTS) and str(arguments[0]).startswith(str(output)):
                count[0] += 1
                if count[0] == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                if at == 0 and str(arguments[0]) != str(note):
                    os.write(counter, b".")

        counter = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        return lambda: sys.addaudithook(hook)

    note = tmp_path / "operations"
    training = ForkedTraining(recipe, tmp_path / "count", counting(tmp_path / "count", 0, note))
    assert training.wait() == 0, training.text
    total = note.stat().st_size
    places = sorted(random.Random(0).sample(range(1, total + 1), min(FAULTS, total)))
    for place in places:
        output = tmp_path / f"run-{place}"
        training = ForkedTraining(recipe, output, counting(output, place, tmp_path / "none"))
        assert training.wait() == -signal.SIGKILL, training.text
        assert_promises(output)
        resumed = ForkedTraining(recipe, output)
        assert resumed.wait() == 0, resumed.text
        assert same_weights(output, undisturbed), place
        assert {path.name for path in output.glob(".*")} == {LOCK} and not list(output.glob("*.tmp")), "leftovers"
    print(f"{len(places)} kills of {total} operations")


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_at_random_moments(whole, tmp_path, workers, number):
    """Once it trains, each signal saves and ends it by RESUMABLE; also inside of a save and of an evaluation."""
    recipe, undisturbed, seconds = whole(workers)
    rng = random.Random(10 * workers + number)
    stops = early = finished = 0
    while stops < max(1, FAULTS // 4):
        output, alone = tmp_path / f"run-{finished}", rng.random() < 0.5
        training = ForkedTraining(recipe, output)
        time.sleep(rng.uniform(0.2, 1.0) * seconds)
        training.signal(number, group=not alone)
        code = training.wait()
        assert_nobody_stays(training.pid)
        assert_promises(output)
        if code == 0:
            assert same_weights(output, undisturbed)
            finished += 1
        elif code == RESUMABLE:
            assert states_in(output) and "with --resume" in training.text
            assert "Traceback" not in training.text
            stops += 1
        else:  # before its first step, or after its last
            assert "tokens kept" not in training.text or (output / "model").exists(), (code, training.text)
            early += 1
    last = ForkedTraining(recipe, output)
    assert last.wait() == 0, last.text
    assert same_weights(output, undisturbed)
    print(f"{stops} stops, {early} before the first step, {finished + 1} trainings")


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    recipe = write_recipe(tmp_path, optimization={"steps": 10**6, "num_workers": 1}, save_every=10**6)

    def never() -> None:
        loop.Training.can_resume = property(lambda self: False)

    training = ForkedTraining(recipe, tmp_path / "run", never)
    log = tmp_path / "run" / "metrics.jsonl"
    training.wait_until(lambda: log.exists() and log.read_text())
    training.signal(signal.SIGINT)
    time.sleep(1)
    assert members(training.pid), "the first one ended it"
    training.signal(signal.SIGINT)
    assert training.wait() == 130, training.text
    assert_nobody_stays(training.pid)


@pytest.mark.parametrize("launcher", ["scripts/train.py", "accelerate", "torchrun"])
def test_what_a_launcher_makes_of_sigterm(tmp_path, launcher):
    """Of a signal to the whole group, as a terminal and most schedulers send it. The training saves; only its own exit code tells so."""
    commands = {
        "scripts/train.py": [],
        "accelerate": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"],
        "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "1", "--master_port", "29641"],
    }
    codes = {"scripts/train.py": RESUMABLE, "accelerate": -signal.SIGTERM, "torchrun": 1}
    recipe = write_recipe(tmp_path, optimization={"steps": 10**6, "num_workers": 1}, save_every=10**6)
    output = tmp_path / "run"
    command = [sys.executable, *commands[launcher], str(ROOT / "scripts" / "train.py"), str(recipe)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen(
        [*command, "--output", str(output)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    log = output / "metrics.jsonl"
    while not (log.exists() and log.read_text()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    text, _ = process.communicate(timeout=HANGS_AFTER)
    assert process.returncode == codes[launcher], text
    (state,) = states_in(output)
    assert damage_of(state) == ""
