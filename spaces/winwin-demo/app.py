"""The demo: optical flow, depth and segmentation in a browser. `python app.py`, or as a Hugging Face Space.

Notable:
- Every button is also a named endpoint (`/flow`, `/compare_with_tiles`, `/flow_of_video`, `/depth`, `/segment`); the page's footer
  links to their documentation, which is made from the docstrings below.
- All that runs a network shares one queue (one at a time, MAX_WAITING wait, the rest are told so). Nothing is kept per visitor:
  results are looked up by the content of the pictures (networks.py), files are deleted after KEEP_FILES seconds.
- The page opens with the first example of each tab already computed.
- Fonts and scripts come from the gradio package: the page works without a network.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported

import cv2
import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from inputs import AREAS, MAX_FILE_MB, MAX_FRAMES, as_path, read_clip, read_pair, read_picture, refuse
from networks import TILE, Networks

import mesh
import views
from winwin_hf import inference, tasks, visualization
from winwin_hf.data import formats

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE / "examples"
MAX_WAITING = 20  # requests in the queue; with one running, the next is told that the queue is full
KEEP_FILES = 3600  # seconds
SIZES = [key for key in AREAS if key != "360p"]

INTRO = """
# Win-Win: motion, depth and things in whole pictures

Three small neural networks that look at a **whole picture in one go**, although they were trained on two small windows cut out of each
picture, which is several times cheaper. They are first versions, trained in about an hour on a CPU: they show how it works, and they
make mistakes.
"""
ABOUT = """
This is an independent implementation of [Win-Win](https://arxiv.org/abs/2310.00632) (Leroy et al., ICLR 2024) for the Hugging Face stack.
What you upload is used for your request only and deleted within about an hour. The example pictures' authors and licences are
listed in `examples/README.md`.
"""
CSS = """
.ww-figures { display: flex; flex-wrap: wrap; gap: .35rem .5rem; }
.ww-figures span { background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); border-radius: 1rem;
  padding: .1rem .7rem; font-size: .9rem; }
