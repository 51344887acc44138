"""`winwin`: the package on the command line.

Notable:
- what only one command needs is imported inside it.
- a mistake of the caller's (a missing file, frames of different size, an unknown model) is one line on standard error: exit code
  2 where the arguments are wrong, 1 where the work failed. `winwin --traceback COMMAND` shows the whole story.
- results go to standard output, progress to standard error.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from winwin_hf.cli.data import app as data_app
from winwin_hf.cli.errors import UsageError, one_line_errors, parse_size
from winwin_hf.cli.models import convert, export
from winwin_hf.cli.push import push
from winwin_hf.cli.video import video

app = typer.Typer(
    help="Win-Win: optical flow, segmentation and depth at full resolution.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
checkpoints_app = typer.Typer(help="The checkpoints that come with the package.", no_args_is_help=True)
app.add_typer(checkpoints_app, name="checkpoints")
app.add_typer(data_app, name="data")

progress = Console(stderr=True)


@app.callback()
def main(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None:
    if traceback:
        os.environ["WINWIN_TRACEBACK"] = "1"


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
Picture = Annotated[Path | None, typer.Option(help="Also write a picture to look at (PNG or JPEG).")]

MinPixels = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Enlarge smaller frames to so many pixels, which flow gains from; 0: never. Default: the checkpoint's.",
    ),
]


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
    variational: Annotated[
        bool, typer.Option("--variational", help="Refine the flow with OpenCV's variational method.")
    ] = False,
    coarse: Annotated[
        bool,
        typer.Option(
            "--coarse",
            help="First passes at half the size, of large frames at a quarter before: longer motions.",
        ),
    ] = False,
    min_pixels: MinPixels = None,
    device: Device = "auto",
) -> None:
    """Optical flow from FRAME1 to FRAME2, in pixels: (right, down)."""
    check_suffix(output, "--output", (".flo",))
    check_picture(picture)
    tile_size = parse_size("--tile", tile)
    if coarse and tile_size:
        raise UsageError("--coarse is for whole frames; expected no --tile with it")
    images = [read_image(frame1), read_image(frame2)]
    from winwin_hf.data.formats import write_flo
    from winwin_hf.inference import tasks

    with progress.status(f"loading {model}"):
        predictor = tasks.load(model, "optical-flow", device, min_pixels)
    with progress.status(f"optical flow of {frame1.name} and {frame2.name}"):
        result = tasks.predict_flow(predictor, images[0], images[1], tile_size, variational, coarse)
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
    from winwin_hf.inference import tasks

    with progress.status(f"loading {model}"):
        predictor = tasks.load(model, "depth-estimation", device)
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
    from winwin_hf.inference import tasks

    with progress.status(f"loading {model}"):
        predictor = tasks.load(model, "semantic-segmentation", device)
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
    from winwin_hf import bundled

    with progress.status("copying into the Hub cache"):
        installed = bundled.install(names or None)
    for name, folder in installed.items():
        typer.echo(f"{name}  {folder}")
    if not installed:
        typer.echo("winwin: this package came without checkpoints; nothing to install", err=True)


@checkpoints_app.command("list")
@one_line_errors
def checkpoints_list() -> None:
    """What comes with the package: name, task, parameters, size, and whether the Hub cache has it."""
    from winwin_hf import bundled

    table = Table("name", "task", "parameters", "size", "in the Hub cache")
    for item in bundled.checkpoints():
        installed = "yes" if item.installed else "no"
        table.add_row(item.name, item.task, f"{item.parameters / 1e6:.1f} M", f"{item.size / 1e6:.1f} MB", installed)
    if table.row_count:
        Console().print(table)
    else:
        typer.echo("winwin: this package came without checkpoints", err=True)


@app.command()
@one_line_errors
def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file as in winwin_hf/recipes.")],
    output: Annotated[Path | None, typer.Option(help="Folder for checkpoints and logs. Default: the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last state in the output folder.")] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out and count examples with missing or unreadable files.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the recipe; repeatable."),
    ] = None,
) -> None:
    """Train by a recipe. Through `accelerate launch scripts/train.py RECIPE` for more than one process."""
    check_file(recipe)
    check_overrides(overrides)
    from winwin_hf.training.loop import train as run

    changes = [*(overrides or []), *(["data.skip_broken=true"] if skip_broken else [])]
    run(recipe, output=output, resume=resume, overrides=changes)


@app.command()
@one_line_errors
def evaluate(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A bundled name, a folder, a Hub repository; or opencv-dis, opencv-farneback, zero; NAME+variational refines a flow, "
            "NAME+coarse looks at smaller sizes first."
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
    overlap: Annotated[float, typer.Option(help="Of the tiles, a share.")] = 0.5,
    length: Annotated[int | None, typer.Option(min=1, help="At most so many examples of each set.")] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out, count and name examples with missing or unreadable files.")
    ] = False,
    submission: Annotated[
        bool, typer.Option("--submission", help="Also write each prediction in its benchmark's format.")
    ] = False,
    worst: Annotated[int, typer.Option(min=0, help="Pictures of so many of the worst images of each set.")] = 5,
    double: Annotated[
        str,
        typer.Option(help="Flow truth of twice the resolution (Spring): best of the four values, as there, or mean."),
    ] = "best",
    align: Annotated[
        str | None, typer.Option(help="Depth: fit each prediction to the truth first, by median or least-squares.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="SET.KEY=VALUE", help="An option of a data set, such as a scale; repeatable."),
    ] = None,
    min_pixels: MinPixels = None,
    precision: Annotated[str, typer.Option(help="no, bf16 or fp16.")] = "no",
    cpu: Annotated[bool, typer.Option("--cpu", help="Even if there is an accelerator.")] = False,
    recipe: Annotated[
        Path | None, typer.Option(help="Instead of --data: the evaluation section of a recipe, windows included.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the recipe; repeatable."),
    ] = None,
) -> None:
    """Score CHECKPOINT on benchmarks on disk, or by a recipe. Through `accelerate launch scripts/evaluate.py` in several processes."""
    if (recipe is None) == (not data):
        raise UsageError("expected either --data NAME=PATH or --recipe FILE")
    if recipe is not None:
        check_file(recipe)
        check_overrides(overrides)
        from winwin_hf import bundled
        from winwin_hf.training.evaluate import main as run

        run(bundled.resolve(checkpoint), recipe, overrides=overrides or [])
        return
    if overrides:
        raise UsageError("--set changes a recipe's settings; expected --recipe with it")
    check_choice("--double", double, ("mean", "best"))
    check_choice("--align", align, (None, "median", "least-squares"))
    check_choice("--precision", precision, ("no", "bf16", "fp16"))
    if not 0 <= overlap < 1:
        raise UsageError(f"--overlap {overlap}: expected a share, at least 0 and below 1")
    if submission and output is None:
        raise UsageError("--submission needs --output, the folder to write to")
    tile_size = parse_size("--tile", tile)
    options = parse_options(option)
    from winwin_hf.evaluation.run import Settings, evaluate_data

    settings = Settings(
        tile=tile_size,
        overlap=overlap,
        length=length,
        skip_broken=skip_broken,
        worst=worst,
        submission=submission,
        double=double,  # type: ignore[arg-type]  # checked above
        align=align,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        cpu=cpu,
        options=options,
        min_pixels=min_pixels,
    )
    evaluate_data([checkpoint, *(beside or [])], data or [], output, settings)


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
    from winwin_hf.cli import demo as demo_module

    demo_module.run(output, frames=frames, device=device, say=progress.print)


app.command()(video)
app.command()(convert)
app.command()(export)
app.command()(push)


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


def check_choice(option: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{option} {value}: expected {' or '.join(str(choice) for choice in choices if choice)}")


def parse_options(items: list[str] | None) -> dict[str, dict[str, Any]]:
    """["depth-folder.scale=1000"] -> {"depth-folder": {"scale": 1000}}; values as in YAML."""
    import yaml

    options: dict[str, dict[str, Any]] = {}
    for item in items or []:
        match = re.fullmatch(r"([^.=\s]+)\.([^=\s]+)=(.*)", item, flags=re.DOTALL)
        if match is None:
            raise UsageError(f"--option {item}: expected SET.KEY=VALUE, such as depth-folder.scale=1000")
        options.setdefault(match[1], {})[match[2]] = yaml.safe_load(match[3])
    return options


def read_image(path: Path) -> Any:
    """The picture at `path`, RGB uint8 (H, W, 3)."""
    check_file(path)
    from winwin_hf.data import formats

    return formats.read_image(path)


def report(path: Path, result: Any, what: str) -> None:
    height, width = result.values.shape[:2]
    typer.echo(f"{path}  {width} x {height}, {what}, {result.seconds:.2f} s on {result.device}")
