"""Predicts at any size: in one pass (Win-Win), from coarse to fine, from overlapping tiles (the baseline), along a video.

- direct: one forward pass over the whole frame, which a model trained on windows allows.
- coarse: passes over smaller versions of the frames first; each flow is the next pass's initial flow (ours).
- tiled: the network sees one tile of training size at a time, at the same place in both frames. Overlapping predictions are blended,
  flow by its confidence as in CroCo-Flow (paper: "Tiled inference"), other maps by their mean. Matches that leave the tile can't be
  found, and every pixel is computed several times.
- video: `flow_of_frames` encodes each frame once, at each size, for both pairs that it belongs to and for both directions. It holds two
  frames at a time, and gives the same flow as the pairs one by one, bit for bit.

Shapes: B batch, L classes, H W pixels (multiples of the patch, as the image processor makes them).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from winwin_hf.model.coarse_winwin import coarse_flow, coarse_sizes, resize_flow, shrunk
from winwin_hf.model.pixels_winwin import size_text


@dataclass
class DensePrediction:
    """Maps of whole frames, None where the model doesn't predict them; for `WinWinImageProcessor.post_process_*`."""

    flow: torch.Tensor | None = None  # (B, 2, H, W) pixels
    log_scale: torch.Tensor | None = None  # (B, H, W), the raw channel c; tiled: its weighted mean
    predicted_depth: torch.Tensor | None = None  # (B, H, W) metres
    logits: torch.Tensor | None = None  # (B, L, H, W)
    passes: int = 1  # forward passes


MAPS = {"flow": 4, "log_scale": 3, "predicted_depth": 3, "logits": 4}  # map -> its number of axes


