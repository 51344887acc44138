"""`winwin convert` and `winwin export`: other people's weights as models of ours, and ours as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from winwin_hf.cli.errors import UsageError, one_line_errors


@one_line_errors
def convert(
    source: Annotated[Path, typer.Argument(help="CroCo v2, CroCo-Flow or CroCo-Stereo (.pth).")],
    output: Annotated[Path, typer.Argument(help="The new folder, for from_pretrained.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model's folder that is there.")] = False,
) -> None:
    """Config, weights, processor and card of a public CroCo checkpoint, as OUTPUT; nothing that SOURCE holds is run."""
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
        list[str] | None, typer.Option(help="Also with smaller weights: fp16, bf16 or int8; repeatable.")
    ] = None,
    opset: Annotated[int, typer.Option(help="Of ONNX.")] = 20,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Compare with PyTorch at other sizes.")] = True,
    attention: Annotated[
        str, typer.Option(help="fused: ONNX Runtime's own operator, without tokens x tokens in memory; or standard.")
    ] = "fused",
) -> None:
    """CHECKPOINT as ONNX, for any height, width and batch; ONNX Runtime and OpenVINO run it."""
    for item in quantise or []:
        if item not in ("fp16", "bf16", "int8"):
            raise UsageError(f"--quantise {item}: expected fp16, bf16 or int8")
    if attention not in ("fused", "standard"):
        raise UsageError(f"--attention {attention}: expected fused or standard")
    from winwin_hf.convert import onnx as exporting

    try:
        done = exporting.export(
            checkpoint,
            output,
            quantise or (),
            opset=opset,
            check=check,
            attention=attention,
        )
    except RuntimeError as error:  # the exported network differs from PyTorch's
        raise ValueError(str(error)) from error
    exporting.show(done)
