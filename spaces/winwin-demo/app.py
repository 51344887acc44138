"""The demo: optical flow, depth and segmentation in a browser. `python app.py`, or as a Hugging Face Space.

Notable:
- Every button is also a named endpoint (`/flow`, `/compare_with_tiles`, `/flow_of_video`, `/depth`, `/segment`); the page's footer
  links to their documentation, which is made from the docstrings in events.py.
- All events that run a network share one queue: one runs, LIMITS.waiting wait, others are told that the queue is full. Nothing is kept
  per visitor: results are looked up by the content of the pictures (networks.py).
- What a request may name, how much a client may use, and when files are deleted: `winwin_hf.served_page`.
- The page opens with the first example of each tab, computed beforehand (beforehand.py).
- Fonts and scripts come from the gradio package: the page works without a network.
"""

from __future__ import annotations

import argparse
import html
import inspect
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported

import beforehand
import gradio as gr
import views
from events import Demo, served
from inputs import AREAS, MAX_FRAMES, as_path
from networks import TILE, Networks

from winwin_hf import served_page

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE / "examples"
EXAMPLE_FILES = [
    EXAMPLES / name
    for name in ("bedroom_1.jpg", "bedroom_2.jpg", "bedroom_3.jpg", "bedroom.mp4", "street.jpg", "barn.jpg", "room.jpg")
]
LIMITS = served_page.Limits()
SIZES = [key for key in AREAS if key != "360p"]

INTRO = """
# Win-Win: motion, depth and things in whole pictures

Three small neural networks that look at a **whole picture at once**. They were trained on only two small windows of each picture, which
is several times cheaper than training on whole pictures. They show how the method works, and they make mistakes.
"""
ABOUT = """
This is an independent implementation of [Win-Win](https://arxiv.org/abs/2310.00632) (Leroy et al., ICLR 2024) for the Hugging Face stack.
Uploads are used for your request only and are deleted within about an hour. `examples/README.md` lists the authors and licences of the
example pictures.
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
.gradio-container .html-container { padding: 0; }
.gradio-container p { line-height: 1.45; }
"""

# The viewer of 3D models tries WebGPU first, and stays black in a browser that has it but no GPU (chromium).
HEAD = "<script>Object.defineProperty(navigator, 'gpu', {value: undefined});</script>"

# ------------------------------------------------------------------ the page


def build(networks: Networks) -> gr.Blocks:
    """The page. Its tabs open with results where there are some of the networks' weights."""
    demo = Demo(networks)
    ready = beforehand.load(networks)
    with gr.Blocks(title="Win-Win: motion, depth and things in whole pictures") as page:
        gr.Markdown(INTRO)
        with gr.Tabs():
            with gr.Tab("Optical flow", id="flow"):
                gr.Markdown(
                    "Upload two frames of the same scene to see **where each point of the first frame is in the second**. "
                    "This is called optical flow. It is used to slow films down, to compress video, and in cars that watch the traffic."
                )
                with gr.Tabs():
                    with gr.Tab("Two frames", id="frames"):
                        _flow_tab(demo, ready)
                    with gr.Tab("A short video", id="video"):
                        _video_tab(demo)
            with gr.Tab("Depth", id="depth"):
                _depth_tab(demo, ready)
            with gr.Tab("Segmentation", id="segmentation"):
                _segmentation_tab(demo, ready)
        names = ", ".join(f"{task}: `{Path(name).name}`" for task, name in networks.names.items())
        gr.Markdown(f"{ABOUT}\nCheckpoints in use: {names}.")
    return page


# Results have no button for sharing, which would ask the Hub.
SHOWN: dict[str, Any] = {"interactive": False, "buttons": ["download", "fullscreen"]}
# Events that run a network wait in one queue.
RUNS: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "network"}


Ready = dict[str, tuple]  # event -> its outputs for the tab's first example


def _start(ready: Ready, event: str, inputs: int, outputs: int) -> tuple[tuple, tuple]:
    """The inputs and outputs that a tab opens with; Nones where nothing is ready."""
    if event not in ready:
        return (None,) * inputs, (None,) * outputs
    return tuple(beforehand.examples(event)), ready[event]


