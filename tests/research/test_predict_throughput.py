"""scripts/research/predict_throughput.py: what it measures of processes."""

from __future__ import annotations

import sys

import pytest
from research.predict_throughput import run


def test_seconds_and_memory_of_several_processes():
    hold = "import time; held = bytearray({} * 10**6); held[::4096] = b'x' * len(held[::4096]); time.sleep(1)"
    small, large = (run([[sys.executable, "-c", hold.format(size)]] * 2) for size in (1, 100))
    assert small[0] > 1 and max(large[1]) - max(small[1]) == pytest.approx(0.2, rel=0.3)
    with pytest.raises(RuntimeError, match="a run failed"):
        run([[sys.executable, "-c", "raise SystemExit(1)"]])
