"""Segmentation on CamVid: the paper's figure 1 (left) and figure 5."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from research import drawing
from research.experiments.context import Context, Experiment
from research.experiments.logs import minutes_curve, time_key
from research.experiments.results import write_result
from research.experiments.scores import Score, score_all
from research.experiments.segmentation_kinds import (
    COLUMNS,
    FRAME,
    KINDS,
    OVERLAP,
    SCALES,
    TERMS,
    across,
    describe,
    recipe_of,
    row_of,
    score,
    scores,
    setting,
    tokens,
    train,
)
from research.experiments.summaries import median_text, plus_minus, seeds_text
from research.sizes import grid_of


def figure1(context: Context) -> None:
    """mIoU against training time: Win-Win, full resolution, ViTDet's attention, crops (in one pass and in tiles)."""
    name = "figure1-segmentation"
    keys = ["windows", "full", "full-small", "vitdet", "crops"]
    folders = train(context, keys)
    kinds = {key: describe(key, folders[key]) for key in keys}
    height, width = recipe_of("crops").windows.size or (0, 0)
    tile = (16 * height, 16 * width)
    tiled = []  # (seconds, mIoU) of the crops' models, tested in tiles
    data = context.data.get("camvid", "")
    wanted = [Score("tiled", folder, partial(score, folder, data, tile=tile)) for folder in folders["crops"]]
    for run, figures in zip(kinds["crops"]["runs"], score_all(context, wanted), strict=True):
        if figures:
            run["tiled_miou"] = figures["miou"]
            tiled.append((run["seconds"], figures["miou"]))
    tiled_label = f"crops of 12x13, tested in tiles, overlap {OVERLAP}"
    lines = []
    for key in keys:
        kind = kinds[key]
        gigabytes = median_text([run["memory_gb"] for run in kind["runs"]], 2)
        label = f"{kind['label']}: {kind['tokens']} tokens, {gigabytes} GB"
        points = [minutes_curve(folder, "frames", "miou") for folder in folders[key]]
        lines.append(drawing.Line(key, label, points, dashed=key == "full-small"))
    if tiled:
        lines.append(drawing.Line("crops-tiled", tiled_label, [[(t / 60, value)] for t, value in tiled], alone=True))
    rows = [row_of(kinds[key]) for key in keys]
    if tiled:
        rows.append([tiled_label, *row_of(kinds["crops"])[1:-2], len(tiled), plus_minus([v for _, v in tiled])])
    counts = [len(found) for found in folders.values()]
    if any(counts):
        drawing.curves(
            context.output / f"{name}.png",
            lines,
            "training time, minutes" + ("" if _on_accelerator(folders) else " of one core"),
            "mIoU of val at 360x480, %",
            "Segmentation: score against training time",
            f"CamVid, {seeds_text(counts)}; lines: mean, bands: lowest to highest",
        )
    result = {
        "title": "Figure 1, segmentation: score against training time",
        "about": setting(
            "All methods have the same network and optimiser and about the same training time. They train on batches of 4 frames. "
            "A batch of 4 full frames allows few steps in that time, so full resolution is also trained with a batch of 1, which "
            "has as many tokens a step as 4 frames in windows. The learning rate is constant after a warm-up, and an average of "
            "the weights is scored: each point of a curve is the result of a training of that length."
        ),
        "kinds": list(kinds.values()),
        "tables": [{"columns": COLUMNS, "rows": rows, "note": TERMS}],
    }
    write_result(context, name, result)


def _on_accelerator(folders: dict[str, list[Path]]) -> bool:
    return any(time_key(folder) == "seconds" for found in folders.values() for folder in found)


def figure5(context: Context) -> None:
    """mIoU against test resolution, of figure 1's trainings."""
    name = "figure5-segmentation"
    keys = ["windows", "full", "full-small", "crops"]
    folders = train(context, keys)
    found = scores(context, folders, SCALES)
    lines = []
    for key in keys:
        lines.append(drawing.Line(key, KINDS[key].label, across(found[key]), dashed=key == "full-small"))
    counts = [len(line.points) for line in lines]
    if any(counts):
        drawing.curves(
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
            {"columns": columns, "rows": rows, "note": "mIoU in percent, mean over the seeds ± half their range."}
        ],
    }
    write_result(context, name, result)


EXPERIMENTS: dict[str, Experiment] = {
    "figure1-segmentation": Experiment(figure1, "Figure 1: mIoU against training time", ("camvid",), 1.1),
    "figure5-segmentation": Experiment(
        figure5, "Figure 5: mIoU against test resolution (figure 1's trainings)", ("camvid",), 0.25
    ),
}
