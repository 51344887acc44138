"""How a command of `winwin` ends when something is wrong: one line on standard error and an exit code.

Notable: every error of a command passes here, so this is where tokens and passwords leave its text.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable
from typing import Any

import typer

from winwin_hf.redaction import redact, traceback_text

# A ValueError after half a minute is hardly a mistyped argument, so its traceback is shown.
TRACEBACK_AFTER = 30.0  # seconds
CLEAR = ("BrokenExample", "PublishError")  # which say what to do, however late
# A value that a config refuses (the reason is its cause), and a damaged file of weights.
REFUSALS = ("StrictDataclassClassValidationError", "StrictDataclassFieldValidationError", "SafetensorError")


class UsageError(Exception):
    """A wrong argument: one line that names it and says what was expected; exit code 2."""


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """A caller's mistake in `command` ends in one line and an exit code instead of a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        start = time.monotonic()
        try:
            command(*args, **kwargs)
        except Exception as error:
            # By name: importing their classes here would fail where a package that can't be imported is the error.
            kind = type(error).__name__
            if type(error).__module__.startswith(("click.", "typer.")):
                raise
            known = isinstance(error, UsageError | OSError | ValueError | ImportError) or kind in REFUSALS
            late = time.monotonic() - start > TRACEBACK_AFTER
            clear = isinstance(error, UsageError | FileNotFoundError) or kind in CLEAR
            if os.environ.get("WINWIN_TRACEBACK") or not known or (late and not clear):
                typer.echo(traceback_text(error), err=True, nl=False)
                raise typer.Exit(1) from None
            # transformers' messages run over many lines, the first of which says what is wrong.
            said = error.__cause__ if kind == REFUSALS[0] and error.__cause__ else error
            lines = [line.strip() for line in str(said).splitlines() if line.strip()]
            typer.echo(redact(f"winwin: {lines[0] if lines else kind}"), err=True)
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
