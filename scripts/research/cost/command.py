"""`python scripts/benchmark.py cost`: measures what isn't measured yet, each turn in a process of its own, and writes the results.

cost.json is written after every turn, so an interrupted run goes on where it stopped. A measurement made with other code, arguments,
threads or on another machine is measured anew.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from research.cost import cases, pages
from research.cost.cases import FULL, QUICK, Geometry, Measurement
from research.cost.record import ROOT, Record, describe, key_of
from research.options import refuse_unused
from research.processes import run_json, sigterm_as_exit, with_threads
from winwin_hf.cli.arguments import check_output_folder
from winwin_hf.cli.errors import UsageError, misuse, one_line_errors

PROBE = Path(__file__).with_name("probes.py")
STARTING = 7.0  # seconds until a process measures
CASES = tuple(cases.cases(FULL))
PRECISIONS = ("fp32", "bf16", "bf16-weights")


def run_probe(measurement: Measurement, folder: Path, threads: int, **more: Any) -> dict[str, Any]:
    """
    Runs one turn of a measurement in a process and returns its figures.

    Args:
        folder: holds the frames of trainings.
        threads: of the process, where the measurement doesn't say.
        more: further arguments of the probe, which are no part of the measurement.

    Raises: RuntimeError with the process's last lines if it fails, or if fewer processes worked together than asked for.
    """
    threads = measurement.threads or threads
    request = {
        "probe": measurement.probe,
        "arguments": {**measurement.arguments, **more},
        "threads": threads,
        "folder": str(folder),
    }
    launcher: list[str] = []
    variables = {"HF_HUB_OFFLINE": "1"}
    if measurement.processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={measurement.processes}"]
        if not torch.cuda.is_available():
            variables["ACCELERATE_USE_CPU"] = "true"  # without it each process works alone
    command = [sys.executable, *launcher, str(PROBE), json.dumps(request)]
    found = run_json(command, with_threads(threads, variables))
    if found.get("processes", measurement.processes) != measurement.processes:
        raise RuntimeError(f"asked for {measurement.processes} processes, {found['processes']} worked together")
    return found


def cost(
    case: Annotated[list[str] | None, typer.Option(help=f"{', '.join(CASES)}; repeatable. Default: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A trial: a tiny network, tiny frames, one turn.")] = False,
    long: Annotated[
        bool,
        typer.Option(
            "--long", help="Also 1440p and 4K in bf16, bf16 weights, and a flow step of a full frame in fp32."
        ),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each measurement. Default: the number of cores.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder. Default: docs/results, with --quick runs/cost-quick.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure everything anew.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep measurements that other code made.")] = False,
    draw: Annotated[
        bool, typer.Option("--draw", help="Measure nothing; write cost.json's figures, the page and the pictures anew.")
    ] = False,
    rivals: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Packages for TV-L1 and RAFT, from `pip install --target FOLDER --no-deps opencv-contrib-python-headless torchvision` "
            "with the torchvision that fits the installed torch.",
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure only where a direct pass spends its time.")
    ] = False,
    size: Annotated[
        str | None, typer.Option(help=f"Frame of --profile: {', '.join(FULL.frames)}. Default: 1080p.")
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help=f"Precision of --profile: {', '.join(PRECISIONS)}; repeatable. Default: fp32 and bf16."),
    ] = None,
) -> None:
    """
    Measure what Win-Win costs at the paper's sizes with the base preset. Writes OUTPUT/cost.json, cost.md and pictures.

    Takes about 70 minutes on two cores, 95 with --long; nothing else should run meanwhile. An interrupted run goes on where it stopped.
    """
    geometry = QUICK if quick else FULL
    folder = output or (ROOT / "runs" / "cost-quick" if quick else ROOT / "docs" / "results")
    check_output_folder("--output", folder)
    for name in case or ():
        if name not in CASES:
            raise UsageError(f"--case {name}: expected one of {', '.join(CASES)}")
    if size is not None and size not in geometry.frames:
        raise UsageError(f"--size {size}: expected one of {', '.join(geometry.frames)}")
    for name in precision or ():
        if name not in PRECISIONS:
            raise UsageError(f"--precision {name}: expected one of {', '.join(PRECISIONS)}")
    if not profile:
        refuse_unused({"--size": size, "--precision": precision}, "of --profile; expected --profile with it")
    if draw:
        of_measurements = {"--threads": threads, "--again": again, "--keep": keep, "--rivals": rivals}
        refuse_unused(of_measurements, "--draw measures nothing; expected one or the other")
    console = Console(stderr=True)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    about = {} if draw else describe(sys.argv[2:], threads or available, quick)
    with misuse():
        record = Record.open(folder / "cost.json", geometry, about)
    if draw and not record.about:
        raise UsageError(f"{record.path}: nothing is measured yet")
    if profile:
        wanted = [cases.profiles(geometry, size or "1080p", precision or ["fp32", "bf16"])]
    else:
        every = cases.cases(geometry)
        wanted = [[m for m in every[name] if long or not m.long] for name in case or CASES]
    failed = [] if draw else measure(record, wanted, console, again, keep, rivals)
    if draw:
        record.write()
    with console.status("drawing"):
        pages.write(record.about, record.figures(), record.measurements, record.not_measured, folder, geometry)
    show(record, profile)
    console.print(f"{record.path}, {folder / 'cost.md'}")
    if failed:
        sys.exit(1)


def measure(
    record: Record, wanted: list[list[Measurement]], console: Console, again: bool, keep: bool, rivals: Path | None
) -> list[str]:
    """Measures case by case, the measurements of a case in turns. Returns the names of those that failed."""
    done: set[str] = set()
    plan: list[tuple[Measurement, int]] = []
    for case in wanted:
        new = [m for m in case if m.name not in done]
        done |= {m.name for m in new}
        for turn in range(max((m.turns for m in new), default=0)):
            plan += [(m, turn) for m in new if turn < m.turns]
    have = {m.name: 0 if again else record.turns(m, key_of(m, record.about), keep) for m, _ in plan}
    if rivals:  # packages that were missing before may be there now
        have |= dict.fromkeys(have.keys() & record.not_measured.keys(), 0)
    plan = [(m, turn) for m, turn in plan if turn >= have[m.name]]
    left = sum(m.seconds + STARTING for m, _ in plan) if not record.geometry.quick else 3.0 * len(plan)
    console.print(f"{len(plan)} processes to run, about {left / 60:.0f} minutes on two cores without a GPU")
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary, sigterm_as_exit():
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
            console.print(f"{title}: {in_short(found)} ({seconds:.0f} s in all)", highlight=False)
    record.write()
    return list(failed)


def frames_of(geometry: Geometry) -> Measurement:
    """The task that writes the frames that trainings load; not a measurement."""
    sizes = {"segmentation": geometry.segmentation_frame, "flow": geometry.flow_frame}
    return Measurement("frames", "frames", sizes)


def in_short(found: dict[str, Any]) -> str:
    """A turn's median time and memory."""
    times = found.get("step_seconds") or found.get("seconds") or found.get("pass_seconds")
    if times:
        memory = f", {found['peak_gb']:.2f} GB" if "peak_gb" in found else ""
        return f"{statistics.median(times) if isinstance(times, list) else times:.3g} s{memory}"
    return str(found.get("not_measured", "measured"))


def show(record: Record, profile: bool) -> None:
    """Prints the main figures, or the profile."""
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
    table = Table("what", "measured")
    for line in pages.headlines(made):
        table.add_row(*line)
    if table.rows:
        console.print(table)


def main(words: list[str]) -> None:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(one_line_errors(cost))
    app(args=words, prog_name="benchmark.py cost")
