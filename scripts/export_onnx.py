"""A checkpoint as ONNX files: `python scripts/export_onnx.py CHECKPOINT --output FOLDER`. The same as `winwin export`."""

import typer

from winwin_hf.cli.main import export

if __name__ == "__main__":
    typer.run(export)
