"""Train by a recipe: `accelerate launch scripts/train.py flow-synthetic`. The same as `winwin train`."""

import typer

from winwin_hf.cli.train import train

if __name__ == "__main__":
    typer.run(train)