def tile_positions(length: int, tile: int, overlap: float) -> list[int]:
    """Starts of the tiles along one axis, evenly spaced (rounded to pixels): the first at 0, the last tile ends at `length`.

    As few tiles as possible whose mean overlap is at least `overlap` (a share of the tile, 0 <= overlap < 1). [0] for a tile that
    covers the axis.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is a share of the tile, 0 <= overlap < 1; got {overlap}.")
    if tile < 1:
        raise ValueError(f"A tile must have at least one pixel, got {tile}.")
    if tile >= length:
        return [0]
    # (1 - 0.9) is a little less than 0.1. This rounding error is kept: CroCo-Flow's 1050 passes at overlap 0.9 include it.
    steps = math.ceil((length - tile) / ((1 - overlap) * tile))
    return [round((length - tile) * index / steps) for index in range(steps + 1)]


def predict_flow(
    model: torch.nn.Module,
    pixel_values: torch.Tensor,
    second_pixel_values: torch.Tensor,
    tile: tuple[int, int] | None = None,
    overlap: float = 0.5,
    coarse: bool = False,
    **options: Any,
) -> DensePrediction:
    """Optical flow from the first frames (B, 3, H, W) to the second ones.

    Args:
        tile: (height, width); None: one pass.
        coarse: start from `coarse_flow`; not in tiles.
        options: of `predict_tiled`.
    """
    _check_frames(pixel_values, second_pixel_values)
    if coarse:
        if tile is not None:
            raise ValueError("A coarse pass is for whole frames; got tiles too.")
        with _evaluating(model), torch.inference_mode():
            guess = coarse_flow(model, pixel_values, second_pixel_values)
            outputs = model(pixel_values, second_pixel_values, initial_flow=guess)
        height, width = pixel_values.shape[-2:]
        patch: int = model.config.patch_size  # type: ignore[union-attr, assignment]
        passes = 1 + len(coarse_sizes(height, width, patch))
        return DensePrediction(outputs.flow, outputs.log_scale, passes=passes)
    if tile is None:
        tile = (pixel_values.shape[-2], pixel_values.shape[-1])
    result = predict_tiled(model, pixel_values, second_pixel_values, tile, overlap, **options)
    if result.flow is None:
        raise ValueError(f"{type(model).__name__} predicts no flow; expected a WinWinForOpticalFlow.")
    return result


def predict_tiled(
    model: torch.nn.Module,
    pixel_values: torch.Tensor,
    second_pixel_values: torch.Tensor | None = None,
    tile: tuple[int, int] = (320, 384),
    overlap: float = 0.5,
    *,
    beta: float = 15.0,
    beta_sigmoid: float = 3.0,
    tile_batch: int = 1,
    progress: bool = False,
) -> DensePrediction:
    """Predicts from tiles of (height, width) pixels and blends them. With a tile that covers the frame this is the direct prediction.

    Flow is averaged with the weight exp(-2 * beta * (sigmoid(c / beta_sigmoid) - 0.5)), where c is its log_scale channel: CroCo-Flow's
    formula and values. Depth and logits have no confidence; their plain mean is taken.

    Args:
        overlap: share of a tile that its neighbour repeats, in each direction: the mean is at least this.
        tile_batch: tiles per forward pass; more is faster where memory allows, with the same result.

    Raises:
        ValueError: frames differ in size; the tile isn't made of whole patches; the model's maps aren't its input's size.
    """
    _check_frames(pixel_values, second_pixel_values)
    batch, _, height, width = pixel_values.shape
    tile_height, tile_width = min(tile[0], height), min(tile[1], width)
    if tile_batch < 1:
        raise ValueError(f"tile_batch must be at least 1, got {tile_batch}.")
    corners = list(
        itertools.product(tile_positions(height, tile_height, overlap), tile_positions(width, tile_width, overlap))
    )
    patch = getattr(getattr(model, "config", None), "patch_size", 1)
    if len(corners) > 1 and (tile_height % patch or tile_width % patch):
        raise ValueError(
            f"A tile is made of whole patches of {patch} pixels; got {tile_height} x {tile_width} (height x width)."
        )
    with _evaluating(model), torch.inference_mode():
        if len(corners) == 1:
            return DensePrediction(**_forward(model, pixel_values, second_pixel_values))
        sums: dict[str, torch.Tensor] = {}
        weights = pixel_values.new_zeros((batch, height, width), dtype=torch.float32)
        groups = [corners[start : start + tile_batch] for start in range(0, len(corners), tile_batch)]
        for group in tqdm(groups, desc="tiles", disable=not progress):
            boxes = [(slice(y, y + tile_height), slice(x, x + tile_width)) for y, x in group]
            first = torch.cat([pixel_values[..., rows, columns] for rows, columns in boxes])
            second = None
            if second_pixel_values is not None:
                second = torch.cat([second_pixel_values[..., rows, columns] for rows, columns in boxes])
            maps = _forward(model, first, second)
            c = maps.get("log_scale") if "flow" in maps else None
            one = first.new_ones((len(first), tile_height, tile_width), dtype=torch.float32)
            weight = one if c is None else torch.exp(-2 * beta * (torch.sigmoid(c.float() / beta_sigmoid) - 0.5))
            for index, (rows, columns) in enumerate(boxes):
                mine = slice(index * batch, (index + 1) * batch)
                weights[:, rows, columns] += weight[mine]
                for name, values in maps.items():
                    if name not in sums:
                        shape = (*values.shape[1:-2], height, width)
                        sums[name] = pixel_values.new_zeros((batch, *shape), dtype=torch.float32)
                    factor = weight[mine] if values.ndim == 3 else weight[mine, None]
                    sums[name][..., rows, columns] += values[mine].float() * factor
        blended: dict[str, Any] = {
            name: total / (weights if total.ndim == 3 else weights[:, None]) for name, total in sums.items()
        }
    return DensePrediction(**blended, passes=len(groups))


# ---- video ----


@dataclass
class FlowPair:
    """Flow of two neighbouring frames; the last three fields only with `backward`."""

    index: int  # of the first of the two frames, counted from 0
    flow: np.ndarray  # (2, H, W) float32, from the first frame to the second, (right, down) in pixels of the frames
    backward: np.ndarray | None = None  # the same from the second frame to the first
    occluded: np.ndarray | None = None  # (H, W) bool: pixels of the first frame that the second doesn't show
    backward_occluded: np.ndarray | None = None  # pixels of the second frame that the first doesn't show


def flow_of_frames(
    model: Any,
    processor: Any,
    frames: Iterable[np.ndarray],
    backward: bool = False,
    coarse: bool = False,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[FlowPair]:
    """Yields the flow from each frame to the next; takes a frame from `frames` only when its pair is needed.

    Args:
        model: a `WinWinForOpticalFlow` on any device.
        processor: its image processor; it may resize, flow comes back at the frames' size.
        frames: uint8 RGB (H, W, 3), all of one size.
        backward: also predict the backward flow and the occluded pixels of both frames, see `consistency`.
        coarse: start each flow from passes at smaller sizes, see `coarse_flow`.
        autocast: a context for mixed precision, entered for each frame and each flow.

    Raises:
        ValueError, also while running: frames differ in size; there are fewer than two; the model predicts no flow.
    """
    if not hasattr(model, "decode"):
        raise ValueError(f"{type(model).__name__} predicts no flow; expected a WinWinForOpticalFlow.")
    first = size = None
    index = -1
    for index, frame in enumerate(frames):
        size = size or frame.shape[:2]
        if frame.shape[:2] != size:
            raise ValueError(
                f"Frame {index} is {size_text(frame.shape[:2])} but frame 0 is {size_text(size)} (height x width); "
                "expected frames of one size."
            )
        with autocast():
            second = _encode(model, processor, frame, coarse)
        if first is not None:
            with autocast():
                flow = _decode(model, processor, first, second, size)
            pair = FlowPair(index - 1, flow.cpu().numpy())
            if backward:
                with autocast():
                    back = _decode(model, processor, second, first, size)
                pair.backward = back.cpu().numpy()
                # on the model's device, which is faster
                pair.occluded = _occluded(flow, back).cpu().numpy()
                pair.backward_occluded = _occluded(back, flow).cpu().numpy()
            yield pair
        first = second
    if index < 1:
        raise ValueError(f"Flow needs at least two frames, got {index + 1}.")


def consistency(forward: np.ndarray, backward: np.ndarray, relative: float = 0.01, absolute: float = 0.5) -> np.ndarray:
    """Which pixels of the first frame are occluded in the second, (H, W) bool, from the forward and the backward flow, (2, H, W).

    A pixel x that is visible in both frames comes back: f(x) + b(x + f(x)) = 0. It counts as occluded where
    |f + b|^2 > relative * (|f|^2 + |b|^2) + absolute, b read bilinearly at x + f; where it leaves the frame (beyond the centres of the
    outermost pixels); and where a flow is unknown (NaN, also beside one). Source: the check and the constants of Sundaram, Brox
    and Keutzer, "Dense point trajectories by GPU-accelerated large displacement optical flow" (ECCV 2010).
    """
    if forward.ndim != 3 or forward.shape[0] != 2 or forward.shape != backward.shape:
        raise ValueError(f"Two flows of one size (2, H, W) are expected, got {forward.shape} and {backward.shape}.")
    there, back = (torch.from_numpy(np.array(flow, np.float32)) for flow in (forward, backward))
    return _occluded(there, back, relative, absolute).numpy()


def _occluded(
    forward: torch.Tensor, backward: torch.Tensor, relative: float = 0.01, absolute: float = 0.5
) -> torch.Tensor:
    """`consistency` of tensors, on their device."""
    height, width = forward.shape[1:]
    x = torch.arange(width, device=forward.device) + forward[0]
    y = torch.arange(height, device=forward.device)[:, None] + forward[1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)  # false for NaN
    grid = torch.stack([x * (2 / max(width - 1, 1)), y * (2 / max(height - 1, 1))], dim=-1) - 1  # -1 to 1
    back = F.grid_sample(backward[None], grid[None], padding_mode="border", align_corners=True)[0]
    lengths = forward.square().sum(0) + back.square().sum(0)
    returns = (forward + back).square().sum(0) <= relative * lengths + absolute  # false for NaN
    return ~(inside & returns)


@torch.inference_mode()
def _encode(model: Any, processor: Any, frame: np.ndarray, coarse: bool) -> list[Any]:
    """The encoded frame, after its smaller copies if `coarse`."""
    pixels = processor(images=frame, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
    height, width = pixels.shape[-2:]
    sizes = coarse_sizes(height, width, model.config.patch_size) if coarse else []
    with _evaluating(model):
        return [model.encode(copy) for copy in (*(shrunk(pixels, size) for size in sizes), pixels)]


@torch.inference_mode()
def _decode(model: Any, processor: Any, first: list[Any], second: list[Any], size: tuple[int, int]) -> torch.Tensor:
    """Flow (2, H, W) at the frames' size, from one encoded frame to another."""
    flow = None
    with _evaluating(model):
        for one, other in zip(first, second, strict=True):
            if flow is not None:
                patch = model.config.patch_size
                flow = resize_flow(flow, one.layout.rows * patch, one.layout.columns * patch)
            flow = model.decode(one, other, initial_flow=flow).flow
    prediction = DensePrediction(flow=flow)
    return processor.post_process_optical_flow(prediction, target_sizes=[size])[0]["flow"].contiguous()


