"""What programs that start other processes share: the record of their machine, and an end that leaves no process behind."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from winwin_hf.evaluation.report import machine


def machine_record() -> dict[str, Any]:
    """The machine in words: "cpu", "cores", "accelerator", "python". Without this process's threads, which aren't those that compute."""
    return {key: value for key, value in machine().items() if key != "threads"}


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what is done within as Ctrl-C does, instead of at once: so no process stays behind."""

    def end(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before: Any = None
    with contextlib.suppress(ValueError):  # not in the main thread
        before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
