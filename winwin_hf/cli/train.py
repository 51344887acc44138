"""`winwin train` and `winwin evaluate`."""

from __future__ import annotations

import itertools
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from winwin_hf.cli.arguments import (
    MinPixels,
    check_choice,
    check_output_folder,
    check_overrides,
    check_quality,
    check_tile,
    complete_checkpoint,
    complete_recipe,
    parse_options,
)
from winwin_hf.cli.errors import UsageError, line_of, misuse, one_line_errors, parse_size
from winwin_hf.cli.hub import of_hub
from winwin_hf.recipes import recipe_path

RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: try again later


@one_line_errors
def train(
    recipe: Annotated[
        str, typer.Argument(help="A name of `winwin recipes list`, or a YAML file.", autocompletion=complete_recipe)
    ],
    output: Annotated[Path | None, typer.Option(help="Folder for checkpoints and logs. Default: the recipe's.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last state in the output folder.")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out and count examples with missing or unreadable files.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the recipe; repeatable."),
    ] = None,
) -> None:
    """
    Train by a recipe. For more than one process: `accelerate launch scripts/train.py RECIPE`. Exit code 75: SIGTERM, Ctrl-C or a
    scheduler's warning (SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU) stopped it after a state was saved; continue with --resume.
    """
    path = recipe_path(recipe)
    check_overrides(overrides)
    check_output_folder("--output", output)
    from winwin_hf.data.rows import BrokenExample
    from winwin_hf.processes import check_launch
    from winwin_hf.training.loop import TrainingStopped
    from winwin_hf.training.loop import train as run

    with misuse():
        check_launch()
    changes = [*(overrides or []), *(["data.skip_broken=true"] if skip_broken else [])]
    check_recipe(path, changes)
    try:
        run(path, output=output, resume=resume, overrides=changes)
    except TrainingStopped as stopped:
        typer.echo(f"winwin: {stopped}", err=True)
        raise typer.Exit(RESUMABLE) from None
    except ValueError as error:
        if not isinstance(error, BrokenExample) and not of_hub(error) and names_override(error, changes):
            raise UsageError(line_of(error)) from error
        raise


def names_override(error: ValueError, overrides: list[str]) -> bool:
    """
    Whether an error is of a setting by --set that only the network or the data show to be wrong: its line begins with the field, or one
    of the same section.
    """
    fields = re.findall(r"[\w.]+(?=[: =])", str(error))[:2]  # "data: windows.size: ..."
    keys = [item.partition("=")[0] for item in overrides]
    return any(
        f"{field}.".startswith(f"{key}.")
        or f"{key}.".startswith(f"{field}.")
        or (key == "model.init" and field.startswith("model.config."))  # which the weights decide
        or ("." in field and field.rpartition(".")[0] == key.rpartition(".")[0])
        or ("_" in field and key.endswith(f".{field}"))  # the network doesn't know the section
        for field, key in itertools.product(fields, keys)
    )


def check_recipe(path: Path, overrides: list[str]) -> None:
    """Raises UsageError where settings by --set spoil a recipe that is right without them; ValueError where the file is wrong."""
    from winwin_hf.data.sources import check_set
    from winwin_hf.training.recipe import in_field, load_recipe

    try:
        recipe = load_recipe(path, overrides)
        if recipe.model.init is None:  # else the weights decide, too
            recipe.config()
        for i, chosen in enumerate(recipe.data.parts()):
            with in_field(f"data.sets.{i}" if recipe.data.sets else "data"):
                check_set(chosen.name, chosen.split, chosen.settings, chosen.options)
    except ValueError as error:
        if not overrides:
            raise
        with suppress(ValueError):
            load_recipe(path)
            raise UsageError(str(error)) from None
        raise


