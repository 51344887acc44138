"""The page of this Space: scores a file of predicted flow against the true one, and shows where the errors are."""

from functools import partial
from pathlib import Path
from typing import Any

import evaluate
import gradio as gr
import numpy as np

from winwin_hf.data import formats
from winwin_hf.evaluation.metric_page import MetricPage, read_map
from winwin_hf.evaluation.metrics import flow_errors
from winwin_hf.inference import drawing, sheets
from winwin_hf.model.flow_colours_winwin import flow_to_image
from winwin_hf.windows import UNKNOWN_FLOW

MODULE = Path(__file__).resolve().with_name("optical_flow.py")
FORMATS = {".flo": "flo", ".flo5": "flo5", ".pfm": "pfm", ".png": "kitti"}
READERS = {suffix: partial(formats.decode_flow, flow_format=name) for suffix, name in FORMATS.items()}
READERS[".npy"] = formats.read_npy


def score(prediction_file: str, truth_file: str, double: str = "best") -> tuple[list[list[Any]], np.ndarray]:
    """The figures as rows (name, value), and a picture: true flow, predicted flow, error. Raises ValueError with the reason."""
    metric = evaluate.load(str(MODULE), double=double, keep_in_memory=True)
    prediction, truth = (
        metric.array(read_map(file, READERS), Path(file).name) for file in (prediction_file, truth_file)
    )
    scores = metric.compute(predictions=[prediction], references=[truth])
    error = flow_errors(prediction, truth, double)
    length = np.hypot(*truth[:, (np.abs(truth) < UNKNOWN_FLOW).all(axis=0)])
    worst, longest = _top(error[np.isfinite(error)]), _top(length)
    pictures = [
        (f"true flow (full colour: {longest:.1f} px)", flow_to_image(truth, longest)),
        ("predicted flow", flow_to_image(prediction, longest)),
        (f"error: 0 px (pale) to {worst:.2f} px and more (dark)", drawing.depth_to_image(error, 0, worst)),
    ]
    rows = [
        [name, f"{value:.4f}"] for name, value in scores.items() if np.isfinite(value) or not name.startswith("epe_")
    ]
    return rows, sheets.panel(pictures)


def _top(values: np.ndarray) -> float:
    """The 99th percentile, or 1 where it would be 0 or there is none."""
    return float(np.percentile(values, 99)) or 1.0 if values.size else 1.0


def settings() -> list[gr.Component]:
    label = "true flow of twice the resolution (Spring): which of the four values counts"
    return [gr.Radio(["best", "mean"], value="best", label=label)]


PAGE = MetricPage(
    "flow",
    READERS,
    score,
    settings,
    title="Optical flow",
    text="End-point error, outliers, Fl and WAUC of one flow file against another: .flo, .flo5, KITTI's .png, .pfm, or .npy of "
    "(H, W, 2) or (2, H, W). Pixels, u to the right, v downwards. epe in pixels, the others in percent; only wauc is better when "
    "it is higher.",
)

if __name__ == "__main__":
    PAGE.launch()
