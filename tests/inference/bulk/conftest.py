"""Networks and pictures for `winwin predict`, in units of two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.space_server import tiny_checkpoints

from winwin_hf.inference.bulk import plan, work


@pytest.fixture(scope="package")
def models(tmp_path_factory) -> dict[str, str]:
    return tiny_checkpoints(tmp_path_factory.mktemp("models"))


@pytest.fixture
def frames(tmp_path) -> Path:
    """Seven pictures of two sizes."""
    folder = tmp_path / "frames"
    (folder / "b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(7):
        size = (40, 56) if number < 5 else (33, 70)
        name = f"{number}.png" if number < 4 else f"b/{number}.png"
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def small_units(monkeypatch):
    for module in (plan, work):
        monkeypatch.setattr(module, "UNIT", 2)