def _example(*names: str) -> list[str]:
    return [str(EXAMPLES / name) for name in names]


def _picture_input(label: str, value: str | None, elem_id: str) -> gr.Image:
    return as_path(
        gr.Image(
            label=label,
            type="filepath",
            image_mode=None,
            value=value,
            elem_id=elem_id,
            height=220,
            sources=["upload", "clipboard", "webcam"],
        )
    )


def _download(name: str, value: str | None) -> gr.DownloadButton:
    return gr.DownloadButton(f"Download {name}", value=value, size="sm", min_width=140)


def _size_input(default: str, sizes: list[str], info: str) -> gr.Radio:
    return gr.Radio(sizes, value=default, label="Largest size", info=info)


def _quality_input(default: str) -> gr.Radio:
    choices = [("Fast: frames as they are, one pass", "fast"), ("Best: enlarged, finds longer motions", "best")]
    return gr.Radio(choices, value=default, label="Quality")


def _connect(
    name: str,
    fn: Any,
    inputs: list,
    outputs: list,
    run: gr.Button,
    examples: Any = None,
    also_clear: list | None = None,
) -> None:
    """Runs `fn` by its button, as the endpoint `name`, and by a click on an example.

    The first output shows the progress. Outputs and `also_clear` are cleared first, so that a failed run doesn't leave the last
    run's results beside the new input.
    """
    cleared = [*outputs, *(also_clear or [])]
    ways = [(run.click, name, "public")]
    if examples is not None:
        ways.append((examples.load_input_event.then, f"{name}_of_example", "private"))
    for trigger, api_name, visibility in ways:
        trigger(
            lambda: [None] * len(cleared),
            None,
            cleared,
            queue=False,
            show_progress="hidden",
            api_name=f"clear_{api_name}",
            api_visibility="private",
        ).then(
            served(fn),
            inputs,
            outputs,
            api_name=api_name,
            api_description=" ".join((inspect.getdoc(fn) or "").split()),
            api_visibility=visibility,
            show_progress_on=outputs[0],
            **RUNS,
        )


def _flow_tab(demo: Demo, ready: Ready) -> None:
    pairs = [_example("bedroom_1.jpg", "bedroom_2.jpg"), _example("bedroom_1.jpg", "bedroom_3.jpg")]
    first, start = _start(ready, "flow", 2, 11)
    _, compared = _start(ready, "compare_with_tiles", 2, 4)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                frame1 = _picture_input("Frame 1", first[0], "flow-frame1")
                frame2 = _picture_input("Frame 2", first[1], "flow-frame2")
            size = _size_input(
                "1080p",
                SIZES,
                "Larger frames are scaled down. On two CPU cores 540p takes about 4 seconds, 1080p about 14; fast takes 1 and 7.",
            )
            quality = _quality_input("best")
            run = gr.Button("Compute the motion", variant="primary", elem_id="flow-run")
            examples = gr.Examples(pairs, [frame1, frame2], label="Examples (click one)")
        with gr.Column(scale=3, min_width=300):
            figures = gr.HTML(start[7], label="Figures", padding=False)
            picture = gr.Image(start[0], label="Motion in colours", elem_id="flow-picture", **SHOWN)
            legend = gr.HTML(start[1] or views.wheel_legend(), label="Colour legend", padding=False)
            with gr.Row():
                names = zip((".flo", ".npy", ".png"), start[8:], strict=True)
                files = [_download(name, value) for name, value in names]
    with gr.Row():
        with gr.Column(min_width=300):
            slider = gr.ImageSlider(start[2], label="Frame 1 | frame 2 moved back", elem_id="flow-slider", **SHOWN)
            gr.Markdown(
                "Drag the handle. Left is frame 1; right is frame 2 with every point **moved back** to its place in frame 1. Where the "
                "motion is right, the two look the same. Smears are points that are hidden in one frame; black points left the frame."
            )
        with gr.Column(min_width=300):
            arrows = gr.Image(start[3], label="Motion as arrows", elem_id="flow-arrows", **SHOWN)
            arrows_text = gr.HTML(start[4] or views.arrows_text(), label="Length of the arrows", padding=False)
        with gr.Column(min_width=300):
            confidence = gr.Image(start[5], label="Confidence", elem_id="flow-confidence", **SHOWN)
            confidence_legend = gr.HTML(start[6] or views.error_legend(), label="Confidence legend", padding=False)
    gr.Markdown(
        "### Whole frames against tiles\n"
        "Most networks that are trained on small pieces must also be used on small pieces. The frame is cut into overlapping tiles, the "
        "motion in each tile is computed without seeing the others, and the results are blended. Points that move out of a tile can't be "
        "found, and seams can stay visible. Win-Win needs no tiles."
    )
    compare = gr.Button(f"Compare with tiles of {TILE[1]} x {TILE[0]} pixels", elem_id="compare-run")
    compared_figures = gr.HTML(compared[3], label="Times and differences", padding=False)
    with gr.Row():
        with gr.Column(min_width=300):
            direct = gr.Image(compared[0], label="Whole frame, one pass", elem_id="compare-direct", **SHOWN)
        with gr.Column(min_width=300):
            tiled = gr.Image(compared[1], label="Tiles, blended", elem_id="compare-tiled", **SHOWN)
        with gr.Column(min_width=300):
            apart = gr.Image(compared[2], label="Where they differ", elem_id="compare-apart", **SHOWN)
    gr.Markdown("Dark points are where the two results differ most; red lines are the borders of the tiles.")

    inputs = [frame1, frame2, size]
    outputs = [picture, legend, slider, arrows, arrows_text, confidence, confidence_legend, figures, *files]
    comparison = [direct, tiled, apart, compared_figures]
    # A comparison belongs to its frames, so new frames clear it.
    _connect("flow", demo.flow, [*inputs, quality], outputs, run, examples, also_clear=comparison)
    _connect("compare_with_tiles", demo.compare_with_tiles, inputs, comparison, compare)


