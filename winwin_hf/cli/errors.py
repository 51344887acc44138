"""How a command of `winwin` ends when something is wrong: one line on standard error and an exit code."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable
from typing import Any

import typer

# A ValueError after half a minute is hardly a mistyped argument, so its traceback is shown.
TRACEBACK_AFTER = 30.0  # seconds


class UsageError(Exception):
    """A wrong argument: one line that names it and says what was expected; exit code 2."""


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """A caller's mistake in `command` ends in one line and an exit code instead of a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        start = time.monotonic()
        try:
            command(*args, **kwargs)
        except (UsageError, OSError, ValueError, ImportError) as error:
            late = time.monotonic() - start > TRACEBACK_AFTER
            # By name: importing its class here would fail where a package that can't be imported is the error.
            clear = isinstance(error, UsageError | FileNotFoundError) or type(error).__name__ == "BrokenExample"
            if os.environ.get("WINWIN_TRACEBACK") or (late and not clear):
                raise
            # transformers' messages run over many lines, the first of which says what is wrong.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            typer.echo(f"winwin: {lines[0] if lines else type(error).__name__}", err=True)
            raise typer.Exit(2 if isinstance(error, UsageError | FileNotFoundError) else 1) from None

    return wrapped


def parse_size(option: str, text: str | None) -> tuple[int, int] | None:
    """ "384x512" -> (384, 512): height and width in pixels."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text)
    if match is None:
        raise UsageError(f"{option} {text}: expected HEIGHTxWIDTH in pixels, such as 384x512")
    return int(match[1]), int(match[2])