.ww-note { font-size: .9rem; margin: .4rem 0 0; opacity: .85; }
.ww-legend { display: flex; gap: .9rem; align-items: center; }
.ww-legend img { flex: none; width: 88px; height: 88px; margin: 0; }
.ww-scale { display: flex; gap: .6rem; align-items: center; font-size: .9rem; margin-bottom: .3rem; }
.ww-scale i { flex: 1; height: .8rem; border-radius: .4rem; border: 1px solid var(--border-color-primary); }
.ww-classes { display: flex; flex-wrap: wrap; gap: .35rem 1rem; margin-bottom: .3rem; }
.ww-classes span { display: inline-flex; align-items: center; gap: .35rem; }
.ww-classes i { width: 1rem; height: 1rem; border-radius: .2rem; border: 1px solid var(--border-color-primary); }
.gradio-container p { line-height: 1.45; }
"""


class Demo:
    """What the page's events call. The docstrings are the endpoints' documentation."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    def flow(self, frame1: str, frame2: str, size: str = "1080p", progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        """Optical flow: where each point of frame 1 is in frame 2, from one pass over the whole frames.

        Args:
            frame1: the first frame, a picture file of at least 32 pixels a side.
            frame2: the second frame, of the same size.
            size: "540p", "720p" or "1080p": frames with more pixels than that are scaled down first.

        Returns:
            the flow in colours
            what the colours mean (HTML)
            frame 1, and frame 2 warped to it by the flow
            frame 1 with arrows
            the network's confidence in colours (nothing, where the checkpoint has none)
            size, seconds and figures (HTML)
            the flow as a .flo file (Middlebury's format)
            the flow as a .npy file: float32 (height, width, 2), (right, down) in pixels
            the flow in colours with the colour wheel, as a .png file
        """
        progress(0.05, desc="Reading the frames")
        first, second = read_pair(frame1, frame2, size)
        image1, image2 = first.pixels, second.pixels
        progress(0.1, desc=f"One pass over {_size(image1)} pixels")
        result = self.networks.flow(image1, image2)
        progress(0.85, desc="Drawing")
        flow = result.flow
        scale = views.full_colour(flow)
        errors = tasks.photometric_errors(image1, image2, flow)
        figures = [
            f"{_size(image1)} pixels",
            f"one pass, {result.seconds:.2f} s",
            f"mean motion {tasks.mean_magnitude(flow):.1f} px",
            f"frame 2 differs from frame 1 by {errors['unwarped']:.1f} of 255, warped by {errors['warped']:.1f}",
        ]
        folder = _folder()
        formats.write_flo(folder / "flow.flo", flow)
        formats.write_npy(folder / "flow.npy", flow)
        formats.save_image(folder / "flow.png", tasks.flow_picture(flow, scale))
        return (
            visualization.flow_to_image(flow, scale),
            views.wheel_legend(scale),
            (image1, visualization.warp(image2, flow)),
            views.arrows(image1, flow),
            None if result.confidence is None else views.confidence_picture(result.confidence),
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
        """The same frames once in one pass and once in overlapping tiles of 384 x 512 pixels, as other networks need it.

        Args:
            frame1: the first frame, a picture file.
            frame2: the second frame, of the same size.
            size: "540p", "720p" or "1080p": frames with more pixels than that are scaled down first.

        Returns:
            the flow of one pass in colours
            the flow from tiles in the same colours
            where they differ (dark), the tiles' borders in red
            times and differences (HTML)
        """
        first, second = read_pair(frame1, frame2, size)
        image1, image2 = first.pixels, second.pixels
        height, width = image1.shape[:2]
        if height <= TILE[0] and width <= TILE[1]:
            raise refuse(f"These frames ({_size(image1)}) fit into one tile of {TILE[1]} x {TILE[0]} pixels: nothing to compare.")
        direct = self.networks.flow(image1, image2)
        tiled = self.networks.flow(image1, image2, tiled=True)
        scale = views.full_colour(direct.flow, tiled.flow)
        shade, apart, full = views.difference(direct.flow, tiled.flow)
        rows, columns = (
            inference.tile_positions(length, min(tile, length), 0.5)
            for length, tile in zip((height, width), TILE, strict=True)
        )
        figures = [
            f"one pass: {direct.seconds:.2f} s",
            f"{tiled.passes} tiles: {tiled.seconds:.2f} s",
            f"they differ by {apart.mean():.2f} px on average (black: {full:.1f} px or more)",
        ]
        return (
            visualization.flow_to_image(direct.flow, scale),
            visualization.flow_to_image(tiled.flow, scale),
            views.draw_tiles(shade, rows, columns, TILE),
            views.summary(figures, [first.note, second.note]),
        )

    def flow_of_video(self, video: str, size: str = "360p", progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        """Optical flow between the neighbouring frames of a short video.

        Args:
            video: an MP4, MOV, WebM, MKV or AVI file; its first 24 frames are used.
            size: "360p" or "540p": larger frames are scaled down first.

        Returns:
            a video (.mp4) with each frame beside its flow in colours
            what the colours mean (HTML)
            size, seconds and figures (HTML)
        """
        clip = read_clip(video, size)
        flows, seconds = [], 0.0
        for index, (image1, image2) in enumerate(zip(clip.frames, clip.frames[1:], strict=False)):
            progress((index, len(clip.frames) - 1), desc="Flow between the frames", unit="pairs")
            result = self.networks.flow(image1, image2)
            flows.append(result.flow)
            seconds += result.seconds
        scale = views.full_colour(*flows)
        path = _folder() / "flow.mp4"
        pictures = (
            views.stacked(frame, visualization.flow_to_image(flow, scale))
            for frame, flow in zip(clip.frames, flows, strict=False)
        )
        _write_video(path, pictures, clip.rate)
        figures = [
            f"{len(flows)} pairs of {_size(clip.frames[0])} pixels",
            f"{seconds:.1f} s, {seconds / len(flows):.2f} s a pair",
            f"mean motion {np.mean([tasks.mean_magnitude(flow) for flow in flows]):.1f} px from frame to frame",
        ]
        return str(path), views.wheel_legend(scale), views.summary(figures, [clip.note])

    def depth(self, image: str, size: str = "1080p", progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        """How far away each point of a picture is.

        Args:
            image: a picture file of at least 32 pixels a side.
            size: "540p", "720p" or "1080p": pictures with more pixels than that are scaled down first.

        Returns:
            the picture, and its depth in colours
            what the colours mean (HTML)
            the picture as a surface in space (.glb)
            size, seconds and figures (HTML)
            the depth as a .npy file: float32 (height, width), metres
            the depth as a 16-bit .png file in millimetres (0 is unknown)
            the depth in colours as a .png file
        """
        progress(0.05, desc="Reading the picture")
        picture = read_picture(image, size)
        pixels = picture.pixels
        progress(0.1, desc=f"One pass over {_size(pixels)} pixels")
        result = self.networks.depth(pixels)
        progress(0.8, desc="Drawing")
        depth = result.depth
        low, high = views.depth_range(depth)
        colours = tasks.depth_picture(depth)
        folder = _folder()
        formats.write_npy(folder / "depth.npy", depth)
        tasks.save_depth(folder / "depth_mm.png", depth)
        formats.save_image(folder / "depth.png", colours)
        (folder / "surface.glb").write_bytes(mesh.glb(pixels, depth))
        figures = [
            f"{_size(pixels)} pixels",
            f"one pass, {result.seconds:.2f} s",
            f"half of the picture is nearer than {np.median(depth):.1f} m",
        ]
        return (
            (pixels, colours),
            _depth_legend(low, high),
            str(folder / "surface.glb"),
            views.summary(figures, [picture.note]),
            *(str(folder / name) for name in ("depth.npy", "depth_mm.png", "depth.png")),
        )

    def segment(
        self, image: str, opacity: float = 0.6, size: str = "1080p", progress: gr.Progress = gr.Progress()  # noqa: B008
    ) -> tuple:
        """What each point of a picture belongs to: road, tree, car, ...

        Args:
            image: a picture file of at least 32 pixels a side.
            opacity: of the colours over the picture, 0 (only the picture) to 1 (only colours).
            size: "540p", "720p" or "1080p": pictures with more pixels than that are scaled down first.

        Returns:
            the picture under its classes' colours
            the classes that occur, their colours and shares (HTML)
            size, seconds and figures (HTML)
            class ids as an 8-bit grey .png file
            class ids as a .npy file: uint8 (height, width)
            the colours over the picture with a legend, as a .png file
        """
        if not 0 <= opacity <= 1:
            raise refuse(f"The opacity lies between 0 and 1; got {opacity}.")
        progress(0.05, desc="Reading the picture")
        picture = read_picture(image, size)
        pixels = picture.pixels
        progress(0.1, desc=f"One pass over {_size(pixels)} pixels")
        result = self.networks.segment(pixels)
        progress(0.85, desc="Drawing")
        names = self.networks.label_names
        colours = visualization.segmentation_to_image(result.labels, visualization.default_palette(len(names)))
        folder = _folder()
        tasks.save_labels(folder / "labels.png", result.labels)
        formats.write_npy(folder / "labels.npy", result.labels)
        formats.save_image(folder / "classes.png", tasks.segmentation_picture(pixels, result.labels, names))
        figures = [f"{_size(pixels)} pixels", f"one pass, {result.seconds:.2f} s"]
        return (
            visualization.overlay(pixels, colours, opacity),
            views.class_legend(result.labels, names),
            views.summary(figures, [picture.note]),
            *(str(folder / name) for name in ("labels.png", "labels.npy", "classes.png")),
        )


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def _depth_legend(low: float, high: float) -> str:
    text = "The colour says how far a point is from the camera, measured straight ahead. Drag the handle to compare with the picture."
    return views.scale_legend(f"near, {low:.1f} m", f"far, {high:.1f} m", text)


def _folder() -> Path:
    """A new folder in Gradio's cache, from where it serves files and deletes them after KEEP_FILES seconds."""
    folder = Path(get_upload_folder()) / f"winwin-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    return folder


def _write_video(path: Path, pictures: Any, rate: float) -> None:
    """RGB pictures of one size -> an MP4 that browsers play (VP9: what OpenCV's own build can encode)."""
    writer = None
    try:
        for picture in pictures:
            if writer is None:
                writer = cv2.VideoWriter(
                    str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"vp09"), rate, (picture.shape[1], picture.shape[0])
                )
                if not writer.isOpened():
                    raise gr.Error("This server's OpenCV can't write videos.")
            writer.write(np.ascontiguousarray(picture[..., ::-1]))
    finally:
        if writer is not None:
            writer.release()


