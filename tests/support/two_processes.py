"""Two processes of one test, forked from it: neither imports anything again, which takes longer than most tests."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from accelerate import debug_launcher
from accelerate.state import AcceleratorState


def in_two_processes(function: Callable[..., None], *args: object) -> None:
    """Calls function(*args) in two processes on the CPU, in which `Accelerator` finds the other one. Raises what a process raised."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    debug_launcher(_call, (function, *args), num_processes=2)


def _call(function: Callable[..., None], *args: object) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # the parent's, of one process
    function(*args)


class TwoProcesses:
    """function(rank, *args) in two processes as torchrun starts them, but without torchrun, which would end one for the other."""

    def __init__(self, folder: Path, function: Callable[..., None], *args: object):
        if not hasattr(os, "fork"):
            pytest.skip("needs os.fork")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.logs = [folder / f"rank-{rank}.log" for rank in range(2)]
        fork = multiprocessing.get_context("fork")
        self.processes = [
            fork.Process(target=_rank, args=(rank, port, self.logs[rank], function, args)) for rank in range(2)
        ]
        for process in self.processes:
            process.start()

    def wait_for(self, path: Callable[[], bool]) -> None:
        """Waits until `path()` is true. Fails where a process ends before."""
        while not path():
            assert all(process.is_alive() for process in self.processes), self.text()
            time.sleep(0.01)

    def signal(self, rank: int, number: int) -> None:
        if self.processes[rank].exitcode is None:
            os.kill(self.processes[rank].pid or 0, number)

    def end(self, within: float = 60) -> list[int | None]:
        """Exit statuses of both, negative ones of signals. Fails where one still runs after so many seconds."""
        until = time.monotonic() + within
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        running = [process for process in self.processes if process.is_alive()]
        for process in running:
            process.kill()
            process.join()
        assert not running, f"still running after {within} s: {self.text()}"
        return [process.exitcode for process in self.processes]

    def text(self, rank: int | None = None) -> str:
        """What one process printed, or both."""
        logs = self.logs if rank is None else [self.logs[rank]]
        return "\n".join(log.read_text() for log in logs if log.exists())


def _rank(rank: int, port: int, log: Path, function: Callable[..., None], args: tuple[object, ...]) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)  # pytest's own were captured
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo")
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        function(rank, *args)
    except typer.Exit as code:
        sys.exit(code.exit_code)
