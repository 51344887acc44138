"""Score a checkpoint: `python scripts/evaluate.py CHECKPOINT --recipe RECIPE`. The same as `winwin evaluate`."""

import typer

from winwin_hf.cli.train import evaluate

if __name__ == "__main__":
    typer.run(evaluate)
