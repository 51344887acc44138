"""`python scripts/benchmark.py cost`: runs what isn't measured yet, each turn in a process of its own, and writes the results.

cost.json is written after every turn, so an interrupted run goes on where it was. What a measurement was made with (the code that
computes, the arguments, threads, the machine) is kept as its key: with another key it is measured anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from research.experiments.process import ended_by_sigterm, machine_record
from winwin_hf.data.formats import write_atomic

from . import cases, figures, pages
from .cases import FULL, QUICK, Geometry, Measurement

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "benchmark.py"
PROBE = "--cost-probe"
STARTING = 7.0  # seconds until a process measures
# what a measurement depends on; the rest of the package may change beneath a run
CODE = (
    *(
        "winwin_hf/*_winwin.py",
        "winwin_hf/inference/flow.py",
        "winwin_hf/model/losses_winwin.py",
        "winwin_hf/windows.py",
    ),
    *("winwin_hf/training/loop.py", "winwin_hf/data/*.py"),
    *(f"scripts/research/cost/{name}.py" for name in ("frames", "meter", "probes", "profiling", "training")),
)


# ------------------------------------------------------------------ what has been measured


@dataclass
class Record:
    """cost.json: the cases' figures first, then every measurement with all its turns."""

    path: Path
    geometry: Geometry
    about: dict[str, Any]
    measurements: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, geometry: Geometry, about: dict[str, Any]) -> Record:
        """What the file holds, or nothing. Raises ValueError for a file of another geometry."""
        if not path.is_file():
            return cls(path, geometry, about)
        stored = json.loads(path.read_text())
        if stored["about"]["quick"] != geometry.quick:
            raise ValueError(f"{path} was written {'with' if stored['about']['quick'] else 'without'} --quick")
        return cls(path, geometry, about or stored["about"], stored["measurements"], stored["not_measured"])

    def turns(self, measurement: Measurement, key: str, keep: bool) -> int:
        """Turns that are measured already, by the same code on the same machine; by any with `keep`."""
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
        text = json.dumps({**found, "measurements": self.measurements}, indent=1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomic(self.path) as temporary:
            temporary.write_text(text + "\n")


def code_version() -> str:
    """Of the files that a measurement depends on."""
    digest = hashlib.sha256()
    for pattern in CODE:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def key_of(measurement: Measurement, about: dict[str, Any]) -> str:
    """What a turn's figures depend on, in short."""
    where = about["machine"]
    made_with = [
        measurement.probe,
        measurement.arguments,
        measurement.processes,
        measurement.threads or about["threads"],
    ]
    made_with += [about["code"], about["versions"], where["cpu"], where["cores"], where["accelerator"]]
    return hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:12]


def shown(words: list[str]) -> list[str]:
    """The options that matter to others: without where further packages lie, and without --profile, which adds to what there is."""
    skipped = {"--rivals": 2, "--size": 2, "--precision": 2, "--profile": 1, "--again": 1, "--keep": 1}
    kept, words = [], list(words)
    while words:
        count = skipped.get(words[0], 0)
        kept += [] if count else words[:1]
        del words[: count or 1]
    return kept


def describe(words: list[str], threads: int, quick: bool) -> dict[str, Any]:
    return {
        "command": shlex.join(["python", "scripts/benchmark.py", "cost", *shown(words)]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine_record(),
        "threads": threads,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {name: version(name) for name in ("winwin-hf", "torch", "transformers")},
        "code": code_version(),
        "quick": quick,
    }


# ------------------------------------------------------------------ one turn


def run_probe(measurement: Measurement, folder: Path, threads: int, **more: Any) -> dict[str, Any]:
    """What one process of a measurement printed; `more` arguments of the probe are no part of the measurement.

    Raises RuntimeError with its last lines if it fails.
    """
    threads = measurement.threads or threads
    arguments = {**measurement.arguments, **more}
    asked = {"probe": measurement.probe, "arguments": arguments, "threads": threads, "folder": str(folder)}
    launch: list[str] = []
    if measurement.processes > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={measurement.processes}"]
    command = [sys.executable, *launch, str(SCRIPT), PROBE, json.dumps(asked)]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads)), "HF_HUB_OFFLINE": "1"}
    if launch and not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"  # without it, each takes itself for the only one
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment, start_new_session=True)
        try:
            code = process.wait()
        finally:  # its own processes too, where this program is interrupted
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for file in (output, errors):
            file.seek(0)
        if code:
            lines = [line for line in errors.read().splitlines() if line.strip()]
            why = "killed, probably for memory" if code == -9 else f"exit code {code}"
            raise RuntimeError("\n".join([why, *lines[-15:]]))
        # the first value of the last line: processes that each take themselves for the only one may print into the same line
        found, _ = json.JSONDecoder().raw_decode(output.read().strip().splitlines()[-1])
    if found.get("processes", measurement.processes) != measurement.processes:
        raise RuntimeError(f"asked for {measurement.processes} processes, {found['processes']} worked together")
    return found


# ------------------------------------------------------------------ the command

CASES = tuple(cases.cases(FULL))


