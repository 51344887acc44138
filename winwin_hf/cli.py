"""`winwin`: the package on the command line.

Notable:
- what only one command needs is imported inside it.
- a mistake of the caller's (a missing file, frames of different size, an unknown model) is one line on standard error: exit code
  2 where the arguments are wrong, 1 where the work failed. `winwin --traceback COMMAND` shows the whole story.
- results go to standard output, progress to standard error.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="Win-Win: optical flow, segmentation and depth at full resolution.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
checkpoints_app = typer.Typer(help="The checkpoints that come with the package.", no_args_is_help=True)
app.add_typer(checkpoints_app, name="checkpoints")

progress = Console(stderr=True)

# A ValueError after half a minute is hardly a mistyped argument: then the traceback is worth more than a short answer.
TRACEBACK_AFTER = 30.0  # seconds


class UsageError(Exception):
    """A wrong argument: one line that names it and says what was expected; exit code 2."""


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """A caller's mistake in `command` ends in one line and an exit code instead of a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        start = time.monotonic()
        try:
            command(*args, **kwargs)
        except (UsageError, OSError, ValueError, ImportError) as error:
            late = time.monotonic() - start > TRACEBACK_AFTER
            if os.environ.get("WINWIN_TRACEBACK") or (late and not isinstance(error, UsageError)):
                raise
            # transformers' messages run over many lines, the first of which says what is wrong.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            typer.echo(f"winwin: {lines[0] if lines else type(error).__name__}", err=True)
            raise typer.Exit(2 if isinstance(error, UsageError | FileNotFoundError) else 1) from None

    return wrapped


