"""Leaving the process that calls us as it was, whether the work ends, fails or is interrupted."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import warnings
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils.data._utils import signal_handling


@contextlib.contextmanager
def unchanged_process() -> Iterator[None]:
    """
    Puts back at the end: random states, threads, denormal numbers, default dtype, warnings filters, environment, Accelerate's
    state, start method and SIGCHLD.

    A context manager, and a decorator. Source: ours.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for context in (_environment, _accelerate, _processes, unchanged_threads, _denormals, unchanged_random_states):
            stack.enter_context(context())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        yield


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Accelerate writes its choices to variables, and the next Accelerator of the process would read them."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextlib.contextmanager
def _accelerate() -> Iterator[None]:
    """Every Accelerator of a process shares one state; a state that we begin ends with us, so that precision is free again."""
    shared, partial = bool(AcceleratorState._shared_state), bool(PartialState._shared_state)
    try:
        yield
    finally:
        if not shared:
            AcceleratorState._reset_state(reset_partial_state=not partial)
            GradientState._reset_state()


@contextlib.contextmanager
def _processes() -> Iterator[None]:
    """The first loader with processes fixes the start method, and a handler of SIGCHLD, for the rest of the process's life."""
    method = multiprocessing.get_start_method(allow_none=True)
    number: Any = getattr(signal, "SIGCHLD", None)  # None on Windows
    handler = signal.getsignal(number) if number is not None else None
    try:
        yield
    finally:
        if multiprocessing.get_start_method(allow_none=True) != method:
            multiprocessing.set_start_method(method, force=True)
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)
            signal_handling._SIGCHLD_handler_set = False  # the caller's own loader may install it again


def flushes_denormals() -> bool:
    """Whether this thread takes numbers too small for a float's usual form for zero. PyTorch sets that and doesn't tell."""
    return bool((torch.tensor([1e-40], dtype=torch.float32) * 1.0 == 0).item())


@contextlib.contextmanager
def _denormals() -> Iterator[None]:
    before = flushes_denormals()
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextlib.contextmanager
def unchanged_threads() -> Iterator[None]:
    """Puts back at the end: the numbers of threads of torch and OpenCV."""
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    try:
        yield
    finally:
        # Not set where nothing changed: setting starts new pools of threads.
        if torch.get_num_threads() != torch_threads:
            torch.set_num_threads(torch_threads)
        if cv2.getNumThreads() != cv2_threads:
            cv2.setNumThreads(cv2_threads)


@contextlib.contextmanager
def unchanged_random_states() -> Iterator[None]:
    """Puts back at the end: the states of Python's, NumPy's and torch's random generators, those of the GPUs too."""
    # A state of CUDA is read only where CUDA is in use: reading would start it, in every process on every device.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    python, cpu = random.getstate(), torch.get_rng_state()
    arrays = np.random.get_state()  # noqa: NPY002  the caller may use the legacy generator
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        elif torch.cuda.is_initialized():  # as it would have started under the caller's seed
            torch.cuda.manual_seed_all(torch.initial_seed())
