"""Passes over smaller copies of the frames, whose flow the next pass starts from. Ours.

Shapes: B batch, H W pixels (multiples of the patch, as the image processor makes them).
"""

import math

import torch
from torch.nn import functional as F

COARSEST = 256  # pixels: sizes are halved again while the shorter side is at least twice this


def coarse_flow(model: torch.nn.Module, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """
    Initial flow (B, 2, H, W) of frames (B, 3, H, W), predicted at half their size, for a quarter of a pass's cost (ours).

    At half the size, motions are half as long, and the matching's learned prior reaches twice as far. Larger frames get passes at
    smaller sizes before that, see `coarse_sizes`.
    """
    if getattr(getattr(model, "config", None), "matching_stride", None) is None:
        raise ValueError(f"{type(model).__name__}: a coarse pass needs a model with matching.")
    height, width = first.shape[-2:]
    patch: int = model.config.patch_size  # type: ignore[union-attr, assignment]
    flow = None
    for size in coarse_sizes(height, width, patch):
        frames = [shrunk(x, size) for x in (first, second)]
        flow = model(*frames).flow if flow is None else model(*frames, initial_flow=resize_flow(flow, *size)).flow
    assert flow is not None
    return resize_flow(flow, height, width)


def coarse_sizes(height: int, width: int, patch: int) -> list[tuple[int, int]]:
    """(height, width) of the passes before that of a whole frame, in whole patches: half, and halved again while that is large."""
    sizes: list[tuple[int, int]] = []
    while not sizes or min(height, width) >= 2 * COARSEST:
        height, width = (math.ceil(side / (2 * patch)) * patch for side in (height, width))
        sizes.append((height, width))
    return sizes[::-1]


def shrunk(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Frames (B, 3, H, W) at a smaller size (height, width)."""
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)


def resize_flow(flow: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A flow (B, 2, h, w) at another frame's size, in its pixels."""
    h, w = flow.shape[-2:]
    flow = F.interpolate(flow.float(), (height, width), mode="bilinear")
    return flow * flow.new_tensor([width / w, height / h])[:, None, None]