# ------------------------------------------------------------------ the page


def build(networks: Networks, filled: bool = True) -> gr.Blocks:
    """The page. `filled`: with the first example of each tab computed now, so that it opens with something to see."""
    demo = Demo(networks)
    with gr.Blocks(title="Win-Win: motion, depth and things in whole pictures", delete_cache=(600, KEEP_FILES)) as page:
        gr.Markdown(INTRO)
        with gr.Tabs():
            with gr.Tab("Motion (optical flow)", id="flow"):
                gr.Markdown(
                    "Two frames of the same scene go in; out comes **where each point of the first is in the second**. "
                    "Editors use it to slow films down, cars to see what moves, compressors to save bits."
                )
                with gr.Tabs():
                    with gr.Tab("Two frames", id="frames"):
                        _flow_tab(demo, filled)
                    with gr.Tab("A short video", id="video"):
                        _video_tab(demo)
            with gr.Tab("Depth", id="depth"):
                _depth_tab(demo, filled)
            with gr.Tab("Things (segmentation)", id="segmentation"):
                _segmentation_tab(demo, filled)
        names = ", ".join(f"{task}: `{Path(name).name}`" for task, name in networks.names.items())
        gr.Markdown(f"{ABOUT}\nCheckpoints in use: {names}.")
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    return page


