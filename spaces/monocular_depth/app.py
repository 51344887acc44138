"""The page of this Space: score a predicted depth map against the true one, and see where the errors are.

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

HERE = Path(__file__).resolve().parent
SUFFIXES = [".png", ".pfm", ".npy"]


def read(path: str, steps: float = 1000.0) -> np.ndarray:
    """Depth in metres (H, W) of a 16-bit .png (`steps` per metre, 0 is unknown), or a .pfm or .npy file of metres."""
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return formats.read_npy(path)
    if suffix not in SUFFIXES:
        raise ValueError(f"{Path(path).name}: expected one of {', '.join(SUFFIXES)}")
    return formats.read_depth_png(path, steps) if suffix == ".png" else formats.read_pfm(path)


def score(
    prediction_file: str, reference_file: str, protocol: str = "default", align: str = "none", steps: float = 1000.0
) -> tuple[list[list[Any]], np.ndarray]:
    """The figures as rows (name, value), and a picture: true depth, predicted depth, error. Raises ValueError with the reason."""
    metric = evaluate.load(
        str(HERE / "monocular_depth.py"), protocol, align=None if align == "none" else align, keep_in_memory=True
    )
    prediction, reference = read(prediction_file, steps), read(reference_file, steps)
    scores = metric.compute(predictions=[prediction], references=[reference])
    how = metric.scorer
    known, guess = metrics.depth_compared(prediction, reference, how.min_depth, how.max_depth, how.crop, how.align)
    truth, compared, error = (np.full(known.shape, np.nan) for _ in range(3))
    truth[known], compared[known] = reference[known], guess
    error[known] = np.abs(guess - reference[known])
    low, high = np.percentile(truth[known], (1, 99)) if known.any() else (0, 1)
    top = float(np.percentile(error[known], 99)) if known.any() else 1.0
    span = f"{low:.2f} m (pale) to {high:.2f} m (dark)"
    pictures = [
        (f"true depth: {span}", drawing.depth_to_image(truth, low, high)),
        ("predicted depth, as it is compared", drawing.depth_to_image(compared, low, high)),
        (f"error: 0 m (pale) to {top:.3f} m and more (dark)", drawing.depth_to_image(error, 0, top)),
    ]
    return [[name, f"{value:.4f}"] for name, value in scores.items()], drawing.panel(pictures)


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
    with gr.Blocks(title="Monocular depth scores") as page:
        gr.Markdown(
            "# Monocular depth\nAbsRel, SqRel, RMSE, SILog, delta and others of one depth map against another: 16-bit .png, .pfm or "
            ".npy of metres. Lower is better but for delta1 to delta3, which are percent of pixels."
        )
        with gr.Row():
            prediction = gr.File(label="predicted depth", file_types=SUFFIXES, type="filepath")
            reference = gr.File(label="true depth", file_types=SUFFIXES, type="filepath")
        with gr.Row():
            protocol = gr.Radio(["default", "nyu", "kitti"], value="default", label="cap and crop")
            align = gr.Radio(["none", "median", "least-squares"], value="none", label="align the prediction first")
            steps = gr.Number(1000, label="steps per metre in .png files (KITTI: 256)", minimum=1e-3)
        button = gr.Button("Score", variant="primary")
        figures = gr.Dataframe(headers=["score", "value"], label="scores", interactive=False)
        picture = gr.Image(label="where the errors are", interactive=False)
        button.click(answer, [prediction, reference, protocol, align, steps], [figures, picture])
    return page


if __name__ == "__main__":
    build().launch()
