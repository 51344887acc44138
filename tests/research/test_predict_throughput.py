"""scripts/research/predict_throughput.py: what it measures of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from research.predict_throughput import run
from support.places import HANGS_AFTER, ROOT


def test_seconds_and_memory_of_several_processes():
    hold = "import time; held = bytearray({} * 10**6); held[::4096] = b'x' * len(held[::4096]); time.sleep(1)"
    small, large = (run([[sys.executable, "-c", hold.format(size)]] * 2) for size in (1, 100))
    assert small[0] > 1 and max(large[1]) - max(small[1]) == pytest.approx(0.2, rel=0.3)
    with pytest.raises(RuntimeError, match="a run failed"):
        run([[sys.executable, "-c", "raise SystemExit(1)"]])


def test_sigterm_leaves_no_pictures_and_no_processes(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "scripts/research/predict_throughput.py"),
        "--count",
        "200",
        "--size",
        "32x32",
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) as process:
        started, end = [], time.monotonic() + HANGS_AFTER
        while len(started) < 2 and process.poll() is None and time.monotonic() < end:
            started = psutil.Process(process.pid).children(recursive=True)  # the two loops
            time.sleep(0.05)
        process.terminate()
        _, errors = process.communicate(timeout=HANGS_AFTER)
    assert len(started) == 2 and process.returncode == 128 + signal.SIGTERM, errors
    assert errors == "winwin: stopped by SIGTERM; what was half written is removed\n"
    assert not list(tmp_path.iterdir()) and not any(child.is_running() for child in started)
