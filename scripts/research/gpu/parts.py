"""The parts of scripts/gpu_check.sh. Each runs in a process of its own and writes its results anew after every measurement.

    python scripts/research/gpu/parts.py cost '{"file": "cost.json", "small": true, "end": 1e9}'

Imports inside the functions are those that a machine may lack.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from research.machine import is_installed
from research.pages import percent, table

ROOT = Path(__file__).resolve().parents[3]
COUNTED = ROOT / "docs" / "results" / "cost.json"  # has the FLOPs of passes and steps
PACKAGES = ("triton", "transformers", "accelerate", "flash-attn", "numpy", "opencv-python-headless")
SPARE = 4.0  # seconds before a part's end in which no measurement starts


class Part:
    """
    A part's request and its results so far.

    Attributes:
        results: what is written; "markdown" is its section of gpu.md.
    """

    def __init__(self, file: Path, small: bool, end: float):
        """`end`: when the part is ended, by the machine's monotonic clock."""
        self.file, self.small, self.end = file, small, end - SPARE
        self.results: dict[str, Any] = {}

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def write(self, **results: Any) -> None:
        """Adds results; in the file they are whole or not at all."""
        self.results |= results
        temporary = self.file.with_name(f".{self.file.name}.tmp")
        temporary.write_text(json.dumps(self.results, default=float))
        temporary.replace(self.file)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


# ------------------------------------------------------------------ the machine


