"""Where windows lie: the idea of Win-Win in pure functions. None knows networks or data sets.

The idea (arXiv 2310.00632). A transformer with global attention pays with the square of its tokens, so training it on
large frames is expensive, and training it on small crops teaches it nothing about large frames. Win-Win keeps the large
frame and throws most of its tokens away: only those inside a few random rectangles, the *windows*, exist in training.
Inside a window the network learns what neighbours tell each other; between windows it learns what far-apart places tell
each other. Two windows hold both kinds of pair, so two are enough. Tokens carry relative positions (RoPE), thus at test
time the same network takes the whole frame at once, as one window.

For two views (optical flow) the second view's windows must show what the first view's show, or there is nothing to
learn: they follow the true motion of the first ones (`follow`). The paper's exact rule is not known; this one is ours.

What is notable here:
- A window is (row, col) of its top-left patch and a size (h, w), all in whole *patches* of the frame; `grid` is the
  frame's own size in patches. Pixels appear only in `crop_windows` and `paste_windows`.
- `sample_windows` is uniform over all legal placements; the tests compare it with their enumeration. Drawing one window
  after another would not be uniform: it favours first windows that leave the others little room.
- `Strategy` is the line of a recipe that says what is kept: windows (the paper), single tokens, a crop, the full frame.
- Dense packings and windows of different sizes are in windows_ablation.py.
- Every random function takes a `np.random.Generator` and nothing else that is random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch
from pydantic import Field

from winwin_hf.checked import FORBID, check_fields
from winwin_hf.model.losses_winwin import UNKNOWN_FLOW
from winwin_hf.windows_ablation import Size, equal_tiles, sample_by_gibbs, sample_by_rejection, sample_unequal_windows

Array = TypeVar("Array", np.ndarray, torch.Tensor)

SIZE_TOLERANCE = 0.9  # varying shapes use at least this share of what the best shape uses


# ---------------------------------------------------------------------------------------------------- placing windows


def max_windows(grid: Size, size: Size) -> int:
    """Largest number of windows of `size` that fit into `grid` without overlap: floor(R / h) * floor(C / w).

    No packing beats the plain lattice: every window contains exactly one of the points (i*h + h-1, j*w + w-1), there
    are that many of them in the grid, and two windows that do not overlap contain different ones.
    """
    return (grid[0] // size[0]) * (grid[1] // size[1])


def sample_windows(rng: np.random.Generator, grid: Size, size: Size, count: int) -> np.ndarray:
    """Uniform over all placements of `count` windows of `size` in `grid` that do not overlap.

    One and two windows (and single tokens) are drawn directly. More are drawn by rejecting whole tuples, which is
    exactly uniform too. Where windows are packed so densely that this finds nothing within a bounded number of tries,
    Gibbs sweeps of a random lattice packing are used, which are uniform only approximately.

    Returns: (count, 2) int64, (row, col) of each window's top-left patch; the order is random.
    Raises: ValueError where they cannot fit.
    """
    (rows, cols), (h, w) = grid, size
    if h < 1 or w < 1 or count < 1:
        raise ValueError(f"expected at least one window of at least 1x1 patches, got {count} of {h}x{w}")
    if max_windows(grid, size) < count:
        raise ValueError(
            f"{count} windows of {h}x{w} patches do not fit into {rows}x{cols} patches without overlap: "
            f"at most {max_windows(grid, size)} do"
        )
    free = np.array([rows - h + 1, cols - w + 1])  # number of places along each axis
    if count == 1:
        return rng.integers(0, free, size=(1, 2))
    if (h, w) == (1, 1):
        flat = rng.choice(rows * cols, size=count, replace=False)
        return np.stack(np.divmod(flat, cols), axis=-1).astype(np.int64)
    if count == 2:
        return _sample_two(rng, free, size)
    sizes = np.broadcast_to(np.array(size), (count, 2))
    found = sample_by_rejection(rng, grid, sizes)
    return sample_by_gibbs(rng, grid, size, count) if found is None else found


def _sample_two(rng: np.random.Generator, free: np.ndarray, size: Size) -> np.ndarray:
    """Draws the first window with a probability proportional to the number of legal second windows, then one of these uniformly."""
    axes = [np.arange(n) for n in free]
    # along one axis, places p' overlap place p where |p - p'| < side; a second window is illegal where both axes overlap
    near = [np.minimum(p + s, n) - np.maximum(p - s + 1, 0) for p, s, n in zip(axes, size, free, strict=True)]
    legal_seconds = free.prod() - near[0][:, None] * near[1][None, :]  # (rows, cols) of first places
    first = rng.choice(legal_seconds.size, p=legal_seconds.ravel() / legal_seconds.sum())
    row, col = divmod(int(first), int(free[1]))
    legal = (np.abs(axes[0] - row) >= size[0])[:, None] | (np.abs(axes[1] - col) >= size[1])[None, :]
    second = rng.choice(np.flatnonzero(legal))
    return np.array([[row, col], divmod(int(second), int(free[1]))], dtype=np.int64)


def sample_size(
    rng: np.random.Generator, tokens: int, grid: Size, count: int, min_side: int = 1, square: bool = False
) -> Size:
    """A window shape (h, w) for a budget: `count` windows of it have at most `tokens` tokens, and nearly as many.

    `square` gives the largest square; nothing is drawn. Otherwise the shape is drawn uniformly among the maximal ones
    (one more patch in a side breaks the budget or the fit) that use at least 90 % of the best one's tokens. The paper
    found very thin windows harmful: `min_side` excludes them.

    Raises: ValueError where no shape fits the grid, the budget and the minimum.
    """
    budget = tokens // count  # tokens of one window

    def fits(h: int, w: int) -> bool:
        return h * w <= budget and max_windows(grid, (h, w)) >= count

    heights, widths = range(max(min_side, 1), grid[0] + 1), range(max(min_side, 1), grid[1] + 1)
    legal = {(h, w) for h in heights for w in widths if h * w <= budget and (h == w or not square) and fits(h, w)}
    if not legal:
        kind = "square windows" if square else "windows"
        raise ValueError(
            f"no {count} {kind} with sides of at least {min_side} patches and {tokens} tokens in all "
            f"fit into {grid[0]}x{grid[1]} patches"
        )
    best = max(h * w for h, w in legal)
    if square:
        return next((h, w) for h, w in legal if h * w == best)
    shapes = sorted(
        (h, w)
        for h, w in legal
        if h * w >= SIZE_TOLERANCE * best and (h + 1, w) not in legal and (h, w + 1) not in legal
    )
    return shapes[int(rng.integers(len(shapes)))]


# --------------------------------------------------------------------------------------- following the flow to view 2


def robust_mean(flow: np.ndarray, min_known: float = 0.01) -> np.ndarray:
    """The motion of a window: the median (u, v) of its known pixels; (NaN, NaN) if fewer than `min_known` are known.

    The median of each component, not the mean: a window that straddles the edge of a moving object holds two motions,
    and their mean is the motion of neither, so the second window would show neither.

    Args: flow: (h, w, 2) in pixels, (u, v) = (right, down); NaN, inf or 10000 px and more is unknown.
    """
    vectors = flow.reshape(-1, 2)
    known = (np.abs(vectors) < UNKNOWN_FLOW).all(axis=-1)  # False for NaN and inf too
    if known.sum() < max(1, min_known * len(vectors)):
        return np.full(2, np.nan)
    return np.median(vectors[known], axis=0).astype(np.float64)


def follow(
    rng: np.random.Generator,
    positions: np.ndarray,
    size: Size,
    displacement: np.ndarray,
    second_size: Size,
    grid: Size,
    jitter: float = 0.0,
    follow_probability: float = 1.0,
) -> np.ndarray:
    """Windows of the second view, one for each of the first view's, placed where its content went.

    The centre of the first window, plus its displacement, plus a uniform jitter in [-jitter, jitter] patches along each
    axis, rounded to whole patches and clipped into the grid. The window's position is an input of the network, so a
    window that follows exactly *tells* it the motion. Jitter and a larger second window prevent that. Where the displacement
    is unknown it counts as 0. With probability 1 - `follow_probability` a window ignores the flow and lies anywhere.

    Windows of the second view may overlap one another: two first windows on one object see one place twice.

    Args:
        positions: (N, 2) first view's (row, col); `size` is their size. All in patches.
        displacement: (N, 2) as (row, col) in patches (not (u, v) in pixels); NaN is unknown.
    Returns: (N, 2) int64.
    Raises: ValueError where `second_size` is larger than the grid.
    """
    if second_size[0] > grid[0] or second_size[1] > grid[1]:
        raise ValueError(
            f"a second window of {second_size[0]}x{second_size[1]} patches does not fit "
            f"into {grid[0]}x{grid[1]} patches"
        )
    room = np.array(grid) - np.array(second_size)
    # the draws are the same whatever the flow is, so one example's randomness does not depend on its content
    noise = rng.uniform(-1.0, 1.0, size=positions.shape) * jitter
    anywhere = rng.integers(0, room + 1, size=positions.shape)
    ignore = rng.random(len(positions)) >= follow_probability
    shift = np.where(np.isfinite(displacement).all(axis=-1, keepdims=True), displacement, 0.0)
    target = positions + (np.array(size) - np.array(second_size)) / 2 + shift + noise
    target = np.clip(np.floor(target + 0.5), 0, room).astype(np.int64)
    return np.where(ignore[:, None], anywhere, target)


# --------------------------------------------------------------------------------------------------- pixels of windows


def crop_windows(array: Array, positions: Any, size: Size, patch_size: int) -> Array:
    """Cut windows out of a frame: (..., H, W) -> (N, ..., h*p, w*p), e.g. (C, H, W) -> (N, C, h*p, w*p).

    `positions` (N, 2) and `size` are in patches. Raises ValueError where a window leaves the array.
    """
    height, width = size[0] * patch_size, size[1] * patch_size
    pieces = []
    for row, col in np.asarray(positions).tolist():
        top, left = row * patch_size, col * patch_size
        piece = array[..., top : top + height, left : left + width]
        if min(top, left) < 0 or tuple(piece.shape[-2:]) != (height, width):
            raise ValueError(
                f"the window at {(row, col)} of {size[0]}x{size[1]} patches leaves the frame of "
                f"{array.shape[-2]}x{array.shape[-1]} pixels: pad the frame to whole patches of {patch_size} first"
            )
        pieces.append(piece)
    return torch.stack(cast(Any, pieces)) if isinstance(array, torch.Tensor) else np.stack(cast(Any, pieces))


def paste_windows(windows: Array, positions: Any, frame: Size, patch_size: int, fill: float = 0) -> Array:
    """Put windows (N, ..., h, w pixels) back into a frame of (H, W) pixels that is `fill` elsewhere: (..., H, W).

    Parts outside the frame are dropped. Where windows overlap, the last one stays.
    """
    shape = (*windows.shape[1:-2], *frame)
    out = windows.new_full(shape, fill) if isinstance(windows, torch.Tensor) else np.full(shape, fill, windows.dtype)
    height, width = windows.shape[-2:]
    for window, (row, col) in zip(windows, np.asarray(positions).tolist(), strict=True):
        top, left = row * patch_size, col * patch_size
        room = (max(frame[0] - top, 0), max(frame[1] - left, 0))
        out[..., top : top + height, left : left + width] = window[..., : room[0], : room[1]]
    return out


# --------------------------------------------------------------------------------------------- the line of a recipe


Patches = Annotated[int, Field(ge=1, le=4096)]  # a side in patches


@dataclass(frozen=True)
class Strategy:
    """Which tokens of a frame training keeps. Plain fields, for YAML recipes.

    kind:
        "windows": `count` windows that do not overlap (the paper). Their shape is `size`, or is drawn for each batch
            from a budget of `tokens` in all windows together (`min_side`, `square`), or is `sizes`, one for each window
            (an ablation, see `equal_tiles`).
        "tokens": `tokens` single random tokens (the paper's table 8: worse than windows).
        "crop": one window of `size` (or of at most `tokens`) that becomes a little frame of its own (the baseline).
        "full": the whole frame (the baseline that Win-Win is meant to match at a quarter of the cost).
    count: number of windows; 0 means the kind's own number, which for "windows" is 2.
    size: (h, w) of a window in patches. sizes: one (h, w) for each window. tokens: number kept in all windows
        together, or of single ones. min_side, square: of windows whose shape is drawn.
    """

    kind: Annotated[
        Literal["windows", "tokens", "crop", "full"],
        Field(
            description="`windows`: windows that don't overlap (the paper). `tokens`: single random tokens (the "
            "paper's table 8: worse). `crop`: one window as a small frame of its own (a baseline). `full`: the whole "
            "frame (a baseline)."
        ),
    ] = "windows"
    count: Annotated[
        int, Field(ge=0, le=10_000, description="Number of windows; 0: the kind's own number, 2 for `windows`.")
    ] = 0
    size: Annotated[tuple[Patches, Patches] | None, Field(description="(h, w) of every window in patches.")] = None
    tokens: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**8,
            description="Tokens of all windows together. With `windows` their shape is drawn for each batch.",
        ),
    ] = None
    min_side: Annotated[Patches, Field(description="Shortest side of a window whose shape is drawn, in patches.")] = 1
    square: Annotated[bool, Field(description="Windows whose shape is drawn are square.")] = False
    sizes: Annotated[
        tuple[tuple[Patches, Patches], ...] | None,
        Field(min_length=1, description="(h, w) of each window in patches (an ablation)."),
    ] = None

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        check_fields(self)
        given = [name for name in ("size", "tokens", "sizes") if getattr(self, name) is not None]
        wanted = {"windows": "size, tokens, sizes", "tokens": "tokens", "crop": "size, tokens", "full": ""}
        allowed = wanted[self.kind]
        if len(given) != bool(allowed) or (given and given[0] not in allowed.split(", ")):
            rule = f"exactly one of: {allowed}" if allowed else "none of size, tokens, sizes"
            raise ValueError(f"strategy {self.kind!r} takes {rule}; got {', '.join(given) or 'none'}")
        own = {"windows": len(self.sizes or ()) or 2, "tokens": self.tokens or 0, "crop": 1, "full": 1}[self.kind]
        object.__setattr__(self, "count", self.count or own)
        if self.count < 1 or (self.count != own and (self.kind != "windows" or self.sizes is not None)):
            raise ValueError(f"strategy {self.kind!r} with count {self.count}: expected {own} here")

    def draw_size(self, rng: np.random.Generator, grid: Size) -> Size:
        """The windows' shape, drawn once for a batch since its windows share a tensor; `grid` is its smallest."""
        if self.kind == "full":
            return grid
        if self.kind == "tokens":
            return (1, 1)
        if self.sizes is not None:
            return equal_tiles(np.zeros((len(self.sizes), 2), dtype=np.int64), self.sizes)[1]
        if self.tokens is not None:
            return sample_size(rng, self.tokens, grid, self.count, self.min_side, self.square)
        return cast(Size, self.size)

    def sample(self, rng: np.random.Generator, grid: Size, size: Size | None = None) -> tuple[np.ndarray, Size]:
        """Places for one image: (N, 2) int64 positions and the windows' size; a crop lies where it is in its frame.

        `size` is what `draw_size` gave for the batch; without it, one is drawn.
        """
        size = self.draw_size(rng, grid) if size is None else size
        if self.sizes is not None:
            return equal_tiles(sample_unequal_windows(rng, grid, self.sizes), self.sizes)
        return sample_windows(rng, grid, size, self.count), size