@app.callback()
def main(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None:
    if traceback:
        os.environ["WINWIN_TRACEBACK"] = "1"


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
Picture = Annotated[Path | None, typer.Option(help="Also write a picture to look at (PNG or JPEG).")]


@app.command()
@one_line_errors
def flow(
    frame1: Annotated[Path, typer.Argument(help="First frame.")],
    frame2: Annotated[Path, typer.Argument(help="Second frame, of the same size.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the flow (.flo).")] = Path("flow.flo"),
    picture: Picture = None,
    model: Annotated[str, typer.Option(help="A bundled name, a folder or a Hub repository.")] = "winwin-flow",
    tile: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH: predict in tiles, the baseline. Default: whole.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Optical flow from FRAME1 to FRAME2, in pixels: (right, down)."""
    check_suffix(output, "--output", (".flo",))
    check_picture(picture)
    tile_size = parse_tile(tile)
    images = [read_image(frame1), read_image(frame2)]
    from winwin_hf import tasks
    from winwin_hf.data.formats import write_flo

    with progress.status(f"loading {model}"):
        predictor = tasks.load(model, "flow", device)
    with progress.status(f"optical flow of {frame1.name} and {frame2.name}"):
        result = tasks.predict_flow(predictor, images[0], images[1], tile=tile_size)
    write_flo(output, result.values)
    report(output, result, f"mean |flow| {tasks.mean_magnitude(result.values):.2f} px")
    if picture is not None:
        tasks.save_picture(picture, tasks.flow_picture(result.values))
        typer.echo(str(picture))


@app.command()
@one_line_errors
def depth(
    image: Annotated[Path, typer.Argument(help="The image.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help=".npy (float32 metres) or .png (16-bit millimetres).")
    ] = Path("depth.npy"),
    picture: Picture = None,
    model: Annotated[str, typer.Option(help="A bundled name, a folder or a Hub repository.")] = "winwin-depth",
    device: Device = "auto",
) -> None:
    """Depth of IMAGE, in metres."""
    check_suffix(output, "--output", (".npy", ".png"))
    check_picture(picture)
    loaded = read_image(image)
    from winwin_hf import tasks

    with progress.status(f"loading {model}"):
        predictor = tasks.load(model, "depth", device)
    with progress.status(f"depth of {image.name}"):
        result = tasks.predict_depth(predictor, loaded)
    tasks.save_depth(output, result.values)
    report(output, result, f"{result.values.min():.2f} to {result.values.max():.2f} m")
    if picture is not None:
        tasks.save_picture(picture, tasks.depth_picture(result.values))
        typer.echo(str(picture))


@app.command()
@one_line_errors
def segment(
    image: Annotated[Path, typer.Argument(help="The image.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="8-bit class ids (.png).")] = Path("labels.png"),
    picture: Picture = None,
    model: Annotated[str, typer.Option(help="A bundled name, a folder or a Hub repository.")] = "winwin-seg",
    device: Device = "auto",
) -> None:
    """Semantic segmentation of IMAGE."""
    check_suffix(output, "--output", (".png",))
    check_picture(picture)
    loaded = read_image(image)
    from winwin_hf import tasks

    with progress.status(f"loading {model}"):
        predictor = tasks.load(model, "segment", device)
    with progress.status(f"segmentation of {image.name}"):
        result = tasks.predict_segmentation(predictor, loaded)
    names = predictor.label_names
    tasks.save_labels(output, result.values)
    shares = tasks.label_shares(result.values, names)
    report(output, result, ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:4]))
    if picture is not None:
        tasks.save_picture(picture, tasks.segmentation_picture(loaded, result.values, names))
        typer.echo(str(picture))


@checkpoints_app.command("install")
@one_line_errors
def checkpoints_install(
    names: Annotated[list[str] | None, typer.Argument(help="Which ones. Default: all.")] = None,
) -> None:
    """Lay bundled checkpoints into the Hub cache, so that from_pretrained("winwin-flow") works anywhere, offline too."""
    from winwin_hf import hub

    with progress.status("copying into the Hub cache"):
        installed = hub.install(names or None)
    for name, folder in installed.items():
        typer.echo(f"{name}  {folder}")
    if not installed:
        typer.echo("winwin: this package came without checkpoints; nothing to install", err=True)


@checkpoints_app.command("list")
@one_line_errors
def checkpoints_list() -> None:
    """What comes with the package: name, task, parameters, size, and whether the Hub cache has it."""
    from winwin_hf import hub

    table = Table("name", "task", "parameters", "size", "in the Hub cache")
    for item in hub.checkpoints():
        installed = "yes" if item.installed else "no"
        table.add_row(item.name, item.task, f"{item.parameters / 1e6:.1f} M", f"{item.size / 1e6:.1f} MB", installed)
    if table.row_count:
        Console().print(table)
    else:
        typer.echo("winwin: this package came without checkpoints", err=True)


@app.command()
@one_line_errors
def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file as in scripts/recipes.")],
    output: Annotated[Path | None, typer.Option(help="Folder for checkpoints and logs. Default: the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last state in the output folder.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the recipe; repeatable."),
    ] = None,
) -> None:
    """Train by a recipe. Through `accelerate launch scripts/train.py RECIPE` for more than one process."""
    check_file(recipe)
    check_overrides(overrides)
    from winwin_hf.training import train as run

    run(recipe, output=output, resume=resume, overrides=overrides or [])


@app.command()
@one_line_errors
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A bundled name, a folder or a Hub repository.")],
    recipe: Annotated[Path, typer.Option(help="The recipe whose evaluation data and settings to use.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the recipe; repeatable."),
    ] = None,
) -> None:
    """Score CHECKPOINT on a recipe's evaluation data, on windows and on full frames."""
    check_file(recipe)
    check_overrides(overrides)
    from winwin_hf import hub
    from winwin_hf.evaluation import main as run

    run(hub.resolve(checkpoint), recipe, overrides=overrides or [])


@app.command()
@one_line_errors
def demo(
    output: Annotated[Path, typer.Option(help="Folder for pictures and figures.")] = Path("demo"),
    frames: Annotated[
        Path | None, typer.Option(help="Folder of example frames. Default: those of the package.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Run every bundled checkpoint on real frames; pictures and figures into a folder."""
    from winwin_hf import demo as demo_module

    demo_module.run(output, frames=frames, device=device, say=progress.print)


# ------------------------------------------------------------------ arguments


def check_file(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")


def check_suffix(path: Path, option: str, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} {path}: expected a name that ends in {' or '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: the folder {path.parent} does not exist")


def check_picture(path: Path | None) -> None:
    if path is not None:
        check_suffix(path, "--picture", (".png", ".jpg", ".jpeg"))


def check_overrides(overrides: list[str] | None) -> None:
    for item in overrides or []:
        if not re.fullmatch(r"[^=\s]+=.*", item, flags=re.DOTALL):
            raise UsageError(f"--set {item}: expected KEY=VALUE")


def parse_tile(text: str | None) -> tuple[int, int] | None:
    """ "384x512" -> (384, 512): height and width in pixels."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text)
    if match is None:
        raise UsageError(f"--tile {text}: expected HEIGHTxWIDTH in pixels, such as 384x512")
    return int(match[1]), int(match[2])


def read_image(path: Path) -> Any:
    """The picture at `path`, RGB uint8 (H, W, 3)."""
    check_file(path)
    from winwin_hf.data import formats

    return formats.read_image(path)


def report(path: Path, result: Any, what: str) -> None:
    height, width = result.values.shape[:2]
    typer.echo(f"{path}  {width} x {height}, {what}, {result.seconds:.2f} s on {result.device}")
