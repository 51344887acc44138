"""`winwin convert`: other people's weights as models of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from winwin_hf.cli_errors import one_line_errors


@one_line_errors
def convert(
    source: Annotated[Path, typer.Argument(help="CroCo v2, CroCo-Flow or CroCo-Stereo (.pth).")],
    output: Annotated[Path, typer.Argument(help="The new folder, for from_pretrained.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model's folder that is there.")] = False,
) -> None:
    """Config, weights, processor and card of a public CroCo checkpoint, as OUTPUT; nothing that SOURCE holds is run."""
    from winwin_hf.convert import convert_croco

    done = convert_croco(source, output, overwrite=overwrite)
    typer.echo(
        f"{done.folder}  {done.architecture}, {done.parameters / 1e6:.1f} M parameters; {done.used} tensors used, "
        f"{len(done.dropped)} dropped (README.md says which and why)"
    )
