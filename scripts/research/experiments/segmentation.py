"""Semantic segmentation on CamVid (360x480): the paper's figure 1 (left), figure 5 and its tables, with one small network.

Notable:
- every kind of training is a recipe of scripts/research/recipes/, or one of them with a setting changed: `KINDS` is the list. Tables change
  one thing of the run "windows", which all experiments share, and train as many steps; figure 1 gives each method as much time.
- learning rates are constant after a warm-up and an average of the weights is scored, so a point of a curve is what a training of
  that length gives. With a cosine only the last point would be.
- no method varies the images' scale in training: full frames of one batch must have one size.
- other test resolutions: the image is resized, the network sees that, its logits are resized back and compared with the labels of
  the original image. So all resolutions are scored on the same pixels.
- one window has no other place than its own under RoPE: training on one window of a frame is training on crops, one run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from winwin_hf.training.recipe import Recipe, load_recipe
from winwin_hf.windows import Size, Strategy

from . import draw
from .kinds import Kind, grid_of, middle, minutes, seed_of, train_kinds
from .runs import (
    Context,
    Experiment,
    Question,
    curve,
    known,
    measure_all,
    memory,
    plus_minus,
    seeds_text,
    spent,
    time_key,
    write_result,
)

FRAME = (360, 480)  # CamVid
OVERLAP = 0.5  # of the tiles, as `winwin evaluate --tile` has it
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
END_ONLY = "evaluation.every=0"  # runs of which no curve is shown


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


# ------------------------------------------------------------------ what the experiments share


def recipe_of(key: str) -> Recipe:
    """A kind's recipe, without its data."""
    return KINDS[key].load()


def train(context: Context, keys: Sequence[str]) -> dict[str, list[Path]]:
    """The kinds' trainings: for each key the folders of its finished seeds."""
    return train_kinds(context, {key: KINDS[key] for key in keys}, "segmentation", "camvid")


def tokens(strategy: Strategy, grid: Size) -> int:
    """Tokens of a frame of `grid` patches that a training keeps (at most, where the windows' shape is drawn)."""
    if strategy.kind == "full":
        return grid[0] * grid[1]
    if strategy.sizes is not None:
        return sum(h * w for h, w in strategy.sizes)
    if strategy.size is not None:
        return strategy.count * strategy.size[0] * strategy.size[1]
    assert strategy.tokens is not None
    return strategy.tokens


def final(folder: Path) -> float:
    """mIoU of the finished model on all of val at 1x, as the training itself scored it."""
    return curve(folder, "frames", "miou")[-1]["value"]


def score(
    folder: Path, data: str | Path, scale: float = 1.0, tile: Size | None = None, logits: bool = False
) -> dict[str, Any]:
    """
    A finished model on CamVid's val, images resized by `scale`, scored on the original labels: "miou", "accuracy", "tokens", "images".

    Args:
        tile: (height, width) in pixels: predicted in tiles of that size. None: in one pass.
        logits: multiply the attention's logits by log(tokens now) / log(tokens in training).
    """
    from accelerate import Accelerator
    from transformers import AutoModel

    import winwin_hf  # noqa: F401  registers the Auto classes
    from winwin_hf.data.sources import open_source
    from winwin_hf.evaluation.scoring import new_metric
    from winwin_hf.evaluation.scoring import score as score_frames
    from winwin_hf.inference.predictor import Network
    from winwin_hf.model.image_processing_winwin import WinWinImageProcessor

    recipe = load_recipe(folder / "model" / "recipe.yaml")
    accelerator = Accelerator(mixed_precision=recipe.optimization.mixed_precision)
    model = AutoModel.from_pretrained(folder / "model").to(accelerator.device).eval()
    patch = model.config.patch_size
    seen = set()

    def predict(image: np.ndarray, _: np.ndarray | None = None) -> np.ndarray:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        grid = grid_of(height, width, patch)
        seen.add(grid[0] * grid[1])
        if logits:
            trained = tokens(recipe.windows, grid_of(image.shape[0], image.shape[1], patch))
            scale_logits(model, math.log(grid[0] * grid[1]) / math.log(trained))
        processor = WinWinImageProcessor(patch_size=patch)
        if scale != 1:
            processor = WinWinImageProcessor(patch_size=patch, do_resize=True, size={"height": height, "width": width})
        return Network(model, processor, accelerator, "semantic-segmentation", tile=tile, overlap=OVERLAP)(image)

    source = open_source(recipe.data.name or "camvid", str(data), "val")
    result = score_frames(predict, source, new_metric(source), accelerator, title=f"{folder.name} at {scale:g}x")
    figures = {key: result.figures[key] for key in ("miou", "accuracy", "iou")}
    return {**figures, "tokens": max(seen), "images": len(result.images)}


