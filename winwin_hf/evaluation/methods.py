"""What can be scored, by name: networks, and the methods that they are compared with.

| name | method |
|---|---|
| anything else | a network: whatever `Predictor.load` takes |
| opencv-dis | Kroeger et al. 2016, OpenCV's preset "medium" |
| opencv-farneback | Farnebäck 2003, the parameters of OpenCV's tutorial |
| zero | zero flow |
| mean-depth@..., height-depth@... | depth learned from frames, see depth_baselines.py |
| NAME+coarse | a network of flow, after a first pass at half the frames' size (inference/flow.py) |
| NAME+variational | any method of flow, refined (inference/variational.py) |
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from accelerate import Accelerator

from winwin_hf.evaluation.depth_baselines import METHODS, DepthBaseline
from winwin_hf.inference.onnx import is_exported
from winwin_hf.inference.predictor import Method, Prediction, Predictor
from winwin_hf.inference.variational import SUFFIX, Refined
from winwin_hf.task import DoesNotFit

COARSE = "+coarse"
BASELINES = ("opencv-dis", "opencv-farneback", "zero")


class Baseline(Method):
    """A flow method without weights: one of `BASELINES`."""

    task = "optical-flow"

    def __init__(self, name: str):
        if name not in BASELINES:
            raise ValueError(f"unknown method {name!r}: expected one of {', '.join(BASELINES)}")
        self.name = name
        self.method = {"opencv-dis": _dis, "opencv-farneback": _farneback, "zero": _zero}[name]

    def predict(self, image: np.ndarray, second: np.ndarray | None) -> Prediction:
        assert second is not None
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (image, second)]
        return Prediction(np.ascontiguousarray(self.method(*grey).transpose(2, 0, 1)))


def _dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    # an array in the place of None would be taken as the initial flow
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, None)  # type: ignore[call-overload]


def _farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]


def _zero(first: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.zeros((*first.shape, 2), np.float32)


def network_of(name: str) -> str | None:
    """The network in the name of a method; None where it has none."""
    base = name.removesuffix(SUFFIX).removesuffix(COARSE)
    return None if base in BASELINES or base.partition("@")[0] in METHODS else base


def load(
    name: str,
    accelerator: Accelerator,
    tile: tuple[int, int] | None = None,
    overlap: float = 0.5,
    min_pixels: int | None = None,
    quality: str | None = None,
) -> Method:
    """
    The method `name`, see the table above. Networks run in float32 under the accelerator's autocast, on its device.

    Args:
        tile, overlap, min_pixels, quality: of networks, see `Predictor.load`.

    Raises: ValueError for a checkpoint of no task that can be scored, or a suffix that doesn't fit; OSError where nothing has that name.
    """
    if name in BASELINES:
        return Baseline(name)
    if name.partition("@")[0] in METHODS:
        return DepthBaseline(name)
    if name.endswith((SUFFIX * 2, COARSE * 2)):
        raise DoesNotFit(f"{name}: expected {SUFFIX} and {COARSE} once each")
    if name.endswith(SUFFIX):
        return Refined(load(name.removesuffix(SUFFIX), accelerator, tile, overlap, min_pixels, quality))
    if name.endswith(COARSE):
        method = load(name.removesuffix(COARSE), accelerator, tile, overlap, min_pixels, quality)
        if not isinstance(method, Predictor):
            raise DoesNotFit(f"{name}: coarse passes are for networks of flow, on whole frames")
        return replace(method, coarse=True, name=method.name + COARSE)
    try:
        return Predictor.load(
            name,
            device="cpu" if is_exported(name) else accelerator.device,
            tile=tile,
            overlap=overlap,
            quality=quality,
            min_pixels=min_pixels,
            dtype=torch.float32,
            autocast=None if quality == "fast" and accelerator.mixed_precision == "no" else accelerator.autocast,
        )
    except OSError as error:
        raise OSError(f"{error}; methods without a network: {', '.join(BASELINES)}") from error
