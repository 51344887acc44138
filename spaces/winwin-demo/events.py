"""The page's events, which are also the API: one method for each endpoint. The docstrings are the endpoints' documentation.

Notable:
- Nothing is kept per visitor: every event gets its input again, and networks.py finds results by their pictures' content.
- Pictures and files to download are written into the page's work folder, which `winwin_hf.served_page` empties.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import mesh
import numpy as np
import views
from gradio.utils import get_upload_folder
from inputs import check_quality, read_clip, read_pair, read_picture
from networks import Networks
from PIL import Image

from winwin_hf.data import formats
from winwin_hf.inference import clips, drawing, sheets, video
from winwin_hf.inference import figures as measures
from winwin_hf.model.flow_colours_winwin import flow_to_image
from winwin_hf.served_page import refuse


class Demo:
    """The events."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    def flow(
        self,
        frame1: str,
        frame2: str,
        size: str = "1080p",
        quality: str = "best",
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple:
        """Optical flow: where each point of frame 1 is in frame 2, from passes over whole frames.

        Args:
            frame1: the first frame, a picture file of at least 32 pixels a side.
            frame2: the second frame, of the same size.
            size: "540p", "720p" or "1080p": frames with more pixels than that are scaled down first.
            quality: "fast": frames as they are, in one pass. "best": small frames are enlarged, and passes at smaller sizes come first,
                which find longer motions.

        Returns, in this order:
            the flow in colours;
            what the colours mean (HTML);
            frame 1, and frame 2 warped to it by the flow;
            frame 1 with arrows;
            the scale of the arrows (HTML);
            the network's confidence in colours;
            what the colours of the confidence mean (HTML);
            size, seconds and figures (HTML);
            the flow as a .flo file (Middlebury's format);
            the flow as a .npy file: float32 (height, width, 2), (right, down) in pixels;
            the flow in colours with the colour wheel, as a .png file.
        """
        check_quality(quality)
        progress(0.05, desc="Reading the frames")
        first, second = read_pair(frame1, frame2, size)
        image1, image2 = first.pixels, second.pixels
        progress(0.1, desc=f"Motion of {_size(image1)} pixels, quality {quality}")
        result = self.networks.flow(image1, image2, quality)
        progress(0.85, desc="Drawing")
        flow = result.values
        scale = video.full_colour([flow])
        drawn, times = views.arrows(image1, flow)
        errors = measures.photometric_errors(image1, image2, flow)
        bounds = self.networks.error_bounds(image1, quality)
        figures = [
            f"{_size(image1)} pixels",
            f"quality {quality}: {_passes(result.passes)}, {result.seconds:.2f} s",
            f"mean motion {measures.mean_magnitude(flow):.1f} px",
            f"the frames differ by {errors['unwarped']:.1f} of 255, after moving back by {errors['warped']:.1f}",
        ]
        folder = new_folder()
        formats.write_flo(folder / "flow.flo", flow.transpose(1, 2, 0))
        formats.write_npy(folder / "flow.npy", np.ascontiguousarray(flow.transpose(1, 2, 0)))
        formats.save_image(folder / "flow.png", sheets.flow_picture(flow, scale))
        return (
            flow_to_image(flow, scale),
            views.wheel_legend(scale),
            (image1, drawing.warp(image2, flow)),
            drawn,
            views.arrows_text(times),
            views.error_picture(result.expected_error, bounds),
            views.error_legend(result.expected_error, bounds),
            views.summary(figures, [first.note, second.note]),
            *(str(folder / name) for name in ("flow.flo", "flow.npy", "flow.png")),
        )

    def compare_with_tiles(
        self,
        frame1: str,
        frame2: str,
        size: str = "1080p",
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008
    ) -> tuple:
        """Optical flow in one pass and in overlapping tiles of 384 x 512 pixels, which other networks need.

        Args:
            frame1: the first frame, a picture file.
            frame2: the second frame, of the same size.
            size: "540p", "720p" or "1080p": frames with more pixels than that are scaled down first.

        Returns, in this order:
            the flow of one pass in colours;
            the flow from tiles in the same colours;
            where they differ (dark), with the tiles' borders in red;
            times and differences (HTML).
        """
        first, second = read_pair(frame1, frame2, size)
        image1, image2 = first.pixels, second.pixels
        rows, columns, tile = self.networks.tiles(image1)
        if len(rows) == len(columns) == 1:
            raise refuse(
                f"These frames ({_size(image1)}) fit into one tile of {tile[1]} x {tile[0]} pixels: nothing to compare."
            )
        direct, tiled = self.networks.one_pass(image1, image2), self.networks.tiled(image1, image2)
        scale = max(video.full_colour([result.values]) for result in (direct, tiled))
        shade, apart, full = views.difference(direct.values, tiled.values)
        figures = [
            f"one pass: {direct.seconds:.2f} s",
            f"{tiled.passes} tiles: {tiled.seconds:.2f} s",
            f"they differ by {apart.mean():.2f} px on average (black: {full:.1f} px or more)",
        ]
        return (
            flow_to_image(direct.values, scale),
            flow_to_image(tiled.values, scale),
            views.draw_tiles(shade, rows, columns, tile),
            views.summary(figures, [first.note, second.note]),
        )

    def flow_of_video(
        self,
        clip: str,
        size: str = "360p",
        quality: str = "fast",
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple:
        """Optical flow between the neighbouring frames of a short video.

        Args:
            clip: an MP4, MOV, WebM, MKV or AVI file, whose first 24 frames are used.
            size: "360p" or "540p": larger frames are scaled down first.
            quality: "fast" or "best", as of the flow between two frames.

        Returns, in this order:
            a video (.mp4) with each frame beside its flow in colours;
            what the colours mean (HTML);
            size, seconds and figures (HTML).
        """
        check_quality(quality)
        read = read_clip(clip, size)
        frames, flows = read.frames, []
        start = time.perf_counter()
        for flow in self.networks.flow_of_frames(frames, quality):
            flows.append(flow)
            progress((len(flows), len(frames) - 1), desc="Flow between the frames", unit="pairs")
        seconds = time.perf_counter() - start
        scale = video.full_colour(flows)
        path = new_folder() / "flow.mp4"
        pictures = (
            views.stacked(frame, flow_to_image(flow, scale))
            for frame, flow in zip(frames, flows, strict=False)  # the last frame has no flow
        )
        clips.write_video(path, pictures, read.rate)
        figures = [
            f"{len(flows)} pairs of {_size(frames[0])} pixels",
            f"quality {quality}: {seconds:.1f} s, {seconds / len(flows):.2f} s a pair",
            f"mean motion {np.mean([measures.mean_magnitude(flow) for flow in flows]):.1f} px from frame to frame",
        ]
        return str(path), views.wheel_legend(scale), views.summary(figures, [read.note])

    def depth(self, image: str, size: str = "1080p", progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        """How far away each point of a picture is.

        Args:
            image: a picture file of at least 32 pixels a side.
            size: "540p", "720p" or "1080p": pictures with more pixels than that are scaled down first.

        Returns, in this order:
            the picture, and its depth in colours;
            what the colours mean (HTML);
            the picture as a surface in space (.glb);
            size, seconds and figures (HTML);
            the depth as a .npy file: float32 (height, width), metres;
            the depth as a 16-bit .png file in millimetres (0 is unknown);
            the depth in colours as a .png file.
        """
        progress(0.05, desc="Reading the picture")
        picture = read_picture(image, size)
        pixels = picture.pixels
        progress(0.1, desc=f"One pass over {_size(pixels)} pixels")
        result = self.networks.depth(pixels)
        progress(0.8, desc="Drawing")
        depth = result.values
        low, high = views.depth_range(depth)
        colours = sheets.depth_picture(depth)
        folder = new_folder()
        formats.write_npy(folder / "depth.npy", depth)
        formats.write_depth(folder / "depth_mm.png", depth)
        formats.save_image(folder / "depth.png", colours)
        (folder / "surface.glb").write_bytes(mesh.glb(pixels, depth))
        figures = [
            f"{_size(pixels)} pixels",
            f"one pass, {result.seconds:.2f} s",
            f"half of the picture is nearer than {np.median(depth):.1f} m",
        ]
        return (
            (pixels, colours),
            views.depth_legend(low, high),
            str(folder / "surface.glb"),
            views.summary(figures, [picture.note]),
            *(str(folder / name) for name in ("depth.npy", "depth_mm.png", "depth.png")),
        )

    def segment(
        self,
        image: str,
        opacity: float = 0.6,
        size: str = "1080p",
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple:
        """The class of each point of a picture: road, tree, car, ...

        Args:
            image: a picture file of at least 32 pixels a side.
            opacity: of the colours, 0 (only the picture) to 1 (only colours).
            size: "540p", "720p" or "1080p": pictures with more pixels than that are scaled down first.

        Returns, in this order:
            the classes' colours over the picture;
            the classes that occur, their colours and shares (HTML);
            size, seconds and figures (HTML);
            class ids as an 8-bit grey .png file;
            class ids as a .npy file: uint8 (height, width);
            the colours over the picture with a legend, as a .png file.
        """
        progress(0.05, desc="Reading the picture")
        picture = read_picture(image, size)
        pixels = picture.pixels
        progress(0.1, desc=f"One pass over {_size(pixels)} pixels")
        result = self.networks.segment(pixels)
        progress(0.85, desc="Drawing")
        names = self.networks.label_names
        folder = new_folder()
        formats.write_labels(folder / "labels.png", result.values)
        formats.write_npy(folder / "labels.npy", result.values)
        formats.save_image(folder / "classes.png", sheets.segmentation_picture(pixels, result.values, names))
        figures = [f"{_size(pixels)} pixels", f"one pass, {result.seconds:.2f} s"]
        return (
            drawing.overlay(pixels, self._class_colours(result.values), opacity),
            views.class_legend(result.values, names),
            views.summary(figures, [picture.note]),
            *(str(folder / name) for name in ("labels.png", "labels.npy", "classes.png")),
        )

    def overlay(self, image: str | None, opacity: float = 0.6, size: str = "1080p") -> np.ndarray | None:
        """The first output of `segment` alone, for the opacity slider; None where there is no picture yet."""
        if image is None:
            return None
        pixels = read_picture(image, size).pixels
        return drawing.overlay(pixels, self._class_colours(self.networks.segment(pixels).values), opacity)

    def _class_colours(self, labels: np.ndarray) -> np.ndarray:
        palette = drawing.default_palette(len(self.networks.label_names))
        return drawing.segmentation_to_image(labels, palette)


def served(event: Callable[..., Any]) -> Callable[..., Any]:
    """
    An event whose pictures are files of its own.

    Gradio writes equal arrays into one file, also while somebody else fetches that file: then a part of it, or nothing, arrives.
    """

    @functools.wraps(event)
    def run(*inputs: Any, **options: Any) -> Any:
        return _as_files(event(*inputs, **options), new_folder())

    return run


def _as_files(output: Any, folder: Path, name: str = "image") -> Any:
    if isinstance(output, tuple):
        return tuple(_as_files(part, folder, f"{name}_{number}") for number, part in enumerate(output, 1))
    if not isinstance(output, np.ndarray):
        return output
    path = folder / f"{name}.webp"
    Image.fromarray(output).save(path)
    return str(path)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def _passes(count: int) -> str:
    return "one pass" if count == 1 else f"{count} passes"


def new_folder() -> Path:
    """A new folder in the page's work folder, whose files Gradio serves."""
    folder = Path(get_upload_folder()) / f"winwin-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    return folder
