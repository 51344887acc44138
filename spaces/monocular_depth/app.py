"""The page of this Space: scores a predicted depth map against the true one, and shows where the errors are."""

from functools import partial
from pathlib import Path
from typing import Any

import evaluate
import gradio as gr
import numpy as np

from winwin_hf.data import formats
from winwin_hf.evaluation.metric_page import MetricPage, read_map
from winwin_hf.inference import drawing, sheets

MODULE = Path(__file__).resolve().with_name("monocular_depth.py")
READERS = {".png": partial(formats.read_depth_png, scale=1000), ".pfm": formats.read_pfm, ".npy": formats.read_npy}


def score(
    prediction_file: str, truth_file: str, protocol: str = "default", align: str = "none", steps: float = 1000.0
) -> tuple[list[list[Any]], np.ndarray]:
    """
    The figures as rows (name, value), and a picture: true depth, predicted depth, error. Raises ValueError with the reason.

    Args:
        protocol: configuration of the module. align: "none", or as the module's option. steps: per metre, in .png files.
    """
    metric = evaluate.load(str(MODULE), protocol, align=None if align == "none" else align, keep_in_memory=True)
    readers = {**READERS, ".png": partial(formats.read_depth_png, scale=steps)}
    prediction, truth = read_map(prediction_file, readers), read_map(truth_file, readers)
    scores = metric.compute(predictions=[prediction], references=[truth])
    known, guess = metric.scorer.compared(prediction, truth)
    maps = {name: np.full(known.shape, np.nan) for name in ("truth", "compared", "error")}
    maps["truth"][known], maps["compared"][known] = truth[known], guess
    maps["error"][known] = np.abs(guess - truth[known])
    low, high = np.percentile(truth[known], (1, 99)) if known.any() else (0, 1)
    worst = float(np.percentile(maps["error"][known], 99)) if known.any() else 1.0
    pictures = [
        (f"true depth: {low:.2f} m (pale) to {high:.2f} m (dark)", drawing.depth_to_image(maps["truth"], low, high)),
        ("predicted depth, aligned and clipped", drawing.depth_to_image(maps["compared"], low, high)),
        (f"error: 0 m (pale) to {worst:.3f} m and more (dark)", drawing.depth_to_image(maps["error"], 0, worst)),
    ]
    return [[name, f"{value:.4f}"] for name, value in scores.items()], sheets.panel(pictures)


def settings() -> list[gr.Component]:
    return [
        gr.Radio(["default", "nyu", "kitti"], value="default", label="range and crop"),
        gr.Radio(["none", "median", "least-squares"], value="none", label="align the prediction first"),
        gr.Number(1000, label="steps per metre in .png files (KITTI: 256)", minimum=1e-3),
    ]


PAGE = MetricPage(
    "depth",
    READERS,
    score,
    settings,
    title="Monocular depth",
    text="AbsRel, SqRel, RMSE, SILog, delta and others of one depth map against another: 16-bit .png, or .pfm or .npy of metres. "
    "Lower is better, except for delta1 to delta3, which are percent of pixels.",
)

if __name__ == "__main__":
    PAGE.launch()
