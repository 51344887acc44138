"""The paper's figures and tables, measured: `python scripts/reproduce.py list`, `python scripts/reproduce.py NAME... --data camvid=FOLDER`.

Results go to docs/results/ (NAME.json, NAME.md, NAME.png), trainings to runs/reproduce/. Everything goes on where it stopped: start
the same command again. Recipes are in scripts/research/recipes/, those of the paper's scale end in -base.
"""

import difflib
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from research.experiments.runs import Context, Experiment
from rich.console import Console
from rich.table import Column, Table

from winwin_hf.cli.errors import UsageError, one_line_errors

MODULES = ("segmentation", "segmentation_logits", "flow", "flow_tables", "flow_logits", "figure4", "tilings")


def known() -> dict[str, Experiment]:
    """All experiments by name."""
    found: dict[str, Experiment] = {}
    for module in MODULES:
        found.update(import_module(f"research.experiments.{module}").EXPERIMENTS)
    return found


def parse_data(items: list[str]) -> dict[str, str]:
    """["camvid=FOLDER"] -> {"camvid": "FOLDER"}."""
    data = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise UsageError(f"--data {item}: expected NAME=FOLDER, such as camvid=/data/CamVid")
        if not Path(path).is_dir():
            raise UsageError(f"--data {item}: {path} is no folder")
        data[name] = path
    return data


def choose(names: list[str], experiments: dict[str, Experiment]) -> list[str]:
    """The experiments asked for, "all" being all of them, each once."""
    if "all" in names:
        return list(experiments)
    for name in names:
        if name not in experiments:
            near = difflib.get_close_matches(name, experiments, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`list` shows what there is"
            raise UsageError(f"no experiment {name!r}: {hint}")
    return list(dict.fromkeys(names))


def show(experiments: dict[str, Experiment]) -> None:
    table = Table(Column("name", no_wrap=True), "what", "--data", "hours, two cores")
    for name, experiment in experiments.items():
        table.add_row(name, experiment.title, ", ".join(experiment.needs), f"{experiment.hours:g}")
    Console().print(table)


@one_line_errors
def main(
    names: Annotated[list[str], typer.Argument(help="Experiments; `list` shows them, `all` means all.")],
    data: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="A data set on disk; repeatable.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder of the trainings.")] = Path("runs/reproduce"),
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("docs/results"),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each kind.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a training.")] = 1,
    draw_only: Annotated[
        bool, typer.Option("--draw-only", help="Train and score nothing: results of what there is.")
    ] = False,
) -> None:
    """Make the results of NAMES: train what isn't trained, score what isn't scored, write what came out."""
    experiments = known()
    if names == ["list"]:
        show(experiments)
        return
    chosen = choose(names, experiments)
    folders = parse_data(data or [])
    for name in chosen:
        missing = [need for need in experiments[name].needs if need not in folders]
        if missing and not draw_only:
            raise UsageError(f"{name} needs {' and '.join(f'--data {need}=FOLDER' for need in missing)}")
    console = Console(stderr=True)
    # the results' command names all data sets, also where nothing is read
    folders = {need: "FOLDER" for name in chosen for need in experiments[name].needs} | folders
    context = Context(work, output, folders, seeds, jobs, threads, draw_only, console)
    failed = []
    for number, name in enumerate(chosen, 1):
        console.rule(f"{name} ({number} of {len(chosen)})")
        start = time.monotonic()
        try:
            experiments[name].function(context)
        except (RuntimeError, ValueError, OSError) as error:  # the others may still come out
            if len(chosen) == 1:
                raise
            failed.append(name)
            console.print(f"{name} failed: {error}", markup=False)
        console.print(f"{name}: {(time.monotonic() - start) / 60:.1f} min")
    if failed:
        console.print(f"failed: {', '.join(failed)}")
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
