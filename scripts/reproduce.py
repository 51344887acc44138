"""The paper's figures and tables, measured: `python scripts/reproduce.py list`, `python scripts/reproduce.py NAME... --data camvid=FOLDER`.

Results go to docs/results/ (NAME.json, NAME.md, NAME.png), trainings to runs/reproduce/. An interrupted command goes on from where it
stopped when it is started again. `python scripts/reproduce.py pages` makes the .md files anew from the .json files.
"""

import difflib
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from research.experiments.catalog import EXPERIMENTS
from research.experiments.context import Context
from research.experiments.results import redraw, write_page
from research.options import refuse_unused
from rich.console import Console
from rich.table import Column, Table

from winwin_hf.cli.arguments import check_output_folder
from winwin_hf.cli.errors import UsageError, one_line_errors


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


def choose(names: list[str]) -> list[str]:
    """The experiments of these names, each once; "all" stands for all of them."""
    if "all" in names:
        return list(EXPERIMENTS)
    for name in names:
        if name not in EXPERIMENTS:
            near = difflib.get_close_matches(name, EXPERIMENTS, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`list` shows the names"
            raise UsageError(f"no experiment {name!r}: {hint}")
    return list(dict.fromkeys(names))


def show_list() -> None:
    table = Table(Column("name", no_wrap=True), "what", "--data", "hours, two cores")
    for name, experiment in EXPERIMENTS.items():
        table.add_row(name, experiment.title, ", ".join(experiment.needs), f"{experiment.hours:g}")
    Console().print(table)


@one_line_errors
def main(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Experiments. `list` shows them, `all` means all, `pages` writes all pages from their JSON."
        ),
    ],
    data: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="A data set on disk; repeatable.")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of the trainings. Default: runs/reproduce.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the results. Default: docs/results.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Trainings of each kind. Default: 3.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Trainings at a time. Default: 1.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each training. Default: 1.")] = None,
    draw_only: Annotated[
        bool, typer.Option("--draw-only", help="Train and score nothing; write results from what there is.")
    ] = False,
) -> None:
    """Train and score what NAMES need and is not done yet, and write their results."""
    of_trainings = {"--data": data, "--work": work, "--seeds": seeds, "--jobs": jobs, "--threads": threads}
    of_trainings |= {"--draw-only": draw_only}
    if names == ["list"]:
        refuse_unused({"--output": output, **of_trainings}, "`list` shows the names and takes no options")
        show_list()
        return
    if names == ["pages"]:
        refuse_unused(of_trainings, "`pages` trains nothing and takes --output alone")
    work, output = work or Path("runs/reproduce"), output or Path("docs/results")
    check_output_folder("--work", work)
    check_output_folder("--output", output)
    if names == ["pages"]:
        found = [path for name in EXPERIMENTS if (path := output / f"{name}.json").is_file()]
        if not found:
            raise UsageError(
                f"--output {output}: expected a folder with results, such as {next(iter(EXPERIMENTS))}.json"
            )
        for path in found:
            write_page(path)
        return
    chosen = choose(names)
    folders = parse_data(data or [])
    for name in chosen:
        missing = [need for need in EXPERIMENTS[name].needs if need not in folders]
        if missing and not draw_only:
            raise UsageError(f"{name} needs {' and '.join(f'--data {need}=FOLDER' for need in missing)}")
    console = Console(stderr=True)
    # The command on the page names the data sets, also with --draw-only and no --data.
    folders = {need: "FOLDER" for name in chosen for need in EXPERIMENTS[name].needs} | folders
    context = Context(work, output, folders, seeds or 3, jobs or 1, threads or 1, draw_only, console)
    failed = []
    for number, name in enumerate(chosen, 1):
        console.rule(f"{name} ({number} of {len(chosen)})")
        start = time.monotonic()
        try:
            function = EXPERIMENTS[name].function
            if draw_only:
                redraw(function, context)
            else:
                function(context)
        except (RuntimeError, ValueError, OSError) as error:  # the other experiments go on
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
