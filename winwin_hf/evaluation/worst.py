"""The worst images of an evaluation: a picture of each, and a page that shows them all."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np

from winwin_hf.data.formats import save_image, write_atomic
from winwin_hf.evaluation.figures import FIGURE_LABELS, figure_text
from winwin_hf.evaluation.report import Line, folder_name
from winwin_hf.evaluation.scoring import Frame, Result
from winwin_hf.inference import drawing, sheets
from winwin_hf.model.flow_colours_winwin import flow_to_image
from winwin_hf.model.losses_winwin import UNKNOWN_FLOW
from winwin_hf.task import TASKS, DataTask

PAGE = "worst.html"
HEAD = "<!doctype html><meta charset=utf-8><title>worst cases</title>"
NAME = re.compile(r"[-+\w.]+_\d{6}_.*\.png")  # of a picture: figure, number, name
PICTURE_WIDTH = 480  # pixels; of each of the four pictures side by side

Captioned = tuple[str, np.ndarray]


def draw(frame: Frame, prediction: np.ndarray, task: DataTask, figures: dict[str, Any]) -> np.ndarray:
    """Picture, truth, prediction and error of one frame with ground truth side by side, uint8 RGB."""
    caption = ", ".join(
        f"{FIGURE_LABELS[k]} {figure_text(v)}" for k, v in list(figures.items())[:4] if k in FIGURE_LABELS
    )
    assert frame.target is not None
    pictures = {"optical-flow": _draw_flow, "depth-estimation": _draw_depth, "semantic-segmentation": _draw_labels}
    truth, predicted, error = pictures[task](frame.target, prediction)
    image = ("image" if frame.second is None else "first frame", frame.image)
    return sheets.panel([image, truth, (caption, predicted), error], columns=4, width=PICTURE_WIDTH)


def _draw_flow(target: np.ndarray, prediction: np.ndarray) -> tuple[Captioned, np.ndarray, Captioned]:
    truth = target if target.shape == prediction.shape else target[:, ::2, ::2]  # Spring: of twice the size
    length = np.linalg.norm(truth, axis=0)
    known = np.isfinite(length) & (length < UNKNOWN_FLOW)
    longest = float(np.percentile(length[known], 99)) + 1e-3
    error = np.where(known, np.linalg.norm(prediction - truth, axis=0), np.nan)
    return (
        (f"true flow, up to {longest:.0f} px", flow_to_image(truth, longest)),
        flow_to_image(prediction, longest),
        ("error: pale 0 px, dark 10 px or more", drawing.depth_to_image(np.minimum(error, 10), 0, 10)),
    )


def _draw_depth(target: np.ndarray, prediction: np.ndarray) -> tuple[Captioned, np.ndarray, Captioned]:
    known = target[np.isfinite(target)]
    low, high = (float(np.percentile(known, q)) for q in (1, 99))
    error = np.minimum(np.abs(prediction - target) / target, 0.5)
    return (
        (f"true depth, {low:.1f} to {high:.1f} m", sheets.depth_picture(target, low, high)),
        sheets.depth_picture(prediction, low, high),
        ("relative error: pale 0, dark 0.5 or more", drawing.depth_to_image(error, 0, 0.5)),
    )


def _draw_labels(target: np.ndarray, prediction: np.ndarray) -> tuple[Captioned, np.ndarray, Captioned]:
    palette = drawing.default_palette(int(max(prediction.max(), 18)) + 1)
    error = np.where(prediction == target, 255, np.uint8(60)).astype(np.uint8)
    error[target == 255] = 200
    return (
        ("true classes", drawing.segmentation_to_image(target.astype(np.int64), palette)),
        drawing.segmentation_to_image(prediction.astype(np.int64), palette),
        ("dark: wrong, grey: not counted", np.repeat(error[..., None], 3, axis=2)),
    )


def write_pictures(folder: Path, result: Result, task: DataTask) -> None:
    """Draws the worst images that this process has."""
    figure = TASKS[task].figure
    for frame, prediction in result.worst:
        assert frame.target is not None
        masks = {"occluded": frame.occluded} if task == "optical-flow" else {}
        figures = result.metric.compute(result.metric.row(prediction, frame.target, **masks))
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{figures[figure]:010.4f}_{frame.index:06d}_{folder_name(frame.name)}.png"
        save_image(folder / name, draw(frame, prediction, task, figures))


def write_page(output: Path, lines: list[Line]) -> None:
    """Writes worst.html: the pictures that `write_pictures` wrote under `output`, by set and method, the worst first."""
    parts = [
        HEAD,
        "<style>body{font-family:sans-serif;margin:1em}img{max-width:100%}figure{margin:1em 0}</style>",
        "<h1>Worst cases</h1>",
    ]
    for line in lines:
        folder = output / folder_name(line.method) / folder_name(f"{line.data}-{line.split}") / "worst"
        pictures = sorted(folder.glob("*.png"), reverse=TASKS[line.task].lower_is_better)
        if not pictures:
            continue
        parts.append(f"<h2>{html.escape(f'{line.data}:{line.split}, {line.method}, {line.inference}')}</h2>")
        label = FIGURE_LABELS[TASKS[line.task].figure]
        for picture in pictures:
            value, index, name = picture.stem.split("_", 2)
            caption = html.escape(f"{label} {float(value):.2f}, {name} (example {int(index)})")
            source = html.escape(picture.relative_to(output).as_posix())
            parts.append(f"<figure><figcaption>{caption}</figcaption><img loading=lazy src='{source}'></figure>")
    with write_atomic(output / PAGE) as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")
