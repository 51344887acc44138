"""Train by a recipe: `accelerate launch scripts/train.py flow-synthetic`. The same as `winwin train`."""

import sys

from winwin_command import app

if __name__ == "__main__":
    app(["train", *sys.argv[1:]])
