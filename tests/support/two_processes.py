"""Two processes of one test, forked from it: neither imports anything again, which takes longer than most tests."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from accelerate import debug_launcher
from accelerate.state import AcceleratorState


def in_two_processes(function: Callable[..., None], *args: object) -> None:
    """Calls function(*args) in two processes on the CPU, in which `Accelerator` finds the other one. Raises what a process raised."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    debug_launcher(_call, (function, *args), num_processes=2)


def _call(function: Callable[..., None], *args: object) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # the parent's, of one process
    function(*args)
