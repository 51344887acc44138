"""Training, evaluation and pipelines leave the calling process as it was, and need nothing that only POSIX has."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from support.places import FRAMES, ROOT
from support.recipes import RECIPE
from transformers import pipeline

from winwin_hf import WinWinConfig, WinWinForDepthEstimation, WinWinForSemanticSegmentation, WinWinImageProcessor
from winwin_hf.evaluation.run import Settings, evaluate_data
from winwin_hf.host_process import flushes_denormals, unchanged_process
from winwin_hf.training import loop
from winwin_hf.training.evaluate import evaluate_by_recipe
from winwin_hf.training.loop import train

SHORT = {
    "optimization": {"steps": 3, "batch_size": 2, "warmup_steps": 1, "num_workers": 1},
    "evaluation": {"every": 0, "windows": 2, "sets": [{"label": "frames", "length": 1}]},
    "save_every": 1,
    "log_every": 1,
}
MIDDLEBURY = f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"


def snapshot() -> dict[str, Any]:
    """Everything of this process that a library could change behind its caller's back."""
    loggers = {name: logging.getLogger(name) for name in (None, "winwin_hf", "transformers", "accelerate", "datasets")}
    numpy_state = np.random.get_state()  # noqa: NPY002
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "python random": random.getstate(),
        "numpy random": [part.tolist() if isinstance(part, np.ndarray) else part for part in numpy_state],
        "torch random": torch.get_rng_state().tolist(),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "cv2 threads": cv2.getNumThreads(),
        "torch modes": (
            flushes_denormals(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
        ),
        "warnings": list(warnings.filters),
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "logging": {name: (logger.level, list(logger.handlers)) for name, logger in loggers.items()},
        "folder": Path.cwd(),
        "sys": (list(sys.path), list(sys.argv), sys.excepthook, sys.stdout, sys.stderr),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "accelerate": [sorted(state._shared_state) for state in (AcceleratorState, PartialState, GradientState)],
    }


