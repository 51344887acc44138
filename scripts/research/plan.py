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

from research.planning.model import GPUS, SCHEDULES, Assumptions, Gpu, gpu_of
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
from winwin_hf.cli.errors import UsageError, one_line_errors

ROOT = Path(__file__).resolve().parents[2]
COUNTS = ROOT / "docs/results/scale.json"
COST = ROOT / "docs/results/cost.json"


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
    """The tables of one recipe. Raises ValueError if it isn't for optical flow."""
    from research.planning.count import counted, kept_by
    from winwin_hf.training.recipe import load_recipe

    recipe = load_recipe(recipe_path)
    if recipe.task != "optical-flow":
        raise ValueError(f"{recipe_path}: its task is {recipe.task}; expected optical-flow")
    options, config = recipe.optimization, recipe.config()
    kept = kept_by(recipe, frame, config.patch_size)
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
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs, such as 1,8.")] = ",".join(map(str, NUMBERS)),
    gpu: Annotated[str, typer.Option(help=f"The GPU: {', '.join(GPUS)}.")] = "h100",
    tflops: Annotated[float | None, typer.Option(help="TFLOP/s of another GPU: bf16 products, dense.")] = None,
    memory: Annotated[float | None, typer.Option(help="Memory of another GPU, GB.")] = None,
    share: Annotated[float, typer.Option(help="Share of the TFLOP/s that a long step reaches.")] = Assumptions().share,
    frame: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the recipe's frames.")] = "1080x1920",
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
    if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", gpus):
        raise UsageError(f"--gpus {gpus}: expected numbers of GPUs, such as 1,8")
    height, width = parse_size("--frame", frame)
    if max(height, width) > 8192:
        raise UsageError(f"--frame {frame}: expected at most 8192 pixels a side")
    if page_path is not None:
        check_output("--page", page_path, (".md",))
    try:
        device, given = gpu_of(gpu, tflops, memory), replace(Assumptions(), share=share)
        numbers = [int(n) for n in gpus.split(",")]
        if recipe is not None:
            typer.echo(recipe_tables(recipe, (height, width), numbers, device, given))
            return
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
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
