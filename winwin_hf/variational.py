"""A classical last step for flow, at inference and optional: OpenCV's variational refinement, which is what DIS ends with too.

It moves a flow by fractions of a pixel until both frames' grey values and gradients agree, with neighbours alike (Brox et al. 2004;
Kroeger et al. 2016, section 2.3). It can't find a match that the flow misses by more than a pixel or two, and knows nothing of occlusion.
No part of the network and of no figure of it: its figures are given apart, under the name of the method with `SUFFIX`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from winwin_hf.data.rows import Task

SUFFIX = "+variational"


def refine(flow: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """
    A flow that fits its frames better, with OpenCV's settings of the method.

    Args:
        flow: (2, H, W) in pixels, from `first` to `second`.
        first, second: uint8 RGB (H, W, 3).
    Returns: float32 (2, H, W). `flow` is left as it is.
    """
    if first.shape != second.shape or flow.shape != (2, *first.shape[:2]):
        raise ValueError(f"expected a flow (2, H, W) and frames (H, W, 3), got {flow.shape}, {first.shape}, {second.shape}")
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    u, v = (np.array(part, np.float32, order="C") for part in flow)  # written to
    u, v = cv2.VariationalRefinement.create().calcUV(*grey, u, v)
    return np.stack([u, v])


class Refined:
    """A predictor of flow (see predictors.py) whose flow is refined."""

    task: Task = "flow"
    labels = None

    def __init__(self, predictor: Any):
        if predictor.task != "flow":
            raise ValueError(f"{predictor.name}{SUFFIX}: {predictor.name} is for {predictor.task}, only flow can be refined")
        self.predictor = predictor
        self.name = predictor.name + SUFFIX

    @property
    def uncertainty(self) -> np.ndarray | None:
        """The network's own, of the flow before."""
        return getattr(self.predictor, "uncertainty", None)

    def __call__(self, image: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
        if second is None:
            raise ValueError(f"{self.name} needs two frames")
        return refine(self.predictor(image, second), image, second)
