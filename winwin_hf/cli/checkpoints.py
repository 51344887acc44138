"""`winwin checkpoints`: the weights that come with the package."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from winwin_hf.cli.arguments import progress
from winwin_hf.cli.errors import misuse, one_line_errors

app = typer.Typer(help="The checkpoints that come with the package.", no_args_is_help=True)


@app.command("install")
@one_line_errors
def checkpoints_install(
    names: Annotated[list[str] | None, typer.Argument(help="Names of checkpoints. Default: all.")] = None,
) -> None:
    """Copy bundled checkpoints into the Hub cache, so that from_pretrained("winwin-flow") works anywhere, offline too."""
    from winwin_hf import bundled

    with misuse():
        bundled.check_names(names or [])
    with progress.status("copying into the Hub cache"):
        installed = bundled.install(names or None)
    for name, folder in installed.items():
        typer.echo(f"{name}  {folder}")
    if not installed:
        typer.echo("winwin: this package came without checkpoints; nothing to install", err=True)


@app.command("list")
@one_line_errors
def checkpoints_list() -> None:
    """List the checkpoints of the package: name, task, parameters, size, licence, and whether the Hub cache has it."""
    from winwin_hf import bundled

    table = Table("name", "task", "parameters", "size", "licence of the weights", "in the Hub cache")
    for item in bundled.checkpoints():
        installed = "yes" if item.installed else "no"
        sizes = f"{item.parameters / 1e6:.1f} M", f"{item.size / 1e6:.1f} MB"
        table.add_row(item.name, item.task, *sizes, item.licence, installed)
    if table.row_count:
        Console(width=max(Console().width, 140), markup=False, emoji=False).print(table)
    else:
        typer.echo("winwin: this package came without checkpoints", err=True)