def scale_logits(model: Any, factor: float) -> None:
    """Attention logits of all blocks times `factor` from here on (not times what an earlier call set)."""
    from winwin_hf.model.layers_winwin import WinWinAttention

    for module in model.modules():
        if isinstance(module, WinWinAttention):
            module.scaling = module.head_dim**-0.5 * factor


def scores(
    context: Context, folders: dict[str, list[Path]], scales: Sequence[float], logits: bool = False
) -> dict[str, dict[float, list[float | None]]]:
    """mIoU by kind and test resolution, of each folder's model; None where it isn't known and not to be found out now."""
    data = context.data.get("camvid", "")
    asked = {
        (key, scale, i): Question(
            f"scale-{scale:g}" + ("-logits" if logits else ""),
            folder,
            partial(score, folder, data, scale=scale, logits=logits),
        )
        for key in folders
        for scale in scales
        for i, folder in enumerate(folders[key])
        if scale != 1 or logits
    }
    answers = dict(zip(asked, measure_all(context, list(asked.values())), strict=True))

    def of(key: str, scale: float, i: int) -> float | None:
        if (key, scale, i) not in asked:  # the training's own score
            return final(folders[key][i])
        answer = answers[key, scale, i]
        return answer["miou"] if answer else None

    return {key: {scale: [of(key, scale, i) for i in range(len(folders[key]))] for scale in scales} for key in folders}


def across(found: dict[float, list[float | None]]) -> list[list[tuple[float, float]]]:
    """Scores by scale as one curve a seed, of the seeds that have all scales."""
    by_seed = zip(*found.values(), strict=True)
    return [list(zip(found, values, strict=True)) for values in by_seed if None not in values]


def describe(key: str, folders: Sequence[Path]) -> dict[str, Any]:
    """What the JSON says of a kind: its settings, and of each seed time, memory and final score."""
    return {
        "key": key,
        **KINDS[key].about(tokens(recipe_of(key).windows, grid_of(*FRAME))),
        "runs": [
            {
                "seed": seed_of(folder),
                "miou": final(folder),
                "seconds": spent(folder),
                "memory_gb": memory(folder),
                "curve": curve(folder, "frames", "miou"),
            }
            for folder in folders
        ],
    }


def row_of(kind: dict[str, Any], label: str | None = None) -> list[Any]:
    """label, tokens, steps, minutes, memory, seeds, final mIoU: the columns that all tables begin with."""
    of = {name: [run[name] for run in kind["runs"]] for name in ("miou", "seconds", "memory_gb")}
    return [
        label or kind["label"],
        kind["tokens"],
        kind["steps"],
        middle(of["seconds"], 1, 1 / 60),
        middle(of["memory_gb"], 2),
        len(kind["runs"]),
        plus_minus(of["miou"]),
    ]


COLUMNS = ["training", "tokens", "steps", "minutes", "GB", "seeds", "mIoU, %"]
TERMS = (
    "minutes: of one core in the training's steps (of an accelerator: minutes passed), median over the seeds, without evaluations and "
    "loading, which is done by another process. GB: most memory held before the first evaluation. mIoU: all 101 frames of CamVid's val, "
    "whole; the mean over the seeds ± half of their range."
)


def setting(*sentences: str) -> str:
    network = (
        "CamVid, 367 training frames and 101 of val, 360x480 pixels, 690 tokens; preset tiny with a convolutional stem, 8 encoder "
        "blocks and a linear head, 4.3 M parameters, from nothing: scores are far below what pre-trained networks reach and are meant to "
        "be compared with each other only."
    )
    return " ".join((network, *sentences))


# ------------------------------------------------------------------ figure 1


