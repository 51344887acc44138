"""Windows beyond the paper's two equal ones: many that are packed densely, and windows of different sizes (ablations).

A window is (row, col) of its top-left patch and a size (h, w), in patches; `grid` is the frame's size in patches. See windows.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Size = tuple[int, int]  # (height, width) in patches

REJECTION_BUDGET = 2_000_000  # pairs of windows compared before giving up: some tenths of a second
TUPLES_PER_ROUND = 128
GIBBS_SWEEPS = 30


def sample_by_rejection(rng: np.random.Generator, grid: Size, sizes: np.ndarray) -> np.ndarray | None:
    """Draws tuples of windows of `sizes` (N, 2) until one has no overlap. Exactly uniform. None after a bounded number of tries."""
    free = np.array(grid) - sizes + 1  # (N, 2)
    one, other = np.triu_indices(len(sizes), k=1)
    for _ in range(REJECTION_BUDGET // (TUPLES_PER_ROUND * max(len(one), 1))):
        tuples = rng.integers(0, free, size=(TUPLES_PER_ROUND, len(sizes), 2))
        # two windows are apart along an axis where one ends before the other begins
        a, b = tuples[:, one], tuples[:, other]  # (tuples, pairs, 2)
        apart = ((a + sizes[one] <= b) | (b + sizes[other] <= a)).any(axis=-1).all(axis=-1)
        if apart.any():
            return tuples[int(apart.argmax())]
    return None


def sample_by_gibbs(rng: np.random.Generator, grid: Size, size: Size, count: int) -> np.ndarray:
    """A random lattice packing, whose windows then move in turn, each to a uniformly drawn free place. Approximately uniform."""
    slots = [n // s for n, s in zip(grid, size, strict=True)]
    starts = []
    for n, s, k in zip(grid, size, slots, strict=True):  # the patches left over go into random gaps
        gaps = np.sort(rng.integers(0, n - k * s + 1, size=k))
        starts.append(np.arange(k) * s + gaps)
    chosen = rng.choice(slots[0] * slots[1], size=count, replace=False)
    positions = np.stack([starts[0][chosen // slots[1]], starts[1][chosen % slots[1]]], axis=-1).astype(np.int64)
    # number of windows that cover each place
    blockers = np.zeros([n - s + 1 for n, s in zip(grid, size, strict=True)], dtype=np.int64)

    def near(i: int) -> tuple[slice, slice]:  # the places that overlap window i
        row, col = positions[i]
        return slice(max(row - size[0] + 1, 0), row + size[0]), slice(max(col - size[1] + 1, 0), col + size[1])

    for i in range(count):
        blockers[near(i)] += 1
    for i in list(range(count)) * GIBBS_SWEEPS:
        blockers[near(i)] -= 1
        free = np.flatnonzero(blockers == 0)
        positions[i] = divmod(int(free[rng.integers(len(free))]), blockers.shape[1])
        blockers[near(i)] += 1
    return positions


def equal_tiles(positions: np.ndarray, sizes: Sequence[Size]) -> tuple[np.ndarray, Size]:
    """Cuts windows of different sizes into equal tiles, so that they fit one tensor.

    The tile is gcd(heights) x gcd(widths). Attention is global and every token has its position in the frame, so with linear
    patches and a linear head the tiles give exactly what the windows would. Convolutions (stem, head) see a border where a
    tile ends; sizes with a large common divisor have fewer of them.

    Args: positions: (N, 2), one for each of `sizes`. Returns: (M, 2) int64 tile positions, and the tile's (h, w).
    """
    h, w = math.gcd(*(s[0] for s in sizes)), math.gcd(*(s[1] for s in sizes))
    tiles = [
        (row + i * h, col + j * w)
        for (row, col), (height, width) in zip(positions.tolist(), sizes, strict=True)
        for i in range(height // h)
        for j in range(width // w)
    ]
    return np.array(tiles, dtype=np.int64), (h, w)


def sample_unequal_windows(rng: np.random.Generator, grid: Size, sizes: Sequence[Size]) -> np.ndarray:
    """Uniform over all placements of windows of the given `sizes` that do not overlap: (len(sizes), 2) int64.

    Raises: ValueError where a window is larger than the grid, or no placement turned up in a bounded number of tries
    (whether unequal rectangles fit at all has no simple answer).
    """
    array = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    text = ", ".join(f"{h}x{w}" for h, w in sizes)
    if (array < 1).any() or (array > np.array(grid)).any():
        raise ValueError(f"windows of {text} patches do not fit into {grid[0]}x{grid[1]} patches")
    found = sample_by_rejection(rng, grid, array)
    if found is None:
        raise ValueError(f"no placement of windows of {text} patches found in {grid[0]}x{grid[1]} patches")
    return found
