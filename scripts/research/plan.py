"""What a training of optical flow costs before it is run: FLOPs, memory of each GPU, hours and bytes to read.

    python scripts/research/plan.py                                      ViT-B and ViT-L on Spring
    python scripts/research/plan.py RECIPE.yaml --gpus 1,8 --gpu a100    a recipe's network, windows and batch
    python scripts/research/plan.py --page docs/scale.md                 write the page from docs/results/scale.json
    python scripts/research/plan.py --count                              count everything anew into that file (five minutes)
    python scripts/research/plan.py --measure                            measure the checks of the counts anew

planning/count.py counts FLOPs and memory, planning/measure.py measures the checks, planning/model.py holds the assumptions. Imports
inside functions need torch, which most calls do without.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.append(str(Path(__file__).resolve().parents[1]))

from research.options import refuse_unused
from research.planning.model import FRAME, GPUS, SCHEDULES, Assumptions, Gpu, gpu_of
from research.planning.page import (
    BATCH,
    BATCHES,
    CASES,
    MODELS,
    NUMBERS,
    counts_of,
    memory_table,
    page,
    step_table,
    title,
    training_table,
)
from research.sizes import parse_size
from winwin_hf.cli.arguments import check_output
from winwin_hf.cli.errors import UsageError, misuse, one_line_errors

ROOT = Path(__file__).resolve().parents[2]
COUNTS = ROOT / "docs/results/scale.json"
COST = ROOT / "docs/results/cost.json"
GPU = "h100"  # where none is named


def count_all() -> dict[str, Any]:
    """Counts every model and case."""
    import torch

    from research.planning.count import Kept, counted
    from winwin_hf import WinWinConfig

    cases = {}
    for model in MODELS:
        for name, kept in CASES.items():
            typer.echo(f"counting {model}, {name}", err=True)
            found = counted(WinWinConfig.from_preset(model), Kept(**kept), BATCHES[name])
            cases[f"{model}/{name}"] = asdict(found)
    return {"counted_with": f"torch {torch.__version__}", "cases": cases}


def measure_all() -> dict[str, Any]:
    """Measures the checks of counts and assumptions, with the machine and the day."""
    from research.files import machine_record
    from research.planning import measure

    typer.echo("measuring", err=True)
    return {
        "measured_on": f"{machine_record()['cpu']}, {date.today()}",
        "peaks": measure.measured_peaks(),
        "h100": measure.h100(),
        "decoding": measure.decoding(),
    }


def recipe_tables(
    recipe_path: Path, frame: tuple[int, int], numbers: Sequence[int], gpu: Gpu, given: Assumptions
) -> str:
    """The tables of one recipe. Raises ValueError if it isn't for optical flow, or its windows don't fit into the frames."""
    from research.planning.count import counted, kept_by
    from winwin_hf.training.recipe import load_recipe

    recipe = load_recipe(recipe_path)
    if recipe.task != "optical-flow":
        raise ValueError(f"{recipe_path}: its task is {recipe.task}; expected optical-flow")
    options, config = recipe.optimization, recipe.config()
    if min(frame) < config.patch_size:
        raise ValueError(f"--frame {frame[0]}x{frame[1]}: expected at least a patch, {config.patch_size} pixels a side")
    try:
        kept = kept_by(recipe, frame, config.patch_size)
    except ValueError as error:
        raise ValueError(f"--frame {frame[0]}x{frame[1]}: {error}") from None
    batches = (1, 2) if sum(kept.tokens) > 4000 else (16, 32)
    precision = "no" if options.mixed_precision == "no" else "bf16"
    cases = {"recipe": (recipe_path.stem, counted(config, kept, batches, precision))}
    batch = options.batch_size * options.accumulation
    schedule = {f"{options.steps * batch:,} pairs": float(options.steps * batch)}
    return "\n".join(
        [
            step_table(cases),
            memory_table(cases, gpu, given, options.batch_size),
            training_table(cases, numbers, gpu, given, schedule, batch=batch),
        ]
    )


def main(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe for optical flow. Default: ViT-B and ViT-L on Spring.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help=f"Numbers of GPUs, such as 1,8. Default: {','.join(map(str, NUMBERS))}.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help=f"The GPU: {', '.join(GPUS)}. Default: {GPU}.")] = None,
    tflops: Annotated[float | None, typer.Option(help="TFLOP/s of another GPU: bf16 products, dense.")] = None,
    memory: Annotated[float | None, typer.Option(help="Memory of another GPU, GB.")] = None,
    share: Annotated[
        float | None,
        typer.Option(help=f"Share of the TFLOP/s that a long step reaches. Default: {Assumptions().share}."),
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help=f"HEIGHTxWIDTH of the recipe's frames. Default: {FRAME[0]}x{FRAME[1]}.")
    ] = None,
    page_path: Annotated[
        Path | None, typer.Option("--page", help="Write the page here, from docs/results/scale.json.")
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Count everything anew into docs/results/scale.json.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the checks anew into docs/results/scale.json.")
    ] = False,
) -> None:
    """Print a plan of a training as tables, or write the page."""
    for option, value, most in (("--tflops", tflops, 1e6), ("--memory", memory, 1e6), ("--share", share, 1.0)):
        if value is not None and not 0 < value <= most:
            raise UsageError(f"{option} {value}: expected a number above 0, at most {most:g}")
    if gpus is not None and not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", gpus):
        raise UsageError(f"--gpus {gpus}: expected numbers of GPUs, such as 1,8")
    numbers = list(NUMBERS) if gpus is None else [int(n) for n in gpus.split(",")]
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--gpus {gpus}: expected each number once")
    sides = FRAME if frame is None else parse_size("--frame", frame)
    if max(sides) > 8192:
        raise UsageError(f"--frame {frame}: expected at most 8192 pixels a side")
    if gpu is not None:
        refuse_unused({"--tflops": tflops, "--memory": memory}, f"of another GPU; expected no --gpu {gpu} with it")
    if (tflops is None) != (memory is None):
        raise UsageError("--tflops and --memory describe another GPU together; expected both")
    if recipe is None:
        refuse_unused({"--frame": frame}, "of a recipe's frames; expected a recipe with it")
    else:
        of_counts = {"--page": page_path, "--count": count, "--measure": measure}
        refuse_unused(of_counts, "of ViT-B and ViT-L on Spring; expected no recipe with it")
    if page_path is not None:
        of_tables = {"--gpus": gpus, "--gpu": gpu, "--tflops": tflops, "--memory": memory, "--share": share}
        refuse_unused(of_tables, "of the tables that are printed; expected no --page with it")
        check_output("--page", page_path, (".md",))
    with misuse():
        device = gpu_of(gpu or GPU, tflops, memory)
        given = Assumptions() if share is None else replace(Assumptions(), share=share)
        if recipe is not None:
            typer.echo(recipe_tables(recipe, sides, numbers, device, given))
            return
    results = json.loads(COUNTS.read_text()) if COUNTS.is_file() else {}
    if count or "cases" not in results:
        results |= count_all()
    if measure or "peaks" not in results:
        results |= measure_all()
    if count or measure or not COUNTS.is_file():
        COUNTS.parent.mkdir(parents=True, exist_ok=True)
        COUNTS.write_text(json.dumps(results, indent=1) + "\n")
    if page_path is not None:
        page_path.write_text(page(results, json.loads(COST.read_text()) if COST.is_file() else None))
        return
    cases = {key: (title(key), counted) for key, counted in counts_of(results).items()}
    typer.echo(memory_table(cases, device, given, BATCH))
    typer.echo(training_table(cases, numbers, device, given, SCHEDULES, batch=BATCH))


if __name__ == "__main__":
    typer.run(one_line_errors(main))
