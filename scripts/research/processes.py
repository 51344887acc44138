"""Processes that measure or train: their environment, what one prints, and an end that leaves none behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LAST_LINES = 15  # of a failed process's errors


def with_threads(count: int, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, with `count` threads for OpenMP and MKL, and `more` variables."""
    return {**os.environ, "OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count), **(more or {})}


def run_json(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """
    Runs a command and returns the JSON value that the last line of its output begins with.

    The command is the leader of a process group; all of the group is killed where this program is interrupted.

    Raises: RuntimeError with the exit code and the last lines of the errors; its last line is the reason.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment, start_new_session=True)
        try:
            code = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for file in (output, errors):
            file.seek(0)
        if code == -signal.SIGKILL:
            raise RuntimeError("killed, probably for memory")
        if code:
            lines = [line for line in errors.read().splitlines() if line.strip()]
            raise RuntimeError("\n".join([f"exit code {code}", *lines[-LAST_LINES:]]))
        # Only the first value: processes of one launcher may print into the same line.
        value, _ = json.JSONDecoder().raw_decode(output.read().strip().splitlines()[-1])
        return value


@contextlib.contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Within, SIGTERM raises SystemExit, so that `finally` blocks end the processes that were started."""

    def leave(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before: Any = None
    with contextlib.suppress(ValueError):  # outside of the main thread no handler can be set
        before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
