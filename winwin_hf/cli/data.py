"""`winwin data`: what sets are known, whether a folder is complete and readable, and shards that a cluster can stream."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from winwin_hf.cli.arguments import check_output, check_output_folder
from winwin_hf.cli.errors import UsageError, misuse, one_line_errors, unbroken
from winwin_hf.task import DENSE

app = typer.Typer(help="Data sets: which are known, is a folder complete, shards to stream.", no_args_is_help=True)

SIZES = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@app.command("list")
@one_line_errors
def data_list(
    task: Annotated[str | None, typer.Option(help=f"Only {', '.join(DENSE)}.")] = None,
    layout: Annotated[
        bool, typer.Option("--layout", help="Also the folders that each expects, and its terms.")
    ] = False,
) -> None:
    """The data sets that the package reads, with their splits and where they come from."""
    from winwin_hf.data.benchmarks.catalog import SETS

    chosen = [entry for entry in SETS.values() if task in (None, entry.task)]
    if not chosen:
        raise UsageError(f"--task {task}: expected one of {', '.join(DENSE)}")
    if layout:
        for entry in chosen:
            typer.echo(f"{entry.name}\n  {entry.layout}\n  from {entry.source}\n  terms: {entry.terms}")
        return
    table = Table("name", "task", "splits (scored)", "source")
    for entry in chosen:
        splits = ", ".join(f"({split})" if split == entry.scored else split for split in entry.splits)
        table.add_row(entry.name, entry.task, splits, entry.source)
    Console(width=max(Console().width, 140), markup=False, emoji=False).print(table)


@app.command("check")
@one_line_errors
def data_check(
    folder: Annotated[Path, typer.Argument(help="Where the data set was unpacked.")],
    name: Annotated[str | None, typer.Option(help="Which set it is. Default: look what the folder holds.")] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split, or a slice such as 'train[:80%]'; repeatable.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=10**9, help="Processes that decode; 0: this one.")] = 2,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of the set that --name names, such as a scale; repeatable."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="List files only, decode none.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report as JSON.")] = None,
) -> None:
    """
    What FOLDER holds, what is missing and what is broken, before a training is started. Exit code 1 if anything is.

    A folder of meshes is checked with --name synthetic-worlds.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: {'a file; expected a folder' if folder.exists() else 'no such folder'}")
    if output is not None:
        check_output("--output", output, (".json",))
    if name == "synthetic-worlds":
        if option or split:
            raise UsageError(f"--{'option' if option else 'split'}: a folder of meshes has none")
        _check_meshes(folder, quick, output)
        return
    if option and not name:
        raise UsageError(f"--option {option[0]}: expected KEY=VALUE, and --name with it")
    options = _settings(option)
    from winwin_hf.data.benchmarks.catalog import entry_of
    from winwin_hf.data.benchmarks.check import check
    from winwin_hf.data.formats import write_atomic
    from winwin_hf.data.sources import check_set

    if name is not None:
        with misuse():
            entry_of(name)
            check_set(name, options=options)
            for one in split or []:
                check_set(name, one)

    report = check(folder, name, split, workers=workers, decode=not quick, progress=True, **options)
    Console(width=max(Console().width, 120), markup=False, emoji=False).print(report)
    if output is not None:
        with write_atomic(output) as temporary:
            temporary.write_text(report.json() + "\n")
    if not report.ok:
        raise typer.Exit(1)


def _check_meshes(folder: Path, quick: bool, output: Path | None) -> None:
    """Reads every mesh of a folder, and tells the kinds that there are. Exit code 1 if one, or what it names, can't be read."""
    from rich.progress import track

    from winwin_hf.data.formats import write_atomic
    from winwin_hf.data.worlds.kinds import KINDS
    from winwin_hf.data.worlds.mesh_files import find_meshes, read_mesh

    found, broken, left_out = find_meshes(folder, unusable=True), [], []
    report = {}
    table = Table("kind", "where", "files", "triangles", "with textures", "size, m")
    console = Console(width=max(Console().width, 120), markup=False, emoji=False)
    for kind, paths in sorted(found.items()):
        meshes = []
        for path in track(paths, f"read {kind}", console=Console(stderr=True), transient=True) if not quick else ():
            try:
                left: list[str] = []
                meshes.append(read_mesh(path, kind, left))
                left_out += left
            except (ValueError, OSError) as error:
                broken.append(str(error))
        textured = sum(any(m.texture.shape[0] > 1 for m in mesh.materials) for mesh in meshes)  # type: ignore[union-attr]
        sizes = sorted(float((mesh.bounds[1] - mesh.bounds[0]).max()) for mesh in meshes)
        triangles = sum(len(mesh.faces) for mesh in meshes)
        report[kind] = {"files": len(paths), "triangles": triangles, "textured": textured, "sizes": sizes}
        span = f"{sizes[0]:.2g} to {sizes[-1]:.2g}" if sizes else "-"
        where = ", ".join(KINDS[kind].places) or "nowhere"
        table.add_row(kind, where, str(len(paths)), f"{triangles:,}" if meshes else "-", str(textured), span)
    console.print(table)
    for reason in broken:
        typer.echo(f"can't be read: {unbroken(reason)}")
    for reason in left_out:
        typer.echo(f"left out: {unbroken(reason)}")
    if output is not None:
        with write_atomic(output) as temporary:
            told = {"root": str(folder), "kinds": report, "broken": broken, "left_out": left_out}
            temporary.write_text(json.dumps(told, indent=1) + "\n")
    if broken or left_out:
        raise typer.Exit(1)


