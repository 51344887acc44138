"""`winwin`: the package on the command line.

Notable:
- what only one command needs is imported inside it, so that the command line starts quickly.
- a mistake of the caller's (a missing file, frames of different size, an unknown model) is one line on standard error: exit code
  2 where the arguments are wrong, 1 where the work failed. `winwin --traceback COMMAND` shows the traceback.
- results go to standard output, progress to standard error.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from winwin_hf import __version__
from winwin_hf.cli.bulk import predict
from winwin_hf.cli.checkpoints import app as checkpoints_app
from winwin_hf.cli.data import app as data_app
from winwin_hf.cli.errors import Commands
from winwin_hf.cli.models import convert, export
from winwin_hf.cli.predict import demo, depth, flow, segment
from winwin_hf.cli.push import push
from winwin_hf.cli.recipes import app as recipes_app
from winwin_hf.cli.train import evaluate, train
from winwin_hf.cli.video import video

app = typer.Typer(
    cls=Commands,
    help="Win-Win: optical flow, segmentation and depth at full resolution.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(checkpoints_app, name="checkpoints")
app.add_typer(data_app, name="data")
app.add_typer(recipes_app, name="recipes")


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"winwin {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=show_version, is_eager=True)
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None:
    if traceback:
        os.environ["WINWIN_TRACEBACK"] = "1"


for command in (flow, depth, segment, video, predict, train, evaluate, convert, export, push, demo):
    app.command()(command)
