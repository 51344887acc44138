"""Make a bundled checkpoint of a finished training: `python scripts/bundle_checkpoint.py runs/camvid winwin-seg "What to know."`"""

from pathlib import Path

import typer

from winwin_hf.cards import bundle
from winwin_hf.hub import CHECKPOINTS


def main(run: Path, name: str, limits: str) -> None:
    """Half-precision weights and a card of RUN, as checkpoint NAME; LIMITS is a sentence for the card."""
    folder = bundle(run, CHECKPOINTS / name, limits)
    size = sum(path.stat().st_size for path in folder.iterdir())
    typer.echo(f"{folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
