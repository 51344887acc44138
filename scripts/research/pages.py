"""Markdown for the pages of docs/: tables, and numbers in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], text_columns: int = 1) -> str:
    """A Markdown table. The first `text_columns` columns are aligned to the left, the others to the right."""
    rule = ["---"] * text_columns + ["---:"] * (len(columns) - text_columns)
    lines = [list(columns), rule, *[[cell(value) for value in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: Any) -> str:
    """Text as it is, three digits of a float, "-" for None, NaN and infinity."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    return str(value).replace("|", "\\|")


def percent(share: float | None) -> str | None:
    """0.123 as "12 %", shares below a tenth with one decimal."""
    return None if share is None else f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"
