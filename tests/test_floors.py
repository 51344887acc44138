"""scripts/test_floors.py: an end that leaves no tests running; tests/research/test_misuse.py has its arguments."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading

import psutil
import pytest
from research.processes import sigterm_as_exit
from support.places import ROOT


def test_sigterm_ends_the_tests_too(tmp_path):
    spec = importlib.util.spec_from_file_location("floors", ROOT / "scripts/test_floors.py")
    floors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(floors)
    python = tmp_path / "python"  # stands in for one whose tests take long
    python.write_text("#!/bin/sh\nexec sleep 600\n")
    python.chmod(0o755)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    before = set(psutil.Process().children())
    with sigterm_as_exit(), pytest.raises(SystemExit):
        floors.test(python, [])
    assert set(psutil.Process().children()) <= before
