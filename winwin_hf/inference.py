"""Predicting at any size: directly (Win-Win), or from overlapping tiles (the baseline it replaces).

- direct: one forward pass on the whole frame. This is what a model trained from windows is for.
- tiled: the network sees one tile of training size at a time, in both frames at the same place, and overlapping predictions
  are blended; flow by its confidence as CroCo-Flow does (PAPER: "Tiled inference"), other maps by their mean. A tile can't
  contain a match that moved further than the tile, and every pixel is computed several times.

Shapes: B batch, L classes, H W pixels (multiples of the patch, as the image processor makes them).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm


@dataclass
class DensePrediction:
    """Maps of whole frames; those the model doesn't predict are None. `WinWinImageProcessor.post_process_*` takes it."""

    flow: torch.Tensor | None = None  # (B, 2, H, W) pixels
    log_scale: torch.Tensor | None = None  # (B, H, W), the raw channel c; tiled: its weighted mean
    predicted_depth: torch.Tensor | None = None  # (B, H, W) metres
    logits: torch.Tensor | None = None  # (B, L, H, W)
    passes: int = 1  # forward passes this took


MAPS = {"flow": 4, "log_scale": 3, "predicted_depth": 3, "logits": 4}  # number of axes of a full image's map


def tile_positions(length: int, tile: int, overlap: float) -> list[int]:
    """Starts of the tiles along one axis: the first at 0, the last ends at `length`, evenly spaced (rounded to pixels).

    The fewest tiles whose mean overlap is at least `overlap` (a share of the tile, 0 <= overlap < 1). A tile that covers the
    axis gives [0].
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is a share of the tile, 0 <= overlap < 1; got {overlap}.")
    if tile < 1:
        raise ValueError(f"A tile must have at least one pixel, got {tile}.")
    if tile >= length:
        return [0]
    # Not guarded against (1 - 0.9) being a little less than 0.1: CroCo-Flow's 1050 passes at overlap 0.9 come from there.
    steps = math.ceil((length - tile) / ((1 - overlap) * tile))
    return [round((length - tile) * index / steps) for index in range(steps + 1)]


def predict_flow(
    model: torch.nn.Module,
    pixel_values: torch.Tensor,
    second_pixel_values: torch.Tensor,
    tile: tuple[int, int] | None = None,
    overlap: float = 0.5,
    **options: Any,
) -> DensePrediction:
    """Optical flow from the first frames (B, 3, H, W) to the second ones.

    `tile` None: direct. Otherwise `predict_tiled`, whose options (`beta`, `beta_sigmoid`, `tile_batch`, `progress`) pass.
    """
    _check_frames(pixel_values, second_pixel_values)
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
    """Predicts from tiles of (height, width) pixels and blends them. A tile that covers the frame is the direct prediction.

    Flow is averaged with the weight exp(-2 * beta * (sigmoid(c / beta_sigmoid) - 0.5)), c its log_scale channel: CroCo-Flow's,
    with its values. Depth and logits have no confidence and are averaged plainly.

    Args:
        overlap: least mean share of a tile that its neighbour repeats, in each direction.
        tile_batch: tiles per forward pass; more is faster where memory allows, and leaves the result the same.

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
        if value.ndim != axes or value.shape[-2:] != first.shape[-2:]:
            raise ValueError(
                f"{type(model).__name__} gave {name} of shape {tuple(value.shape)} for an input of {tuple(first.shape)}; "
                "expected a map of the input's height and width."
            )
        maps[name] = value
    if not maps:
        raise ValueError(f"{type(model).__name__} predicts no map; expected one of {', '.join(MAPS)}.")
    return maps


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of a prediction (drop-out off), then as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
