"""A classical last step for flow, at inference and optional: OpenCV's variational refinement, from coarse to fine.

It moves a flow until grey values and gradients of both frames agree, with neighbours alike (Brox et al. 2004); DIS ends with it too
(Kroeger et al. 2016). At each of three scales it mends errors of up to about two pixels there; a match that is missed by more stays
missed, and of occlusion it knows nothing.

No part of the network and of no figure of it: figures are given apart, under the method's name with `SUFFIX`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from winwin_hf.task import DataTask

SUFFIX = "+variational"
SCALES = (4, 2, 1)
LEAST_SIDE = 32  # in pixels: a scale at which a frame would be smaller is left out
# Of OpenCV's 5 and 5, meant for a flow that is nearly right, little comes of an error of a pixel. The weights are OpenCV's.
FIXED_POINT_ITERATIONS, SOR_ITERATIONS = 10, 25


def refine(flow: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """
    A flow that fits its frames better.

    Args:
        flow: (2, H, W) in pixels, from `first` to `second`, finite.
        first, second: uint8 RGB (H, W, 3).
    Returns: float32 (2, H, W). `flow` is left as it is.
    """
    if first.shape != second.shape or flow.shape != (2, *first.shape[:2]):
        shapes = f"{flow.shape}, {first.shape} and {second.shape}"
        raise ValueError(f"expected a flow (2, H, W) and two frames (H, W, 3), got {shapes}")
    method = cv2.VariationalRefinement.create()
    method.setFixedPointIterations(FIXED_POINT_ITERATIONS)
    method.setSorIterations(SOR_ITERATIONS)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    height, width = grey[0].shape
    flow = np.array(flow, np.float32)
    for scale in SCALES:
        size = (width // scale, height // scale)
        if scale > 1 and min(size) < LEAST_SIDE:
            continue
        one, other = (cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in grey)
        factor = np.array([size[0] / width, size[1] / height], np.float32).reshape(2, 1, 1)
        start = _resize(flow, size, cv2.INTER_AREA) * factor
        u, v = (part.copy() for part in start)  # written to
        change = np.stack(method.calcUV(one, other, u, v)) - start
        flow += _resize(change / factor, (width, height), cv2.INTER_LINEAR)
    return flow


def _resize(flow: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """(2, H, W) to (width, height), values as they are."""
    return np.stack([cv2.resize(part, size, interpolation=interpolation) for part in flow])


class Refined:
    """A predictor of flow (see predictors.py) whose flow is refined."""

    task: DataTask = "optical-flow"
    labels = None

    def __init__(self, predictor: Any):
        if predictor.task != "optical-flow":
            raise ValueError(f"{predictor.name} is for {predictor.task}: only flow can be refined ({SUFFIX})")
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