@one_line_errors
def evaluate(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A bundled name, a folder, a Hub repository; or opencv-dis, opencv-farneback, zero; NAME+variational refines a flow, "
            "NAME+coarse looks at smaller sizes first.",
            autocompletion=complete_checkpoint,
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:SPLIT]=PATH", help="A data set on disk, see `winwin data list`; repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for results.json, a CSV of each image, pictures of the worst."),
    ] = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="Another checkpoint or method to score on the same frames; repeatable.")
    ] = None,
    tile: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH: predict in tiles. Default: whole frames.")] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of a tile that its neighbour repeats. Default: 0.5.")
    ] = None,
    length: Annotated[int | None, typer.Option(min=1, max=10**9, help="Use the first N examples of each set.")] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out, count and name examples with missing or unreadable files.")
    ] = False,
    submission: Annotated[
        bool, typer.Option("--submission", help="Also write each prediction in its benchmark's format.")
    ] = False,
    worst: Annotated[
        int | None,
        typer.Option(min=0, max=10**9, help="Number of pictures of the worst images of each set. Default: 5."),
    ] = None,
    double: Annotated[
        str | None,
        typer.Option(
            help="Flow truth of twice the resolution (Spring): best of the four values, as there, or mean. Default: best."
        ),
    ] = None,
    align: Annotated[
        str | None, typer.Option(help="Depth: fit each prediction to the truth first, by median or least-squares.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="SET.KEY=VALUE", help="An option of a data set, such as a scale; repeatable."),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            help="Flow: fast or best, as of `winwin flow`. Default: enlarged as the checkpoint says, one pass."
        ),
    ] = None,
    min_pixels: MinPixels = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace an earlier evaluation in the output folder, but for its submissions, which have to be removed.",
        ),
    ] = False,
    precision: Annotated[str, typer.Option(help="no, bf16 or fp16.")] = "no",
    cpu: Annotated[bool, typer.Option("--cpu", help="Use the CPU even if there is an accelerator.")] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Instead of --data: score what a recipe (a name or a YAML file) evaluates, windows included.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the recipe; repeatable."),
    ] = None,
) -> None:
    """Score CHECKPOINT on benchmarks on disk, or by a recipe. Through `accelerate launch scripts/evaluate.py` in several processes."""
    if (recipe is None) == (not data):
        raise UsageError("expected either --data NAME=PATH or --recipe NAME")
    if recipe is not None:
        path = recipe_path(recipe)
        check_overrides(overrides)
        only_data = {
            "--beside": beside,
            "--output": output,
            "--tile": tile,
            "--overlap": overlap,
            "--worst": worst,
            "--double": double,
            "--length": length,
            "--skip-broken": skip_broken,
            "--submission": submission,
            "--align": align,
            "--option": option,
            "--quality": quality,
            "--min-pixels": min_pixels,
            "--overwrite": overwrite,
            "--cpu": cpu,
        }
        given = [name for name, value in only_data.items() if not (value is None or value is False or value == [])]
        if given:
            raise UsageError(f"{', '.join(given)}: only with --data; a recipe's settings are changed by --set")
        from winwin_hf import bundled
        from winwin_hf.processes import check_launch
        from winwin_hf.training.evaluate import evaluate_by_recipe

        with misuse():
            check_launch()
        check_recipe(path, overrides or [])
        evaluate_by_recipe(bundled.resolve(checkpoint), path, overrides=overrides or [])
        return
    if overrides:
        raise UsageError("--set changes a recipe's settings; expected --recipe with it")
    check_quality(quality)
    check_choice("--double", double, (None, "mean", "best"))
    check_choice("--align", align, (None, "median", "least-squares"))
    check_choice("--precision", precision, ("no", "bf16", "fp16"))
    if overlap is not None and not 0 <= overlap < 1:
        raise UsageError(f"--overlap {overlap}: expected a share, at least 0 and below 1")
    if overlap is not None and tile is None:
        raise UsageError("--overlap is that of tiles; expected --tile with it")
    if submission and output is None:
        raise UsageError("--submission needs --output, the folder to write to")
    if worst is not None and output is None:
        raise UsageError("--worst needs --output, the folder to write to")
    if overwrite and output is None:
        raise UsageError("--overwrite needs --output, the folder to write to")
    check_output_folder("--output", output)
    tile_size = parse_size("--tile", tile)
    options = parse_options(option)
    from winwin_hf.evaluation.methods import network_of
    from winwin_hf.evaluation.run import Settings, check_data, evaluate_data
    from winwin_hf.processes import check_launch

    with misuse():
        check_launch()
        check_data(data or [], options, length)
    methods = [checkpoint, *(beside or [])]
    if twice := next((method for method in methods if methods.count(method) > 1), None):
        raise UsageError(f"{twice}: given twice; expected each method once")
    networks = list(filter(None, map(network_of, methods)))
    half = None if precision == "no" else precision
    for_networks = {"--tile": tile, "--quality": quality, "--min-pixels": min_pixels, "--precision": half}
    given = [name for name, value in for_networks.items() if value is not None]
    if given and not networks:
        raise UsageError(f"{', '.join(given)}: for networks; expected a checkpoint among the methods")
    for name in networks:
        check_tile(tile_size, name)
    settings = Settings(
        tile=tile_size,
        overlap=0.5 if overlap is None else overlap,
        length=length,
        skip_broken=skip_broken,
        worst=5 if worst is None else worst,
        submission=submission,
        double=double,  # type: ignore[arg-type]  # checked above
        align=align,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        cpu=cpu,
        options=options,
        quality=quality,
        min_pixels=min_pixels,
        overwrite=overwrite,
    )
    evaluate_data(methods, data or [], output, settings)
