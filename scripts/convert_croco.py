"""Convert a public CroCo checkpoint: `python scripts/convert_croco.py SOURCE.pth OUTPUT_FOLDER`. The same as `winwin convert`."""

import typer

from winwin_hf.cli.models import convert

if __name__ == "__main__":
    typer.run(convert)
