"""Seconds and memory of each way to run a checkpoint: PyTorch (eager, SDPA, compiled, bf16), ONNX Runtime, OpenVINO.

    python scripts/research/inference_speed.py winwin-flow --size 1080x1920 --threads 2 --page docs/inference-speed.md

- Each measurement is a process of its own (inference_probe.py), bound to as many cores as it has threads. The ways take turns, so
  that other work on the machine disturbs all of them. Figures are medians.
- Times are of the network alone, from padded pixels to maps.
- Each way's mean difference from PyTorch in float32 with SDPA stands beside its time.
"""

import json
import os
import statistics
import sys
import tempfile
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parents[1]))

from research import pages
from research.files import machine_record, write_json, write_text
from research.inference_probe import WAYS
from research.machine import is_installed
from research.processes import run_json, with_threads
from research.sizes import parse_size
from winwin_hf.cli.arguments import check_output
from winwin_hf.cli.errors import UsageError, one_line_errors

PROBE = Path(__file__).with_name("inference_probe.py")
REFERENCE = "sdpa"  # the way that the others are compared with
MARKERS = ("<!-- measured: scripts/research/inference_speed.py -->", "<!-- end -->")


def main(
    checkpoint: Annotated[str, typer.Argument(help="A bundled name, a folder or a Hub repository.")] = "winwin-flow",
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the images, before padding.")] = "1080x1920",
    threads: Annotated[int, typer.Option(min=1, help="Threads, and cores they are bound to.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way, each in a new process.")] = 3,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each turn.")] = 2,
    warmup: Annotated[int, typer.Option(min=1, help="Runs before them.")] = 1,
    way: Annotated[list[str] | None, typer.Option(help=f"{', '.join(WAYS)}; repeatable. Default: all.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write all figures (.json).")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Markdown page whose table, between its markers, is replaced.")
    ] = None,
) -> None:
    """Measure each way to run CHECKPOINT on one input (for flow: a pair)."""
    height, width = parse_size("--size", size)
    ways = list(dict.fromkeys(way or WAYS))
    for name in ways:
        if name not in WAYS:
            raise UsageError(f"--way {name}: expected one of {', '.join(WAYS)}")
    if output is not None:
        check_output("--output", output, (".json",))
    if page is not None:
        split_page(page)  # before an hour of measuring
    console = Console(stderr=True)
    notes = {name: f"{WAYS[name][1]} is not installed" for name in ways if not is_installed(WAYS[name][1])}
    results: dict[str, list[dict]] = {name: [] for name in ways if name not in notes}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with console.status("exporting"):
            options = {"checkpoint": checkpoint, "height": height, "width": width, "ways": list(results)}
            try:
                run_probe(options, folder, threads)
            except RuntimeError as error:
                raise ValueError(
                    f"{checkpoint}: no inputs and exports were made; {str(error).splitlines()[-1]}"
                ) from None
        for turn in range(rounds):
            for name in list(results):
                with console.status(f"{name}, turn {turn + 1} of {rounds}"):
                    options = {
                        "way": name,
                        "checkpoint": checkpoint,
                        "threads": threads,
                        "warmup": warmup,
                        "runs": runs,
                    }
                    try:
                        results[name].append(run_probe(options, folder, threads))
                    except RuntimeError as error:
                        notes[name] = str(error).splitlines()[-1][:200]
                        del results[name]
        record = {
            "command": " ".join(["python", *sys.argv]),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "checkpoint": checkpoint,
            "size": [height, width],
            "threads": threads,
            "load_before": load,
            "machine": machine_record()["cpu"],
            "versions": {name: version(name) for name in ("torch", "onnxruntime", "openvino") if is_installed(name)},
            "results": summary(results, folder),
            "not_measured": notes,
        }
    show(record)
    if output is not None:
        write_json(output, record)
    if page is not None:
        before, after = split_page(page)
        write_text(page, before + markdown(record) + after)
    if any("not installed" not in note for note in notes.values()):
        sys.exit(1)


