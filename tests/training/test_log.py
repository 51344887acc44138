"""Figures of a training on disk, and the memory it took."""

from __future__ import annotations

import mmap
import multiprocessing
import sys

import pytest

from winwin_hf.training.log import peak_memory


def _peaks(sender) -> None:
    before = peak_memory()
    _touch(320_000_000)
    sender.send((before, peak_memory()))


def _touch(count: int) -> None:
    """So many bytes of new memory, given back. malloc would take those first that tests before have given back to it."""
    with mmap.mmap(-1, count) as memory:
        memory[:: mmap.PAGESIZE] = bytes(len(range(0, count, mmap.PAGESIZE)))


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the memory of a forked process is told apart on Linux only"
)
def test_peak_memory_is_of_this_process_alone():
    """A forked process doesn't start with its parent's peak, or no training in a pool would show its own."""
    _touch(640_000_000)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_peaks, args=(sender,))
    process.start()
    before, after = receiver.recv()
    process.join()
    assert after - before > 0.25