# All endpoints that run a network wait in one line.
RUNS = {"concurrency_limit": 1, "concurrency_id": "network"}


@dataclass(frozen=True)
class Filled:
    """Values to begin with: what an event returned for an example, or nothing."""

    inputs: tuple
    outputs: tuple

    @classmethod
    def by(cls, event: Any, inputs: list, outputs: int, filled: bool) -> Filled:
        if not filled:
            return cls((None,) * len(inputs), (None,) * outputs)
        silent = lambda *_, **__: None  # noqa: E731  no request runs whose progress could be shown
        return cls(tuple(inputs), event(*inputs, progress=silent))


def _example(*names: str) -> list[str]:
    return [str(EXAMPLES / name) for name in names]


def _picture_input(label: str, value: str | None) -> gr.Image:
    return as_path(
        gr.Image(label=label, type="filepath", image_mode=None, value=value, height=220, sources=["upload", "clipboard", "webcam"])
    )


def _size_input(default: str, sizes: list[str], info: str) -> gr.Radio:
    return gr.Radio(sizes, value=default, label="Largest size", info=info)


def _empty(trigger: gr.Button, outputs: list, fn: Any, inputs: list, **options: Any) -> Any:
    """Clears the outputs, so that a failed run doesn't leave the last one's results beside the new input; then runs."""
    cleared = trigger.click(
        lambda: [None] * len(outputs), None, outputs, queue=False, show_progress="hidden", api_visibility="private"
    )
    return cleared.then(fn, inputs, outputs, **RUNS, **options)


