"""A folder that another process holds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOLD = """
import fcntl, os, platform, sys
file = open(sys.argv[1], "w+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write(f"{os.getpid()} on {platform.node()}")
file.flush()
print("held", flush=True)
sys.stdin.readline()
"""


@contextmanager
def holding(path: Path) -> Iterator[int]:
    """Yields the number of a process that holds a lock file."""
    words = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process.pid
        finally:
            process.communicate("end\n")
