"""`winwin video`: optical flow along a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from winwin_hf.cli.errors import UsageError, one_line_errors, parse_size


@one_line_errors
def video(
    clip: Annotated[str, typer.Argument(help="A video, a folder of images, or a pattern such as 'frames/*.png'.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for frame_0001.flo, ... and what else is asked.")
    ],
    flo: Annotated[bool, typer.Option("--flo/--no-flo", help="Write the flow of each pair as .flo.")] = True,
    video: Annotated[Path | None, typer.Option(help="Also a video in flow colours (.mp4).")] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="In the video, the frames beside their flow.")
    ] = False,
    backward: Annotated[
        bool, typer.Option("--backward", help="Both directions, and the occluded pixels of each (.png).")
    ] = False,
    max_motion: Annotated[
        float | None, typer.Option(help="Full colour in the video, pixels. Default: from the clip's own flow.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Frames a second of the video. Default: the clip's.")] = None,
    start: Annotated[int, typer.Option(min=0, help="First frame, counted from 0.")] = 0,
    end: Annotated[int | None, typer.Option(min=1, help="Frame to stop before.")] = None,
    stride: Annotated[int, typer.Option(min=1, help="Take every so manieth frame.")] = 1,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH: resize the frames first.")] = None,
    min_pixels: Annotated[
        int | None,
        typer.Option(min=0, help="Enlarge smaller frames to so many pixels; 0: never. Default: the checkpoint's."),
    ] = None,
    model: Annotated[str, typer.Option(help="A bundled name, a folder or a Hub repository.")] = "winwin-flow",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew where the folder holds another clip's or model's flow.")
    ] = False,
) -> None:
    """Optical flow of each pair of CLIP, each frame encoded once. Interrupted, the same command goes on where it was."""
    frame_size = parse_size("--size", size)
    if not flo and video is None:
        raise UsageError("--no-flo leaves nothing to write; expected --video FILE.mp4 with it")
    if video is not None and video.suffix.lower() != ".mp4":
        raise UsageError(f"--video {video}: expected a name that ends in .mp4")
    from winwin_hf.inference.video import run

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
        min_pixels=min_pixels,
        device=device,
        overwrite=overwrite,
    )
    again = f", {done.reused} of them from before" if done.reused else ""
    typer.echo(f"{output}  {done.pairs} pairs{again}, {done.seconds:.1f} s")
    if done.video is not None:
        typer.echo(f"{done.video}  {done.kind}, full colour at {done.max_motion:.1f} px")