def _flow_tab(demo: Demo, filled: bool) -> None:
    pairs = [_example("bedroom_1.jpg", "bedroom_2.jpg"), _example("bedroom_1.jpg", "bedroom_3.jpg")]
    start = Filled.by(demo.flow, pairs[0], 9, filled)
    compared = Filled.by(demo.compare_with_tiles, pairs[0], 4, filled)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                frame1 = _picture_input("Frame 1", start.inputs[0])
                frame2 = _picture_input("Frame 2", start.inputs[1])
            size = _size_input("1080p", SIZES, "Larger frames are scaled down. On two CPU cores 1080p takes about 12 seconds, 540p one or two.")
            run = gr.Button("Compute the motion", variant="primary", elem_id="flow-run")
            examples = gr.Examples(pairs, [frame1, frame2], label="Examples (click one)")
        with gr.Column(scale=3, min_width=300):
            figures = gr.HTML(start.outputs[5])
            picture = gr.Image(start.outputs[0], label="Motion in colours", elem_id="flow-picture", interactive=False)
            legend = gr.HTML(start.outputs[1] or views.wheel_legend())
            with gr.Row():
                names = zip(("Flow (.flo)", "Flow (.npy)", "Picture (.png)"), start.outputs[6:], strict=True)
                files = [gr.DownloadButton(f"⬇ {name}", value=value, size="sm", min_width=120) for name, value in names]
    with gr.Row():
        with gr.Column(min_width=300):
            slider = gr.ImageSlider(
                start.outputs[2], label="Frame 1 | frame 2 moved back", elem_id="flow-slider", interactive=False
            )
            gr.Markdown(
                "Drag the handle. Left is frame 1; right is frame 2 with every point **moved back** to where it came from. Where the "
                "motion is right, the two look the same. Smears are what was hidden in one of the frames; black left the frame."
            )
        with gr.Column(min_width=300):
            arrows = gr.Image(start.outputs[3], label="Motion as arrows", elem_id="flow-arrows", interactive=False)
            gr.Markdown("The same motion on frame 1: an arrow begins at a point and ends **where that point is in frame 2**.")
        with gr.Column(min_width=300):
            confidence = gr.Image(start.outputs[4], label="Confidence", elem_id="flow-confidence", interactive=False)
            gr.HTML(
                views.scale_legend(
                    "sure",
                    "unsure",
                    "How sure the network is of each point. Where it is pale it expects to be right to a quarter of a pixel, where it is "
                    "dark to be wrong by four or more: mostly at edges, and where something comes into sight or goes out of it.",
                )
            )
    gr.Markdown(
        "### Whole frames against tiles\n"
        "Most networks of this kind must be used as they were trained, on small pieces: the frame is cut into overlapping tiles, each is "
        "solved without seeing the others, and the results are blended. Points that move out of a tile can't be found, and seams stay "
        "visible. Win-Win needs no tiles."
    )
    compare = gr.Button(f"Compare with tiles of {TILE[1]} x {TILE[0]} pixels", elem_id="compare-run")
    compared_figures = gr.HTML(compared.outputs[3])
    with gr.Row():
        with gr.Column(min_width=300):
            direct = gr.Image(compared.outputs[0], label="Whole frame, one pass", elem_id="compare-direct", interactive=False)
        with gr.Column(min_width=300):
            tiled = gr.Image(compared.outputs[1], label="Tiles, blended", elem_id="compare-tiled", interactive=False)
        with gr.Column(min_width=300):
            apart = gr.Image(compared.outputs[2], label="Where they differ", elem_id="compare-apart", interactive=False)
    gr.Markdown("The darker, the further the two answers are apart; red lines are the borders of tiles.")

    inputs = [frame1, frame2, size]
    outputs = [picture, legend, slider, arrows, confidence, figures, *files]
    comparison = [direct, tiled, apart, compared_figures]
    clear = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    # A comparison belongs to its frames: with new ones it goes.
    examples.load_input_event.then(lambda: [None] * 4, None, comparison, **clear).then(
        demo.flow, inputs, outputs, api_visibility="private", **RUNS
    )
    run.click(lambda: [None] * 4, None, comparison, **clear)
    _empty(run, outputs, demo.flow, inputs, api_name="flow")
    _empty(compare, comparison, demo.compare_with_tiles, inputs, api_name="compare_with_tiles")


def _video_tab(demo: Demo) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            clip = as_path(gr.Video(label=f"A video; its first {MAX_FRAMES} frames are used", sources=["upload", "webcam"], height=260))
            size = _size_input("360p", ["360p", "540p"], "Larger frames are scaled down. The network runs once for each frame.")
            run = gr.Button("Compute the motion", variant="primary", elem_id="video-run")
            examples = gr.Examples([_example("bedroom.mp4")], [clip], label="Example (click it)")
        with gr.Column(scale=3, min_width=300):
            figures = gr.HTML()
            film = gr.Video(label="Frames and their motion in colours", autoplay=True, loop=True, elem_id="video-flow", interactive=False)
            legend = gr.HTML(views.wheel_legend())
            gr.Markdown("Each frame with its motion to the next one. The download button in the video's corner saves it as .mp4.")
    outputs = [film, legend, figures]
    examples.load_input_event.then(demo.flow_of_video, [clip, size], outputs, api_visibility="private", **RUNS)
    _empty(run, outputs, demo.flow_of_video, [clip, size], api_name="flow_of_video")


