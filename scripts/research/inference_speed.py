"""Seconds and memory of one input in each way to run a checkpoint: PyTorch (eager, SDPA, compiled, bf16), ONNX Runtime, OpenVINO.

python scripts/research/inference_speed.py winwin-flow --size 1080x1920 --threads 2 --output speed.json --page docs/inference-speed.md

Notable:
- every measurement is a process of its own, bound to as many cores as it has threads; the ways take turns, so that a
  neighbour's load hits all of them; medians.
- timed is the network alone, from padded pixels to maps; processor and files are the same for all ways.
- speed alone says little: the difference from PyTorch's float32 with SDPA stands beside it.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

PROBE, PREPARE = "--probe", "--prepare"
REFERENCE = "sdpa"
MARKERS = ("<!-- measured: scripts/research/inference_speed.py -->", "<!-- end -->")
# way -> (what the page says, package it needs, file of the export or None for PyTorch)
WAYS: dict[str, tuple[str, str, str | None]] = {
    "eager": ("PyTorch, eager attention", "torch", None),
    "sdpa": ("PyTorch, SDPA", "torch", None),
    "compile": ("PyTorch, SDPA, `torch.compile`", "torch", None),
    "bf16": ("PyTorch, SDPA, bf16 autocast", "torch", None),
    "compile-bf16": ("PyTorch, SDPA, `torch.compile`, bf16 autocast", "torch", None),
    "onnxruntime": ("ONNX Runtime", "onnxruntime", "fused/onnx/model.onnx"),
    "onnxruntime-int8": ("ONNX Runtime, int8 weights", "onnxruntime", "fused/onnx/model_int8.onnx"),
    "onnxruntime-standard": (
        'ONNX Runtime, `attention="standard"`',
        "onnxruntime",
        "standard/onnx/model.onnx",
    ),
    "openvino": ("OpenVINO", "openvino", "fused/onnx/model.onnx"),
    "openvino-bf16": ("OpenVINO, computing in bf16", "openvino", "fused/onnx/model.onnx"),
}


# ------------------------------------------------------------------ one measurement, in its own process


def probe(way: str, checkpoint: str, folder: Path, threads: int, warmup: int, runs: int) -> None:
    """Runs one way on `folder`/inputs.npz; writes its first map beside it and prints a line of JSON."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    with np.load(folder / "inputs.npz") as stored:
        inputs = {name: torch.from_numpy(stored[name]) for name in stored.files}
    start = time.perf_counter()
    run = make(way, checkpoint, folder, threads)
    ready = time.perf_counter() - start
    seconds = []
    with torch.inference_mode():
        for _ in range(warmup + runs):
            start = time.perf_counter()
            result = run(inputs)
            seconds.append(time.perf_counter() - start)
    np.save(folder / f"{way}.npy", result.float().numpy())
    print(json.dumps({"ready": ready, "first": seconds[0], "seconds": seconds[warmup:], "peak": peak()}))


def make(way: str, checkpoint: str, folder: Path, threads: int) -> Any:
    """A function from inputs to the first map, (B, ..., H, W)."""
    import torch

    from winwin_hf.convert import onnx as export

    file = WAYS[way][2]
    if file is not None:
        precision = "bf16" if way.endswith("bf16") else "f32"
        exported = export.OnnxModel(folder / file, WAYS[way][1], threads, precision)
        return lambda inputs: getattr(exported(**inputs), exported.outputs[0])
    model, _ = export.load(checkpoint)
    if way == "eager":
        model.set_attn_implementation("eager")
    name = export.OUTPUTS[export.task_of(model)][0]
    forward = torch.compile(model, dynamic=False) if way.startswith("compile") else model

    def run(inputs: dict[str, Any]) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=way.endswith("bf16")):
            return forward(**inputs)[name]

    return run


def peak() -> float:
    """Most memory this process has held, GB. Linux counts what its parent held when it started it, so the parent imports little."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def prepare(checkpoint: str, folder: Path, height: int, width: int, ways: list[str]) -> None:
    """Writes `folder`/inputs.npz, the package's example frames at this size, and the exports that the ways need."""
    import numpy as np
    from PIL import Image

    from winwin_hf.cli.demo import examples_folder
    from winwin_hf.convert import onnx as export

    model, processor = export.load(checkpoint)
    frames = [Image.open(examples_folder() / f"bedroom_{i}.jpg").convert("RGB").resize((width, height)) for i in (1, 2)]
    second = {"second_images": frames[1]} if export.task_of(model) == "flow" else {}
    np.savez(folder / "inputs.npz", **processor(images=frames[0], **second, return_tensors="np"))
    files = {WAYS[way][2] for way in ways}
    if any(file and file.startswith("fused") for file in files):
        export.export(checkpoint, folder / "fused", quantise=["int8"], check=False)
    if any(file and file.startswith("standard") for file in files):
        export.export(checkpoint, folder / "standard", attention="standard", check=False)


