"""Segmentation on CamVid: tables of windows, their shapes, positions and heads."""

from __future__ import annotations

from collections.abc import Sequence

from research import drawing
from research.experiments.context import Context, Experiment
from research.experiments.results import write_result
from research.experiments.segmentation_kinds import (
    COLUMNS,
    FRAME,
    TERMS,
    describe,
    row_of,
    scores,
    setting,
    train,
)
from research.experiments.summaries import known, plus_minus, seeds_text


def _table(
    context: Context,
    name: str,
    title: str,
    about: str,
    rows: Sequence[tuple[str, str]],
    scales: Sequence[float] = (1.0,),
) -> None:
    """Trains, scores and writes one table. rows: (a kind's key, its label in this table)."""
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
                [drawing.Bar(label, known(kinds[key]["miou"][f"{scale:g}"]), key == "windows") for key, label in rows],
            )
            for scale in scales
        ]
        picture = context.output / f"{name}.png"
        drawing.dots(
            picture, groups, "mIoU of val, %", title, f"CamVid, {seeds_text(counts)}; dots: seeds, strokes: mean"
        )
    result = {
        "title": title,
        "about": setting(
            "All rows have about the same number of steps of 4 frames, and two windows of 9x9 unless the row says otherwise.",
            about,
        ),
        "kinds": list(kinds.values()),
        "tables": [
            {"columns": [*COLUMNS, *(f"mIoU at {sizes[scale]}" for scale in extra)], "rows": shown, "note": TERMS}
        ],
    }
    write_result(context, name, result)


def table_windows(context: Context) -> None:
    """1, 2, 3 and 4 windows of about as many tokens in all."""
    about = (
        "One window is a crop, because with RoPE its place in the frame is no input: its row is figure 1's training on crops, "
        "scored in one pass like the others."
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
        "Drawn shapes: each batch draws one shape for both windows, with at most 81 tokens and sides of at least 5. Single tokens "
        "see only their own 16x16 pixels, also in the stem. They take more time, because the stem's convolutions treat each of "
        "them as an image."
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
    "table-windows": Experiment(table_windows, "Table: 1, 2, 3, 4 windows of equal tokens", ("camvid",), 0.4),
    "table-shapes": Experiment(table_shapes, "Table: square, oblong, varying windows, single tokens", ("camvid",), 0.7),
    "table-positions": Experiment(table_positions, "Table: RoPE against absolute positions", ("camvid",), 0.25),
    "table-heads": Experiment(table_heads, "Table: conv, linear, DPT head", ("camvid",), 0.45),
}
