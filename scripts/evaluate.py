"""Score a checkpoint: `python scripts/evaluate.py CHECKPOINT --recipe RECIPE`. The same as `winwin evaluate`."""

import sys

from winwin_command import app

if __name__ == "__main__":
    app(["evaluate", *sys.argv[1:]])
