"""Flow on synthetic pairs (384x512): the paper's figure 1 (both halves) and figure 5.

Errors stand beside those of zero flow, or in percent of them, because the length of the motion differs between sets of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from research.experiments.context import Context, Experiment
from research.experiments.fields import HISTOGRAM, SHARES, displacements, read_pairs
from research.experiments.flow_drawing import draw_figure1, draw_figure5, time_name
from research.experiments.flow_kinds import (
    FIGURE1,
    FRAME,
    KINDS,
    OVERLAP,
    about,
    common,
    crop_tile,
    held_out,
    network_text,
    recipe_of,
    train,
)
from research.experiments.kinds import seed_of
from research.experiments.logs import memory_gb, minutes_curve, time_key, training_seconds
from research.experiments.predicting import FlowSet, Way, load, predict, score, synthetic
from research.experiments.results import write_result
from research.experiments.scores import score_once
from research.experiments.summaries import median_text, plus_minus, seeds_text

SIZES = ((192, 256), (288, 384), (384, 512), (576, 768), (768, 1024), (960, 1280))
SIZE_PAIRS = 12
TIMED_PAIRS = 5

ABOUT_FIGURE1 = (
    "All trainings have the same optimiser and learning rate and take about the same time. A step at full resolution has one pair "
    "instead of eight, so that it has about as many tokens as the other steps. Crops have as many tokens as the windows of both "
    "frames together. The batch of eight and the learning rate were chosen on Win-Win's first minutes, from two settings; nothing "
    "was tuned for crops or full resolution."
)
NOTE_FIGURE1 = (
    "minutes, s a pair: CPU time of one thread in the training's steps (on an accelerator elapsed time), without evaluations and "
    "loading. GB: peak memory before the first evaluation. s a frame: one pair of full frames with one thread. EPE: whole frames; "
    "mean over the seeds ± half their range."
)
ABOUT_FIGURE5 = (
    "The trainings are those of figure 1. Each size has new scenes. Their translations have the same length in pixels and their "
    "rotations the same angle, so corners of larger frames move further."
)


# ------------------------------------------------------------------ figure 1


def figure1(context: Context) -> None:
    """EPE against training time, and the cost of training and inference: Win-Win, full resolution, crops (in one pass and in tiles)."""
    name = "figure1-flow"
    folders = train(context, FIGURE1)
    tile, frames = crop_tile(), held_out()
    edges = [share * tile[0] for share in SHARES]
    ways = {"windows": Way(), "crops": Way(), "full": Way(), "crops-tiled": Way(tile, OVERLAP)}
    moves = score_once(
        context, "displacements", common(context), lambda: displacements(frames.read(), tile[0], HISTOGRAM)
    )
    kinds: dict[str, dict[str, Any]] = {}
    for key, way in ways.items():
        origin = key.partition("-")[0]
        entries = []
        for folder in folders[origin]:
            compute = partial(score_folder, folder, frames, way, edges)
            scores = score_once(context, f"frames-{way.key}", folder, compute)
            inference = score_once(
                context, f"seconds-{way.key}", folder, partial(seconds_of, folder / "model", frames, way)
            )
            if scores and inference:
                entries.append({**run_of(folder, origin), "frames": scores, "inference": inference})
        kinds[key] = {**about(origin), "way": way.label, "runs": entries}
    kinds["crops-tiled"]["label"] += f", tested in tiles of {tile[0]}x{tile[1]}"
    counts = [len(kind["runs"]) for kind in kinds.values()]
    if not any(counts):
        return context.console.print(f"{name}: nothing is trained yet")
    zero = next(run["frames"]["zero"] for kind in kinds.values() for run in kind["runs"])
    draw_figure1(context.output / f"{name}.png", kinds, moves, zero, seeds_text(counts))
    passes = {key: [run["frames"]["passes"] for run in kind["runs"]][:1] for key, kind in kinds.items()}
    rows = [
        [
            f"{kind['label']}, {kind['way']}",
            f"{kind['tokens'][0]} + {kind['tokens'][1]}",
            f"{kind['steps']} x {kind['batch_size']}",
            median_text([run["seconds"] / 60 for run in kind["runs"]], 1),
            median_text([run["seconds_per_pair"] for run in kind["runs"]], 3),
            median_text([run["memory_gb"] for run in kind["runs"]], 2),
            passes[key][0] if passes[key] else None,
            median_text([run["inference"][time_name(kind["runs"])] for run in kind["runs"]], 2),
            len(kind["runs"]),
            plus_minus([run["frames"]["epe"] for run in kind["runs"]], 2),
            plus_minus([run["frames"]["relative"] for run in kind["runs"]], 1),
        ]
        for key, kind in kinds.items()
    ]
    bands = [
        [
            f"{kind['label']}, {kind['way']}",
            *(
                plus_minus([run["frames"]["bands"][index]["epe_matched"] for run in kind["runs"]], 1)
                for index in range(len(edges))
            ),
        ]
        for kind in kinds.values()
    ]
    write_result(
        context,
        name,
        {
            "title": "Figure 1, flow: error against training time, and what both cost",
            "about": f"{network_text()} {ABOUT_FIGURE1} {moves_text(moves)}",
            "frame": list(FRAME),
            "tile": list(tile),
            "displacements": moves,
            "zero_epe": zero,
            "kinds": kinds,
            "tables": [
                {
                    "columns": [
                        "training and test",
                        "tokens kept of 768 + 768",
                        "steps x pairs",
                        "minutes",
                        "s a pair",
                        "GB",
                        "passes",
                        "s a frame",
                        "seeds",
                        "EPE, px",
                        "% of zero flow's",
                    ],
                    "rows": rows,
                    "note": f"{NOTE_FIGURE1} Zero flow has {zero:.1f} px on the {frames.pairs} held-out pairs.",
                },
                {
                    "title": "EPE by true displacement, where seen in both frames",
                    "columns": ["training and test", *(f"from {edge:.0f} px" for edge in edges)],
                    "rows": bands,
                    "note": f"A crop and a tile are {tile[0]} px high and {tile[1]} px wide.",
                },
            ],
        },
    )
    return None


def run_of(folder: Path, key: str) -> dict[str, Any]:
    """A training for the JSON file: its time, memory and curve."""
    options = recipe_of(key).optimization
    return {
        "seed": seed_of(folder),
        "seconds": training_seconds(folder),
        "seconds_are": time_key(folder),
        "seconds_per_pair": training_seconds(folder) / (options.steps * options.batch_size),
        "memory_gb": memory_gb(folder),
        "curve": [list(point) for point in minutes_curve(folder, "frames", "epe")],
    }


def score_folder(folder: Path, frames: FlowSet, way: Way, edges: Sequence[float]) -> dict[str, Any]:
    """`score` of a training's model."""
    return score(load(folder / "model"), frames.read(), way, edges)