def run_probe(options: dict[str, Any], folder: Path, threads: int) -> Any:
    """`inference_probe.measure` or `prepare` with these options in a process. Raises RuntimeError whose last line is the reason."""
    command = [sys.executable, str(PROBE), json.dumps({**options, "folder": str(folder)})]
    return run_json(command, with_threads(threads, {"TORCHINDUCTOR_COMPILE_THREADS": "1"}))


def summary(results: dict[str, list[dict]], folder: Path) -> dict[str, dict[str, Any]]:
    """Each way's medians, all its seconds, and its mean difference from the reference: for flow the end-point error in pixels."""
    reference = np.load(folder / f"{REFERENCE}.npy") if results.get(REFERENCE) else None
    table = {}
    for way, turns in results.items():
        if not turns:
            continue
        seconds = [second for turn in turns for second in turn["seconds"]]
        difference = None
        if reference is not None and way != REFERENCE:
            error = np.load(folder / f"{way}.npy") - reference
            difference = float((np.linalg.norm(error, axis=1) if error.ndim == 4 else np.abs(error)).mean())
        table[way] = {
            "seconds": statistics.median(seconds),
            "all_seconds": seconds,
            "ready": statistics.median(turn["ready"] for turn in turns),
            "first": statistics.median(turn["first"] for turn in turns),
            "peak_gb": statistics.median(turn["peak_gb"] for turn in turns),
            "difference": difference,
        }
    return table


def rows(record: dict[str, Any]) -> list[list[str]]:
    """The table's cells, the fastest way first; ways that weren't measured last, with the reason."""
    found = sorted(record["results"].items(), key=lambda item: item[1]["seconds"])
    best = found[0][1]["seconds"] if found else 1.0
    lines = []
    for way, figures in found:
        fastest, slowest = min(figures["all_seconds"]), max(figures["all_seconds"])
        difference = figures["difference"]
        lines.append(
            [
                WAYS[way][0],
                f"{figures['seconds']:.3g}",
                f"{fastest:.3g} - {slowest:.3g}",
                f"{figures['seconds'] / best:.2f}",
                f"{figures['ready'] + figures['first']:.3g}",
                f"{figures['peak_gb']:.2f}",
                "-" if difference is None else f"{difference:.1e}",
            ]
        )
    return lines + [[WAYS[way][0], note, *[""] * 5] for way, note in record["not_measured"].items()]


HEADER = ["way", "s", "from - to", "ratio", "s until the first result", "peak GB", "mean difference"]


def show(record: dict[str, Any]) -> None:
    table = Table(*HEADER)
    for row in rows(record):
        table.add_row(*(cell.replace("`", "") for cell in row))
    Console().print(table)


def markdown(record: dict[str, Any]) -> str:
    """The text between the page's markers."""
    turns = max((len(figures["all_seconds"]) for figures in record["results"].values()), default=0)
    versions = record["versions"]
    text = (
        f"`{record['checkpoint']}`, {record['size'][0]}x{record['size'][1]}, {record['threads']} threads bound to as many cores of "
        f"{record['machine']}; medians of {turns} runs; {', '.join(f'{name} {found}' for name, found in versions.items())}; "
        f"{record['date'][:10]}, load average before: {record['load_before']:.1f}."
    )
    return f"\n{text}\n\n{pages.table(HEADER, rows(record))}\n"


def split_page(page: Path) -> tuple[str, str]:
    """A page's text up to the first marker and from the second one on, markers included. Exits where a marker is missing."""
    text = page.read_text() if page.is_file() else ""
    before, first, rest = text.partition(MARKERS[0])
    _, second, after = rest.partition(MARKERS[1])
    if not first or not second:
        raise UsageError(f"{page}: expected a page with the lines {' and '.join(MARKERS)}")
    return before + first + "\n", second + after


if __name__ == "__main__":
    typer.run(one_line_errors(main))
