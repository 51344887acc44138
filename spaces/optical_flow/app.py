"""The page of this Space: score a file of predicted flow against the true one, and see where the errors are.

evaluate's own widget (evaluate.utils.launch_gradio_widget) needs `gradio.inputs`, gone since Gradio 4, and takes tables, not maps.
"""

from pathlib import Path
from typing import Any

import evaluate
import gradio as gr
import numpy as np

from winwin_hf.data import formats
from winwin_hf.evaluation import metrics
from winwin_hf.inference import drawing
from winwin_hf.model.flow_colours_winwin import flow_to_image

HERE = Path(__file__).resolve().parent
FORMATS = {".flo": "flo", ".flo5": "flo5", ".pfm": "pfm", ".png": "kitti"}
SUFFIXES = [*FORMATS, ".npy"]


def read(path: str) -> np.ndarray:
    """Flow of a .flo, .flo5, .pfm (FlyingThings3D), .png (KITTI) or .npy file, (H, W, 2), or (2, H, W) if a .npy is so."""
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return formats.read_npy(path)
    if suffix not in FORMATS:
        raise ValueError(f"{Path(path).name}: expected one of {', '.join(SUFFIXES)}")
    return formats.decode_flow(path, FORMATS[suffix])


def score(prediction_file: str, reference_file: str, double: str = "best") -> tuple[list[list[Any]], np.ndarray]:
    """The figures as rows (name, value), and a picture: true flow, predicted flow, error. Raises ValueError with the reason."""
    metric = evaluate.load(str(HERE / "optical_flow.py"), double=double, keep_in_memory=True)
    prediction = metric.array(read(prediction_file), Path(prediction_file).name)
    reference = metric.array(read(reference_file), Path(reference_file).name)
    scores = metric.compute(predictions=[prediction], references=[reference])
    error = metrics.flow_errors(prediction, reference, double)
    known = np.isfinite(error)
    length = np.hypot(*reference[:, (np.abs(reference) < metrics.UNKNOWN_FLOW).all(axis=0)])
    top, motion = (float(np.percentile(values, 99)) or 1.0 if values.size else 1.0 for values in (error[known], length))
    pictures = [
        (f"true flow (full colour: {motion:.1f} px)", flow_to_image(reference, motion)),
        ("predicted flow", flow_to_image(prediction, motion)),
        (f"error: 0 px (pale) to {top:.2f} px and more (dark)", drawing.depth_to_image(error, 0, top)),
    ]
    rows = [
        [name, f"{value:.4f}"] for name, value in scores.items() if np.isfinite(value) or not name.startswith("epe_")
    ]
    return rows, drawing.panel(pictures)


def answer(prediction_file: str | None, reference_file: str | None, double: str) -> tuple[list[list[Any]], np.ndarray]:
    """`score` for the page: what is wrong with a file is shown there."""
    if prediction_file is None or reference_file is None:
        raise gr.Error("Upload both files first.")
    try:
        return score(prediction_file, reference_file, double)
    except (ValueError, OSError) as error:
        raise gr.Error(str(error)) from error


def build() -> gr.Blocks:
    with gr.Blocks(title="Optical flow scores") as page:
        gr.Markdown(
            "# Optical flow\nEnd-point error, outliers, Fl and WAUC of one flow file against another: .flo, .flo5, KITTI's .png, "
            ".pfm, or .npy of (H, W, 2) or (2, H, W). Pixels, u to the right, v downwards. epe in pixels, the others in percent; "
            "only wauc is better when it is higher."
        )
        with gr.Row():
            prediction = gr.File(label="predicted flow", file_types=SUFFIXES, type="filepath")
            reference = gr.File(label="true flow", file_types=SUFFIXES, type="filepath")
        double = gr.Radio(
            ["best", "mean"],
            value="best",
            label="true flow of twice the resolution (Spring): which of the four values counts",
        )
        button = gr.Button("Score", variant="primary")
        figures = gr.Dataframe(headers=["score", "value"], label="scores", interactive=False)
        picture = gr.Image(label="where the errors are", interactive=False)
        button.click(answer, [prediction, reference, double], [figures, picture])
    return page


if __name__ == "__main__":
    build().launch()