def _depth_tab(demo: Demo, filled: bool) -> None:
    start = Filled.by(demo.depth, _example("room.jpg"), 7, filled)
    gr.Markdown(
        "One picture goes in; out comes **how far away each point is**. This checkpoint has seen a single kitchen through a single camera: "
        "elsewhere near and far are often right, metres are not."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = _picture_input("Picture", start.inputs[0])
            size = _size_input("1080p", SIZES, "Larger pictures are scaled down.")
            run = gr.Button("Measure the depth", variant="primary", elem_id="depth-run")
            examples = gr.Examples([_example("room.jpg"), _example("bedroom_1.jpg")], [image], label="Examples (click one)")
        with gr.Column(scale=3, min_width=300):
            figures = gr.HTML(start.outputs[3])
            slider = gr.ImageSlider(start.outputs[0], label="Picture | depth", elem_id="depth-slider", interactive=False)
            legend = gr.HTML(start.outputs[1])
            with gr.Row():
                names = zip(("Metres (.npy)", "Millimetres (.png)", "Colours (.png)"), start.outputs[4:], strict=True)
                files = [gr.DownloadButton(f"⬇ {name}", value=value, size="sm", min_width=120) for name, value in names]
    model = gr.Model3D(
        start.outputs[2], label="The picture in space (.glb)", elem_id="depth-model", height=420, interactive=False
    )
    gr.Markdown(
        "The same picture bent to its depth: drag to turn it, scroll to come nearer. Where depth jumps the surface is cut, so holes are "
        "what the camera could not see. The camera's angle of view isn't known and taken to be 57 degrees."
    )
    outputs = [slider, legend, model, figures, *files]
    examples.load_input_event.then(demo.depth, [image, size], outputs, api_visibility="private", **RUNS)
    _empty(run, outputs, demo.depth, [image, size], api_name="depth")


def _segmentation_tab(demo: Demo, filled: bool) -> None:
    start = Filled.by(demo.segment, _example("street.jpg"), 6, filled)
    names = demo.networks.label_names
    gr.Markdown(
        f"One picture goes in; out comes **what each point belongs to**: {', '.join(names[:-1])} or {names[-1]}. There is nothing else for this "
        "checkpoint, which has only seen one town's streets from a car: whatever you show it is forced into these classes."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = _picture_input("Picture", start.inputs[0])
            size = _size_input("1080p", SIZES, "Larger pictures are scaled down.")
            run = gr.Button("Name the things", variant="primary", elem_id="segmentation-run")
            examples = gr.Examples([_example("street.jpg"), _example("barn.jpg")], [image], label="Examples (click one)")
        with gr.Column(scale=3, min_width=300):
            figures = gr.HTML(start.outputs[2])
            picture = gr.Image(start.outputs[0], label="Classes over the picture", elem_id="segmentation-picture", interactive=False)
            legend = gr.HTML(start.outputs[1] or views.class_legend(None, names))
            opacity = gr.Slider(0, 1, value=0.6, step=0.05, label="Opacity of the colours", elem_id="segmentation-opacity")
            gr.Markdown("Each colour is one class; the percentages are their shares of the picture.")
            with gr.Row():
                kinds = zip(("Class ids (.png)", "Class ids (.npy)", "Colours (.png)"), start.outputs[3:], strict=True)
                files = [gr.DownloadButton(f"⬇ {name}", value=value, size="sm", min_width=120) for name, value in kinds]
    inputs, outputs = [image, opacity, size], [picture, legend, figures, *files]
    again = {"api_visibility": "private", **RUNS}
    examples.load_input_event.then(demo.segment, inputs, outputs, **again)
    _empty(run, outputs, demo.segment, inputs, api_name="segment")
    # The result is kept, so moving the slider only mixes two pictures.
    opacity.release(demo.segment, inputs, outputs, show_progress="hidden", **again)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The Win-Win demo in a browser.")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--host", help="0.0.0.0 to be reached from other machines; default: this machine only")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    for task, name in (("flow", "winwin-flow"), ("depth", "winwin-depth"), ("segmentation", "winwin-seg")):
        # A Space sets its variables in its settings; a command line is easier at home.
        default = os.environ.get(f"WINWIN_{task.upper()}", name)
        parser.add_argument(f"--{task}", default=default, metavar="NAME", help=f"a bundled checkpoint, a folder or a Hub repository; default: {default}")
    parser.add_argument("--empty", action="store_true", help="start without computing the first examples")
    options = parser.parse_args(arguments)
    try:
        networks = Networks(options.flow, options.depth, options.segmentation, options.device)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    page = build(networks, filled=not options.empty)
    page.launch(
        server_name=options.host,
        server_port=options.port,
        max_file_size=f"{MAX_FILE_MB}mb",
        state_session_capacity=500,
        css=CSS,
        footer_links=["api", "settings"],
    )


if __name__ == "__main__":
    main()
