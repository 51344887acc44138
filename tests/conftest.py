"""Tests never reach the network and never touch the person's Hub cache: the environment is set before any import reads it."""

from __future__ import annotations

import atexit
import os
import shutil
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

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the repository, where a machine has them; a test that needs them is skipped elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the data sets of {SHARED_DATA.parent.name}/{SHARED_DATA.name} beside the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def examples() -> Path:
    """The example frames of the demo, which every checkout has."""
    return Path(__file__).resolve().parents[1] / "spaces" / "winwin-demo" / "examples"
