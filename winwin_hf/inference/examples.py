"""A picture of what a network predicts for the package's example frames."""

from __future__ import annotations

from pathlib import Path

from winwin_hf import bundled
from winwin_hf.data import formats
from winwin_hf.inference import sheets
from winwin_hf.inference.predictor import Predictor
from winwin_hf.task import Task


def example_picture(folder: Path, task: Task, path: Path) -> str | None:
    """
    Writes a picture of the model's prediction for the package's example frames.

    Returns: its caption with the frames' credit; None, and no picture, for models of features and where the frames are missing.
    """
    frames = [bundled.examples_folder() / name for name in bundled.SHOWN.get(task.name, ())]
    if not frames or not all(frame.is_file() for frame in frames):
        return None
    predictor, images = Predictor.load(folder), [formats.read_image(frame) for frame in frames]
    values = predictor(*images).values
    formats.save_image(path, sheets.prediction_sheet(task.name, images, values, predictor.labels))
    credit = bundled.example_credit(frames[0].name)
    return f"{task.title.capitalize()} by this model. Picture: {credit}; here scaled, beside the prediction."
