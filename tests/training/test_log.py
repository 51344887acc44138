"""Figures of a training on disk, and the memory it took."""

from __future__ import annotations

import multiprocessing
import sys

import numpy as np
import pytest

from winwin_hf.training.log import peak_memory


def _peaks(sender) -> None:
    before = peak_memory()
    np.ones(40_000_000, np.float64)  # 0.32 GB
    sender.send((before, peak_memory()))


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the memory of a forked process is told apart on Linux only"
)
def test_peak_memory_is_of_this_process_alone():
    """A forked process doesn't start with its parent's peak, or no training in a pool would show its own."""
    np.ones(80_000_000, np.float64)  # 0.64 GB, given back
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_peaks, args=(sender,))
    process.start()
    before, after = receiver.recv()
    process.join()
    assert after - before > 0.25
