"""Tests never reach the network and never touch the person's Hub cache: the environment is set before any import reads it."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
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
# Small tensors gain nothing from threads, and on a busy machine threads that wait for one another cost a factor of ten.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from support.places import EXAMPLES, ROOT, TEST_DATA

sys.path.append(str(ROOT / "scripts"))  # last: scripts/evaluate.py must not stand in for the package `evaluate`

WANTING = "needs the real data sets"  # what a test says that is skipped for want of them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "research" in item.path.parts:
            item.add_marker("research")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the tests that were skipped because a data set isn't on this machine."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if WANTING in str(report.longrepr)]
    if skipped:
        terminalreporter.section(f"{len(skipped)} tests skipped: no real data in {TEST_DATA} (WINWIN_TEST_DATA)")
        for report in skipped:
            terminalreporter.line(report.nodeid)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets, where a machine has them (`WINWIN_TEST_DATA`); a test that needs them is skipped elsewhere."""
    if not TEST_DATA.is_dir():
        pytest.skip(f"{WANTING}: {TEST_DATA} is no folder")
    return TEST_DATA


@pytest.fixture(scope="session")
def examples() -> Path:
    """The example frames of the demo, which every checkout has."""
    return EXAMPLES
