"""An optional last step for flow: OpenCV's variational refinement, from coarse to fine.

It moves a flow until grey values and gradients of both frames agree and neighbours move alike (Brox et al. 2004); DIS ends with it too
(Kroeger et al. 2016). At each of three scales it corrects errors of up to about two pixels of that scale. It can't correct larger
errors, and it ignores occlusion.

It isn't part of the network. Its figures are reported separately, under the method's name with `SUFFIX`.
"""

from __future__ import annotations

import cv2
import numpy as np

from winwin_hf.inference.predictor import Method, Prediction
from winwin_hf.task import TASKS, DoesNotFit

SUFFIX = "+variational"
SCALES = (4, 2, 1)
MIN_SIDE = 32  # pixels: scales with a smaller frame are left out
# OpenCV's defaults (5 and 5) are too few to correct an error of a pixel. The weights of its terms are OpenCV's.
FIXED_POINT_ITERATIONS, SOR_ITERATIONS = 10, 25


def refine(flow: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """
    Refines a flow.

    Args:
        flow: (2, H, W) in pixels, from `first` to `second`, finite.
        first, second: uint8 RGB (H, W, 3).
    Returns: float32 (2, H, W); `flow` is unchanged.
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
        if scale > 1 and min(size) < MIN_SIDE:
            continue
        one, other = (cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in grey)
        factor = np.array([size[0] / width, size[1] / height], np.float32).reshape(2, 1, 1)
        start = _resize(flow, size, cv2.INTER_AREA) * factor
        u, v = (part.copy() for part in start)  # written to
        change = np.stack(method.calcUV(one, other, u, v)) - start
        flow += _resize(change / factor, (width, height), cv2.INTER_LINEAR)
    return flow


def _resize(flow: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """A flow (2, H, W) at (width, height); its values are not scaled."""
    return np.stack([cv2.resize(part, size, interpolation=interpolation) for part in flow])


class Refined(Method):
    """A method of flow whose flow is refined. Confidence stays the network's own, of the flow before."""

    task = "optical-flow"

    def __init__(self, method: Method):
        if method.task != "optical-flow":
            raise DoesNotFit(f"{method.name} is for {TASKS[method.task].title}: only flow can be refined ({SUFFIX})")
        self.method, self.name, self.tile = method, method.name + SUFFIX, method.tile

    def predict(self, image: np.ndarray, second: np.ndarray | None) -> Prediction:
        assert second is not None
        prediction = self.method.predict(image, second)
        prediction.values = refine(prediction.values, image, second)
        return prediction
