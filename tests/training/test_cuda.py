"""On a GPU: trainings that resume exactly, in one process of DDP, and with a batch that doesn't fit."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.accelerator import ACCELERATOR, IS_CUDA, on_accelerator
from support.forked_training import same_weights, weights, write_recipe
from support.model_cases import small_device
from support.places import ROOT

from winwin_hf import WinWinForOpticalFlow
from winwin_hf.training.loop import train

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    return on_accelerator(monkeypatch)


def losses(output: Path) -> list[float]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def stopped_half_way(output: Path, target: Path) -> Path:
    """A copy of a training of 20 steps as it was after its tenth."""
    later = shutil.ignore_patterns("state-00000020", "model", "logs")
    return Path(shutil.copytree(output, target, ignore=later))


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_training_resumes_exactly(tmp_path, monkeypatch, precision):
    """
    Bit for bit: torch is told to compute in one order, and fails where an operation can't.

    cuBLAS does so with this variable; attention as it is written out, since SDPA's kernels sum gradients in any order.
    """
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    precision = precision if IS_CUDA else "no"
    recipe = write_recipe(
        tmp_path,
        task="depth-estimation",
        data={"name": "synthetic-depth"},
        model={"attention": "eager", "config": {"hidden_size": 32, "num_attention_heads": 2, "head_type": "linear"}},
        optimization={"steps": 20, "mixed_precision": precision, "num_workers": 2, "warmup_steps": 2},
        save_every=10,
    )
    torch.use_deterministic_algorithms(True)
    try:
        train(recipe, output=tmp_path / "whole")
        half = stopped_half_way(tmp_path / "whole", tmp_path / "half")
        train(recipe, output=half, resume=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(losses(half)) == 20 and all(map(math.isfinite, losses(half)))
    assert losses(half) == losses(tmp_path / "whole") and same_weights(tmp_path / "whole", half)


def test_a_training_of_flow_goes_on_where_it_was(tmp_path):
    """With its default attention and matching, whose gradients a GPU sums in any order: nearly the same losses."""
    config = {"patch_embedding": "conv_stem", "matching_stride": 8, "matching_size": 16}
    options = {"steps": 20, "mixed_precision": "bf16" if IS_CUDA else "no", "num_workers": 2, "warmup_steps": 2}
    recipe = write_recipe(tmp_path, model={"config": {**SMALL, **config}}, optimization=options, save_every=10)
    train(recipe, output=tmp_path / "whole")
    half = stopped_half_way(tmp_path / "whole", tmp_path / "half")
    train(recipe, output=half, resume=True)
    assert losses(half) == pytest.approx(losses(tmp_path / "whole"), rel=0.05)


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 1,
    "head_hidden_size": 16,
}


def test_a_batch_that_does_not_fit_names_one_that_does(tmp_path, monkeypatch):
    """With 4 GB of a GPU; the batch that is named then trains."""
    batch, side = (64, 12) if IS_CUDA else (8, 2)
    options = {"steps": 2, "batch_size": batch, "num_workers": 4 if IS_CUDA else 0}
    recipe = write_recipe(
        tmp_path,
        model={"preset": "small", "config": {}} if IS_CUDA else {"config": SMALL},
        data={"name": "synthetic-flow", "settings": {"height": 288, "width": 384, "texture_count": 2}},
        windows={"kind": "windows", "size": [side, side]},
        optimization=options,
        save_every=2,
    )
    if IS_CUDA:
        share = 4e9 / torch.cuda.get_device_properties(ACCELERATOR).total_memory
        torch.cuda.set_per_process_memory_fraction(share)
    else:
        small_device(monkeypatch, WinWinForOpticalFlow, 2 * 2 * (16 * side) ** 2)
    try:
        with pytest.raises(torch.OutOfMemoryError, match=rf"^at step 1 a batch of {batch} .* would fit: ") as found:
            train(recipe, output=tmp_path / "run")
        words = str(found.value).split()
        chosen = [word.rstrip(",;") for word in words if word.startswith("optimization.") and "=" in word][:2]
        assert train(recipe, output=tmp_path / "other", overrides=chosen).is_dir()
    finally:
        if IS_CUDA:
            torch.cuda.set_per_process_memory_fraction(1.0)


COUNTED = """
import sys
from torch.nn.parallel import DistributedDataParallel
from winwin_hf.training.loop import train
made, start = [], DistributedDataParallel.__init__
DistributedDataParallel.__init__ = lambda self, *args, **kwargs: (made.append(self), start(self, *args, **kwargs))[1]
train(sys.argv[1], output=sys.argv[2])
print(f"{len(made)} networks in DDP")
"""


def test_one_process_of_ddp(tmp_path):
    """Started as torchrun starts one process (nccl on a GPU), it has the losses of a training without DDP."""
    recipe = write_recipe(tmp_path, optimization={"steps": 3})
    train(recipe, output=tmp_path / "alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
    environment = {**os.environ, **{name: str(value) for name, value in started.items()}, "MASTER_ADDR": "127.0.0.1"}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    environment |= {} if IS_CUDA else {"ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-c", COUNTED, str(recipe), str(tmp_path / "ddp")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"parameters on {ACCELERATOR}" in done.stdout
    assert not IS_CUDA or "1 networks in DDP" in done.stdout
    assert losses(tmp_path / "ddp") == pytest.approx(losses(tmp_path / "alone"), rel=0.01)
    assert weights(tmp_path / "ddp").keys() == weights(tmp_path / "alone").keys()
