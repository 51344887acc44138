"""One pass against CroCo-Flow's tiles with the same network: what overlap gains and costs.

Network and frames are those of figure 4.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from research.drawing import COLOURS, figure
from research.experiments.context import Context, Experiment
from research.experiments.fields import SHARES
from research.experiments.figure4 import SIZE
from research.experiments.predicting import (
    CHECKPOINT,
    FlowSet,
    Way,
    load,
    place_of,
    predict,
    real_sets,
    score,
    synthetic,
)
from research.experiments.results import write_result
from research.experiments.scores import score_once
from winwin_hf.inference.predictor import Predictor

CROCO_TILE = (320, 384)
CROCO_OVERLAPS = (0.5, 0.7, 0.9)
TILING_MOTION, TILING_PAIRS = 15.0, 4

ABOUT_TILING = (
    f"The bundled {CHECKPOINT} on the whole frame, and in tiles of {CROCO_TILE[0]}x{CROCO_TILE[1]} px with CroCo-Flow's blending "
    "and overlaps. Seconds: CPU time of one thread for the median pair (on an accelerator elapsed time), the network alone. The "
    "last column has the displacements that are longer than a tile is high."
)


def compare_tilings(network: Predictor, frames: FlowSet) -> dict[str, Any]:
    """`score` of one pass and of CroCo-Flow's tiles at its overlaps."""
    torch.set_num_threads(1)  # CPU seconds of several threads include their waiting
    edges = [share * min(CROCO_TILE) for share in SHARES]
    pairs = list(frames.read())
    predict(network, pairs[0])  # the first pass is slower
    ways = [Way(), *(Way(CROCO_TILE, overlap) for overlap in CROCO_OVERLAPS)]
    return {
        "label": frames.label,
        "size": list(pairs[0].size),
        "ways": {way.key: {"label": way.label, **score(network, pairs, way, edges)} for way in ways},
    }


def tiling_backbone(context: Context) -> None:
    """EPE and time of one pass and of tiles at several overlaps."""
    network, place = load(CHECKPOINT), place_of(context)
    results = {}
    for frames in (synthetic(SIZE, TILING_MOTION, TILING_PAIRS), *real_sets(context, TILING_PAIRS)):
        result = score_once(context, f"tiling-backbone-{frames.key}", place, partial(compare_tilings, network, frames))
        if result is not None:
            results[frames.key] = result
    if not results:
        return context.console.print("tiling-backbone: nothing is scored yet")
    draw_tilings(context.output / "tiling-backbone.png", results)
    rows = []
    for result in results.values():
        direct = result["ways"]["direct"]
        for way in result["ways"].values():
            rows.append(
                [
                    f"{result['label']}: {way['label']}",
                    way["passes"],
                    way["time"],
                    way["time"] / direct["time"],
                    way["epe"],
                    way["epe_matched"],
                    way["bands"][-1]["epe"],
                ]
            )
    write_result(
        context,
        "tiling-backbone",
        {
            "title": "The same network in one pass and in CroCo-Flow's tiles",
            "about": ABOUT_TILING,
            "checkpoint": CHECKPOINT,
            "tile": list(CROCO_TILE),
            "results": results,
            "tables": [
                {
                    "columns": [
                        "frames and way",
                        "passes",
                        "s a pair",
                        "time / one pass",
                        "EPE, px",
                        "EPE where seen in both frames",
                        f"EPE from {CROCO_TILE[0]} px",
                    ],
                    "rows": rows,
                }
            ],
        },
    )
    return None


def draw_tilings(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """Draws EPE against seconds, a plot for each set."""
    with figure(path, 0.6 + 4.6 * len(results), 3.9, ncols=len(results), squeeze=False) as (_, grid):
        for axes, result in zip(grid[0], results.values(), strict=True):
            ways = result["ways"]
            tiled = [way for key, way in ways.items() if key != "direct"]
            times, errors = [way["time"] for way in tiled], [way["epe"] for way in tiled]
            axes.plot(times, errors, "v-", color=COLOURS["crops-tiled"], label="tiles")
            axes.plot(ways["direct"]["time"], ways["direct"]["epe"], "o", color=COLOURS["windows"], label="one pass")
            for way, x, y in zip(tiled, times, errors, strict=True):
                text = f"{way['label'].rpartition(' ')[2]}: {way['passes']} passes"
                axes.annotate(text, (x, y), xytext=(0, 8), textcoords="offset points", fontsize=8, ha="center")
            axes.set_xscale("log")
            ticks = [ways["direct"]["time"], *times]
            axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axes.minorticks_off()
            axes.margins(x=0.2)
            axes.set_ylim(0, 1.25 * max([*errors, ways["direct"]["epe"]]))
            axes.set_xlabel("seconds a pair")
            axes.set_ylabel("EPE, px")
            axes.set_title(result["label"], loc="left", fontsize=10)
            axes.legend(loc="lower right")


EXPERIMENTS: dict[str, Experiment] = {
    "tiling-backbone": Experiment(tiling_backbone, "The same network in one pass and in CroCo-Flow's tiles", hours=0.2),
}
