"""Processes that work for this one, which alone ends them.

A terminal's or a scheduler's signal reaches every process of a group. Those that work for another ignore it: the one that they work for
decides what is saved, and ends them. They also end when it is gone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.resource_tracker as resource_tracker
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

# What users, terminals and schedulers send before a job ends. Windows has the first two only.
WARNINGS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOP_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    *(signal.Signals[name] for name in WARNINGS if name in signal.Signals.__members__),
)


def ignore_stop_signals() -> None:
    """In a process that works for another: that one alone ends it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def blocked_signals() -> Iterator[None]:
    """While it is entered, signals that stop a command wait. Processes that start meanwhile never get them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which multiprocessing starts when it needs it, and then unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def process_pool(
    count: int, method: str, start: Callable[..., None], arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """
    An executor of `count` processes, which are killed where the block ends by an exception: what they write must appear whole.

    Args:
        method: how they begin, of multiprocessing.
        start, arguments: called in each of them first.
    """
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, multiprocessing.get_context(method), _begin, (start, arguments))
    try:
        with blocked_signals():  # also in the moments before they ignore them
            for _ in range(count):
                pool.submit(int)  # starts one
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    ignore_stop_signals()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