def _video_tab(demo: Demo) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            clip = as_path(
                gr.Video(
                    label=f"A video; its first {MAX_FRAMES} frames are used",
                    sources=["upload", "webcam"],
                    height=300,
                    elem_id="video-input",
                )
            )
            size = _size_input(
                "360p", ["360p", "540p"], "Larger frames are scaled down. The network runs once for each frame."
            )
            quality = _quality_input("fast")
            run = gr.Button("Compute the motion", variant="primary", elem_id="video-run")
            examples = gr.Examples([_example("bedroom.mp4")], [clip], label="Example (click it)")
        with gr.Column(scale=3, min_width=300):
            figures = gr.HTML(label="Figures", padding=False)
            film = gr.Video(
                label="Frames and their motion in colours",
                autoplay=True,
                loop=True,
                elem_id="video-flow",
                height=480,
                interactive=False,
                buttons=["download"],
            )
            legend = gr.HTML(views.wheel_legend(), label="Colour legend", padding=False)
            gr.Markdown(
                "Each frame and its motion to the next frame. The download button in the video's corner saves it as .mp4."
            )
    outputs = [film, legend, figures]
    _connect("flow_of_video", demo.flow_of_video, [clip, size, quality], outputs, run, examples)


def _depth_tab(demo: Demo, ready: Ready) -> None:
    first, start = _start(ready, "depth", 1, 7)
    gr.Markdown(
        "Upload one picture to see **how far away each point is**. The network was trained on rendered streets, landscapes and rooms, and "
        "on one real kitchen. Elsewhere it mostly knows near from far, but its metres are a guess, and it misses people and other things."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = _picture_input("Picture", first[0], "depth-input")
            size = _size_input("1080p", SIZES, "Larger pictures are scaled down.")
            run = gr.Button("Measure the depth", variant="primary", elem_id="depth-run")
            examples = gr.Examples(
                [_example(name) for name in ("bedroom_1.jpg", "room.jpg", "barn.jpg")],
                [image],
                label="Examples (click one)",
            )
        with gr.Column(scale=3, min_width=300):
            figures = gr.HTML(start[3], label="Figures", padding=False)
            slider = gr.ImageSlider(start[0], label="Picture | depth", elem_id="depth-slider", **SHOWN)
            legend = gr.HTML(start[1], label="Depth legend", padding=False)
            with gr.Row():
                names = zip((".npy (metres)", ".png (millimetres)", ".png (colours)"), start[4:], strict=True)
                files = [_download(name, value) for name, value in names]
    model = gr.Model3D(
        start[2],
        label="The picture in space (.glb)",
        elem_id="depth-model",
        height=420,
        camera_position=(97, 80, None),
        interactive=False,
    )
    gr.Markdown(
        "The picture as a surface in space: drag to turn it, scroll to come nearer. The surface is cut where depth jumps; holes are what "
        "the camera could not see. The camera's angle of view is unknown and assumed to be 57 degrees."
    )
    outputs = [slider, legend, model, figures, *files]
    _connect("depth", demo.depth, [image, size], outputs, run, examples)


def _segmentation_tab(demo: Demo, ready: Ready) -> None:
    first, start = _start(ready, "segment", 1, 6)
    names = demo.networks.label_names
    classes = [html.escape(name) for name in names]
    gr.Markdown(
        f"Upload one picture to see **what each point belongs to**: {', '.join(classes[:-1])} or {classes[-1]}. The network knows only "
        "these classes, and gives everything one of them. It was trained on streets and facades of a few towns."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = _picture_input("Picture", first[0], "segmentation-input")
            size = _size_input("1080p", SIZES, "Larger pictures are scaled down.")
            run = gr.Button("Name the things", variant="primary", elem_id="segmentation-run")
            examples = gr.Examples(
                [_example("street.jpg"), _example("barn.jpg")], [image], label="Examples (click one)"
            )
        with gr.Column(scale=3, min_width=300):
            figures = gr.HTML(start[2], label="Figures", padding=False)
            picture = gr.Image(start[0], label="Classes over the picture", elem_id="segmentation-picture", **SHOWN)
            legend = gr.HTML(start[1] or views.class_legend(None, names), label="Class legend", padding=False)
            opacity = gr.Slider(
                0, 1, value=0.6, step=0.05, label="Opacity of the colours", elem_id="segmentation-opacity"
            )
            gr.Markdown("Each colour is one class; the percentages are their shares of the picture.")
            with gr.Row():
                kinds = zip((".png (class ids)", ".npy (class ids)", ".png (colours)"), start[3:], strict=True)
                files = [_download(name, value) for name, value in kinds]
    inputs, outputs = [image, opacity, size], [picture, legend, figures, *files]
    _connect("segment", demo.segment, inputs, outputs, run, examples)
    # The result is kept, so moving the slider only blends two pictures.
    opacity.release(
        served(demo.overlay),
        inputs,
        picture,
        show_progress="hidden",
        api_name="overlay",
        api_visibility="private",
        **RUNS,
    )


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text[:40]}: expected a number from 1 to 65535")
    return port


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The Win-Win demo in a browser.")
    parser.add_argument("--port", type=_port, help="default: the first free one from 7860")
    parser.add_argument("--host", help="0.0.0.0 to be reached from other machines; default: this machine only")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    for task, name in (("flow", "winwin-flow"), ("depth", "winwin-depth"), ("segmentation", "winwin-seg")):
        # a Space has variables in its settings, no command line
        default = os.environ.get(f"WINWIN_{task.upper()}", name)
        parser.add_argument(
            f"--{task}",
            default=default,
            metavar="NAME",
            help=f"a bundled checkpoint, a folder or a Hub repository; default: {default}",
        )
    options = parser.parse_args(arguments)
    try:
        served_page.check_address(options.host, options.port)
        networks = Networks(options.flow, options.depth, options.segmentation, options.device)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    with served_page.WorkFolder("winwin-demo") as folder:
        served_page.serve(
            build(networks),
            folder,
            LIMITS,
            examples=EXAMPLE_FILES,
            server_name=options.host,
            server_port=options.port,
            css=CSS,
            head=HEAD,
            theme=gr.themes.Default(
                font=[gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif"]
            ),
            footer_links=["api", "settings"],
        )
    networks.close()


if __name__ == "__main__":
    main()
