"""`winwin recipes`: the recipes that come with the package."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from winwin_hf.cli.arguments import complete_recipe
from winwin_hf.cli.errors import UsageError, one_line_errors
from winwin_hf.recipes import list_recipes, recipe_names, recipe_path, recipe_text

app = typer.Typer(help="The recipes that come with the package.", no_args_is_help=True)


@app.command("list")
@one_line_errors
def recipes_list() -> None:
    """Name, task and purpose of each recipe."""
    table = Table("name", "task", "what it trains")
    for recipe in list_recipes():
        table.add_row(recipe.name, recipe.task, recipe.summary)
    Console(width=max(Console().width, 160), markup=False, emoji=False).print(table)


@app.command("show")
@one_line_errors
def recipes_show(
    name: Annotated[str, typer.Argument(help="A name of `winwin recipes list`.", autocompletion=complete_recipe)],
) -> None:
    """Print a recipe, to start your own from: `winwin recipes show camvid > mine.yaml`."""
    if name not in recipe_names():
        path = recipe_path(name)  # raises, with the nearest names, unless it is a file
        raise UsageError(f"{path}: a file; expected a name of `winwin recipes list`")
    typer.echo(recipe_text(name), nl=False)
