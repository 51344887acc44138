"""Memory of a process, as Linux counts it, and packages. The standard library alone: what this imports would be measured too."""

from __future__ import annotations

import importlib.metadata
import resource
import sys
from contextlib import suppress
from pathlib import Path


def resident(key: str, process: str | int = "self") -> int:
    """
    Bytes that a process holds resident: "VmRSS" now, "VmHWM" at most. Where there is no /proc both are the most of this process.

    Linux's VmHWM starts anew with each program; `ru_maxrss` starts with what the parent held.
    """
    path = Path(f"/proc/{process}/status")
    if not path.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in path.read_text().splitlines() if line.startswith(key + ":"))
    return 1024 * int(line.split()[1])


def reset_peak() -> None:
    """Sets this process's VmHWM back to what it holds now. Does nothing where there is no /proc."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def is_installed(package: str) -> bool:
    """Whether a distribution of that name is there."""
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False
