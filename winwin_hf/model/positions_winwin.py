"""How tokens know where they are: rotary embeddings, relative or of the frame, and absolute ones, learnt or fixed.

Notable:
- every function takes positions in the whole frame, so a window's tokens get what they get in the whole frame.
- RoPE (Su et al. 2021; in 2D as in CroCo v2): the first half of a head's channels is rotated by the row, the second half by the
  column. The scalar product of two rotated vectors depends on the difference of their positions alone, so a network trained on
  windows runs on frames of any size. DINOv3 and EVA-02 rotate by coordinates in the frame instead, which need the frame's size.
- a learnt table is resized to the frame by the same bicubic weights as torch's `interpolate`, computed at the window's tokens only.
"""

from collections.abc import Sequence
from math import pi

import torch


def rotary_embedding(positions: torch.Tensor, width: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """positions (..., T, 2) as (row, column) -> cos, sin (..., T, width), float32. There is no table, so no largest position."""
    exponents = torch.arange(0, 1, 4 / width, dtype=torch.float32, device=positions.device)  # (width / 4,)
    angles = positions.float()[..., None] * theta**-exponents  # (..., T, 2, width / 4)
    angles = torch.cat([angles, angles], dim=-1).flatten(-2)  # (..., T, width)
    return angles.cos(), angles.sin()


def mixed_embedding(
    rows: torch.Tensor, columns: torch.Tensor, frequencies: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """rows, columns (B, 1, T, 1), frequencies of both (2, heads, width / 2) -> cos, sin (B, heads, T, width), float32."""
    of_rows, of_columns = frequencies.float()[:, :, None]  # (heads, 1, width / 2)
    first, second = (rows * of_rows + columns * of_columns).chunk(2, dim=-1)
    angles = torch.cat([first, first, second, second], dim=-1)
    return angles.cos(), angles.sin()


def random_frequencies(heads: int, width: int, theta: float) -> torch.Tensor:
    """Frequencies as `rotary_embedding` has them, turned by a random angle in each head (Heo et al. 2024): (2, heads, width / 2)."""
    magnitudes = theta ** -torch.arange(0, 1, 4 / width)
    angles = 2 * pi * torch.rand(heads, 1)
    axes = [torch.cat([turn(angles), turn(angles + pi / 2)], dim=1) for turn in (torch.sin, torch.cos)]
    return torch.stack([axis.repeat_interleave(width // 4, dim=1) * magnitudes.repeat(2) for axis in axes])


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates x (..., T, width) by the embedding; the two channels of a rotation are a quarter of the width apart."""
    a, b, c, d = x.chunk(4, dim=-1)
    return x * cos + torch.cat([-b, a, -d, c], dim=-1) * sin


def frame_coordinates(
    positions: torch.Tensor, frame: torch.Tensor, reference: Sequence[int] | None = None, offset: float = 0.0
) -> torch.Tensor:
    """
    By what RoPE turns in frames of any size.

    Args:
        positions: (B, T, 2), in patches. frame: (B, 2), rows and columns in patches.
        reference: EVA-02's, rows and columns to which every frame is scaled, `offset` in patches of the frame. None: DINOv3's, the
            patches' centres, -1 to 1 over the frame, times 2 pi.
    """
    if reference is not None:
        return (positions.float() + offset) / frame[:, None] * frame.new_tensor(reference)
    return 2 * pi * (2 * (positions.float() + 0.5) / frame[:, None] - 1)


def sincos_embedding(positions: torch.Tensor, width: int) -> torch.Tensor:
    """The fixed absolute embedding of ViTs, half for the row and half for the column: (B, T, 2) -> (B, T, D)."""
    omega = 10000.0 ** -torch.arange(0, 1, 4 / width, dtype=torch.float32, device=positions.device)
    angles = positions.float()[..., None] * omega  # (B, T, 2, D / 4)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def bicubic_weights(positions: torch.Tensor, length: torch.Tensor, cells: int, antialias: bool) -> torch.Tensor:
    """
    The weights by which `torch.nn.functional.interpolate(mode="bicubic")` makes `length` values of `cells`, at `positions` only.

    Args:
        positions: (B, n), from 0 to length - 1. length: (B,).
        antialias: as torch's: another cubic, wider where `length` is less than `cells`, and no repeated edge.
    Returns: (B, n, cells), float32.
    """
    ratio = cells / length.float()
    centre = (positions.float() + 0.5) * ratio[:, None]
    if antialias:
        scale = ratio.clamp(min=1)[:, None, None]
        distance = (torch.arange(cells, device=positions.device) + 0.5 - centre[..., None]) / scale
        weights = _cubic(distance, -0.5)
        return weights / weights.sum(-1, keepdim=True)
    weights = _cubic(torch.arange(-2, cells + 2, device=positions.device) + 0.5 - centre[..., None], -0.75)
    low, inside, high = weights.split((2, cells, 2), dim=-1)  # what reaches beyond the edge counts for the edge
    edges = torch.nn.functional.pad(low.sum(-1, keepdim=True), (0, cells - 1))
    return inside + edges + torch.nn.functional.pad(high.sum(-1, keepdim=True), (cells - 1, 0))


def _cubic(x: torch.Tensor, a: float) -> torch.Tensor:
    """Keys' cubic convolution kernel, of support 2."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
