"""`winwin convert`: weights of others to our format. `winwin export`: our checkpoints to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from winwin_hf.cli.arguments import check_output_folder
from winwin_hf.cli.errors import UsageError, misuse, one_line_errors
from winwin_hf.task import TASKS


@one_line_errors
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A file of CroCo v2, CroCo-Flow, CroCo-Stereo, DUSt3R or MASt3R (.pth); a Hub repository or folder of a DINOv3, DINOv2, "
            "ViT, MAE, SigLIP, DUSt3R or MASt3R; or a name of timm's EVA-02, Perception Encoder, RoPE ViT or DINOv3."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="The new folder, for from_pretrained.")],
    task: Annotated[
        str | None,
        typer.Option(
            help=f"Take the encoder (and decoder) alone, and put a new head for this task on it ({', '.join(TASKS)})."
        ),
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            help="transformers: the other way, the encoder of our checkpoint as a DINOv3, DINOv2, ViT or SigLIP."
        ),
    ] = "winwin",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model folder.")] = False,
) -> None:
    """Convert weights of others to a folder with config, weights, processor and card. No code in SOURCE is run."""
    if task is not None and task not in TASKS:
        raise UsageError(f"--task {task}: expected {', '.join(TASKS)}")
    if to not in ("winwin", "transformers") or (to == "transformers" and task is not None):
        raise UsageError(f"--to {to}: expected winwin, or transformers without --task")
    check_output_folder("OUTPUT", output)
    if to == "transformers":
        from winwin_hf.convert.encoder import encoder_to_transformers

        typer.echo(f"{output}  {encoder_to_transformers(source, output, overwrite=overwrite)}, for transformers")
        return
    from winwin_hf.model.croco_files_winwin import PAIRS, read_croco

    if task is None and source.endswith((".pth", ".pt")) and read_croco(source).kind not in PAIRS:
        from winwin_hf.convert.croco import convert_croco

        done = convert_croco(source, output, overwrite=overwrite)
        typer.echo(
            f"{done.folder}  {done.architecture}, {done.parameters / 1e6:.1f} M parameters; {done.used} tensors used, "
            f"{len(done.dropped)} dropped (README.md says which and why)"
        )
        return
    from winwin_hf.convert.encoder import convert_encoder
    from winwin_hf.model import modeling_winwin as models

    model_class = models.WinWinModel if task is None else getattr(models, TASKS[task].architecture)
    made = convert_encoder(source, output, model_class, overwrite=overwrite)
    typer.echo(
        f"{made.folder}  {made.architecture}, {made.parameters / 1e6:.1f} M parameters; {made.used} tensors used, {made.left_out} "
        f"left out (README.md says which and why); licence of the source: {made.licence}"
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Export CHECKPOINT to ONNX for any height, width and batch. ONNX Runtime and OpenVINO run it."""
    from winwin_hf.convert import onnx as exporting

    check_output_folder("--output", output)
    exporting.need("onnx")
    with misuse():
        exporting.check_options(quantise or (), opset, attention)
    try:
        done = exporting.export(
            checkpoint, output, quantise or (), opset=opset, check=check, attention=attention, overwrite=overwrite
        )
    except RuntimeError as error:  # the exported network differs from PyTorch's
        raise ValueError(str(error)) from error
    exporting.show(done)
