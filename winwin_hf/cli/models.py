"""`winwin convert`: public CroCo weights to our format. `winwin export`: our checkpoints to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from winwin_hf.cli.errors import UsageError, one_line_errors


@one_line_errors
def convert(
    source: Annotated[Path, typer.Argument(help="CroCo v2, CroCo-Flow or CroCo-Stereo (.pth).")],
    output: Annotated[Path, typer.Argument(help="The new folder, for from_pretrained.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model folder.")] = False,
) -> None:
    """Convert a public CroCo checkpoint to a folder with config, weights, processor and card. No code in SOURCE is run."""
    from winwin_hf.convert.croco import convert_croco

    done = convert_croco(source, output, overwrite=overwrite)
    typer.echo(
        f"{done.folder}  {done.architecture}, {done.parameters / 1e6:.1f} M parameters; {done.used} tensors used, "
        f"{len(done.dropped)} dropped (README.md says which and why)"
    )


@one_line_errors
def export(
    checkpoint: Annotated[str, typer.Argument(help="A bundled name, a folder or a Hub repository.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for onnx/, config and processor.")],
    quantise: Annotated[
        list[str] | None, typer.Option(help="Also write a file with smaller weights: fp16, bf16 or int8. Repeatable.")
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX opset.")] = 20,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Compare with PyTorch at several sizes.")] = True,
    attention: Annotated[
        str, typer.Option(help="fused: ONNX Runtime's own operator, which saves memory; standard: ONNX's operators.")
    ] = "fused",
) -> None:
    """Export CHECKPOINT to ONNX for any height, width and batch. ONNX Runtime and OpenVINO run it."""
    for item in quantise or []:
        if item not in ("fp16", "bf16", "int8"):
            raise UsageError(f"--quantise {item}: expected fp16, bf16 or int8")
    if attention not in ("fused", "standard"):
        raise UsageError(f"--attention {attention}: expected fused or standard")
    from winwin_hf.convert import onnx as exporting

    try:
        done = exporting.export(checkpoint, output, quantise or (), opset=opset, check=check, attention=attention)
    except RuntimeError as error:  # the exported network differs from PyTorch's
        raise ValueError(str(error)) from error
    exporting.show(done)
