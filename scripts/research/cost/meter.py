"""Seconds, CPU seconds and memory of the process that measures.

- Memory is what the process holds resident (machine.py), on a GPU what torch has allocated there.
- Idle is the state after imports and the building of the model, with freed memory handed back to the system.
- On a GPU seconds come from CUDA events.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from research.machine import reset_peak, resident


class Meter:
    """Times pieces of work into `seconds[name]` and `cpu_seconds[name]`, and measures memory from `start_memory` to `memory`."""

    def __init__(self) -> None:
        self.cuda = torch.cuda.is_available()
        self.seconds: dict[str, list[float]] = {}
        self.cpu_seconds: dict[str, list[float]] = {}

    def start_memory(self) -> None:
        """Takes the memory of the idle process and resets the peak."""
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        reset_peak()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.idle_gb = torch.cuda.memory_allocated() / 1e9 if self.cuda else resident("VmRSS") / 1e9

    def memory(self) -> dict[str, float]:
        """idle_gb, peak_gb and above_gb (peak minus idle), of the GPU if there is one; process_gb, the peak of the process."""
        process = resident("VmHWM") / 1e9
        peak = torch.cuda.max_memory_allocated() / 1e9 if self.cuda else process
        return {"idle_gb": self.idle_gb, "peak_gb": peak, "above_gb": peak - self.idle_gb, "process_gb": process}

    @contextmanager
    def timed(self, name: str = "") -> Iterator[None]:
        """Adds the time of what happens within."""
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.cuda else []
        if self.cuda:
            torch.cuda.synchronize()
            events[0].record()
        start, cpu = time.perf_counter(), time.process_time()
        yield
        if self.cuda:
            events[1].record()
            torch.cuda.synchronize()
        passed = events[0].elapsed_time(events[1]) / 1e3 if self.cuda else time.perf_counter() - start
        self.seconds.setdefault(name, []).append(passed)
        self.cpu_seconds.setdefault(name, []).append(time.process_time() - cpu)

    def times(self) -> dict[str, list[float]]:
        """{"seconds": ..., "NAME_seconds": ..., "NAME_cpu_seconds": ...}, one entry for each piece of work."""
        found: dict[str, Any] = {}
        for name in self.seconds:
            prefix = f"{name}_" if name else ""
            found[f"{prefix}seconds"] = self.seconds[name]
            found[f"{prefix}cpu_seconds"] = self.cpu_seconds[name]
        return found
