"""Seconds of a training step and peak memory of several recipes, side by side. Each runs in processes of its own, in turns.

    python scripts/benchmark.py camvid-windows camvid-full --set data.path=FOLDER

What the network costs at the paper's sizes, against full frames and tiles (see research/cost):

    python scripts/benchmark.py cost
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from research.cost import command
from research.processes import run_json
from rich.console import Console
from rich.table import Table

from winwin_hf.cli.errors import one_line_errors
from winwin_hf.cli.train import check_recipe
from winwin_hf.recipes import recipe_path
from winwin_hf.training.build import make_loader, make_model, make_optimizer, open_parts
from winwin_hf.training.evaluate import open_accelerator
from winwin_hf.training.log import peak_memory
from winwin_hf.training.recipe import load_recipe

PROBE = "--probe"


def probe(recipe_path: str, steps: int, overrides: list[str]) -> None:
    """Runs a recipe's steps on one batch in this process and prints a line of JSON. Loading is timed apart."""
    recipe = load_recipe(recipe_path, [*overrides, "optimization.num_workers=0"])
    accelerator = open_accelerator(recipe)
    torch.manual_seed(recipe.optimization.seed)
    parts = open_parts(recipe)
    model, processor = make_model(recipe, parts[0].source)
    loader = make_loader(recipe, 0, 1, 0, processor, parts)
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    batch = {name: tensor.to(accelerator.device) for name, tensor in next(batches).items()}
    loading = time.perf_counter() - start
    optimizer = make_optimizer(model.train(), recipe.optimization)
    model, optimizer = accelerator.prepare(model, optimizer)
    before, seconds = peak_memory(), []
    for step in range(steps + 1):
        start = time.perf_counter()
        accelerator.backward(model(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        if step:  # the first step warms up
            seconds.append(time.perf_counter() - start)
    result = {"seconds": seconds, "loading": loading, "before": before, "peak": peak_memory()}
    print(json.dumps(result))


def main(
    recipes: Annotated[list[str], typer.Argument(help="Names of `winwin recipes list`, or YAML files.")],
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each recipe.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each turn, after one to warm up.")] = 3,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
) -> None:
    """Train a few steps of each of RECIPES in turns. Prints medians and ratios to the first. `cost --help`: costs at the paper's sizes."""
    results: dict[Path, list[dict]] = {recipe_path(recipe): [] for recipe in recipes}
    for recipe in results:  # before the first one runs
        check_recipe(recipe, overrides or [])
    console = Console()
    for turn in range(rounds):
        for recipe in results:
            with console.status(f"{recipe.stem}, turn {turn + 1} of {rounds}"):
                words = [sys.executable, __file__, PROBE, str(recipe), str(steps), *(overrides or [])]
                try:
                    results[recipe].append(run_json(words))
                except RuntimeError as error:
                    reason = str(error).splitlines()[-1]
                    raise ValueError(f"{recipe}: {reason.partition('Error: ')[2] or reason}") from None
    table = Table("recipe", "s / step", "ratio", "peak GB", "GB added by training", "s to load a batch, 1 process")
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
    elif sys.argv[1:2] == ["cost"]:
        command.main(sys.argv[2:])
    else:
        typer.run(one_line_errors(main))
