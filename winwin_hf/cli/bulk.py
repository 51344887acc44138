"""`winwin predict`: a network over many images, on one machine or on many."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from winwin_hf.cli.arguments import Device, check_choice, check_device, check_file, check_output_folder, check_quality
from winwin_hf.cli.errors import UsageError, one_line_errors
from winwin_hf.inference.bulk.early import import_early


@one_line_errors
def predict(
    given: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A folder, a pattern such as 'frames/*.png', a list (.txt, an image a line, two for flow), a video, Parquet or "
            "WebDataset shards; on disk or behind an address that fsspec knows: s3://, gs://, hf://datasets/USER/NAME.",
        ),
    ],
    output: Annotated[str, typer.Argument(help="Folder of results and their manifest, or such an address.")],
    model: Annotated[str, typer.Option(help="A bundled name, a folder or a Hub repository.")] = "winwin-depth",
    engine: Annotated[
        str, typer.Option(help="local: processes of this machine. ray: actors of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str, typer.Option(help="Of the Ray cluster. auto: the one on this machine, else one of this machine alone.")
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=10**9, help="Networks at once. Default: one a GPU, or one for each 4 cores and 4 GB."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**9, help="Of a worker on a CPU. Default: the cores shared among them; 4 on a Ray cluster."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="Images of one size at once. Default: 8 on a GPU, 1 on a CPU.")
    ] = None,
    suffix: Annotated[
        str | None,
        typer.Option(
            "--format", help="Of results: .flo or .npy; depth .npy (metres) or .png (millimetres); labels .png."
        ),
    ] = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Results as rows of Parquet shards, for `datasets`.")
    ] = False,
    quality: Annotated[str | None, typer.Option(help="Flow: fast or best, as of `winwin flow`. Default: fast.")] = None,
    device: Device = "auto",
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Record what can't be read, and go on; else it ends the run.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Predict nothing: check that every input has its result, unchanged.")
    ] = False,
) -> None:
    """Predict for everything in INPUT. If it is interrupted, run the same command to continue."""
    check_choice("--engine", engine, ("local", "ray"))
    check_quality(quality)
    if output.startswith("memory://"):
        raise UsageError(
            f"OUTPUT {output}: it would end with this command; expected a folder, or an address that stays"
        )
    if not given.strip():
        raise UsageError("INPUT is empty; expected a folder, a pattern, a list or a file")
    several = workers > 1 if workers else (os.cpu_count() or 1) > 4  # as `run.predict` decides without a GPU
    if engine == "local" and not verify and several:
        import_early()
    from winwin_hf.data.formats import MOST_METRES
    from winwin_hf.data.places import is_remote, plain
    from winwin_hf.inference.bulk import run

    if not is_remote(given) and os.path.lexists(given) and not Path(given).is_dir():
        check_file(Path(given))
    if not verify and not is_remote(plain(output)):
        check_output_folder("OUTPUT", Path(plain(output)))
    if verify:
        count, wrong = run.verify(given, output, model)
        for line in wrong[:20]:
            typer.echo(line, err=True)
        if wrong:
            raise ValueError(f"{output}: {len(wrong)} of the results are missing or wrong; expected none")
        typer.echo(f"{output}  {count} results, all as they were written")
        return
    if engine == "local":
        check_device(device)
    done = run.predict(
        given,
        output,
        model,
        engine=engine,  # type: ignore[arg-type]
        address=address,
        workers=workers,
        threads=threads,
        batch=batch_size,
        suffix=suffix if suffix is None or suffix.startswith(".") else f".{suffix}",
        parquet=parquet,
        quality=quality,
        device=device,
        skip_broken=skip_broken,
        say=lambda text: typer.echo(text, err=True),
    )
    for line in done.broken[:20]:
        typer.echo(f"skipped: {line}", err=True)
    if done.beyond:
        typer.echo(
            f"warning: pixels of {done.beyond} results lie beyond the {MOST_METRES} m that a .png holds, and --format npy would keep "
            "them (manifest.jsonl says the share)",
            err=True,
        )
    more = f", {done.reused} by earlier runs" if done.reused else ""
    broken = f", {len(done.broken)} inputs skipped (manifest.jsonl says why)" if done.broken else ""
    typer.echo(
        f"{output}  {done.predicted} result{'' if done.predicted == 1 else 's'}{more}{broken}, {done.seconds:.1f} s of networks"
    )
