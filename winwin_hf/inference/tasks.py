"""From a picture and a checkpoint's name to a result: what the command line and the demo share.

Notable:
- `load` takes a bundled name, a folder or a Hub repository, and says so where the checkpoint is for another task.
- results are NumPy, at the size of the picture that came in, with the seconds it took and the device it ran on.
- weights may be stored in half precision; they run in float32 on a CPU and as stored elsewhere.

Pictures are RGB uint8 (H, W, 3), as `data.formats.read_image` gives them. Shapes: H W pixels of the input picture.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from winwin_hf import bundled
from winwin_hf.data import formats
from winwin_hf.inference import drawing
from winwin_hf.inference import flow as inference
from winwin_hf.inference.variational import refine
from winwin_hf.model.flow_colours_winwin import flow_to_image
from winwin_hf.task import ARCHITECTURES, TASKS


@dataclass
class Predictor:
    """A model with its processor, ready to run."""

    model: Any
    processor: Any
    device: torch.device
    load_seconds: float

    @property
    def label_names(self) -> list[str]:
        """Class names in the order of their ids (segmentation)."""
        names = self.model.config.id2label
        return [names[index] for index in range(len(names))]


@dataclass
class Result:
    """A prediction at the input's size."""

    values: np.ndarray  # flow (H, W, 2) float32 px; depth (H, W) float32 m; class ids (H, W) uint8
    seconds: float  # pre-processing, network and post-processing of this one input, files apart
    device: str


def load(name: str, task: str, device: str = "auto", min_pixels: int | None = None) -> Predictor:
    """The checkpoint `name` for `task` (a name of task.py) on `device`.

    min_pixels: smaller images are enlarged to so many, as the image processor says; 0: never; None: as the checkpoint says.

    Raises ValueError where the checkpoint is for another task or the device isn't there, OSError where nothing has that name.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    import winwin_hf  # noqa: F401  registers the Auto classes

    start = time.perf_counter()
    target = _device(device)
    source = bundled.resolve(name)
    with quiet():
        try:
            config = AutoConfig.from_pretrained(source)
        except (OSError, ValueError) as error:
            # What transformers says doesn't always name the model, and takes a paragraph.
            reason = str(error).strip().splitlines()[0]
            known = ", ".join(bundled.folders()) or "none"
            raise OSError(f"no model could be loaded from {name!r} (bundled: {known}): {reason}") from error
        architecture = (getattr(config, "architectures", None) or ["none"])[0]
        if architecture != TASKS[task].architecture:
            meant = ARCHITECTURES[architecture].title if architecture in ARCHITECTURES else architecture
            raise ValueError(f"{name} is a checkpoint for {meant}; expected one for {TASKS[task].title}")
        dtype: Any = torch.float32 if target.type == "cpu" else "auto"
        model = AutoModel.from_pretrained(source, dtype=dtype).to(target).eval()
        processor = AutoImageProcessor.from_pretrained(source)
        if min_pixels is not None:
            processor.min_pixels = min_pixels
    return Predictor(model, processor, target, time.perf_counter() - start)


@torch.inference_mode()
def predict_flow(
    predictor: Predictor,
    frame1: np.ndarray,
    frame2: np.ndarray,
    tile: tuple[int, int] | None = None,
    variational: bool = False,
    coarse: bool = False,
) -> Result:
    """
    Flow (H, W, 2) from `frame1` to `frame2`, (right, down) in pixels.

    Args:
        tile: (height, width): in tiles, the baseline.
        variational: refine it classically, see variational.py.
        coarse: take a first pass at half the size, see inference.py.
    """
    start = time.perf_counter()
    inputs = _inputs(predictor, images=frame1, second_images=frame2)
    outputs = inference.predict_flow(
        predictor.model,
        inputs["pixel_values"],
        inputs["second_pixel_values"],
        tile=tile,
        coarse=coarse,
        progress=True,
    )
    done = predictor.processor.post_process_optical_flow(outputs, target_sizes=[_size(frame1)])[0]
    values = done["flow"].float().cpu().numpy()
    if variational:
        values = refine(values, frame1, frame2)
    values = values.transpose(1, 2, 0)
    return Result(np.ascontiguousarray(values), time.perf_counter() - start, str(predictor.device))


@torch.inference_mode()
def predict_depth(predictor: Predictor, image: np.ndarray) -> Result:
    """Depth (H, W) in metres."""
    start = time.perf_counter()
    outputs = predictor.model(**_inputs(predictor, images=image))
    done = predictor.processor.post_process_depth_estimation(outputs, target_sizes=[_size(image)])[0]
    values = done["predicted_depth"].float().cpu().numpy()
    return Result(values, time.perf_counter() - start, str(predictor.device))


@torch.inference_mode()
def predict_segmentation(predictor: Predictor, image: np.ndarray) -> Result:
    """Class ids (H, W), uint8."""
    start = time.perf_counter()
    outputs = predictor.model(**_inputs(predictor, images=image))
    labels = predictor.processor.post_process_semantic_segmentation(outputs, target_sizes=[_size(image)])[0]
    values = labels.cpu().numpy().astype(np.uint8)
    return Result(values, time.perf_counter() - start, str(predictor.device))


# ------------------------------------------------------------------ figures


def mean_magnitude(flow: np.ndarray) -> float:
    """Mean length of the vectors of a flow (H, W, 2), in pixels."""
    return float(np.hypot(flow[..., 0], flow[..., 1]).mean())


def photometric_errors(frame1: np.ndarray, frame2: np.ndarray, flow: np.ndarray) -> dict[str, float]:
    """How far frame 2 is from frame 1 (mean absolute difference, 0..255), as it is and warped by the flow.

    Both means are over the pixels whose match lies inside frame 2, so they compare. A check that needs no ground truth: a
    useful flow makes the second much smaller than the first, occlusions and changes of light keep it above zero.
    """
    first, second = frame1.astype(np.float32), frame2.astype(np.float32)
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32) + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    if not inside.any():
        return {"inside": 0.0, "unwarped": float("nan"), "warped": float("nan")}
    warped = drawing.warp(frame2, flow).astype(np.float32)
    return {
        "inside": float(inside.mean()),
        "unwarped": float(np.abs(first - second)[inside].mean()),
        "warped": float(np.abs(first - warped)[inside].mean()),
    }


def label_shares(labels: np.ndarray, names: list[str]) -> dict[str, float]:
    """Share of the pixels of each class that occurs, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(names))
    order = sorted(range(len(names)), key=lambda index: -counts[index])
    return {names[index]: float(counts[index] / labels.size) for index in order if counts[index]}


