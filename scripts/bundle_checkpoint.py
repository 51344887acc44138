"""Make a bundled checkpoint of a finished training: `python scripts/bundle_checkpoint.py runs/camvid winwin-seg "What to know." ...`"""

from pathlib import Path
from typing import Annotated

import typer

from winwin_hf.bundled import CHECKPOINTS
from winwin_hf.hub.cards import bundle


def main(
    run: Annotated[Path, typer.Argument(help="The training's output folder.")],
    name: Annotated[str, typer.Argument(help="The checkpoint's name.")],
    limits: Annotated[str, typer.Argument(help="What somebody who uses it should know.")],
    photographs: Annotated[
        str | None, typer.Option(help="Textures of synthetic scenes: whose, and their terms.")
    ] = None,
    results: Annotated[list[str] | None, typer.Option(help="results.json of `winwin evaluate --output`.")] = None,
    machine: Annotated[str | None, typer.Option(help="What it was trained on.")] = None,
    worst: Annotated[list[Path] | None, typer.Option(help="A picture of a worst case; repeatable.")] = None,
    worst_text: Annotated[str, typer.Option(help="What these pictures show.")] = "",
    init_licence: Annotated[str | None, typer.Option(help="Of the weights that the training started from.")] = None,
    publishable: Annotated[bool, typer.Option(help="Frames and truth of the worst cases may be shown.")] = False,
) -> None:
    """Half-precision weights, a card and its pictures."""
    shown = (worst_text, worst) if worst else None
    folder = bundle(run, CHECKPOINTS / name, limits, photographs, results, machine, shown, publishable, init_licence)
    size = sum(path.stat().st_size for path in folder.iterdir())
    typer.echo(f"{folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
