"""Figure 4: tiles against one pass with the same network (error maps, seams, matches that no tile contains).

The network is the bundled winwin-flow. Frames are held-out synthetic ones and, with `--data sintel=FOLDER` (or any flow set of
`winwin data list`), those of real sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from research.experiments.context import Context, Experiment
from research.experiments.fields import (
    HISTOGRAM,
    SEAM,
    SHARES,
    Tally,
    Tile,
    add_errors,
    add_held,
    add_seams,
    bands_of,
    displacements,
    held,
    seam_figures,
    seams_of,
)
from research.experiments.figure4_drawing import Example, draw_figure4
from research.experiments.predicting import CHECKPOINT, FlowSet, Way, load, place_of, predict, real_sets, synthetic
from research.experiments.results import write_result
from research.experiments.scores import score_once
from winwin_hf.inference.predictor import Predictor

SIZE = (768, 1024)
OVERLAPS = (0.0, 0.5)
# Mean motion in pixels at 384x512, about 1.3 times that here (winwin-flow was trained with 15), and tiles of about a sixth and a quarter of
# the frame's sides. Which way is better depends on both: the tables have all combinations, the picture has `PICTURED`, and of real sets
# the last tile.
MOTIONS = (25.0, 30.0)
TILES = ((128, 160), (192, 256))
PICTURED = ((25.0, (128, 160)), (30.0, (192, 256)))
FIGURE4_PAIRS = 12

ABOUT_FIGURE4 = (
    f"The bundled {CHECKPOINT} predicts each frame in one pass and in tiles, which are blended as CroCo-Flow blends them. Which of "
    "the two has the lower error depends on the motion and on the size of the tiles; the tables have all combinations. For each "
    'set the picture shows the pair with the largest share of true matches that no single tile contains. "On seams" means '
    f"nearer than {SEAM} px. A jump is the length of the difference between two neighbouring vectors; the excess jump is its "
    "length minus that of the true jump. Rows of one pass at the seams of tiles measure the same places in a prediction without "
    "seams."
)


def compare(network: Predictor, frames: FlowSet, tile: Tile, overlaps: Sequence[float]) -> dict[str, Any]:
    """
    Compares one pass with tiles: EPE, seams, and matches that no tile contains.

    Returns: "seams" and "held" with "tiled" and "direct" for each tiling, "direct" at the same places; "example", the number of the
        pair with the largest share of true matches that no tile of the first tiling contains; names, labels and "ways".
    """
    tally, edges = Tally(), [share * min(tile) for share in SHARES]
    example, most, patch = 0, -1.0, network.model.config.patch_size
    ways = [Way(), *(Way(tile, overlap) for overlap in overlaps)]
    names = []
    for number, pair in enumerate(frames.read()):
        names.append(pair.name)
        add_errors(tally, "zero", np.zeros_like(pair.flow), pair, edges)
        flows = {}
        for way in ways:
            prediction = predict(network, pair, way)
            flows[way.key] = prediction.flow
            add_errors(tally, way.key, prediction.flow, pair, edges)
            tally.add(f"{way.key} passes", np.array(prediction.passes))
        for way in ways[1:]:
            rows, columns = seams_of(pair.size, tile, way.overlap, patch)
            holds = held(pair.flow, tile, way.overlap, patch)
            for name, flow in ((way.key, flows[way.key]), (f"direct at {way.key}", flows["direct"])):
                add_seams(tally, name, flow, pair.flow, rows, columns)
                add_held(tally, name, flow, pair, holds)
            beyond = float((~holds & ~pair.unmatched()).mean())
            if way is ways[1] and beyond > most:
                example, most = number, beyond
    known = tally.count("direct") or 1
    return {
        "label": f"{frames.label}, tile {tile[0]}x{tile[1]}",
        "pairs": len(names),
        "names": names,
        "tile": list(tile),
        "example": example,
        "zero": tally.mean("zero"),
        "ways": {
            way.key: {
                "label": way.label,
                "epe": tally.mean(way.key),
                "epe_matched": tally.mean(f"{way.key} matched"),
                "passes": tally.mean(f"{way.key} passes"),
                "bands": bands_of(tally, way.key, edges),
            }
            for way in ways
        },
        "seams": {
            way.key: {
                "tiled": seam_figures(tally, way.key),
                "direct": seam_figures(tally, f"direct at {way.key}"),
            }
            for way in ways[1:]
        },
        "held": {
            way.key: {
                group: {
                    "share": tally.count(f"{way.key} {group}") / known,
                    "tiled": tally.mean(f"{way.key} {group}"),
                    "direct": tally.mean(f"direct at {way.key} {group}"),
                }
                for group in ("held", "beyond", "gone")
            }
            for way in ways[1:]
        },
    }


def example_of(network: Predictor, frames: FlowSet, number: int, tile: Tile) -> Example:
    pair = next(pair for index, pair in enumerate(frames.read()) if index == number)
    ways = [Way(), *(Way(tile, overlap) for overlap in OVERLAPS)]
    return Example(pair, {way.key: predict(network, pair, way).flow for way in ways})


def motion_of(frames: FlowSet, tile: Tile) -> dict[str, Any]:
    return displacements(frames.read(), min(tile), HISTOGRAM)


def figure4_cases(context: Context) -> Iterator[tuple[str, FlowSet, Tile, bool]]:
    """Gives each comparison: key, frames, size of the tiles, and whether the picture shows it."""
    for motion in MOTIONS:
        for tile in TILES:
            frames = synthetic(SIZE, motion, FIGURE4_PAIRS)
            yield f"synthetic-{motion:g}-{tile[0]}x{tile[1]}", frames, tile, (motion, tile) in PICTURED
    for frames in real_sets(context, FIGURE4_PAIRS):
        for tile in TILES:
            yield f"{frames.key}-{tile[0]}x{tile[1]}", frames, tile, tile == TILES[-1]


def figure4(context: Context) -> None:
    """Error maps of winwin-flow, in one pass and in tiles."""
    network, place = load(CHECKPOINT), place_of(context)
    results: dict[str, dict[str, Any]] = {}
    examples: dict[str, Example] = {}
    for key, frames, tile, pictured in figure4_cases(context):
        moves = score_once(context, f"figure4-{key}-motion", place, partial(motion_of, frames, tile))
        result = score_once(context, f"figure4-{key}", place, partial(compare, network, frames, tile, OVERLAPS))
        if moves is None or result is None:
            continue
        results[key] = {**result, "displacements": moves}
        if pictured:
            examples[key] = example_of(network, frames, result["example"], tile)
    if not results:
        return context.console.print("figure4: nothing is scored yet")
    if examples:
        draw_figure4(context.output / "figure4.png", results, examples)
    write_result(
        context,
        "figure4",
        {
            "title": "Figure 4: error maps in one pass and in tiles",
            "about": ABOUT_FIGURE4,
            "checkpoint": CHECKPOINT,
            "results": results,
            "tables": figure4_tables(results),
        },
    )
    return None


def figure4_tables(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The page's tables: all pixels, seams, matches that no tile contains, and displacements."""
    overall, at_seams, beyond, bands = [], [], [], []
    for result in results.values():
        moves, label = result["displacements"], result["label"]
        for key, way in result["ways"].items():
            overall.append([f"{label}: {way['label']}", round(way["passes"]), way["epe"], way["epe_matched"]])
            if key == "direct":
                continue
            for name, other in (("tiled", way["label"]), ("direct", f"one pass, at the seams of {way['label']}")):
                figures = result["seams"][key][name]
                at_seams.append(
                    [
                        f"{label}: {other}",
                        *(figures[f"error_{what}"] for what in ("seam", "elsewhere", "ratio")),
                        figures["excess_seam"],
                        figures["excess_elsewhere"],
                        figures["jump_ratio"],
                        figures["error_jump_ratio"],
                    ]
                )
            for group, text in (
                ("held", "match in a tile"),
                ("beyond", "match in no tile"),
                ("gone", "not visible in the second frame"),
            ):
                figures = result["held"][key][group]
                beyond.append(
                    [f"{label}, {way['label']}: {text}", 100 * figures["share"], figures["direct"], figures["tiled"]]
                )
        for index, low in enumerate(band["from"] for band in result["ways"]["direct"]["bands"]):
            row = [way["bands"][index] for way in result["ways"].values()]
            bands.append(
                [
                    f"{label}: from {low:.0f} px",
                    100 * row[0]["share_matched"],
                    *(band["epe_matched"] for band in row),
                ]
            )
        overall.append([f"{label}: zero flow", None, result["zero"], None])
        where = f"mean {moves['mean']:.0f} px, median {moves['median']:.0f}, 90 % {moves['p90']:.0f}, 99 % {moves['p99']:.0f}"
        overall[-1][0] += f" ({where}, {100 * moves['longer_than_side']:.1f} % longer than the tile is high)"
    ways = [way["label"] for way in next(iter(results.values()))["ways"].values()]
    return [
        {
            "title": "All pixels",
            "columns": ["frames and way", "passes", "EPE, px", "EPE where seen in both frames"],
            "rows": overall,
        },
        {
            "title": "Seams",
            "columns": [
                "prediction",
                "EPE on seams",
                "elsewhere",
                "ratio",
                "excess jump on seams, px",
                "elsewhere",
                "ratio of jumps",
                "ratio of the error's jumps",
            ],
            "rows": at_seams,
            "note": (
                "A network that predicts patches has larger jumps between patches than within them; seams lie between patches, so one "
                "pass has ratios above 1, too."
            ),
        },
        {
            "title": "Matches that no tile contains",
            "columns": ["pixels", "% of all", "EPE, one pass", "EPE, tiles"],
            "rows": beyond,
        },
        {
            "title": "By displacement, where seen in both frames",
            "columns": ["displacement", "% of all pixels", *(f"EPE, {way}" for way in ways)],
            "rows": bands,
        },
    ]


EXPERIMENTS: dict[str, Experiment] = {
    "figure4": Experiment(
        figure4, "Figure 4: error maps in one pass and in tiles, seams, matches that no tile contains", hours=0.2
    ),
}
