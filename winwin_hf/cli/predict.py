"""`winwin flow`, `depth`, `segment`, `demo`: run a network on an image, a pair or the example frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from winwin_hf.cli.arguments import (
    Coarse,
    Device,
    MinPixels,
    Model,
    Picture,
    Quality,
    check_device,
    check_output,
    check_output_folder,
    check_picture,
    check_quality,
    check_tile,
    progress,
    read_image,
)
from winwin_hf.cli.errors import UsageError, one_line_errors, parse_size
from winwin_hf.model.pixels_winwin import size_text


@one_line_errors
def flow(
    frame1: Annotated[Path, typer.Argument(help="First frame.")],
    frame2: Annotated[Path, typer.Argument(help="Second frame, of the same size.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the flow (.flo).")] = Path("flow.flo"),
    picture: Picture = None,
    model: Model = "winwin-flow",
    tile: Annotated[
        str | None,
        typer.Option(
            help="HEIGHTxWIDTH: predict in tiles of this size, in pixels of the frame after --min-pixels. Default: one pass over the "
            "whole frame."
        ),
    ] = None,
    variational: Annotated[
        bool, typer.Option("--variational", help="Refine the flow with OpenCV's variational method.")
    ] = False,
    quality: Quality = "best",
    coarse: Coarse = None,
    min_pixels: MinPixels = None,
    device: Device = "auto",
) -> None:
    """Optical flow from FRAME1 to FRAME2: (right, down) in pixels."""
    check_output("--output", output, (".flo",), (frame1, frame2))
    check_picture(picture, (frame1, frame2, output))
    check_quality(quality)
    tile_size = parse_size("--tile", tile)
    if coarse and tile_size:
        raise UsageError("--coarse is for whole frames; expected no --tile")
    images = [read_image(frame1), read_image(frame2)]
    sizes = [size_text(image.shape[:2]) for image in images]
    if sizes[0] != sizes[1]:
        raise UsageError(
            f"{frame1} is {sizes[0]} and {frame2} is {sizes[1]} (height x width); expected frames of one size"
        )
    import numpy as np

    from winwin_hf.data.formats import write_flo
    from winwin_hf.data.formats.files import check_room
    from winwin_hf.inference.figures import mean_magnitude
    from winwin_hf.inference.sheets import flow_picture
    from winwin_hf.inference.variational import Refined

    check_tile(tile_size, model)
    check_room(output, 12 + 8 * math.prod(images[0].shape[:2]))
    options: dict[str, Any] = {"tile": tile_size, "quality": quality, "coarse": coarse, "min_pixels": min_pixels}
    method = load(model, "optical-flow", device, **options, progress=True)
    method = Refined(method) if variational else method
    with progress.status(f"optical flow of {frame1.name} and {frame2.name}"):
        result = method(*images)
    write_flo(output, result.values.transpose(1, 2, 0))
    report(output, result, f"mean |flow| {mean_magnitude(result.values):.2f} px")
    largest = float(np.hypot(*result.values).max()) or 1.0
    save_picture(picture, lambda: flow_picture(result.values), f"full colour is {largest:.1f} px")


@one_line_errors
def depth(
    image: Annotated[Path, typer.Argument(help="The image.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help=".npy (float32 metres) or .png (16-bit millimetres, up to 65.535 m).")
    ] = Path("depth.npy"),
    picture: Picture = None,
    model: Model = "winwin-depth",
    device: Device = "auto",
) -> None:
    """Depth of IMAGE, in metres."""
    check_output("--output", output, (".npy", ".png"), (image,))
    check_picture(picture, (image, output))
    loaded = read_image(image)
    import numpy as np

    from winwin_hf.data.formats import MOST_METRES, write_depth
    from winwin_hf.data.formats.files import check_room
    from winwin_hf.inference.sheets import depth_ends, depth_picture

    check_room(output, 4 * math.prod(loaded.shape[:2]))
    predictor = load(model, "depth-estimation", device)
    with progress.status(f"depth of {image.name}"):
        result = predictor(loaded)
    write_depth(output, result.values)
    error = result.expected_error
    guess = (
        "" if error is None else f"; by its own guess wrong by {float(np.median(error / result.values)):.0%} (median)"
    )
    beyond = float((result.values > MOST_METRES).mean()) if output.suffix.lower() == ".png" else 0.0
    if beyond:
        guess += f"; {beyond:.1%} lie beyond the {MOST_METRES} m that a .png holds, and a .npy would keep them"
    report(output, result, f"{result.values.min():.2f} to {result.values.max():.2f} m{guess}")
    low, high = depth_ends(result.values)
    save_picture(picture, lambda: depth_picture(result.values), f"pale is {low:.2f} m, dark is {high:.2f} m")


@one_line_errors
def segment(
    image: Annotated[Path, typer.Argument(help="The image.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Class ids in 8 bits (.png).")] = Path("labels.png"),
    picture: Picture = None,
    model: Model = "winwin-seg",
    device: Device = "auto",
) -> None:
    """Semantic segmentation of IMAGE."""
    check_output("--output", output, (".png",), (image,))
    check_picture(picture, (image, output))
    loaded = read_image(image)
    from winwin_hf.data.formats import write_labels
    from winwin_hf.inference.figures import label_shares
    from winwin_hf.inference.sheets import segmentation_picture

    predictor = load(model, "semantic-segmentation", device)
    with progress.status(f"segmentation of {image.name}"):
        result = predictor(loaded)
    names = predictor.labels or ()
    write_labels(output, result.values)
    shares = label_shares(result.values, names)
    report(output, result, ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:4]))
    save_picture(picture, lambda: segmentation_picture(loaded, result.values, names))


@one_line_errors
def demo(
    output: Annotated[Path, typer.Option(help="Folder for pictures and figures.")] = Path("demo"),
    frames: Annotated[Path | None, typer.Option(help="Folder of the example frames. Default: the package's.")] = None,
    quality: Quality = "best",
    device: Device = "auto",
) -> None:
    """Run every bundled checkpoint on example frames; write pictures and figures."""
    check_output_folder("--output", output)
    check_quality(quality)
    check_device(device)
    from winwin_hf.cli import demo as demo_module

    demo_module.run(output, frames=frames, device=device, quality=quality, say=progress.print)


def load(model: str, task: str, device: str, **options: Any) -> Any:
    """`Predictor.load`, while the terminal says what it is doing."""
    with progress.status(f"loading {model}"):
        from winwin_hf.inference.predictor import Predictor

        check_device(device)
        return Predictor.load(model, task, device, **options)


def report(path: Path, result: Any, what: str) -> None:
    height, width = result.values.shape[-2:]
    typer.echo(f"{path}  {width} x {height}, {what}, {result.seconds:.2f} s on {result.device}")


def save_picture(path: Path | None, draw: Callable[[], Any], scale: str = "") -> None:
    """Writes what `draw` returns to `path`, where there is one, and says its `scale`."""
    if path is not None:
        from winwin_hf.data.formats import save_image

        save_image(path, draw())
        typer.echo(f"{path}  {scale}" if scale else str(path))