def cost(
    case: Annotated[list[str] | None, typer.Option(help=f"{', '.join(CASES)}; repeatable. Default: all.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny network and tiny frames, one turn: does it run?")
    ] = False,
    long: Annotated[
        bool,
        typer.Option("--long", help="Also 1440p and 4K in bf16, bf16 weights, a full frame's flow step in fp32."),
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each measurement. Default: as many as cores.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder. Default: docs/results, with --quick runs/cost-quick.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure also what is measured already.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Take what other code has measured as it is.")] = False,
    draw: Annotated[bool, typer.Option("--draw", help="Measure nothing; page and pictures from cost.json.")] = False,
    rivals: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="For TV-L1 and RAFT: `pip install --target FOLDER --no-deps opencv-contrib-python-headless torchvision` "
            "beforehand, torchvision in the version for the installed torch.",
        ),
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Only where a direct pass spends its time.")] = False,
    size: Annotated[str, typer.Option(help=f"Of --profile: {', '.join(FULL.frames)}.")] = "1080p",
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Of --profile: fp32, bf16, bf16-weights; repeatable. Default: the first two."),
    ] = None,
) -> None:
    """
    What Win-Win costs at the paper's sizes with the base preset: OUTPUT/cost.json, cost.md and pictures.

    An interrupted run goes on where it was. About 70 minutes on two cores, 95 with --long; nothing else should run meanwhile.
    """
    geometry = QUICK if quick else FULL
    folder = output or (ROOT / "runs" / "cost-quick" if quick else ROOT / "docs" / "results")
    for name in case or ():
        if name not in CASES:
            sys.exit(f"--case {name}: expected one of {', '.join(CASES)}")
    if size not in geometry.frames:
        sys.exit(f"--size {size}: expected one of {', '.join(geometry.frames)}")
    console = Console(stderr=True)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    about = {} if draw else describe(sys.argv[2:], threads or available, quick)
    try:
        record = Record.open(folder / "cost.json", geometry, about)
    except ValueError as error:
        sys.exit(str(error))
    if draw and not record.about:
        sys.exit(f"{record.path}: nothing is measured yet")
    if profile:
        wanted = [cases.profiles(geometry, size, precision or ["fp32", "bf16"])]
    else:
        every = cases.cases(geometry)
        wanted = [[m for m in every[name] if long or not m.long] for name in case or CASES]
    failed = [] if draw else measure(record, wanted, console, again, keep, rivals)
    with console.status("drawing"):
        pages.write(record.about, record.figures(), record.measurements, record.not_measured, folder, geometry)
    show(record, profile)
    console.print(f"{record.path}, {folder / 'cost.md'}")
    if failed:
        sys.exit(1)


def measure(
    record: Record, wanted: list[list[Measurement]], console: Console, again: bool, keep: bool, rivals: Path | None
) -> list[str]:
    """Runs what isn't measured, case by case, its measurements in turns. The names of those that failed."""
    done: set[str] = set()
    plan: list[tuple[Measurement, int]] = []
    for case in wanted:
        new = [m for m in case if m.name not in done]
        done |= {m.name for m in new}
        for turn in range(max((m.turns for m in new), default=0)):
            plan += [(m, turn) for m in new if turn < m.turns]
    have = {m.name: 0 if again else record.turns(m, key_of(m, record.about), keep) for m, _ in plan}
    if rivals:  # who were not there before may be now
        have |= dict.fromkeys(have.keys() & record.not_measured.keys(), 0)
    plan = [(m, turn) for m, turn in plan if turn >= have[m.name]]
    left = sum(m.seconds + STARTING for m, _ in plan) if not record.geometry.quick else 3.0 * len(plan)
    console.print(f"{len(plan)} processes to run, about {left / 60:.0f} minutes on two cores without a GPU")
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary, ended_by_sigterm():
        folder = Path(temporary)
        for number, (m, turn) in enumerate(plan, start=1):
            if m.name in failed:
                continue
            title = f"{m.name}, turn {turn + 1} of {m.turns} ({number} of {len(plan)})"
            start = time.monotonic()
            with console.status(title):
                try:
                    if m.probe == "train" and m.arguments["loader"] and not any(folder.iterdir()):
                        run_probe(frames_of(record.geometry), folder, 1)
                    packages = {"packages": str(rivals.absolute())} if rivals and m.probe == "small-flow" else {}
                    found = run_probe(m, folder, record.about["threads"], **packages)
                except RuntimeError as error:
                    failed[m.name] = str(error)
                    record.fail(m, str(error).splitlines()[-1])
                    record.write()
                    console.print(f"{title}: [bold red]failed[/]\n{error}", highlight=False)
                    continue
            seconds = time.monotonic() - start
            record.add(m, key_of(m, record.about), turn, found, seconds)
            record.write()
            console.print(f"{title}: {told(found)} ({seconds:.0f} s in all)", highlight=False)
    record.write()
    return list(failed)


def frames_of(geometry: Geometry) -> Measurement:
    """Not a measurement: draws the frames that trainings load."""
    sizes = {"segmentation": geometry.segmentation_frame, "flow": geometry.flow_frame}
    return Measurement("frames", "frames", sizes)


def told(found: dict[str, Any]) -> str:
    """A turn in a few words."""
    times = found.get("step_seconds") or found.get("seconds") or found.get("pass_seconds")
    if times:
        memory = f", {found['peak_gb']:.2f} GB" if "peak_gb" in found else ""
        return f"{statistics.median(times) if isinstance(times, list) else times:.3g} s{memory}"
    return str(found.get("not_measured", "measured"))


def show(record: Record, profile: bool) -> None:
    """On the terminal: the goals, or what was profiled."""
    console, made = Console(), record.figures()
    if profile:
        for name, found in made.get("profile", {}).items():
            for title in ("kinds", "parts"):
                table = Table(f"{name}: {title}", "s", "share")
                for what, seconds in found[title].items():
                    if seconds > 0.005 * found["seconds"]:
                        table.add_row(what, f"{seconds:.3f}", f"{100 * seconds / found['seconds']:.1f} %")
                console.print(table)
        return
    table = Table("what", "goal", "measured", "met")
    for line in pages.goals(made):
        table.add_row(*line)
    if table.rows:
        console.print(table)


def main(words: list[str]) -> None:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(cost)
    app(args=words, prog_name="benchmark.py cost")
