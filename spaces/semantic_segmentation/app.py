"""The page of this Space: score a predicted label map against the true one, and see where the errors are.

evaluate's own widget (evaluate.utils.launch_gradio_widget) needs `gradio.inputs`, gone since Gradio 4, and takes tables, not maps.
"""

from pathlib import Path
from typing import Any

import evaluate
import gradio as gr
import numpy as np

from winwin_hf.data import formats
from winwin_hf.inference import drawing

HERE = Path(__file__).resolve().parent
SUFFIXES = [".png", ".npy"]
RIGHT, WRONG = (225, 225, 225), (200, 30, 30)


def read(path: str) -> np.ndarray:
    """Class ids (H, W) of a .png (grey, or the indices of a palette) or .npy file."""
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return formats.read_npy(path)
    if suffix not in SUFFIXES:
        raise ValueError(f"{Path(path).name}: expected one of {', '.join(SUFFIXES)}")
    return formats.read_labels(path)


def score(
    prediction_file: str, reference_file: str, num_labels: float = 19, ignore: float = 255
) -> tuple[list[list[Any]], np.ndarray]:
    """The figures as rows (name, value), and a picture: true labels, predicted ones, errors. Raises ValueError with the reason."""
    num_labels, ignore = int(num_labels), int(ignore)
    module = str(HERE / "semantic_segmentation.py")
    metric = evaluate.load(module, num_labels=num_labels, ignore=ignore, keep_in_memory=True)
    prediction, reference = read(prediction_file), read(reference_file)
    scores = metric.compute(predictions=[prediction], references=[reference])
    iou = scores.pop("iou")
    known = reference != ignore
    errors = np.zeros((*known.shape, 3), np.uint8)
    errors[known] = np.where((prediction != reference)[known, None], WRONG, RIGHT)
    palette = drawing.default_palette(num_labels)
    shown = np.where(known, prediction, ignore)  # elsewhere a prediction may be any number
    pictures = [
        ("true classes (black: ignored)", drawing.segmentation_to_image(reference, palette, ignore)),
        ("predicted classes", drawing.segmentation_to_image(shown, palette, ignore)),
        ("errors (red)", errors),
    ]
    rows = [[name, f"{value:.2f}"] for name, value in scores.items()]
    rows += [[f"IoU of class {name}", f"{value:.2f}"] for name, value in iou.items() if np.isfinite(value)]
    return rows, drawing.panel(pictures)


def answer(
    prediction_file: str | None, reference_file: str | None, *settings: Any
) -> tuple[list[list[Any]], np.ndarray]:
    """`score` for the page: what is wrong with a file is shown there."""
    if prediction_file is None or reference_file is None:
        raise gr.Error("Upload both files first.")
    try:
        return score(prediction_file, reference_file, *settings)
    except (ValueError, OSError) as error:
        raise gr.Error(str(error)) from error


def build() -> gr.Blocks:
    with gr.Blocks(title="Semantic segmentation scores") as page:
        gr.Markdown(
            "# Semantic segmentation\nIntersection over union and accuracy of one map of class ids against another: .png (grey, or a "
            "palette's indices) or .npy. All in percent, higher is better."
        )
        with gr.Row():
            prediction = gr.File(label="predicted classes", file_types=SUFFIXES, type="filepath")
            reference = gr.File(label="true classes", file_types=SUFFIXES, type="filepath")
        with gr.Row():
            num_labels = gr.Number(19, label="number of classes", precision=0, minimum=1)
            ignore = gr.Number(255, label="id that doesn't count", precision=0)
        button = gr.Button("Score", variant="primary")
        figures = gr.Dataframe(headers=["score", "value"], label="scores", interactive=False)
        picture = gr.Image(label="where the errors are", interactive=False)
        button.click(answer, [prediction, reference, num_labels, ignore], [figures, picture])
    return page


if __name__ == "__main__":
    build().launch()
