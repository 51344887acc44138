"""Train by a recipe: `accelerate launch scripts/train.py flow-synthetic`. The same as `winwin train`."""

import sys

from winwin_hf.cli.main import app

if __name__ == "__main__":
    app(["train", *sys.argv[1:]], prog_name="winwin")