# ------------------------------------------------------------------ pictures and files


def flow_picture(flow: np.ndarray, max_motion: float | None = None) -> np.ndarray:
    """Flow (H, W, 2) in the Middlebury colours, with the wheel that explains them in the lower right corner."""
    height, width = flow.shape[:2]
    picture = flow_to_image(flow, max_motion)
    side = min(height, width) // 5
    if side >= 24:
        picture[height - side :, width - side :] = drawing.color_wheel_legend(side)
    return picture


def depth_picture(depth: np.ndarray) -> np.ndarray:
    """Depth (H, W) in colours, near pale and far dark, from its 1st to its 99th percentile."""
    low, high = np.percentile(depth[np.isfinite(depth)], (1, 99)) if np.isfinite(depth).any() else (0.0, 1.0)
    return drawing.depth_to_image(depth, minimum=float(low), maximum=float(high))


def segmentation_picture(image: np.ndarray, labels: np.ndarray, names: list[str]) -> np.ndarray:
    """The image under its classes' colours, the legend of the classes that occur to the right."""
    palette = drawing.default_palette(len(names))
    below = drawing.overlay(image, drawing.segmentation_to_image(labels.astype(np.int64), palette), opacity=0.6)
    seen = [index for index in range(len(names)) if (labels == index).any()]
    side = drawing.legend([names[index] for index in seen], palette[seen])
    height = max(below.shape[0], side.shape[0])
    sheet = np.full((height, below.shape[1] + side.shape[1], 3), 255, np.uint8)
    sheet[: below.shape[0], : below.shape[1]] = below
    sheet[: side.shape[0], below.shape[1] :] = side
    return sheet


def save_picture(path: Path, picture: np.ndarray) -> None:
    """(H, W, 3) uint8 to PNG or JPEG."""
    formats.save_image(path, picture)


def save_labels(path: Path, labels: np.ndarray) -> None:
    """Class ids (H, W) uint8 to an 8-bit grey PNG."""
    formats.save_image(path, labels)


def save_depth(path: Path, depth: np.ndarray) -> None:
    """Depth (H, W) metres to .npy (float32) or .png (16-bit millimetres, 0 = unknown)."""
    with formats.write_atomic(path) as temporary:
        if path.suffix.lower() == ".png":
            millimetres = np.rint(np.nan_to_num(depth * 1000, nan=0.0, posinf=0.0, neginf=0.0)).clip(0, 65535)
            Image.fromarray(millimetres.astype(np.uint16)).save(temporary)
        else:
            np.save(temporary, depth.astype(np.float32))


# ------------------------------------------------------------------ what the functions above share


def _inputs(predictor: Predictor, **images: Any) -> dict[str, torch.Tensor]:
    batch = predictor.processor(**images, return_tensors="pt")
    return {name: value.to(predictor.device, predictor.model.dtype) for name, value in batch.items()}


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


@contextlib.contextmanager
def quiet() -> Any:
    """transformers without its progress bar for loading weights: a bar that is over at once tells nobody anything."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
