"""Processes that are killed, under torchrun: it starts all of them again, and the training goes on by itself from the last state."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.places import HANGS_AFTER, ROOT
from support.small_training import same, train, weights, write
from support.two_processes import TwoProcesses

from winwin_hf.processes import LOCK
from winwin_hf.training.sharding import shards_in
from winwin_hf.training.state import damage_of, latest_state, states_in

pytestmark = pytest.mark.cluster

KILLS = 10
STUCK_AFTER = 120.0  # seconds without a new state, where one takes ten
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def whole(rank: int, recipe: Path, output: Path) -> None:
    os.environ.update(FSDP2)
    train(rank, recipe, output)


def undisturbed(folder: Path, recipe: Path) -> Path:
    both = TwoProcesses(folder, whole, recipe, folder / "whole")
    assert both.end(within=HANGS_AFTER) == [0, 0], both.text()
    return folder / "whole"


class Launched:
    """`scripts/launch/elastic.sh RECIPE OUTPUT`, sharded, on CPUs, in a session of its own."""

    def __init__(self, recipe: Path, output: Path, log: Path, **variables: str):
        self.log = log
        environment = {
            **os.environ,
            **FSDP2,
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "RESTARTS": str(KILLS),
            "PROCESSES": "2",
            "GLOO_SOCKET_IFNAME": "lo",
            **variables,
        }
        with log.open("w") as file:
            command = [ROOT / "scripts/launch/elastic.sh", recipe, output]
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)

    def workers(self) -> list[psutil.Process]:
        """The processes that train, by their number."""
        children = psutil.Process(self.process.pid).children()
        return sorted((child for child in children if child.status() != psutil.STATUS_ZOMBIE), key=lambda p: p.pid)

    def wait_for(self, reached: Callable[[], object]) -> None:
        end = time.monotonic() + STUCK_AFTER
        while not reached():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def end(self) -> str:
        assert self.process.wait(HANGS_AFTER) == 0, self.log.read_text()
        return self.log.read_text()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_ten_kills_of_a_worker_cost_no_more_than_steps(tmp_path, record_property):
    """SIGKILL to either of two processes, at once after a state, in the next steps, or in the next save."""
    recipe = write(tmp_path, optimization={"steps": 60, "ema_decay": 0.9})
    expected = undisturbed(tmp_path, recipe)
    output, rng, lost = tmp_path / "run", random.Random(0), []
    launched = Launched(recipe, output, tmp_path / "log.txt", HEAD=f"127.0.0.1:{free_port()}")
    for kill in range(KILLS):
        before = latest_state(output)
        launched.wait_for(lambda before=before: latest_state(output) != before and len(launched.workers()) == 2)
        time.sleep(rng.uniform(0, 0.5))
        launched.workers()[kill % 2].send_signal(signal.SIGKILL)
        lost.append(latest_state(output).name)
    said = launched.end()
    assert len(set(lost)) == KILLS, "each kill came after a new state"
    assert said.count("Signal 9 (SIGKILL) received by PID") >= KILLS or said.count("exitcode: -9") >= KILLS
    assert same(weights(output), weights(expected))
    assert all(damage_of(state) == "" and len(shards_in(state)) == 2 for state in states_in(output))
    assert {path.name for path in output.glob(".*")} == {LOCK} and not list(output.glob("*.tmp")), "leftovers"
    record_property("states that were gone on from", lost)


def test_two_nodes_go_on_where_one_of_their_workers_dies(tmp_path):
    """Two torchruns of a process each, that meet at an address, as on two machines."""
    recipe = write(tmp_path, optimization={"steps": 20})
    expected, output = undisturbed(tmp_path, recipe), tmp_path / "run"
    meeting = {"NODES": "2", "PROCESSES": "1", "HEAD": f"127.0.0.1:{free_port()}"}
    nodes = [Launched(recipe, output, tmp_path / f"node-{n}.txt", NODE_RANK=str(n), **meeting) for n in range(2)]
    nodes[1].wait_for(lambda: latest_state(output) is not None and nodes[1].workers())
    nodes[1].workers()[0].send_signal(signal.SIGKILL)
    for node in nodes:
        node.end()
    assert same(weights(output), weights(expected))
