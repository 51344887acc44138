"""
The trainings for segmentation on CamVid (360x480), and how their models are scored.

- Figure 1 gives each kind about the same time. Tables change one setting of the kind "windows" and train as many steps.
- The learning rate is constant after a warm-up, and an average of the weights is scored: a point of a curve is what a training of
  that length gives. With a cosine only the last point would be.
- No kind varies the images' scale in training, because full frames of one batch must have one size.
- For another test resolution the image is resized and the logits are resized back, so all resolutions are scored on the original
  labels.
- One window is a crop: under RoPE its place in the frame is no input. The kinds share one training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

import winwin_hf  # noqa: F401  registers the Auto classes
from research.experiments.context import Context
from research.experiments.kinds import Kind, seed_of, train_kinds
from research.experiments.logs import curve, memory_gb, training_seconds
from research.experiments.scores import Score, score_all
from research.experiments.summaries import median_text, plus_minus
from research.sizes import grid_of
from winwin_hf.data.sources import open_source
from winwin_hf.evaluation.scoring import new_metric
from winwin_hf.evaluation.scoring import score as score_frames
from winwin_hf.inference.loading import load_network
from winwin_hf.inference.predictor import Prediction, Predictor
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.layers_winwin import WinWinAttention
from winwin_hf.training.recipe import Recipe, load_recipe
from winwin_hf.windows import Size, Strategy

FRAME = (360, 480)  # CamVid, pixels
OVERLAP = 0.5  # of tiles; the default of `winwin evaluate --tile`
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
END_ONLY = "evaluation.every=0"  # for kinds whose curve is not shown

KINDS: dict[str, Kind] = {
    "windows": Kind("seg-windows.yaml", "Win-Win, 2 windows of 9x9"),
    "crops": Kind("seg-crops.yaml", "crops of 12x13"),
    "full": Kind("seg-full.yaml", "full resolution"),
    "full-small": Kind("seg-full-small.yaml", "full resolution, batch of 1"),
    "vitdet": Kind("seg-vitdet.yaml", "full resolution, ViTDet's attention"),
    "three": Kind(
        "seg-windows.yaml", "3 windows of 7x8", ("windows={kind: windows, count: 3, size: [7, 8]}", END_ONLY)
    ),
    "four": Kind("seg-windows.yaml", "4 windows of 6x7", ("windows={kind: windows, count: 4, size: [6, 7]}", END_ONLY)),
    "oblong": Kind("seg-windows.yaml", "2 windows of 6x14", ("windows={kind: windows, size: [6, 14]}", END_ONLY)),
    "varying": Kind(
        "seg-windows.yaml", "2 windows, shape drawn", ("windows={kind: windows, tokens: 162, min_side: 5}", END_ONLY)
    ),
    "tokens": Kind("seg-windows.yaml", "162 single tokens", ("windows={kind: tokens, tokens: 162}", END_ONLY)),
    "absolute": Kind(
        "seg-windows.yaml", "absolute positions (sincos)", ("model.config.position_embedding=sincos", END_ONLY)
    ),
    "conv": Kind("seg-windows.yaml", "convolutional head", ("model.config.head_type=conv", END_ONLY)),
    "dpt": Kind(
        "seg-windows.yaml",
        "DPT head",
        (
            "model.config.head_type=dpt",
            "model.config.dpt_layer_sizes=[48, 96, 192, 192]",  # a quarter of the base preset's, as the encoder's width
            "model.config.dpt_hidden_size=64",
            END_ONLY,
        ),
    ),
}


def recipe_of(key: str) -> Recipe:
    """A kind's recipe, without the place of its data."""
    return KINDS[key].load()


def train(context: Context, keys: Sequence[str]) -> dict[str, list[Path]]:
    """Trains the kinds. Returns for each key the folders of its finished seeds."""
    return train_kinds(context, {key: KINDS[key] for key in keys}, "segmentation", "camvid")


def tokens(strategy: Strategy, grid: Size) -> int:
    """Tokens that a training keeps of a frame of `grid` patches; the most where the windows' shape is random."""
    if strategy.kind == "full":
        return grid[0] * grid[1]
    if strategy.sizes is not None:
        return sum(h * w for h, w in strategy.sizes)
    if strategy.size is not None:
        return strategy.count * strategy.size[0] * strategy.size[1]
    assert strategy.tokens is not None
    return strategy.tokens


def final(folder: Path) -> float:
    """mIoU of the finished model on the whole of val at 1x, from the training's own evaluation."""
    return curve(folder, "frames", "miou")[-1]["value"]


