"""An experiment's page: Markdown made from its JSON, nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def page(record: dict[str, Any], picture: bool, findings: str | None) -> str:
    """The page of a result as `runs.write_result` writes it. findings: what agrees with the paper and what doesn't."""
    where = record["machine"]
    device = where.get("accelerator") or f"{where['cpu']}, {where['cores']} cores"
    parts = [
        f"# {record.get('title', record['name'])}",
        f"```bash\n{record['command']}\n```",
        f"{record['date'][:10]}, winwin-hf {record['version']}, torch {where['torch']}, {device}.",
    ]
    if record.get("about"):
        parts.append(record["about"].strip())
    if picture:
        parts.append(f"![{record.get('title', record['name'])}]({record['name']}.png)")
    for shown in record.get("tables", ()):
        if shown.get("title"):
            parts.append(f"## {shown['title']}")
        parts.append(table(shown["columns"], shown["rows"]))
        if shown.get("note"):
            parts.append(shown["note"].strip())
    if findings:
        parts.append(f"## What agrees with the paper, what doesn't\n\n{findings.strip()}")
    return "\n\n".join(parts) + "\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others stand to the right."""
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)], *[[cell(value) for value in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: Any) -> str:
    """Text as it is, three figures of a number, "-" for what isn't there."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    return str(value).replace("|", "\\|")
