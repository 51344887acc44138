"""An experiment's result: NAME.json, and NAME.md made from it."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from research.experiments.context import Context
from research.files import machine_record, write_json, write_text
from research.pages import table
from winwin_hf.data.formats.files import read_json, write_atomic

FINDINGS = Path(__file__).with_name("findings.yaml")


def write_result(context: Context, name: str, result: dict[str, Any]) -> Path:
    """
    Writes OUTPUT/NAME.json, with the command, machine, date and version, and OUTPUT/NAME.md.

    Args:
        result: what the page shows of it: "title"; "about", a paragraph; "tables", a list of {"title", "columns", "rows", "note"} whose
            cells are text or numbers. Other values are in the JSON file only.
    """
    record = {
        "name": name,
        "command": command(context, name),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {**machine_record(), "torch": torch.__version__, "threads_of_a_training": context.threads},
        "version": version("winwin-hf"),
        **result,
    }
    path = context.output / f"{name}.json"
    write_json(path, record)
    write_page(path)
    context.console.print(f"{path}, {path.with_suffix('.md').name}")
    return path


def redraw(function: Callable[[Context], None], context: Context) -> None:
    """
    Writes an experiment's results from the trainings that there are.

    Raises: FileExistsError where results in OUTPUT have more values; they stay.
    """
    with tempfile.TemporaryDirectory() as temporary:
        drawn = Path(temporary)
        function(replace(context, output=drawn))
        for path in drawn.glob("*.json"):
            earlier = context.output / path.name
            if earlier.is_file() and (kept := cells(read_json(earlier))) > (now := cells(read_json(path))):
                raise FileExistsError(
                    f"{earlier} has {kept} values, the trainings in {context.work} give {now}; expected all of them, or another --output"
                )
        context.output.mkdir(parents=True, exist_ok=True)
        for path in drawn.iterdir():
            with write_atomic(context.output / path.name) as target:
                shutil.copyfile(path, target)
        for path in drawn.glob("*.json"):
            write_page(context.output / path.name)


def cells(record: dict[str, Any]) -> int:
    """Number of cells of a result's tables that hold something."""
    rows = [row for shown in record.get("tables", ()) for row in shown["rows"]]
    return sum(cell not in (None, "", "-") for row in rows for cell in row)


def command(context: Context, name: str) -> str:
    """The command that makes an experiment's results, without the parents of the data sets' folders."""
    data = [word for key, path in context.data.items() for word in ("--data", f"{key}={Path(path).name}")]
    return shlex.join(["python", "scripts/reproduce.py", name, *data, "--seeds", str(context.seeds)])


def write_page(path: Path) -> None:
    """NAME.md beside NAME.json, with the picture NAME.png if there is one and the text of findings.yaml."""
    record = json.loads(path.read_text())
    findings = yaml.safe_load(FINDINGS.read_text())
    write_text(path.with_suffix(".md"), page(record, path.with_suffix(".png").is_file(), findings.get(record["name"])))


def page(record: dict[str, Any], picture: bool, findings: str | None) -> str:
    """
    The Markdown page of a result.

    Args:
        record: as `write_result` writes it.
        findings: what agrees with the paper and what doesn't.
    """
    where = record["machine"]
    device = where.get("accelerator") or f"{where['cpu']}, {where['cores']} cores"
    parts = [
        f"# {record['title']}",
        f"```bash\n{record['command']}\n```",
        f"{record['date'][:10]}, winwin-hf {record['version']}, torch {where['torch']}, {device}.",
    ]
    if record.get("about"):
        parts.append(record["about"])
    if picture:
        parts.append(f"![{record['title']}]({record['name']}.png)")
    for shown in record.get("tables", ()):
        if shown.get("title"):
            parts.append(f"## {shown['title']}")
        parts.append(table(shown["columns"], shown["rows"]))
        if shown.get("note"):
            parts.append(shown["note"])
    if findings:
        parts.append(f"## What agrees with the paper, what doesn't\n\n{findings.strip()}")
    return "\n\n".join(parts) + "\n"
