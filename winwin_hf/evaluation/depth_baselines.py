"""What a depth network must beat: depth guessed from a pixel's place in the image, learned from the network's training frames.

- "mean-depth": the mean depth of each place over all training frames;
- "height-depth": a straight line through all training pixels, depth against height in the image.

A name says which frames to learn from: METHOD@NAME:SPLIT=PATH, such as "mean-depth@seven-scenes:all[:67%]=/data/redkitchen".
Source: ours.
"""

from __future__ import annotations

import cv2
import numpy as np

from winwin_hf.data.sources import open_source
from winwin_hf.evaluation.scoring import read_frame
from winwin_hf.inference.predictor import Method, Prediction

METHODS = ("mean-depth", "height-depth")
GRID = (60, 80)  # rows and columns of the learned map, for frames of any size


class DepthBaseline(Method):
    """A depth method without a network; it reads all its training frames when it is made.

    Raises: ValueError for a name that isn't METHOD@NAME:SPLIT=PATH or a set without depth; OSError for a missing folder.
    """

    task = "depth-estimation"

    def __init__(self, name: str):
        self.name, _, spec = name.partition("@")
        place, equals, path = spec.partition("=")
        data, colon, split = place.partition(":")
        if self.name not in METHODS or not (data and colon and split and equals and path):
            raise ValueError(
                f"{name}: expected METHOD@NAME:SPLIT=PATH, METHOD one of {', '.join(METHODS)}, and the frames to learn from"
            )
        source = open_source(data, path, split)
        if source.task != "depth-estimation":
            raise ValueError(f"{name}: {data} is for {source.task}; expected a set with depth")
        self.map = learn(self.name, [read_frame(source, example).target for example in source.examples()])

    def predict(self, image: np.ndarray, second: np.ndarray | None) -> Prediction:
        return Prediction(cv2.resize(self.map, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR))


def learn(method: str, depths: list[np.ndarray | None]) -> np.ndarray:
    """Depth maps (H, W) in metres, NaN or not positive where unknown -> the guessed depth, float32 `GRID`, in metres."""
    total, count = np.zeros(GRID), np.zeros(GRID)
    for depth in depths:
        if depth is None:
            continue
        known = (np.isfinite(depth) & (depth > 0)).astype(np.float32)
        cells = (GRID[1], GRID[0])
        # known pixels are summed over each cell's area, so that holes don't count as zeros
        total += cv2.resize(np.where(known > 0, depth, 0).astype(np.float32), cells, interpolation=cv2.INTER_AREA)
        count += cv2.resize(known, cells, interpolation=cv2.INTER_AREA)
    if not count.any():
        raise ValueError(f"{method}: no training frame has known depth")
    mean = total.sum() / count.sum()
    if method == "height-depth":
        height = np.broadcast_to(np.arange(GRID[0])[:, None] / (GRID[0] - 1), GRID)
        slope, start = np.polyfit(
            height.ravel(), (total / np.maximum(count, 1e-9)).ravel(), 1, w=np.sqrt(count).ravel()
        )
        guess = start + slope * height
    else:
        guess = np.where(count > 0, total / np.maximum(count, 1e-9), mean)
    return np.maximum(guess, 1e-3).astype(np.float32)
