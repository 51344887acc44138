"""A training in a process forked from the test's: none imports anything again, which takes longer than the training."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from support.recipes import RECIPE
from winwin_hf.cli.train import train as command
from winwin_hf.pools import STOP_SIGNALS

SHORT: dict[str, Any] = {
    "optimization": {"steps": 4, "batch_size": 2, "warmup_steps": 2, "num_workers": 0},
    "evaluation": {"every": 0, "windows": 0, "sets": []},
    "save_every": 1,
    "log_every": 1,
    "trackers": [],
}


def write_recipe(folder: Path, **changes: Any) -> Path:
    """folder/recipe.yaml of a training that takes a second, with changes to its sections."""
    folder.mkdir(exist_ok=True, parents=True)
    recipe = {**RECIPE, **SHORT}
    for section, values in changes.items():
        recipe[section] = {**recipe.get(section, {}), **values} if isinstance(values, dict) else values
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


class ForkedTraining:
    """
    `winwin train RECIPE --output OUTPUT --resume` in a process group of its own.

    Args:
        prepare: called in the new process before the training.
    Attributes:
        text: what it printed, after `wait`. seconds: how long it ran.
    """

    def __init__(self, recipe: Path, output: Path, prepare: Callable[[], None] | None = None):
        if not hasattr(os, "fork"):
            pytest.skip("needs os.fork")
        self.printed = output.with_name(f"{output.name}.txt")
        self.started = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._train(recipe, output, prepare)

    def _train(self, recipe: Path, output: Path, prepare: Callable[[], None] | None) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            for number in STOP_SIGNALS:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            file = os.open(self.printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            torch.set_num_threads(1)  # no pool of threads lives on in a fork
            cv2.setNumThreads(0)
            if prepare is not None:
                prepare()
            command(str(recipe), output=output, resume=True)
            code = 0
        except BaseException as error:
            code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
            if not hasattr(error, "exit_code"):
                traceback.print_exc(file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # no clean-up of the test's own

    def signal(self, number: int, group: bool = True) -> None:
        """Sends a signal to the training and its loader processes, or to the training alone."""
        try:
            os.killpg(self.pid, number) if group else os.kill(self.pid, number)
        except ProcessLookupError:
            if not group:
                raise
            os.kill(self.pid, number)  # it has no group yet

    def wait_until(self, reached: Callable[[], Any]) -> None:
        """Waits until something holds. An error if it ends before."""
        while not reached():
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            assert ended is None, self.printed.read_text()
            time.sleep(0.01)

    def wait(self) -> int:
        """Its exit code, below zero for the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        self.seconds = time.monotonic() - self.started
        self.text = self.printed.read_text() if self.printed.exists() else ""
        return os.waitstatus_to_exitcode(status)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model" / "model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    """Whether two trainings ended with the same model, bit for bit."""
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())