# ------------------------------------------------------------------ all of them


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
    height, width = parse_size(size)
    ways = list(dict.fromkeys(way or WAYS))
    for name in ways:
        if name not in WAYS:
            sys.exit(f"--way {name}: expected one of {', '.join(WAYS)}")
    if page is not None:
        split_page(page)  # before an hour of measuring
    console = Console(stderr=True)
    notes = {name: f"{WAYS[name][1]} is not installed" for name in ways if not installed(WAYS[name][1])}
    results: dict[str, list[dict]] = {name: [] for name in ways if name not in notes}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with console.status("exporting"):
            command = [sys.executable, __file__, PREPARE, checkpoint, str(folder), str(height), str(width), *results]
            subprocess.run(command, check=True)
        for turn in range(rounds):
            for name in list(results):
                with console.status(f"{name}, turn {turn + 1} of {rounds}"):
                    found, reason = measure(name, checkpoint, folder, threads, warmup, runs)
                if found is None:
                    notes[name] = reason
                    del results[name]
                    continue
                results[name].append(found)
        record = {
            "command": " ".join(["python", *sys.argv]),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "checkpoint": checkpoint,
            "size": [height, width],
            "threads": threads,
            "load_before": load,
            "machine": processor(),
            "versions": {name: version(name) for name in ("torch", "onnxruntime", "openvino") if installed(name)},
            "results": summary(results, folder),
            "not_measured": notes,
        }
    show(record)
    if output is not None:
        output.write_text(json.dumps(record, indent=2) + "\n")
    if page is not None:
        before, after = split_page(page)
        page.write_text(before + markdown(record) + after)
    if any("not installed" not in note for note in notes.values()):
        sys.exit(1)


def measure(
    way: str, checkpoint: str, folder: Path, threads: int, warmup: int, runs: int
) -> tuple[dict[str, Any] | None, str]:
    """What one process of a way printed, or None and the reason."""
    command = [sys.executable, __file__, PROBE, way, checkpoint, str(folder), str(threads), str(warmup), str(runs)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if line.strip()]
        killed = "killed, probably for memory" if run.returncode == -9 else f"exit code {run.returncode}"
        return None, lines[-1][:200] if lines and run.returncode > 0 else killed
    return json.loads(run.stdout.splitlines()[-1]), ""


def summary(results: dict[str, list[dict]], folder: Path) -> dict[str, dict[str, Any]]:
    """Each way's medians, all its seconds, and its mean distance from the reference: of flow, the end-point error in pixels."""
    import numpy as np

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
            "peak_gb": statistics.median(turn["peak"] for turn in turns),
            "difference": difference,
        }
    return table


def rows(record: dict[str, Any]) -> list[list[str]]:
    """The table's cells, the fastest way first; what couldn't be measured last, with the reason."""
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
    """The page's part between the markers."""
    turns = max((len(figures["all_seconds"]) for figures in record["results"].values()), default=0)
    versions = record["versions"]
    text = (
        f"`{record['checkpoint']}`, {record['size'][0]}x{record['size'][1]}, {record['threads']} threads bound to as many cores of "
        f"{record['machine']}; medians of {turns} runs; {', '.join(f'{name} {found}' for name, found in versions.items())}; "
        f"{record['date'][:10]}, load average before: {record['load_before']:.1f}."
    )
    lines = [HEADER, ["---"] * len(HEADER), *rows(record)]
    return f"\n{text}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def split_page(page: Path) -> tuple[str, str]:
    """A page's text up to and with the first marker, and from the second one on. Ends the program where they aren't there."""
    text = page.read_text() if page.is_file() else ""
    before, first, rest = text.partition(MARKERS[0])
    _, second, after = rest.partition(MARKERS[1])
    if not first or not second:
        sys.exit(f"{page}: expected a page with the lines {' and '.join(MARKERS)}")
    return before + first + "\n", second + after


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        sys.exit(f"--size {text}: expected HEIGHTxWIDTH in pixels, such as 1080x1920")
    return int(height), int(width)


def installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    if PROBE in sys.argv[1:2]:
        probe(sys.argv[2], sys.argv[3], Path(sys.argv[4]), *map(int, sys.argv[5:8]))
    elif PREPARE in sys.argv[1:2]:
        prepare(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6:])
    else:
        typer.run(main)