# ---- what the functions above share ----


def _check_frames(first: torch.Tensor, second: torch.Tensor | None) -> None:
    if first.ndim != 4:
        raise ValueError(f"Full frames are expected, (batch, channels, height, width); got {tuple(first.shape)}.")
    if second is not None and second.shape != first.shape:
        raise ValueError(f"Frames of a pair must have the same size: {tuple(first.shape)} and {tuple(second.shape)}.")


def _forward(model: torch.nn.Module, first: torch.Tensor, second: torch.Tensor | None) -> dict[str, Any]:
    """The maps that the model predicts, by name, checked to be of the input's size."""
    inputs = {"pixel_values": first} if second is None else {"pixel_values": first, "second_pixel_values": second}
    outputs = model(**inputs)
    maps = {}
    for name, axes in MAPS.items():
        value = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        if value is None:
            continue
        if value.ndim != axes or value.shape[0] != len(first) or value.shape[-2:] != first.shape[-2:]:
            name_of = getattr(model, "path", type(model).__name__)
            raise ValueError(
                f"{name_of} gave {name} of shape {tuple(value.shape)} for an input of {tuple(first.shape)}; "
                "expected a map of each input, of its height and width."
            )
        maps[name] = value
    if not maps:
        raise ValueError(f"{type(model).__name__} predicts no map; expected one of {', '.join(MAPS)}.")
    return maps


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) during a prediction, then the mode that the model had."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
