"""Leaving out keys that a Gaussian prior makes negligible, so that matching whole frames costs what their pixels cost, not their square.

Features are unit vectors, so their logits are bounded. Beyond some distance a prior's logits are below anything that features can
make up for. Those keys are left out, for a block of queries at a time; what they would add is below float32's rounding. Ours.

Shapes: B batch, Q K stride-s positions of the first and second view, W channels.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

NEGLIGIBLE = 30.0  # nats: a million keys this far below the best one are 1e-7 of it
BLOCK = (16, 32)  # rows and columns of the queries that share their keys
MAX_SHARE = 0.6  # share of all (query, key) pairs above which leaving out the others saves no time

Grid = tuple[int, int]  # rows, columns
Box = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass
class NearbyKeys:
    """Blocks of queries with the keys that each needs: (sample, box of the first view's grid, box of the second view's grid)."""

    grid: Grid
    key_grid: Grid
    blocks: list[tuple[int, Box, Box]]

    def attend(self, query: torch.Tensor, key: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """SDPA (B, Q, W), (B, K, W), (B, K, W) -> (B, Q, W), block by block. Keys after those of the grid belong to all blocks."""
        width, (rows, columns) = query.shape[-1], self.key_grid
        queries = query.unflatten(1, self.grid)
        keys, key_values = (t[:, : rows * columns].unflatten(1, (rows, columns)) for t in (key, values))
        others, other_values = (t[:, rows * columns :] for t in (key, values))
        out = torch.empty_like(queries)
        for i, (top, bottom, left, right), (key_top, key_bottom, key_left, key_right) in self.blocks:
            box = (i, slice(key_top, key_bottom), slice(key_left, key_right))
            part = queries[i, top:bottom, left:right]
            attended = F.scaled_dot_product_attention(
                part.reshape(1, 1, -1, width),
                torch.cat([keys[box].reshape(-1, width), others[i]])[None, None],
                torch.cat([key_values[box].reshape(-1, width), other_values[i]])[None, None],
                scale=1.0,
            )
            out[i, top:bottom, left:right] = attended.view(part.shape)
        return out.flatten(1, 2)


def negligible_distance(temperature: torch.Tensor, precision: torch.Tensor) -> torch.Tensor:
    """
    A key that is further from a query's centre than sqrt((nearest key's distance)^2 + this^2) is negligible beside the nearest one.

    It is less likely by at least NEGLIGIBLE nats, whatever the features say. temperature: largest product of a query's and a key's
    features. precision: of the Gaussian prior, 1 / sigma^2.
    """
    return (2 * (2 * temperature + NEGLIGIBLE) / precision).sqrt()


def nearby_keys(centre: torch.Tensor, grid: Grid, key_grid: Grid, distance: torch.Tensor) -> NearbyKeys | None:
    """
    The keys that each block of queries needs; None where that is nearly all of them.

    Args:
        centre: (B, Q, 2), the priors' centres as (x, y) in steps of the keys' grid from its first key.
        distance: see `negligible_distance`.
    """
    at = centre.unflatten(1, grid)  # (B, h, w, 2)
    last = at.new_tensor([key_grid[1] - 1, key_grid[0] - 1])
    nearest = ((at - torch.minimum(at.clamp(min=0), last)).abs() + 0.5).square().sum(-1)
    reach = (nearest + distance**2).sqrt()[..., None]
    # least and greatest of each block by pooling; ceil_mode takes the incomplete blocks at the right and the bottom too
    low = -F.max_pool2d((reach - at).permute(0, 3, 1, 2), BLOCK, ceil_mode=True)
    high = F.max_pool2d((reach + at).permute(0, 3, 1, 2), BLOCK, ceil_mode=True)
    bounds = torch.stack([low.floor().clamp(min=0), high.ceil() + 1], dim=-1).long().cpu()  # (B, 2, blocks, blocks, 2)
    blocks, pairs = [], 0
    for i, sample in enumerate(bounds.permute(0, 2, 3, 1, 4).tolist()):
        for row, line in enumerate(sample):
            for column, ((left, right), (top, bottom)) in enumerate(line):
                y, x = row * BLOCK[0], column * BLOCK[1]
                box = (y, min(y + BLOCK[0], grid[0]), x, min(x + BLOCK[1], grid[1]))
                key_box = (top, min(bottom, key_grid[0]), left, min(right, key_grid[1]))
                blocks.append((i, box, key_box))
                pairs += area(box) * area(key_box)
    total = len(bounds) * grid[0] * grid[1] * key_grid[0] * key_grid[1]
    return NearbyKeys(grid, key_grid, blocks) if pairs < MAX_SHARE * total else None


def area(box: Box) -> int:
    """Number of cells in a box."""
    return (box[1] - box[0]) * (box[3] - box[2])