def figure1(context: Context) -> None:
    """mIoU against training time: full resolution, ViTDet's attention, Win-Win, crops (in one pass and in tiles)."""
    name = "figure1-segmentation"
    keys = ["windows", "full", "full-small", "vitdet", "crops"]
    folders = train(context, keys)
    kinds = {key: describe(key, folders[key]) for key in keys}
    height, width = recipe_of("crops").windows.size or (0, 0)
    tile = (16 * height, 16 * width)
    tiled = []  # a crop's own score is one pass over the whole frame
    data = context.data.get("camvid", "")
    asked = [Question("tiled", folder, partial(score, folder, data, tile=tile)) for folder in folders["crops"]]
    for run, figures in zip(kinds["crops"]["runs"], measure_all(context, asked), strict=True):
        if figures:
            run["tiled_miou"] = figures["miou"]
            tiled.append((run["seconds"], figures["miou"]))
    tiled_label = f"crops of 12x13, tested in tiles, overlap {OVERLAP}"
    lines = []
    for key in keys:
        kind = kinds[key]
        gigabytes = middle([run["memory_gb"] for run in kind["runs"]], 2)
        label = f"{kind['label']}: {kind['tokens']} tokens, {gigabytes} GB"
        points = [minutes(run["curve"], folder) for run, folder in zip(kind["runs"], folders[key], strict=True)]
        lines.append(draw.Line(key, label, points, dashed=key == "full-small"))
    if tiled:
        lines.append(draw.Line("crops-tiled", tiled_label, [[(t / 60, value)] for t, value in tiled], alone=True))
    rows = [row_of(kinds[key]) for key in keys]
    if tiled:
        rows.append([tiled_label, *row_of(kinds["crops"])[1:-2], len(tiled), plus_minus([v for _, v in tiled])])
    counts = [len(found) for found in folders.values()]
    if any(counts):
        draw.curves(
            context.output / f"{name}.png",
            lines,
            "training time, minutes" + ("" if _on_accelerator(folders) else " of one core"),
            "mIoU of val at 360x480, %",
            "Segmentation: score against training time",
            f"CamVid, {seeds_text(counts)}; lines: mean, bands: least to largest",
        )
    result = {
        "title": "Figure 1, segmentation: score against training time",
        "about": setting(
            "Every method has the same network, optimiser and (about) the same time. All train on batches of 4 frames; as a batch of 4 "
            "full frames has few steps in that time, full resolution is also trained with a batch of 1, which has as many tokens a step as "
            "Win-Win's 4. Learning rates are constant after a warm-up and an average of the weights is scored: each point of a curve is "
            "what a training of that length gives."
        ),
        "kinds": list(kinds.values()),
        "tables": [{"columns": COLUMNS, "rows": rows, "note": TERMS}],
    }
    write_result(context, name, result)


def _on_accelerator(folders: dict[str, list[Path]]) -> bool:
    return any(time_key(folder) == "seconds" for found in folders.values() for folder in found)


# ------------------------------------------------------------------ figure 5


def figure5(context: Context) -> None:
    """mIoU against test resolution, of figure 1's trainings."""
    name = "figure5-segmentation"
    keys = ["windows", "full", "full-small", "crops"]
    folders = train(context, keys)
    found = scores(context, folders, SCALES)
    lines = []
    for key in keys:
        lines.append(draw.Line(key, KINDS[key].label, across(found[key]), dashed=key == "full-small"))
    counts = [len(line.points) for line in lines]
    if any(counts):
        draw.curves(
            context.output / f"{name}.png",
            lines,
            "test resolution, of 360x480",
            "mIoU of val, %",
            "Segmentation: score against test resolution",
            f"CamVid, one pass over the whole image, labels of the original size, {seeds_text(counts)}",
            ticks=SCALES,
        )
    columns = ["training", "tokens in training", "seeds", *(f"{scale:g}x" for scale in SCALES)]
    grids = [grid_of(*(round(side * scale) for side in FRAME)) for scale in SCALES]
    rows: list[list[Any]] = [["tokens at test", "", "", *(h * w for h, w in grids)]]
    for key, count in zip(keys, counts, strict=True):
        kept = tokens(recipe_of(key).windows, grid_of(*FRAME))
        rows.append([KINDS[key].label, kept, count, *(plus_minus(found[key][scale]) for scale in SCALES)])
    result = {
        "title": "Figure 5, segmentation: score against test resolution",
        "about": setting(
            "The trainings are those of figure 1, at 360x480. The image is resized, the network sees it in one pass, and its logits are "
            "resized back: all resolutions are scored on the labels of the original image."
        ),
        "kinds": [
            {"key": key, "label": KINDS[key].label, "miou": {f"{s:g}": found[key][s] for s in SCALES}} for key in keys
        ],
        "tables": [
            {"columns": columns, "rows": rows, "note": "mIoU in percent, mean over the seeds ± half of their range."}
        ],
    }
    write_result(context, name, result)


# ------------------------------------------------------------------ tables


