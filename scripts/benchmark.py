"""Seconds a training step and peak memory of several recipes, side by side: each in a process of its own, in turns, medians.

python scripts/benchmark.py winwin_hf/recipes/camvid-windows.yaml winwin_hf/recipes/camvid-full.yaml --set data.path=FOLDER

What the network costs at the paper's sizes, against full frames, tiles and the machine's ceiling (see cost/):

python scripts/benchmark.py cost
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

PROBE, COST_PROBE = "--probe", "--cost-probe"


def probe(recipe_path: str, steps: int, overrides: list[str]) -> None:
    """One recipe's steps in this process; prints a line of JSON. The batch is made once: loading is timed apart."""
    import torch
    from accelerate import Accelerator

    from winwin_hf.training.build import make_loader, make_model, make_optimizer, open_parts
    from winwin_hf.training.loop import peak_memory
    from winwin_hf.training.recipe import load_recipe

    recipe = load_recipe(recipe_path, [*overrides, "optimization.num_workers=0"])
    accelerator = Accelerator(mixed_precision=recipe.optimization.mixed_precision)
    torch.manual_seed(recipe.optimization.seed)
    parts = open_parts(recipe)
    loader = make_loader(recipe, 0, 1, 0, patch_size=16, parts=parts)
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    batch = {name: tensor.to(accelerator.device) for name, tensor in next(batches).items()}
    loading = time.perf_counter() - start
    model = make_model(recipe, parts[0].source).train()
    optimizer = make_optimizer(model, recipe.optimization)
    model, optimizer = accelerator.prepare(model, optimizer)
    before, seconds = peak_memory(), []
    for step in range(steps + 1):
        start = time.perf_counter()
        accelerator.backward(model(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        if step:  # the first one warms up
            seconds.append(time.perf_counter() - start)
    result = {"seconds": seconds, "loading": loading, "before": before, "peak": peak_memory()}
    print(json.dumps(result))


def main(
    recipes: list[Path],
    rounds: Annotated[int, typer.Option(help="Turns of each recipe.")] = 3,
    steps: Annotated[int, typer.Option(help="Steps of each turn, after one to warm up.")] = 3,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
) -> None:
    """Train a few steps of each of RECIPES in turns; medians, and ratios to the first. `cost --help`: what the network costs."""
    results: dict[Path, list[dict]] = {recipe: [] for recipe in recipes}
    console = Console()
    for turn in range(rounds):
        for recipe in recipes:
            with console.status(f"{recipe.stem}, turn {turn + 1} of {rounds}"), tempfile.TemporaryFile("w+") as errors:
                command = [sys.executable, __file__, PROBE, str(recipe), str(steps), *(overrides or [])]
                run = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True)
                if run.returncode:
                    errors.seek(0)
                    sys.exit(f"{recipe} failed:\n{errors.read()[-2000:]}")
            results[recipe].append(json.loads(run.stdout.splitlines()[-1]))
    table = Table("recipe", "s / step", "ratio", "peak GB", "of it by training", "s to load a batch, 1 process")
    first = None
    for recipe, turns in results.items():
        step = statistics.median(s for turn in turns for s in turn["seconds"])
        peak = statistics.median(turn["peak"] for turn in turns)
        training = statistics.median(turn["peak"] - turn["before"] for turn in turns)
        loading = statistics.median(turn["loading"] for turn in turns)
        first = first or step
        table.add_row(
            recipe.stem, f"{step:.3f}", f"{step / first:.2f}", f"{peak:.2f}", f"{training:.2f}", f"{loading:.3f}"
        )
    console.print(table)


if __name__ == "__main__":
    if PROBE in sys.argv[1:2]:
        probe(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    elif COST_PROBE in sys.argv[1:2]:
        from research.cost import probes

        probes.main(sys.argv[2])
    elif sys.argv[1:2] == ["cost"]:
        from research.cost import command

        command.main(sys.argv[2:])
    else:
        typer.run(main)
