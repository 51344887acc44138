"""`winwin video`: optical flow along a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from winwin_hf.cli.arguments import (
    Coarse,
    Device,
    MinPixels,
    Model,
    Quality,
    check_between,
    check_device,
    check_output,
    check_output_folder,
    check_quality,
)
from winwin_hf.cli.errors import UsageError, misuse, one_line_errors, parse_size


@one_line_errors
def video(
    clip: Annotated[str, typer.Argument(help="A video, a folder of images, or a pattern such as 'frames/*.png'.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for frame_0001.flo, ... and the other files.")],
    flo: Annotated[bool, typer.Option("--flo/--no-flo", help="Write the flow of each pair as .flo.")] = True,
    video: Annotated[Path | None, typer.Option(help="Also write a video of the flow in colours (.mp4).")] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Show each frame to the left of its flow in the video.")
    ] = False,
    backward: Annotated[
        bool,
        typer.Option(
            "--backward", help="Also write the backward flow and the occluded pixels of both directions (.png)."
        ),
    ] = False,
    max_motion: Annotated[
        float | None,
        typer.Option(help="Motion in pixels that gets full colour in the video. Default: from the clip's flow."),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Frames a second of the video. Default: the clip's.")] = None,
    start: Annotated[int, typer.Option(min=0, max=10**9, help="First frame, counted from 0.")] = 0,
    end: Annotated[int | None, typer.Option(min=1, max=10**9, help="Stop before this frame.")] = None,
    stride: Annotated[int, typer.Option(min=1, max=10**9, help="Use every N-th frame.")] = 1,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH: resize the frames first.")] = None,
    quality: Quality = "best",
    coarse: Coarse = None,
    min_pixels: MinPixels = None,
    model: Model = "winwin-flow",
    device: Device = "auto",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Start again where the folder holds the flow of another clip or model; replace an existing --video.",
        ),
    ] = False,
) -> None:
    """Optical flow from each frame of CLIP to the next. If it is interrupted, run the same command to continue."""
    frame_size = parse_size("--size", size)
    check_quality(quality)
    if not flo and video is None:
        raise UsageError("--no-flo leaves nothing to write; expected --video FILE.mp4 with it")
    for_video = {"--side-by-side": side_by_side, "--max-motion": max_motion is not None, "--rate": rate is not None}
    if video is None and any(for_video.values()):
        raise UsageError(
            f"{', '.join(name for name, given in for_video.items() if given)}: of the video; expected --video FILE.mp4 with it"
        )
    check_between("--max-motion", max_motion, 1e-3, 1e5)
    check_between("--rate", rate, 1e-2, 1e3)
    if end is not None and end <= start:
        raise UsageError(f"--end {end}: expected a frame after --start {start}")
    check_output_folder("--output", output)
    if video is not None and video.suffix.lower() != ".mp4":
        raise UsageError(f"--video {video}: expected a name that ends in .mp4")
    if video is not None and (output.is_dir() or video.absolute().parent != output.absolute()):
        check_output("--video", video, (), (Path(clip),))
    from winwin_hf.inference.video import run
    from winwin_hf.model.pixels_winwin import MAX_INPUT_PIXELS, check_pixels

    if frame_size is not None:
        with misuse():
            check_pixels(frame_size, MAX_INPUT_PIXELS, "a smaller --size")
    check_device(device)
    done = run(
        clip,
        output,
        model,
        flo=flo,
        video=video,
        backward=backward,
        side_by_side=side_by_side,
        max_motion=max_motion,
        rate=rate,
        start=start,
        end=end,
        stride=stride,
        size=frame_size,
        quality=quality,
        coarse=coarse,
        min_pixels=min_pixels,
        device=device,
        overwrite=overwrite,
        say=lambda text: typer.echo(text, err=True),
    )
    again = f", {done.reused} of them by an earlier run" if done.reused else ""
    typer.echo(f"{output}  {done.pairs} pairs{again}, {done.seconds:.1f} s")
    if done.video is not None:
        typer.echo(f"{done.video}  {done.kind}, full colour at {done.max_motion:.1f} px")
