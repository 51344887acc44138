"""Checks of options that several scripts share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winwin_hf.cli.errors import UsageError


def refuse_unused(options: Mapping[str, Any], why: str) -> None:
    """
    Raises UsageError, which names them, where options were given that would have no effect.

    Args:
        options: name -> value; None, False and [] are not given. why: ends the line.
    """
    if given := [name for name, value in options.items() if not (value is None or value is False or value == [])]:
        raise UsageError(f"{', '.join(given)}: {why}")
