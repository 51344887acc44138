"""Seconds, CPU seconds and memory of the process that measures.

Notable:
- memory is what the process holds resident: VmHWM, which Linux counts anew for each program and which can be set back, so that
  neither the parent nor the building of a model is in it. Elsewhere it is `ru_maxrss`, which cannot.
- idle is after imports and the building of the model; what was freed is handed back to the system first.
- on a GPU memory is what torch has allocated there, and seconds come from CUDA events.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch


def status(key: str, process: str | int = "self") -> float:
    """VmRSS or VmHWM of a process, GB."""
    path = Path(f"/proc/{process}/status")
    if not path.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    line = next(line for line in path.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024 / 1e9


class Meter:
    """Takes the time of pieces of work, `seconds[name]` and `cpu_seconds[name]`, and the memory between `idle` and `memory`."""

    def __init__(self) -> None:
        self.cuda = torch.cuda.is_available()
        self.seconds: dict[str, list[float]] = {}
        self.cpu_seconds: dict[str, list[float]] = {}

    def idle(self) -> None:
        """From here on memory counts."""
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.idle_gb = torch.cuda.memory_allocated() / 1e9 if self.cuda else status("VmRSS")

    def memory(self) -> dict[str, float]:
        """idle_gb, peak_gb and above_gb, peak beyond idle: of the GPU where there is one. process_gb: peak of the process."""
        process = status("VmHWM")
        peak = torch.cuda.max_memory_allocated() / 1e9 if self.cuda else process
        return {"idle_gb": self.idle_gb, "peak_gb": peak, "above_gb": peak - self.idle_gb, "process_gb": process}

    @contextmanager
    def timed(self, name: str = "") -> Iterator[None]:
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
        """{"seconds": ..., "NAME_seconds": ..., "NAME_cpu_seconds": ...}, one entry a piece of work."""
        found: dict[str, Any] = {}
        for name in self.seconds:
            prefix = f"{name}_" if name else ""
            found[f"{prefix}seconds"] = self.seconds[name]
            found[f"{prefix}cpu_seconds"] = self.cpu_seconds[name]
        return found
