"""Processes that work for another one: signals of their group are that one's alone."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from winwin_hf import pools
from winwin_hf.pools import process_pool

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no groups of processes")

# A command whose processes take a second to import; it says when they have been started.
COMMAND = """
import sys, time
from pathlib import Path
from winwin_hf.cli.errors import one_line_errors
from winwin_hf.pools import process_pool
sys.path.insert(0, {folder!r})
import slow

@one_line_errors
def command():
    with process_pool(2, {method!r}, slow.start) as pool:
        futures = [pool.submit(time.sleep, 60) for _ in range(4)]
        Path({folder!r}, "started").touch()
        for future in futures:
            future.result()

if __name__ == "__main__":
    import typer
    app = typer.Typer()
    app.command()(command)
    app()
"""
SLOW = "import time\ntime.sleep(1)\ndef start(): pass\n"


def ignored() -> list[int]:
    return [number for number in pools.STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_ignore_what_stops_their_parent_and_end_with_it(method):
    with process_pool(2, method, os.getpid) as pool:
        processes = [psutil.Process(number) for number in pool._processes]
        assert len(processes) == 2 and pool.submit(ignored).result() == []
    psutil.wait_procs(processes, 5)
    assert not any(process.is_running() for process in processes)
    with pytest.raises(RuntimeError, match="ours"), process_pool(2, method, os.getpid) as pool:
        processes = [psutil.Process(number) for number in pool._processes]
        pool.submit(time.sleep, 60)
        raise RuntimeError("ours")
    psutil.wait_procs(processes, 5)
    assert not any(process.is_running() for process in processes)


WHEN = {"while they import": 0.3, "while they work": 2.5}
CASES = list(itertools.product(WHEN, ("SIGINT", "SIGTERM"), ("spawn", "forkserver")))


@pytest.mark.parametrize(
    ("when", "name", "method"), CASES[:1] + [pytest.param(*case, marks=pytest.mark.fault) for case in CASES[1:]]
)
def test_a_signal_to_the_group_is_one_line(tmp_path, when, name, method):
    """Ctrl-C in a terminal reaches every process of the command."""
    (tmp_path / "slow.py").write_text(SLOW)
    script = tmp_path / "command.py"
    script.write_text(COMMAND.format(folder=str(tmp_path), method=method))
    environment = {**os.environ, "PYTHONPATH": str(Path(pools.__file__).parents[1])}
    number = signal.Signals[name]
    with subprocess.Popen(
        [sys.executable, script], stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as process:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(WHEN[when])
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + number
    assert said == f"winwin: stopped by {name}; what was half written is removed\n"
    psutil.wait_procs(children, 5)
    assert not any(child.is_running() for child in children)