def machine(part: Part) -> None:
    """The GPU, the versions, and which fast paths there are."""
    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "cores": len(os.sched_getaffinity(0))}
    found["torch"] = f"{torch.__version__}, CUDA {torch.version.cuda}"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        found |= {"gpu": device.name, "memory_gb": device.total_memory / 1e9}
        found["capability"] = f"{device.major}.{device.minor}, {device.multi_processor_count} multiprocessors"
        words = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm,utilization.gpu", "--format=csv"]
        try:
            said = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout
            found["nvidia-smi"] = " | ".join(said.split("\n")).strip(" |")
        except (OSError, subprocess.SubprocessError) as error:
            found["nvidia-smi"] = first_line(error)
    else:
        found["gpu"] = "none: torch finds no CUDA GPU"
    for name in PACKAGES:
        found[name] = importlib.metadata.version(name) if is_installed(name) else "not installed"
    dependencies = (ROOT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("\n]")[0]
    lacking = [name for name in (*re.findall(r'"([\w-]+)>=', dependencies), "pytest") if not is_installed(name)]
    found["not installed"] = ", ".join(lacking) or "nothing that is needed"
    part.write(**found)
    part.write(markdown="## Machine\n\n" + table(["", ""], list(found.items()), text_columns=2))


# ------------------------------------------------------------------ the tests marked `cuda`

RESULT = re.compile(r"^(tests/\S+?\.py::.*?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b(?: \((.*)\))?", re.MULTILINE)
# Files with such tests. Others may need packages that a machine with a GPU lacks.
TESTS = [
    f"tests/{name}.py"
    for name in ("model/test_identities", "model/test_modeling", "training/test_cuda", "model/test_cuda")
]
QUICK_TESTS = ["tests/model/test_cuda.py", "-k", "kernel or (gives and linear) or does_not_fit"]


def tests(part: Part) -> None:
    """`pytest -m cuda`. What is known of each test is written while the others run."""
    import pytest  # noqa: F401 - where it is missing the part is skipped

    output = part.file.with_name("pytest.txt")
    # one after the other and in this process's group, so that nothing outlives the part
    options = ["-m", "cuda", "-v", "-rfEs", "--tb=short", "--color=no", "--continue-on-collection-errors"]
    options += ["-p", "no:cacheprovider", *(["-p", "no:xdist"] if importlib.util.find_spec("xdist") else [])]
    command = [sys.executable, "-m", "pytest", *options, *(QUICK_TESTS if part.small else TESTS)]
    with output.open("w") as file:
        # cuBLAS reads its variable when it starts: products are then computed in one order, which exact resumption needs
        environment = {**os.environ, "COLUMNS": "400", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        while process.poll() is None:
            time.sleep(1)
            told_of(part, output.read_text(errors="replace"), ended=False)
    text = output.read_text(errors="replace")
    told_of(part, text, ended=True)
    if process.returncode:
        sys.exit(text.strip().splitlines()[-1].strip("= "))


def told_of(part: Part, text: str, ended: bool) -> None:
    """The state of each test in pytest's output, and why one failed or was skipped."""
    found = {match[1]: match[2].lower() for match in RESULT.finditer(text)}
    reasons = {match[1]: match[3] for match in RESULT.finditer(text) if match[3]}
    reasons |= dict(re.findall(r"^(?:FAILED|ERROR) (tests/.*?) - (.*)$", text, re.MULTILINE))
    counts: dict[str, dict[str, int]] = {}
    for name, state in found.items():
        states = counts.setdefault(name.partition("[")[0], {})
        states[state] = states.get(state, 0) + 1
    states = sorted({state for found_states in counts.values() for state in found_states})
    rows = [[f"`{name}`", *(found_states.get(state, 0) for state in states)] for name, found_states in counts.items()]
    troubles = [
        f"- `{name}`: {state}; {reasons.get(name, '')}" for name, state in found.items() if state in ("failed", "error")
    ]
    skipped = sorted({reasons[name] for name, state in found.items() if state == "skipped" and name in reasons})
    text = f"## Tests\n\n{len(found)} tests ran{'' if ended else ' so far; the rest had no time'}.\n\n" + table(
        ["test", *states], rows
    )
    text += "\n\n" + "\n".join(troubles) if troubles else ""
    text += "\n\nSkipped: " + "; ".join(skipped) + "." if skipped else ""
    part.write(states=found, reasons=reasons, ended=ended, markdown=text)


# ------------------------------------------------------------------ the cost table


def cost(part: Part) -> None:
    """docs/results/cost.md's measurements, one after the other in this process; a GPU's memory is counted by torch alone."""
    from accelerate.state import AcceleratorState, GradientState

    from research.cost import probes
    from research.cost.cases import FULL, QUICK
    from winwin_hf.model.memory_winwin import free_memory

    geometry = QUICK if part.small else FULL
    measured: dict[str, Any] = {}
    errors: dict[str, str] = {}
    if not part.small:
        measured["counts"] = json.loads(COUNTED.read_text())["measurements"]["counts"]
    with tempfile.TemporaryDirectory() as folder:
        for m in cost_measurements(geometry):
            if part.left < 0:
                errors[m.name] = "no time was left"
                continue
            AcceleratorState._reset_state(reset_partial_state=True)  # the last one may have had another precision
            GradientState._reset_state()
            try:
                found = probes.PROBES[m.probe](Path(folder), **m.arguments)
                measured[m.name] = {"runs": [found], "arguments": m.arguments}
            except Exception as error:
                errors[m.name] = first_line(error)
            free_memory()  # the error and its tensors are gone
            part.write(measurements=measured, errors=errors, markdown=cost_page(measured, errors, geometry))


def cost_measurements(geometry: Any) -> list[Any]:
    """Those of research/cost with more repetitions, batches of noise in place of loaded ones, and crops of 720p."""
    from research.cost import cases

    every = cases.cases(geometry)
    training = [*every["train_step_720p"], *every["train_step_flow_1080p"]]
    crop = {"kind": "crop", "size": list(geometry.crop)}
    for m in every["train_step_720p"]:
        if "/windows/" in m.name:
            name = m.name.replace("/windows/", "/crops/")
            training.append(dataclasses.replace(m, name=name, arguments={**m.arguments, "windows": crop}))
    for m in every["train_step_flow_1080p"]:
        if m.name.endswith("/full/bf16"):
            name = m.name.replace("/full/", "/full-kept/")
            training.append(dataclasses.replace(m, name=name, arguments={**m.arguments, "checkpointing": False}))
    repeated = {"steps": 1, "warmup": 1} if geometry.quick else {"steps": 5, "warmup": 3}
    slow = {"steps": 1, "warmup": 1} if geometry.quick else {"steps": 2, "warmup": 1}
    found = []
    for m in training:
        counts = slow if "/full" in m.name else repeated
        found.append(dataclasses.replace(m, arguments={**m.arguments, "loader": False, **counts}))
    passes = {m.name: m for m in [*every["flow_1080p"], *every["memory_curve"]]}
    for m in passes.values():
        if m.probe == "direct":
            m = dataclasses.replace(m, arguments={**m.arguments, "runs": 1 if geometry.quick else 3})
        elif m.probe == "tiled":  # the whole frame, whose first call is then one of many
            batches = [1, 3] if geometry.quick else [1, 9]
            m = dataclasses.replace(m, arguments={**m.arguments, "strip": geometry.flow_frame, "tile_batches": batches})
        if m.probe in ("direct", "tiled", "ceiling"):
            found.append(m)
    # a trial takes one precision, and one pair
    return [m for m in found if not geometry.quick or m.name.endswith(("/fp32", "ceiling"))]


KINDS = {
    "windows": "two windows",
    "crops": "crops of a tile's size",
    "full": "full frame",
    "full-kept": "full frame, without checkpoints",
    "windows-batch-4": "two windows, 4 pairs",
    "crops-batch-4": "crops, 4 pairs",
}


def cost_page(measured: dict[str, Any], errors: dict[str, str], geometry: Any) -> str:
    """The section of gpu.md: steps, passes, the curve."""
    from research.cost import figures, pages
    from research.cost.cases import NAMES

    found, made = figures.summaries(measured), figures.figures(measured, geometry)
    (height, width), (flow_height, flow_width) = geometry.segmentation_frame, geometry.flow_frame
    titles = {
        "train_step_720p": f"### Training step, segmentation at {width}x{height}, batch 2",
        "train_step_flow_1080p": f"### Training step, flow at {flow_width}x{flow_height}, one pair or four",
    }
    text = [
        "## Cost\n\nThe network and the sizes of docs/results/cost.md, with batches that are on the GPU already. fp32 is torch's default: "
        "matrix products in float32, cuDNN's convolutions in TF32. Seconds are between CUDA events, after warm-up; memory is "
        "torch.cuda.max_memory_allocated."
    ]
    for case, title in titles.items():
        rows = []
        for precision, kinds in figures.steps(found, case).items():
            shortest = kinds.get("windows", {}).get("seconds")
            for kind, name in KINDS.items():
                if kind in kinds:
                    f = kinds[kind]
                    over = f["seconds"] / shortest if shortest and "batch" not in kind else None
                    rate = f["gflops"] / 1e3 if "gflops" in f else None
                    rows.append(
                        [f"{name}, {NAMES[precision]}", f["seconds"], over, f["peak_gb"], f["above_idle_gb"], rate]
                    )
        columns = ["", "s / step", "times two windows", "peak, GB", "above idle, GB", "TFLOP/s"]
        text.append(f"{title}\n\n{table(columns, rows)}")
    if "flow_1080p" in made:
        made["flow_1080p"].pop("croco_flow", None)  # of a CPU
        text.append("#" + pages.flow_section(made["flow_1080p"], geometry))
    if "memory_curve" in made:
        section = pages.curve_section(made["memory_curve"], geometry)
        text.append("#" + section.replace("![Time and memory against pixels](cost-curve.png)\n\n", ""))
    if "arithmetic" in made and "ceiling" in made["arithmetic"]:
        text.append("#" + pages.arithmetic_section({"ceiling": made["arithmetic"]["ceiling"]}, geometry))
    if errors:
        text.append("### Not measured\n\n" + "\n".join(f"- `{name}`: {reason}" for name, reason in errors.items()))
    return "\n\n".join(text)


# ------------------------------------------------------------------ training throughput


def throughput(part: Part) -> None:
    """See throughput.py."""
    from research.gpu import throughput as measuring
    from winwin_hf.model.memory_winwin import free_memory

    rows: list[dict[str, Any]] = []
    variants: list[dict[str, Any]] = []

    def add(row: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        if part.left < 0:
            row.setdefault("error", "no time was left")
        else:
            try:
                row |= measure()
            except Exception as error:
                row["error"] = first_line(error)
            free_memory()
        part.write(recipes=rows, variants=variants, markdown=throughput_page(rows, variants))

    with tempfile.TemporaryDirectory() as folder:
        for number, recipe in enumerate(measuring.recipes(Path(folder), part.small)):
            rows.append({"recipe": recipe.name})
            for measure in (measuring.measure_network, measuring.measure_loader, measuring.measure_training):
                add(rows[-1], partial(measure, recipe, dict(rows[-1]), part.left))
            for name, measure_variant in measuring.variants(recipe) if number == 0 else ():
                variants.append({"recipe": recipe.name, "variant": name})
                add(variants[-1], partial(measure_variant, part.left))


def throughput_page(rows: list[dict[str, Any]], variants: list[dict[str, Any]]) -> str:
    """The section of gpu.md. What the GPU waits is what the training's rate lacks of the network's alone."""
    columns = {
        "recipe": "recipe",
        "batch": "batch",
        "images/s, network alone": "network_rate",
        "GB": "peak_gb",
        "loader processes": "workers",
        "images/s, loader alone": "loader_rate",
        "images/s, training": "training_rate",
        "the GPU waits": "idle",
        "the training waits for batches": "wait",
        "why not": "error",
    }
    lines = []
    for row in rows:
        shares = {"wait": percent(row.get("training_wait"))}
        if {"training_rate", "network_rate"} <= row.keys():
            shares["idle"] = percent(max(0.0, 1 - row["training_rate"] / row["network_rate"]))
        lines.append([{**row, **shares}.get(key) for key in columns.values()])
    text = (
        "## Training throughput\n\nBundled recipes on synthetic or generated frames, with a loader process on each core but one. "
        "`network alone`: forward, backward, clipping and AdamW on one batch again and again. `training`: `winwin train` itself. "
        "What its rate lacks of the network's, the GPU waits, for batches or for the core that sends its operations. "
        "The training waits for batches as `wait` in metrics.jsonl says.\n\n"
    )
    text += table(list(columns), lines)
    base: dict[str, float] = {}
    lines = []
    for row in variants:
        kind = "loader" if "loader_rate" in row else "network"
        rate = row.get(f"{kind}_rate")
        first = base.setdefault(f"{row['recipe']} {kind}", rate) if rate else None
        over = rate / first if rate and first else None
        keys = ("peak_gb", "first_seconds", "error")
        lines.append([row["recipe"], row["variant"], rate, over, *(row.get(key) for key in keys)])
    if lines:
        text += "\n\nWhat raises it: networks beside the first network, loaders beside the first loader. "
        text += "The first step includes compiling.\n\n"
        titles = ["recipe", "what", "images/s", "times the first", "GB", "s of the first step", "why not"]
        text += table(titles, lines, text_columns=2)
    return text


PARTS: dict[str, Callable[[Part], None]] = {"machine": machine, "cost": cost, "tests": tests, "throughput": throughput}

if __name__ == "__main__":
    request = json.loads(sys.argv[2])
    PARTS[sys.argv[1]](Part(Path(request["file"]), request["small"], request["end"]))
