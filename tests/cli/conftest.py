"""A folder to type commands in, with untrained checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from support.model_cases import SMALL

from winwin_hf import WinWinConfig, WinWinForDepthEstimation, WinWinForOpticalFlow, WinWinImageProcessor, bundled


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for name, cls in (("winwin-flow", WinWinForOpticalFlow), ("winwin-depth", WinWinForDepthEstimation)):
        cls(WinWinConfig(**SMALL)).save_pretrained(root / name)
        WinWinImageProcessor(patch_size=8).save_pretrained(root / name)
    return root


@pytest.fixture
def working_folder(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, which is the current one; the checkpoints bundled, an empty cache."""
    monkeypatch.setattr(bundled, "CHECKPOINTS", bundle)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WINWIN_TRACEBACK", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def here(working_folder: Path) -> Path:
    """A working folder with a frame, and things that are no files."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nothing")
    return working_folder
