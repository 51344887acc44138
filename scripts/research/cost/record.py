"""cost.json: every measurement with all its turns, what it was made with, and the figures made from them."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from research.cost import figures
from research.cost.cases import Geometry, Measurement
from research.files import machine_record, write_json

ROOT = Path(__file__).resolve().parents[3]
# Files that measurements depend on; others may change during a run.
CODE = (
    "winwin_hf/model/*.py",
    "winwin_hf/windows.py",
    "winwin_hf/inference/flow.py",
    "winwin_hf/training/loop.py",
    "winwin_hf/data/*.py",
    *(f"scripts/research/cost/{name}.py" for name in ("frames", "meter", "probes", "profiling", "training")),
)


@dataclass
class Record:
    """
    The content of cost.json.

    Attributes:
        about: command, date, machine, versions, code.
        measurements: name -> key, code, date, arguments and runs (one for each turn).
        not_measured: name -> reason.
    """

    path: Path
    geometry: Geometry
    about: dict[str, Any]
    measurements: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, geometry: Geometry, about: dict[str, Any]) -> Record:
        """Reads the file if there is one. Raises ValueError for a file of another geometry."""
        if not path.is_file():
            return cls(path, geometry, about)
        stored = json.loads(path.read_text())
        if stored["about"]["quick"] != geometry.quick:
            raise ValueError(f"{path} was written {'with' if stored['about']['quick'] else 'without'} --quick")
        return cls(path, geometry, about or stored["about"], stored["measurements"], stored["not_measured"])

    def turns(self, measurement: Measurement, key: str, keep: bool) -> int:
        """Turns measured already with the same key; with `keep`, with any key."""
        entry = self.measurements.get(measurement.name)
        return len(entry["runs"]) if entry and (keep or entry["key"] == key) else 0

    def add(self, measurement: Measurement, key: str, turn: int, found: dict[str, Any], seconds: float) -> None:
        if turn == 0:
            code, today = self.about["code"], datetime.now(timezone.utc).date().isoformat()
            entry = {"key": key, "code": code, "date": today, "arguments": measurement.arguments, "runs": []}
            self.measurements[measurement.name] = entry
        self.measurements[measurement.name]["runs"].append({**found, "process_seconds": seconds})
        self.not_measured.pop(measurement.name, None)
        if "not_measured" in found:
            self.not_measured[measurement.name] = found["not_measured"]

    def fail(self, measurement: Measurement, reason: str) -> None:
        self.not_measured[measurement.name] = reason

    def figures(self) -> dict[str, Any]:
        return figures.figures(self.measurements, self.geometry)

    def write(self) -> None:
        found = {"about": self.about, **self.figures(), "not_measured": self.not_measured}
        write_json(self.path, {**found, "measurements": self.measurements})


def code_version() -> str:
    """A hash of the files that measurements depend on."""
    digest = hashlib.sha256()
    for pattern in CODE:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def key_of(measurement: Measurement, about: dict[str, Any]) -> str:
    """A hash of what a turn's figures depend on: code, arguments, threads, versions and machine."""
    where = about["machine"]
    made_with = [
        measurement.probe,
        measurement.arguments,
        measurement.processes,
        measurement.threads or about["threads"],
    ]
    made_with += [about["code"], about["versions"], where["cpu"], where["cores"], where["accelerator"]]
    return hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:12]


def public_options(words: list[str]) -> list[str]:
    """The options for the page's command: no folders of this machine, none that only say what to measure anew."""
    skipped = {"--rivals": 2, "--size": 2, "--precision": 2, "--profile": 1, "--again": 1, "--keep": 1}
    kept, words = [], list(words)
    while words:
        count = skipped.get(words[0], 0)
        kept += [] if count else words[:1]
        del words[: count or 1]
    return kept


def describe(words: list[str], threads: int, quick: bool) -> dict[str, Any]:
    """`Record.about` of a run with these words on the command line."""
    return {
        "command": shlex.join(["python", "scripts/benchmark.py", "cost", *public_options(words)]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine_record(),
        "threads": threads,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {name: version(name) for name in ("winwin-hf", "torch", "transformers")},
        "code": code_version(),
        "quick": quick,
    }
