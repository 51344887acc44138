"""RoPE: rotary position embedding of two-dimensional integer positions (Su et al. 2021; in 2D as in CroCo v2).

The first half of a head's channels is rotated by the row, the second half by the column. The scalar product of two rotated vectors
depends on the difference of their positions alone, so a network trained on windows runs on frames of any size.
"""

import torch


def rotary_embedding(positions: torch.Tensor, width: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """positions (..., T, 2) as (row, column) -> cos, sin (..., T, width), float32. There is no table, so no largest position."""
    exponents = torch.arange(0, 1, 4 / width, dtype=torch.float32, device=positions.device)  # (width / 4,)
    angles = positions.float()[..., None] * theta**-exponents  # (..., T, 2, width / 4)
    angles = torch.cat([angles, angles], dim=-1).flatten(-2)  # (..., T, width)
    return angles.cos(), angles.sin()


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates x (..., T, width) by the embedding; the two channels of a rotation are a quarter of the width apart."""
    a, b, c, d = x.chunk(4, dim=-1)
    return x * cos + torch.cat([-b, a, -d, c], dim=-1) * sin
