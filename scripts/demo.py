"""Run the bundled checkpoints on real frames: `python scripts/demo.py --output demo`. The same as `winwin demo`."""

import typer

from winwin_hf.cli.predict import demo

if __name__ == "__main__":
    typer.run(demo)
