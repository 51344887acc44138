"""Checks of generated input: each is two tests, a few examples with every run and thousands of new ones with `-m fault`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

# name of a check -> how many inputs it gets in the fault run
LONG = {
    "readers": 6000,
    "pictures": 2500,
    "batches": 1000,
    "configs": 2500,
    "recipes": 1000,
    "pairs": 500,
    "commands": 1500,
}
CLEAR = (ValueError, OSError)  # one line, and no traceback on the command line


def generated(name: str, small: int, **strategies: Any) -> Callable[[Callable[..., None]], None]:
    """Makes two tests of a check: a few examples, the same each time; and `LONG[name]` new ones, marked `fault`."""

    def decorate(check: Callable[..., None]) -> None:
        tests = check.__globals__
        quick = settings(max_examples=small, derandomize=True, database=None, **COMMON)
        long = settings(max_examples=LONG[name], database=None, print_blob=True, **COMMON)
        tests[f"test_{name}"] = quick(given(**strategies)(check))
        tests[f"test_{name}_for_longer"] = pytest.mark.fault(long(given(**strategies)(copy_of(check))))

    return decorate


COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def copy_of(check: Callable[..., None]) -> Callable[..., None]:
    def again(*args: Any, **kwargs: Any) -> None:
        check(*args, **kwargs)

    again.__wrapped__ = check  # type: ignore[attr-defined]
    return again


def clear(error: BaseException, *names: str) -> None:
    """The error is one line, not too long, and names one of `names`."""
    text = str(error)
    assert text.strip() and "\n" not in text and len(text) < 2000, repr(text)
    assert not names or any(name in text for name in names), text
