"""What encoders that others pre-trained cost: training steps counted and measured, hours of the recipes, speed beside transformers.

    python scripts/research/pretrained_cost.py --count            counts FLOPs and memory (ten minutes)
    python scripts/research/pretrained_cost.py --steps --peer     measures on this machine (an hour); goes on where it stopped
    python scripts/research/pretrained_cost.py                    the page and the table of recipes from the JSON

Each measurement is a process of its own with one thread, and its result is written at once.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.append(str(Path(__file__).resolve().parents[1]))

from research.files import machine_record, write_json, write_text
from research.options import refuse_unused
from research.planning.model import Assumptions
from research.pretrained.encoders import SIZES
from research.processes import run_json, with_threads
from winwin_hf.cli.errors import one_line_errors

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs/results/cost-pretrained.json"
PAGE, RECIPES_PAGE = RESULTS.with_suffix(".md"), ROOT / "docs/pretrained.md"
MARKERS = ("<!-- counted: scripts/research/pretrained_cost.py -->", "<!-- end -->")
PROBES = Path(__file__).parent / "pretrained" / "probes.py"
# Freed memory goes back at once, so that the growth of a process is what it holds.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}

PEERS = (("dinov3", "S"), ("dinov3", "B"), ("dinov2", "B"))
# Segmentation steps that fit a machine of 23 GB in minutes: size, frame, precision -> warm-up and timed steps of a full frame.
STEPS = {
    ("S", "1280x720", "fp32"): (1, 2),
    ("S", "1280x720", "bf16"): (1, 2),
    ("B", "1280x720", "fp32"): (1, 2),
    ("B", "1280x720", "bf16"): (1, 2),
    ("L", "1280x720", "bf16"): (0, 1),
    ("S", "2048x1024", "bf16"): (0, 1),
    ("B", "2048x1024", "bf16"): (0, 1),
}


def probe(request: dict[str, Any], threads: int, environment: dict[str, str] | None = None) -> Any:
    """What a process of its own prints."""
    return run_json([sys.executable, str(PROBES), json.dumps(request)], with_threads(threads, environment))


def count(results: dict[str, Any]) -> None:
    """Counts all cases and recipes."""
    from research.pretrained import counting
    from research.pretrained.page import KINDS, key_of

    results["cases"], results["recipes"] = {}, {}
    for size in SIZES:
        for task in counting.HEADS:
            for frame in counting.FRAMES:
                for kind in KINDS:
                    found = counting.count_case(size, task, frame, kind == "full")
                    results["cases"][key_of(size, task, frame, kind)] = found
    for label in counting.RECIPES:
        results["recipes"][label] = counting.count_recipe(label)
    save(results)


def measure_steps(results: dict[str, Any], threads: int) -> None:
    """Measures training steps, windows and full frame one after the other."""
    from research.pretrained.counting import FRAMES, WINDOWS
    from research.pretrained.page import KINDS, key_of

    steps, task = results.setdefault("steps", {}), "semantic-segmentation"
    for (size, frame, precision), (warmup, timed) in STEPS.items():
        for kind in KINDS:
            key = f"{key_of(size, task, frame, kind)}/{precision}"
            if key in steps:
                continue
            windows = {"kind": "full"} if kind == "full" else {"kind": "windows", "count": 2, "size": WINDOWS[frame]}
            request = {"probe": "step", "family": "dinov3", "size": size, "head": "conv", "task": task}
            request |= {"frame": FRAMES[frame], "windows": windows, "precision": precision, "batch": 1}
            request |= {"warmup": warmup, "steps": timed} if kind == "full" else {"warmup": 1, "steps": 3}
            load = os.getloadavg()[0]
            steps[key] = {**probe(request, threads), "load": load}
            typer.echo(f"{key}: {steps[key]['step_cpu_seconds']} s, {steps[key]['above_gb']:.2f} GB", err=True)
            record(results, threads)


def measure_peers(results: dict[str, Any], threads: int, rounds: int, blocks: int | None) -> None:
    """Measures a pass beside transformers' own classes."""
    from research.pretrained.probes import SIDES

    peers = results.setdefault("peer", {})
    for family, size in PEERS:
        key = f"{family}/{size}/{blocks or SIZES[size][1]}"
        if key in peers:
            continue
        request = {"family": family, "size": size, "height": 1080, "width": 1920, "blocks": blocks}
        load = os.getloadavg()[0]
        found = probe({**request, "probe": "peer", "rounds": rounds}, threads)
        found["memory"] = {side: probe({**request, "probe": "memory", "side": side}, threads, MALLOC) for side in SIDES}
        peers[key] = {**found, "load": load}
        typer.echo(f"{key}: {found}", err=True)
        record(results, threads)


def record(results: dict[str, Any], threads: int) -> None:
    """Notes the machine and the day of a measurement, and writes everything."""
    import torch

    results["record"] = {"cpu": machine_record()["cpu"], "torch": torch.__version__, "date": str(date.today())}
    results["record"]["threads"] = threads
    save(results)


def save(results: dict[str, Any]) -> None:
    write_json(RESULTS, results)


def main(
    counting: Annotated[bool, typer.Option("--count", help="Count FLOPs and memory anew.")] = False,
    steps: Annotated[bool, typer.Option("--steps", help="Measure training steps that the JSON lacks.")] = False,
    peer: Annotated[bool, typer.Option("--peer", help="Measure beside transformers what the JSON lacks.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Turns of --peer. Default: 5.")] = None,
    blocks: Annotated[int | None, typer.Option(min=1, help="Blocks of the encoders of --peer. Default: all.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a measurement. Default: 1.")] = None,
) -> None:
    """Count, measure, and make docs/results/cost-pretrained.md and the table of recipes in docs/pretrained.md."""
    if not peer:
        refuse_unused({"--rounds": rounds, "--blocks": blocks}, "of --peer; expected --peer with it")
    if not (steps or peer):
        refuse_unused({"--threads": threads}, "of measurements; expected --steps or --peer with it")
    from research.pretrained.page import page, recipes_table

    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if counting:
        count(results)
    if steps:
        measure_steps(results, threads or 1)
    if peer:
        measure_peers(results, threads or 1, rounds or 5, blocks)
    given = Assumptions()
    write_text(PAGE, page(results, given))
    before, _, rest = RECIPES_PAGE.read_text().partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    made = recipes_table(results["recipes"], given)
    write_text(RECIPES_PAGE, f"{before}{MARKERS[0]}\n\n{made}\n\n{MARKERS[1]}{after}")


if __name__ == "__main__":
    typer.run(one_line_errors(main))