@pytest.fixture
def host() -> Iterator[None]:
    """A caller with settings of its own, which must be the same after the test."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threads = torch.get_num_threads(), cv2.getNumThreads()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="a filter of the caller's")
        random.seed(1)
        np.random.seed(2)  # noqa: NPY002
        torch.manual_seed(3)
        torch.set_num_threads(2)
        cv2.setNumThreads(3)
        for number in handlers:
            signal.signal(number, lambda *_: None)
        before = snapshot()
        try:
            yield
            after = snapshot()
            for name, value in before.items():
                assert after[name] == value, name
            assert not multiprocessing.active_children()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            torch.set_num_threads(threads[0])
            cv2.setNumThreads(threads[1])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **SHORT}))
    return path


@pytest.fixture(scope="module")
def checkpoint(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe, output=tmp_path_factory.mktemp("trained"), overrides=["optimization.num_workers=0"])


def test_snapshot_notices_changes(host: None):
    before = snapshot()
    changes = {
        "python random": (lambda: random.random(), lambda: random.setstate(before["python random"])),
        "environment": (lambda: os.environ.update(WINWIN_X="1"), lambda: os.environ.pop("WINWIN_X")),
        "warnings": (lambda: warnings.simplefilter("error"), lambda: warnings.filters.pop(0)),
        "cv2 threads": (lambda: cv2.setNumThreads(1), lambda: cv2.setNumThreads(3)),
    }
    for name, (change, undo) in changes.items():
        change()
        assert snapshot()[name] != before[name]
        undo()


def test_training(host: None, recipe: Path, tmp_path: Path):
    train(recipe, output=tmp_path / "run")


@pytest.mark.slow
def test_training_twice_in_other_precisions(host: None, recipe: Path, tmp_path: Path):
    """Accelerate refuses a second precision in one process as long as its state lives."""
    for precision in ("bf16", "no"):
        overrides = [f"optimization.mixed_precision={precision}", "optimization.steps=1", "optimization.num_workers=0"]
        train(recipe, output=tmp_path / precision, overrides=overrides)


def test_training_depends_on_its_own_seed_alone(recipe: Path, checkpoint: Path, tmp_path: Path):
    torch.manual_seed(12345)
    folder = train(recipe, output=tmp_path / "again", overrides=["optimization.num_workers=0"])
    assert (folder / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_training_that_fails(host: None, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch, pytest.raises(FloatingPointError):
        patch.setattr(loop, "learning_rate", lambda *_: 1e25)
        train(recipe, output=tmp_path / "run", overrides=["optimization.steps=9"])
    with pytest.raises(ValueError, match="stepps"):
        train(recipe, output=tmp_path / "other", overrides=["optimization.stepps=1"])


def test_training_that_is_stopped(host: None, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rate = loop.learning_rate

    def stop(options, step):
        signal.raise_signal(signal.SIGTERM)
        return rate(options, step)

    monkeypatch.setattr(loop, "learning_rate", stop)
    output = tmp_path / "run"
    with pytest.raises(loop.TrainingStopped):
        train(recipe, output=output)
    assert [path.name for path in output.glob("state-*")] == ["state-00000001"] and not (output / "model").exists()


def test_training_that_is_interrupted_twice(host: None, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(options, step):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "learning_rate", stop)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, output=tmp_path / "run")


def test_evaluation(host: None, recipe: Path, checkpoint: Path, tmp_path: Path):
    assert evaluate_by_recipe(checkpoint, recipe)["frames"]["images"] == 1
    evaluate_data([str(checkpoint), "opencv-dis"], [MIDDLEBURY], tmp_path / "out", Settings(length=1, precision="bf16"))


def test_evaluation_that_fails(host: None, recipe: Path, checkpoint: Path):
    with pytest.raises(ValueError, match="kitti"):
        evaluate_data([str(checkpoint)], ["kitti=nowhere"], None, Settings())
    with pytest.raises(OSError, match="nowhere"):
        evaluate_by_recipe(
            checkpoint, recipe, ["evaluation.sets=[{label: a, name: middlebury, path: nowhere, split: train}]"]
        )


def test_pipelines(checkpoint: Path, tmp_path: Path, request: pytest.FixtureRequest):
    sizes = RECIPE["model"]["config"]
    for name, cls in (("seg", WinWinForSemanticSegmentation), ("depth", WinWinForDepthEstimation)):
        cls(WinWinConfig(**sizes)).save_pretrained(tmp_path / name)
        WinWinImageProcessor().save_pretrained(tmp_path / name)
    request.getfixturevalue("host")
    image = str(FRAMES / "CamVid" / "val" / "0016E5_000030.png")
    pipeline("optical-flow", model=str(checkpoint))(image, image)
    pipeline("image-segmentation", model=str(tmp_path / "seg"))(image)
    pipeline("depth-estimation", model=str(tmp_path / "depth"))(image)


def test_unchanged_process_puts_everything_back(host: None):
    with pytest.raises(ZeroDivisionError), unchanged_process():
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        torch.set_default_dtype(torch.float64)
        warnings.simplefilter("error")
        os.environ["WINWIN_X"] = "1"
        del os.environ["PATH"]
        torch.set_flush_denormal(True)
        assert flushes_denormals()
        Accelerator(cpu=True)
        1 / 0  # noqa: B018


@pytest.mark.slow  # a fresh process imports everything
def test_works_without_posix_modules(recipe: Path, tmp_path: Path):
    """In a process in which the package can't import `resource` and `fcntl`, as on Windows. (Here psutil itself needs `resource`.)"""
    code = f"""
import builtins, importlib, pkgutil
real_import = builtins.__import__
def import_as_on_windows(name, scope=None, *rest, **named):
    if name in ("resource", "fcntl", "pwd", "termios") and (scope or {{}}).get("__name__", "").startswith("winwin_hf"):
        raise ModuleNotFoundError(name)
    return real_import(name, scope, *rest, **named)
builtins.__import__ = import_as_on_windows
import winwin_hf
for module in pkgutil.walk_packages(winwin_hf.__path__, "winwin_hf."):
    importlib.import_module(module.name)
from winwin_hf.training import log
from winwin_hf.training.loop import train
assert log.resource is None and log.peak_memory() > 0.01
print(train({str(recipe)!r}, {str(tmp_path / "run")!r}, overrides=["optimization.steps=2", "optimization.num_workers=0"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