def score(
    folder: Path, data: str | Path, scale: float = 1.0, tile: Size | None = None, logits: bool = False
) -> dict[str, Any]:
    """
    Scores a finished model on CamVid's val: "miou", "accuracy", "iou", "tokens", "images".

    Args:
        scale: of the images that the network sees; labels keep their size.
        tile: (height, width) in pixels, for a prediction in tiles. None: one pass.
        logits: multiply the attention logits by log(tokens at test) / log(tokens in training).
    """
    recipe = load_recipe(folder / "model" / "recipe.yaml")
    accelerator = Accelerator(mixed_precision=recipe.optimization.mixed_precision)
    model = load_network(folder / "model").to(accelerator.device)
    patch = model.config.patch_size
    token_counts = set()

    def predict(image: np.ndarray, _: np.ndarray | None = None) -> Prediction:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        grid = grid_of(height, width, patch)
        token_counts.add(grid[0] * grid[1])
        if logits:
            trained = tokens(recipe.windows, grid_of(image.shape[0], image.shape[1], patch))
            scale_logits(model, math.log(grid[0] * grid[1]) / math.log(trained))
        processor = WinWinImageProcessor(patch_size=patch)
        if scale != 1:
            processor = WinWinImageProcessor(patch_size=patch, do_resize=True, size={"height": height, "width": width})
        options: dict[str, Any] = {"device": accelerator.device, "autocast": accelerator.autocast}
        return Predictor(model, processor, "semantic-segmentation", tile=tile, overlap=OVERLAP, **options)(image)

    source = open_source(recipe.data.name or "camvid", str(data), "val")
    result = score_frames(predict, source, new_metric(source), accelerator, title=f"{folder.name} at {scale:g}x")
    figures = {key: result.figures[key] for key in ("miou", "accuracy", "iou")}
    return {**figures, "tokens": max(token_counts), "images": len(result.images)}


def scale_logits(model: Any, factor: float) -> None:
    """Multiplies the attention logits of all blocks by `factor`, in the place of an earlier call's factor."""
    for module in model.modules():
        if isinstance(module, WinWinAttention):
            module.scaling = module.head_dim**-0.5 * factor


def scores(
    context: Context, folders: dict[str, list[Path]], scales: Sequence[float], logits: bool = False
) -> dict[str, dict[float, list[float | None]]]:
    """mIoU of each folder's model by kind and test resolution. None: not scored, with `context.draw_only`."""
    data = context.data.get("camvid", "")
    wanted = {
        (key, scale, i): Score(
            f"scale-{scale:g}" + ("-logits" if logits else ""),
            folder,
            partial(score, folder, data, scale=scale, logits=logits),
        )
        for key in folders
        for scale in scales
        for i, folder in enumerate(folders[key])
        if scale != 1 or logits
    }
    found = dict(zip(wanted, score_all(context, list(wanted.values())), strict=True))

    def of(key: str, scale: float, i: int) -> float | None:
        if (key, scale, i) not in wanted:  # the training scored it
            return final(folders[key][i])
        figures = found[key, scale, i]
        return figures["miou"] if figures else None

    return {key: {scale: [of(key, scale, i) for i in range(len(folders[key]))] for scale in scales} for key in folders}


def across(found: dict[float, list[float | None]]) -> list[list[tuple[float, float]]]:
    """Scores by scale as a curve for each seed that has all scales."""
    by_seed = zip(*found.values(), strict=True)
    return [list(zip(found, values, strict=True)) for values in by_seed if None not in values]


def describe(key: str, folders: Sequence[Path]) -> dict[str, Any]:
    """A kind for the JSON file: its settings, and time, memory and final score of each seed."""
    return {
        "key": key,
        **KINDS[key].about(tokens(recipe_of(key).windows, grid_of(*FRAME))),
        "runs": [
            {
                "seed": seed_of(folder),
                "miou": final(folder),
                "seconds": training_seconds(folder),
                "memory_gb": memory_gb(folder),
                "curve": curve(folder, "frames", "miou"),
            }
            for folder in folders
        ],
    }


def row_of(kind: dict[str, Any], label: str | None = None) -> list[Any]:
    """A kind's cells of `COLUMNS`."""
    by_name = {name: [run[name] for run in kind["runs"]] for name in ("miou", "seconds", "memory_gb")}
    return [
        label or kind["label"],
        kind["tokens"],
        kind["steps"],
        median_text(by_name["seconds"], 1, 1 / 60),
        median_text(by_name["memory_gb"], 2),
        len(kind["runs"]),
        plus_minus(by_name["miou"]),
    ]


COLUMNS = ["training", "tokens", "steps", "minutes", "GB", "seeds", "mIoU, %"]
TERMS = (
    "minutes: of one core in the training's steps (on an accelerator elapsed time), median over the seeds, without evaluations "
    "and loading. GB: peak memory before the first evaluation. mIoU: all 101 whole frames of CamVid's val; mean over the seeds ± "
    "half their range."
)


def setting(*sentences: str) -> str:
    """Data and network, which all pages state, followed by `sentences`."""
    network = (
        "Data: CamVid, 367 frames for training and 101 of val, 360x480 pixels, 690 tokens. Network: preset tiny with a "
        "convolutional stem, 8 encoder blocks and a linear head, 4.3 M parameters, trained from random weights. Scores are far "
        "below those of pre-trained networks; compare them only with each other."
    )
    return " ".join((network, *sentences))
