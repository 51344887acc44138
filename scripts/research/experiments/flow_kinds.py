"""The trainings of the flow experiments, on synthetic pairs of 384x512.

The learning rate is constant after a warm-up, and an average of the weights is scored: a point of a curve is the result of a training of
that length. Tables therefore compare with figure 1's Win-Win at the step where they end, and don't train it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.experiments.context import Context
from research.experiments.fields import Tile
from research.experiments.kinds import Kind, train_kinds
from research.experiments.predicting import FlowSet
from research.sizes import grid_of
from winwin_hf.training.evaluate import open_set
from winwin_hf.training.recipe import Recipe

FRAME = (384, 512)
OVERLAP = 0.5  # of the tiles that crops are tested in
SHORT = "flow-windows-short.yaml"

KINDS: dict[str, Kind] = {
    "windows": Kind("flow-windows.yaml", "Win-Win, 2 windows of 6x6"),
    "crops": Kind("flow-crops.yaml", "crops of 11x12"),
    "full": Kind("flow-full.yaml", "full resolution"),
    # the place of the second frame's windows
    "jitter-0": Kind(SHORT, "10x10, jitter 0", ("second_windows.jitter=0.0",)),
    "jitter-0.7": Kind(SHORT, "10x10, jitter 0.7", ("second_windows.jitter=0.7",)),
    "second-6": Kind(SHORT, "6x6, jitter 2.5", ("second_windows.size=[6, 6]",)),
    "second-9": Kind(SHORT, "9x9, jitter 2.5", ("second_windows.size=[9, 9]",)),
    "second-14": Kind(SHORT, "14x14, jitter 2.5", ("second_windows.size=[14, 14]",)),
    "half": Kind(SHORT, "10x10, half of them anywhere", ("second_windows.follow_probability=0.5",)),
    "anywhere": Kind(SHORT, "10x10, all of them anywhere", ("second_windows.follow_probability=0.0",)),
    "same-place": Kind(
        SHORT,
        "10x10 around the first ones' place",
        ("second_windows.motion_share=0.0", "second_windows.jitter=0.0"),
    ),
    "symmetric": Kind(
        SHORT,
        "6x6, the first ones' place (symmetric)",
        ("second_windows.motion_share=0.0", "second_windows.jitter=0.0", "second_windows.size=[6, 6]"),
    ),
    # the number of windows
    "one": Kind(SHORT, "1 of 8x9", ("windows={kind: windows, count: 1, size: [8, 9]}", "second_windows.size=[14, 14]")),
    "three": Kind(SHORT, "3 of 5x5", ("windows={kind: windows, count: 3, size: [5, 5]}", "second_windows.size=[8, 8]")),
    "four": Kind(SHORT, "4 of 4x4", ("windows={kind: windows, count: 4, size: [4, 4]}", "second_windows.size=[7, 7]")),
    "many": Kind(
        SHORT,
        "18 of 2x2",
        ("windows={kind: windows, count: 18, size: [2, 2]}", "second_windows={size: [3, 3], jitter: 0.5}"),
    ),
}
FIGURE1 = ("windows", "crops", "full")


def recipe_of(key: str) -> Recipe:
    """A kind's recipe."""
    return KINDS[key].load()


def train(context: Context, keys: Sequence[str]) -> dict[str, list[Path]]:
    """Trains the kinds. Returns for each key the folders of its finished seeds."""
    return train_kinds(context, {key: KINDS[key] for key in keys}, "flow")


def tokens(recipe: Recipe, frame: tuple[int, int] = FRAME, patch_size: int = 16) -> tuple[int, int]:
    """Tokens that a training keeps of the first and of the second frame of (height, width) pixels."""
    grid = grid_of(*frame, patch_size)
    windows = recipe.windows
    if windows.kind == "full":
        return grid[0] * grid[1], grid[0] * grid[1]
    size = windows.size
    if size is None:
        raise ValueError(f"windows of {windows}: expected a size")
    first = windows.count * size[0] * size[1]
    if windows.kind == "crop":
        return first, first
    second = recipe.second_windows.window_size(size, grid)
    return first, windows.count * second[0] * second[1]


def about(key: str) -> dict[str, Any]:
    """A kind's settings for the JSON file."""
    return KINDS[key].about(list(tokens(recipe_of(key))))


def crop_tile() -> Tile:
    """Size in pixels of the crops and of the tiles that they are tested in."""
    height, width = recipe_of("crops").windows.size or (0, 0)
    return 16 * height, 16 * width


def held_out() -> FlowSet:
    """The full frames that trainings are scored on."""
    recipe = recipe_of("windows")
    chosen = recipe.evaluation.sets[0]
    return FlowSet("frames", f"held-out {FRAME[0]}x{FRAME[1]}", open_set(recipe, chosen), chosen.length or 24)


def common(context: Context) -> Path:
    """The folder of scores that need no network."""
    return context.work / "flow" / "frames"


def network_text() -> str:
    """Data and network, which all pages state."""
    config = recipe_of("windows").config()
    depth = f"{config.num_hidden_layers} + {config.decoder_num_hidden_layers} blocks of width {config.hidden_size}"
    return (
        f"Data: synthetic pairs of {FRAME[0]}x{FRAME[1]} pixels, 768 tokens a frame; scenes and textures of the evaluation are "
        f"held out. Network: {depth} with matching, trained from random weights for minutes. Compare these figures only with each "
        "other."
    )
