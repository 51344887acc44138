"""The GPU of the tests that are marked `cuda`."""

from __future__ import annotations

import os

import pytest

# WINWIN_TEST_DEVICE=cpu puts the CPU in the GPU's place, which shows that these tests run.
ACCELERATOR = os.environ.get("WINWIN_TEST_DEVICE", "cuda")
IS_CUDA = ACCELERATOR != "cpu"


def on_accelerator(monkeypatch: pytest.MonkeyPatch) -> str:
    """Models of `model_cases` are made on the GPU, and convolutions computed in float32. Skips the test where there is no GPU."""
    import torch

    from support import model_cases

    if IS_CUDA and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    monkeypatch.setattr(model_cases, "DEVICE", ACCELERATOR)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return ACCELERATOR
