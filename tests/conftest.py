"""Tests never reach the network and never touch the person's Hub cache: the environment is set before any import reads it."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_HOME = tempfile.mkdtemp(prefix="winwin-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
for _name in (
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_ASSETS_CACHE",
    "HF_DATASETS_CACHE",
    "HF_MODULES_CACHE",
    "HF_TOKEN",
):
    os.environ.pop(_name, None)  # each would win over HF_HOME
os.environ["HF_HOME"] = _HOME
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if hasattr(signal, "SIGHUP"):  # nohup, under which people run long things, has every child ignore it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # a script's job in the background, whose children would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(
    os, "register_at_fork"
):  # a forked child that collects a decoder of an earlier test waits for threads that it hasn't got
    os.register_at_fork(before=gc.freeze, after_in_parent=gc.unfreeze)
# Small tensors gain nothing from threads, and on a busy machine threads that wait for one another cost a factor of ten.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from support.accelerator import ACCELERATOR, on_accelerator
from support.places import EXAMPLES, NO_REAL_DATA, ROOT, TEST_DATA

sys.path.append(str(ROOT / "scripts"))  # last: scripts/evaluate.py must not stand in for the package `evaluate`


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "research" in item.path.parts and not item.get_closest_marker(
            "slow"
        ):  # the slow ones are run with the other slow tests
            item.add_marker("research")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the tests that were skipped because this machine hasn't got a data set, and which one."""
    reasons = {r.nodeid: str(r.longrepr) for r in terminalreporter.stats.get("skipped", [])}
    missing = {
        test: text.partition(f"{NO_REAL_DATA}: ")[2].rstrip("')")
        for test, text in reasons.items()
        if NO_REAL_DATA in text
    }
    if missing:
        terminalreporter.section(f"{len(missing)} tests skipped for want of real data (WINWIN_TEST_DATA={TEST_DATA})")
        for test, path in sorted(missing.items()):
            terminalreporter.line(f"{test}  needs {path}")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """A test that leaves torch another number of threads changes the last digits, and the time, of those that follow."""
    before = torch.get_num_threads()
    yield
    after = torch.get_num_threads()
    if after != before:  # setting starts a new pool
        torch.set_num_threads(before)
        raise AssertionError(f"the test left torch {after} threads; expected {before}, as before")


@pytest.fixture(params=["cpu", pytest.param(ACCELERATOR, marks=pytest.mark.cuda, id="gpu")])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the models of `support.model_cases` are made: on the CPU, and with `-m cuda` on a GPU."""
    if request.param != "cpu":
        on_accelerator(monkeypatch)
    return request.param


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Path below `WINWIN_TEST_DATA` -> where it is. Skips the test on a machine that hasn't got it."""

    def find(name: str) -> Path:
        if not (TEST_DATA / name).exists():
            pytest.skip(f"{NO_REAL_DATA}: {TEST_DATA / name}")
        return TEST_DATA / name

    return find


@pytest.fixture(scope="session")
def examples() -> Path:
    """The example frames of the demo, which every checkout has."""
    return EXAMPLES
