"""The page of this Space: scores a predicted label map against the true one, and shows where the errors are."""

from pathlib import Path
from typing import Any

import evaluate
import gradio as gr
import numpy as np

from winwin_hf.data import formats
from winwin_hf.evaluation.metric_page import MetricPage, read_map
from winwin_hf.inference import drawing, sheets

MODULE = Path(__file__).resolve().with_name("semantic_segmentation.py")
READERS = {".png": formats.read_labels, ".npy": formats.read_npy}
CORRECT, WRONG = (225, 225, 225), (200, 30, 30)  # RGB


def score(
    prediction_file: str, truth_file: str, num_labels: float = 19, ignore: float = 255
) -> tuple[list[list[Any]], np.ndarray]:
    """The figures as rows (name, value), and a picture: true labels, predicted ones, errors. Raises ValueError with the reason."""
    num_labels, ignore = int(num_labels), int(ignore)
    metric = evaluate.load(str(MODULE), num_labels=num_labels, ignore=ignore, keep_in_memory=True)
    prediction, truth = read_map(prediction_file, READERS), read_map(truth_file, READERS)
    scores = metric.compute(predictions=[prediction], references=[truth])
    iou = scores.pop("iou")
    known = truth != ignore
    errors = np.zeros((*known.shape, 3), np.uint8)
    errors[known] = np.where((prediction != truth)[known, None], WRONG, CORRECT)
    palette = drawing.default_palette(num_labels)
    shown = np.where(known, prediction, ignore)  # elsewhere a prediction may be any number
    pictures = [
        ("true classes (black: ignored)", drawing.segmentation_to_image(truth, palette, ignore)),
        ("predicted classes", drawing.segmentation_to_image(shown, palette, ignore)),
        ("errors (red)", errors),
    ]
    rows = [[name, f"{value:.2f}"] for name, value in scores.items()]
    rows += [[f"IoU of class {name}", f"{value:.2f}"] for name, value in iou.items() if np.isfinite(value)]
    return rows, sheets.panel(pictures)


def settings() -> list[gr.Component]:
    return [
        gr.Number(19, label="number of classes", precision=0, minimum=1, maximum=1000),
        gr.Number(255, label="id that doesn't count", precision=0),
    ]


PAGE = MetricPage(
    "classes",
    READERS,
    score,
    settings,
    title="Semantic segmentation",
    text="Intersection over union and accuracy of one map of class ids against another: .png (grey, or a palette's indices) or "
    ".npy. All in percent, higher is better.",
)

if __name__ == "__main__":
    PAGE.launch()
