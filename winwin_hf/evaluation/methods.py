"""What can be scored: a checkpoint, directly or in tiles, and the methods it is compared with. All have one face.

A predictor is called with an image, and for flow a second one, uint8 RGB (H, W, 3), and returns what it predicts for every
pixel: flow float32 (2, H, W) in pixels, depth float32 (H, W) in metres, or class ids (H, W).

Baselines of flow: "opencv-dis" (Kroeger et al. 2016, preset medium), "opencv-farneback" (Farnebäck 2003, the
parameters of OpenCV's tutorial), "zero" (nothing moves).
Baselines of depth learn from frames that their name says; see depth_baselines.py.
With "+variational" behind its name, any method of flow is refined classically (variational.py); with "+coarse" a network of flow
takes a first pass at half the frames' size (inference.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import Accelerator

from winwin_hf import bundled
from winwin_hf.evaluation.depth_baselines import METHODS, DepthBaseline
from winwin_hf.inference.predictor import Network
from winwin_hf.inference.tasks import quiet
from winwin_hf.inference.variational import SUFFIX, Refined
from winwin_hf.task import ARCHITECTURES, DENSE, DataTask

COARSE = "+coarse"
BASELINES = ("opencv-dis", "opencv-farneback", "zero")


class Baseline:
    """A flow method without weights; see `BASELINES`."""

    task: DataTask = "optical-flow"
    labels = None

    def __init__(self, name: str):
        if name not in BASELINES:
            raise ValueError(f"unknown method {name!r}: expected one of {', '.join(BASELINES)}")
        self.name = name
        self.method: Callable[[np.ndarray, np.ndarray], np.ndarray] = {
            "opencv-dis": _dis,
            "opencv-farneback": _farneback,
            "zero": lambda first, second: np.zeros((*first.shape, 2), np.float32),
        }[name]

    def __call__(self, image: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
        if second is None:
            raise ValueError(f"{self.name} needs two frames")
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (image, second)]
        return np.ascontiguousarray(self.method(*grey).transpose(2, 0, 1))


def _dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    # an array in the place of None would be taken for a first guess
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, None)  # type: ignore[call-overload]


def _farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]


def load(
    name: str,
    accelerator: Accelerator,
    tile: tuple[int, int] | None = None,
    overlap: float = 0.5,
    min_pixels: int | None = None,
) -> Network | Baseline | DepthBaseline | Refined:
    """
    A predictor by name: one of `BASELINES`, one of depth (depth_baselines.py), a bundled checkpoint, a folder, a Hub repository or a
    file of `winwin export`; of flow also with `COARSE` or `variational.SUFFIX` behind it.

    Args:
        min_pixels: smaller images are enlarged to so many, as the image processor says; 0: never; None: as the checkpoint says.

    Raises: ValueError for a checkpoint of no task that can be scored; OSError where nothing has that name.
    """
    if name in BASELINES:
        return Baseline(name)
    if name.endswith(COARSE):
        network = load(name.removesuffix(COARSE), accelerator, tile, overlap, min_pixels)
        if not isinstance(network, Network) or network.task != "optical-flow" or tile is not None:
            raise ValueError(f"{name}: {COARSE} is for networks of flow, on whole frames")
        network.coarse, network.name = True, network.name + COARSE
        return network
    if name.partition("@")[0] in METHODS:
        return DepthBaseline(name)
    if name.endswith(SUFFIX):
        return Refined(load(name.removesuffix(SUFFIX), accelerator, tile, overlap, min_pixels))
    from winwin_hf.inference.onnx import is_exported, load_predictor  # which builds on this file

    if is_exported(name):
        network = load_predictor(name, accelerator, tile, overlap)
        if min_pixels is not None:
            network.processor.min_pixels = min_pixels
        return network
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    source = bundled.resolve(name)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        known = ", ".join((*bundled.folders(), *BASELINES))
        raise OSError(f"no model could be loaded from {name!r} (bundled and built in: {known}): {reason}") from error
    architecture = (getattr(config, "architectures", None) or ["none"])[0]
    task = ARCHITECTURES.get(architecture)
    if task is None or task.name not in DENSE:
        raise ValueError(
            f"{name} is a {architecture}; expected one of {', '.join(t.architecture for t in DENSE.values())}"
        )
    with quiet():
        model = AutoModel.from_pretrained(source, dtype=torch.float32).to(accelerator.device).eval()
    processor = AutoImageProcessor.from_pretrained(source)
    if min_pixels is not None:
        processor.min_pixels = min_pixels
    return Network(model, processor, accelerator, task.name, Path(name).name, tile, overlap)