@app.command("shards")
@one_line_errors
def data_shards(
    data: Annotated[
        str, typer.Argument(metavar="NAME[:SPLIT]=PATH", help="A data set on disk, see `winwin data list`.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the shards.")],
    format: Annotated[str, typer.Option(help="parquet or webdataset.")] = "parquet",
    shard_size: Annotated[str, typer.Option(help="About so large, as 500MB.")] = "500MB",
    multiple_of: Annotated[
        int,
        typer.Option(min=1, max=10**9, help="Make the number of shards a multiple of this: of the training processes."),
    ] = 1,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out what can't be read, and count it.")
    ] = False,
    length: Annotated[
        int | None,
        typer.Option(min=1, max=10**7, help="Number of scenes of a synthetic set, which are rendered first."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="A setting of a synthetic set, such as task=depth-estimation; repeatable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of a synthetic set.")] = 0,
    workers: Annotated[int, typer.Option(min=0, max=10**9, help="Processes that render; 0: this one.")] = 0,
) -> None:
    """
    Turn a data set into shards that `datasets` streams, files embedded as they are.

    A synthetic set is rendered first: whole frames, --length of them. Started again, it goes on where it stopped.
    """
    match = re.fullmatch(r"([1-9]\d*)\s*(kb|mb|gb|)", shard_size.strip().lower())
    if match is None:
        raise UsageError(f"--shard-size {shard_size}: expected a size such as 500MB")
    if format not in ("parquet", "webdataset"):
        raise UsageError(f"--format {format}: expected parquet or webdataset")
    check_output_folder("--output", output)
    from winwin_hf.data.benchmarks import catalog
    from winwin_hf.data.shards import write_shards
    from winwin_hf.data.sources import SYNTHETIC, check_set
    from winwin_hf.evaluation.run import parse_data

    shard_bytes = int(match[1]) * SIZES[match[2]]
    with misuse():
        name, split, path = parse_data(data, "")
        check_set(name, split)
    if name in SYNTHETIC:
        if length is None:
            raise UsageError(f"{name}: its scenes have no end; expected --length")
        chosen = _settings(option)
        _render_shards(
            name, split or "train", path, chosen, length, seed, workers, output, format, shard_bytes, multiple_of
        )
        return
    if length is not None or option or seed or workers:
        raise UsageError(f"--length, --option, --seed and --workers are for synthetic sets; {name} has files")
    with misuse():
        entry = catalog.entry_of(name)
    split = split or entry.splits[0]
    written = write_shards(
        catalog.load(name, path, split, skip_missing=skip_broken),
        output,
        task=entry.task,
        format=format,  # type: ignore[arg-type]  # checked above
        shard_size=shard_bytes,
        name=name,
        split=split,
        labels=catalog.labels_of(name, path),
        source=entry.source,
        terms=entry.terms,
        multiple_of=multiple_of,
        progress=True,
        skip_broken=skip_broken,
    )
    _tell(written, multiple_of)


def _settings(option: list[str] | None) -> dict[str, object]:
    """--option KEY=VALUE, as a mapping."""
    from winwin_hf.checked import plain_yaml

    options = {}
    for item in option or []:
        key, equals, text = item.partition("=")
        if not (key and equals):
            raise UsageError(f"--option {item}: expected KEY=VALUE")
        with misuse():
            options[key] = plain_yaml(text, f"--option {item}")
    return options


def _render_shards(
    name: str,
    split: str,
    path: str,
    settings: dict[str, object],
    length: int,
    seed: int,
    workers: int,
    output: Path,
    format: str,
    shard_size: int,
    multiple_of: int,
) -> None:
    """Renders scenes into a folder beside the output, makes shards of them, and removes it."""
    from winwin_hf.data.contents import contents_of
    from winwin_hf.data.frames import remove_frames, render_frames
    from winwin_hf.data.licences import notes_of_set, terms_of_set
    from winwin_hf.data.shards import SIDECAR, check_shards_folder, write_shards
    from winwin_hf.data.sources import open_source
    from winwin_hf.own_files import made_folder, undisturbed
    from winwin_hf.processes import locked

    with misuse():
        source = open_source(name, path, split, settings, seed=seed, length=length)
    # other meshes or photographs are other scenes
    described = json.dumps([name, split, path, settings, seed, contents_of(source)], sort_keys=True, default=str)
    frames = output.absolute().parent / f".{output.name}-{hashlib.sha256(described.encode()).hexdigest()[:12]}.frames"
    if frames.is_symlink():
        raise OSError(f"{frames}: a link; expected none, or the folder of an interrupted run")
    try:
        check_shards_folder(output, name, split)
    except FileExistsError:
        if frames.is_dir() and (output / SIDECAR).is_file():  # of a run that was killed after it had written the shards
            with locked(frames, "rendering for these shards", stays=False):
                remove_frames(frames, length)
        raise
    with made_folder(frames), locked(frames, "rendering for these shards", stays=False):
        rows = render_frames(source, frames, length, workers, progress=True)
        written = write_shards(
            rows,
            output,
            task=source.task,
            format=format,  # type: ignore[arg-type]  # checked above
            shard_size=shard_size,
            name=name,
            split=split,
            labels=source.labels,
            source="rendered by winwin data shards",
            terms=terms_of_set(name, path, *notes_of_set(name, path, settings)).text,
            multiple_of=multiple_of,
            progress=True,
        )
        with undisturbed():
            remove_frames(frames, length)
    _tell(written, multiple_of)


def _tell(written: list[Path], multiple_of: int) -> None:
    if len(written) % multiple_of:
        typer.echo(
            f"warning: {len(written)} shards, no multiple of {multiple_of}: there are too few examples", err=True
        )
    for path_written in written:
        typer.echo(str(path_written))