def seconds_of(model: Path, frames: FlowSet, way: Way) -> dict[str, Any]:
    """Median time of the network for a pair, with one thread, after one pair to warm up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = load(model)
        pairs = list(read_pairs(frames.source, TIMED_PAIRS))
        found = [predict(network, pair, way) for pair in (pairs[0], *pairs)][1:]
    finally:
        torch.set_num_threads(threads)
    return {
        "seconds": float(np.median([one.seconds for one in found])),
        "cpu_seconds": float(np.median([one.cpu_seconds for one in found])),
        "passes": found[-1].passes,
    }


def moves_text(moves: dict[str, Any] | None) -> str:
    """The distribution of displacements as text."""
    if moves is None:
        return ""
    return (
        f"Displacements: mean {moves['mean']:.1f} px, median {moves['median']:.1f}, 90 % below {moves['p90']:.0f}, 99 % below "
        f"{moves['p99']:.0f}; {100 * moves['longer_than_side']:.1f} % are longer than a crop is high ({moves['side']:.0f} px); "
        f"{100 * moves['occluded']:.0f} % of the pixels can't be seen in the second frame."
    )


# ------------------------------------------------------------------ figure 5


def figure5(context: Context) -> None:
    """EPE in percent of zero flow's against test resolution, for figure 1's trainings."""
    name = "figure5-flow"
    folders = train(context, FIGURE1)
    tile = crop_tile()
    edges = [share * tile[0] for share in SHARES]
    motion = float(recipe_of("windows").data.settings["motion"])
    ways = {"windows": Way(), "crops": Way(), "full": Way(), "crops-tiled": Way(tile, OVERLAP)}
    found: dict[str, list[list[dict[str, Any]]]] = {key: [] for key in ways}  # key, seed, size
    for key, way in ways.items():
        for folder in folders[key.partition("-")[0]]:
            sizes = []
            for size in SIZES:
                frames = synthetic(size, motion, SIZE_PAIRS)
                compute = partial(score_folder, folder, frames, way, edges)
                sizes.append(score_once(context, f"size-{size[0]}x{size[1]}-{way.key}", folder, compute))
            if all(sizes):
                found[key].append([one for one in sizes if one])
    counts = [len(entries) for entries in found.values()]
    if not any(counts):
        return context.console.print(f"{name}: nothing is scored yet")
    labels = {key: KINDS[key.partition("-")[0]].label for key in ways}
    labels["crops-tiled"] += f", in tiles of {tile[0]}x{tile[1]}"
    note = f"{seeds_text(counts)}; {SIZE_PAIRS} held-out pairs a size"
    draw_figure5(context.output / f"{name}.png", found, labels, SIZES, note)
    zero = [one["zero"] for one in next(entries[0] for entries in found.values() if entries)]
    rows = [["zero flow, px", None, *zero]]
    rows += [
        [
            labels[key],
            len(entries),
            *(plus_minus([entry[i]["relative"] for entry in entries], 1) for i in range(len(SIZES))),
        ]
        for key, entries in found.items()
    ]
    write_result(
        context,
        name,
        {
            "title": "Figure 5, flow: error against test resolution",
            "about": f"{network_text()} {ABOUT_FIGURE5}",
            "sizes": [list(size) for size in SIZES],
            "kinds": {
                key: {"label": labels[key], "runs": [dict(enumerate(entry)) for entry in entries]}
                for key, entries in found.items()
            },
            "tables": [
                {
                    "columns": ["training and test", "seeds", *(f"{height}x{width}" for height, width in SIZES)],
                    "rows": rows,
                    "note": "EPE in percent of zero flow's on the same pairs; mean over the seeds ± half their range.",
                }
            ],
        },
    )
    return None


EXPERIMENTS: dict[str, Experiment] = {
    "figure1-flow": Experiment(
        figure1, "Figure 1, flow: error against training time; time of training and inference", hours=1.1
    ),
    "figure5-flow": Experiment(
        figure5, "Figure 5, flow: error against test resolution (figure 1's trainings)", hours=0.2
    ),
}
