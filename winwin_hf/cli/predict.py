"""`winwin flow`, `depth`, `segment`, `demo`: one network on one image, one pair or the example frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from winwin_hf.cli.arguments import Device, MinPixels, Picture, check_picture, check_suffix, progress, read_image
from winwin_hf.cli.errors import UsageError, one_line_errors, parse_size


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


def report(path: Path, result: Any, what: str) -> None:
    height, width = result.values.shape[:2]
    typer.echo(f"{path}  {width} x {height}, {what}, {result.seconds:.2f} s on {result.device}")