def _table(
    context: Context,
    name: str,
    title: str,
    about: str,
    rows: Sequence[tuple[str, str]],
    scales: Sequence[float] = (1.0,),
) -> None:
    """One table: rows are (a kind's key, its label here); the first is what the others are compared with, unless "windows" is there."""
    keys = [key for key, _ in rows]
    folders = train(context, keys)
    kinds = {key: describe(key, folders[key]) for key in keys}
    found = scores(context, folders, scales)
    for key in keys:
        kinds[key]["label"] = dict(rows)[key]
        kinds[key]["miou"] = {f"{scale:g}": found[key][scale] for scale in scales}
    sizes = {scale: "x".join(str(round(side * scale)) for side in FRAME) for scale in scales}
    extra = [scale for scale in scales if scale != 1]
    shown = [row_of(kinds[key]) + [plus_minus(kinds[key]["miou"][f"{scale:g}"]) for scale in extra] for key in keys]
    counts = [len(of_kind) for of_kind in folders.values()]
    if any(counts):
        groups = [
            (
                sizes[scale],
                [draw.Bar(label, known(kinds[key]["miou"][f"{scale:g}"]), key == "windows") for key, label in rows],
            )
            for scale in scales
        ]
        picture = context.output / f"{name}.png"
        draw.dots(picture, groups, "mIoU of val, %", title, f"CamVid, {seeds_text(counts)}; dots: seeds, strokes: mean")
    result = {
        "title": title,
        "about": setting("All rows: as many steps of 4 frames, two windows of 9x9 if nothing else is said.", about),
        "kinds": list(kinds.values()),
        "tables": [
            {"columns": [*COLUMNS, *(f"mIoU at {sizes[scale]}" for scale in extra)], "rows": shown, "note": TERMS}
        ],
    }
    write_result(context, name, result)


def table_windows(context: Context) -> None:
    """1, 2, 3 and 4 windows of about as many tokens in all."""
    about = (
        "One window is a crop: under RoPE its place in the frame is not an input, so its row is figure 1's training on crops, scored "
        "in one pass as the others."
    )
    rows = [
        ("crops", "1 window of 12x13"),
        ("windows", "2 windows of 9x9"),
        ("three", "3 of 7x8"),
        ("four", "4 of 6x7"),
    ]
    _table(context, "table-windows", "Number of windows, at about equal numbers of tokens", about, rows)


def table_shapes(context: Context) -> None:
    """Square, oblong and varying windows, and single tokens."""
    about = (
        "Varying: the shape, the same for both windows, is drawn for each batch among those of at most 81 tokens and sides of 5 and more. "
        "Single tokens see only their own 16x16 pixels, in the stem too; they cost more time, as each is an image of its own to the "
        "stem's convolutions."
    )
    rows = [
        ("windows", "2 of 9x9"),
        ("oblong", "2 of 6x14"),
        ("varying", "2, shape drawn (at most 81)"),
        ("tokens", "162 single tokens"),
    ]
    _table(context, "table-shapes", "Shapes of windows, and random single tokens", about, rows)


def table_positions(context: Context) -> None:
    """Relative (rotary) against absolute positions."""
    about = "Absolute: a fixed sine and cosine embedding of the place in the frame, added to the patches."
    rows = [("windows", "RoPE"), ("absolute", "absolute (sincos)")]
    _table(context, "table-positions", "Relative and absolute positions", about, rows, (1.0, 1.5))


def table_heads(context: Context) -> None:
    """Linear, convolutional and DPT head."""
    about = (
        "Parameters of the heads: linear 0.54 M, conv 0.86 M, DPT 1.37 M (a quarter of the base preset's widths). Only the convolutional "
        "head reads the stem's finer maps."
    )
    rows = [("windows", "linear"), ("conv", "convolutional"), ("dpt", "DPT")]
    _table(context, "table-heads", "Heads", about, rows)


EXPERIMENTS: dict[str, Experiment] = {
    "figure1-segmentation": Experiment(figure1, "Figure 1: mIoU against training time", ("camvid",), 1.1),
    "figure5-segmentation": Experiment(
        figure5, "Figure 5: mIoU against test resolution (figure 1's trainings)", ("camvid",), 0.25
    ),
    "table-windows": Experiment(table_windows, "Table: 1, 2, 3, 4 windows of equal tokens", ("camvid",), 0.4),
    "table-shapes": Experiment(table_shapes, "Table: square, oblong, varying windows, single tokens", ("camvid",), 0.7),
    "table-positions": Experiment(table_positions, "Table: RoPE against absolute positions", ("camvid",), 0.25),
    "table-heads": Experiment(table_heads, "Table: conv, linear, DPT head", ("camvid",), 0.45),
}
