"""Optical flow on synthetic pairs (384x512): the paper's figure 1 (its right half too), figure 5, tables of windows, logit scaling.

Notable:
- every kind of training is a recipe of scripts/recipes/paper/, or one of them with a setting changed: `KINDS` is the list. Learning
  rates are constant after a warm-up and an average of the weights is scored, so a point of a curve is what a training of that length
  gives; tables therefore compare with figure 1's Win-Win at the step where they end, and don't train it again.
- errors are given beside, or in percent of, those of zero flow: how far things move differs between sets of frames.
- windows of the second frame follow the true motion, and their place is an input: a score on windows holds what that tells. Tables show it
  beside the score on full frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from winwin_hf.data.collator import SecondStrategy
from winwin_hf.evaluation import make_collator, open_set
from winwin_hf.layers_winwin import WinWinAttention
from winwin_hf.recipe import Recipe, load_recipe
from winwin_hf.windows import Size

from .draw import COLOURS, Bar, Line, colour_of, dots, draw_lines, figure, headings
from .fields import SHARES, Pair, Tile, displacements, errors_of, read_pairs
from .runs import (
    RECIPES,
    Context,
    Experiment,
    curve,
    is_finished,
    known,
    measured,
    memory,
    plus_minus,
    seed_by_seed,
    seeds,
    seeds_text,
    spent,
    time_key,
    train_all,
    write_result,
)
from .tiles import CHECKPOINT, FlowSet, Way, load, place_of, predict, score, synthetic

FRAME = (384, 512)
OVERLAP = 0.5  # of the tiles
SIZES = ((192, 256), (288, 384), (384, 512), (576, 768), (768, 1024), (960, 1280))
SIZE_PAIRS = 12
LOGIT_SIZES = ((192, 256), (384, 512), (768, 1024), (960, 1280))
LOGIT_PAIRS = 8
TIMED_PAIRS = 5
HISTOGRAM = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)  # px
SHORT = "flow-windows-short.yaml"


@dataclass(frozen=True)
class Kind:
    """One kind of training. recipe: a file of scripts/recipes/paper. label: in legends. overrides: what is changed in the recipe."""

    recipe: str
    label: str
    overrides: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "windows": Kind("flow-windows.yaml", "Win-Win, 2 windows of 6x6"),
    "crops": Kind("flow-crops.yaml", "crops of 11x12"),
    "full": Kind("flow-full.yaml", "full resolution"),
    # where the second frame's windows lie
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
    # how many windows
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
SHORT_LABELS = {"windows": "Win-Win", "crops": "crops", "full": "full resolution"}
SECOND_WINDOWS = {
    "windows": "10x10, jitter 2.5 (as in figure 1)",
    **{
        key: KINDS[key].label
        for key in (
            "jitter-0",
            "jitter-0.7",
            "second-6",
            "second-9",
            "second-14",
            "half",
            "anywhere",
            "same-place",
            "symmetric",
        )
    },
}
FLOW_WINDOWS = {
    "one": "1 of 8x9",
    "windows": "2 of 6x6 (as in figure 1)",
    "three": "3 of 5x5",
    "four": "4 of 4x4",
    "many": "18 of 2x2",
}


# ------------------------------------------------------------------ what pages say

ABOUT_FIGURE1 = (
    "All have the same optimiser and learning rate and about the same time. A step of full resolution has one pair instead of eight: so "
    "it has about as many tokens as the others'. Crops have as many tokens as the windows of both frames together. Batch of eight and "
    "learning rate were chosen on Win-Win's first minutes (of two settings tried); nothing was tuned for crops or full resolution."
)
NOTE_FIGURE1 = (
    "minutes, s a pair: the training's steps, CPU time of one thread (on an accelerator: time passed), without evaluations and loading. "
    "GB: most memory before the first evaluation, of a training with that many pairs a step. s a frame: one pair of full frames, one "
    "thread. EPE: whole frames; mean over the seeds ± half of their range."
)
ABOUT_FIGURE5 = (
    "The trainings are figure 1's. Frames of each size are new scenes whose translations have as many pixels, whose rotations as many "
    "degrees, so corners of larger frames move further: what changes is how much is seen at once."
)
ABOUT_SECOND = (
    "Two windows of 6x6 patches in the first frame; what is said is the second frame's: size in patches, and by how many patches at most "
    "they miss the place where the first ones' content went. Their place is an input of the network: the closer they follow, the more "
    "it tells of the motion, which full frames don't. Windows that lie anywhere rarely show the match, and symmetric ones don't show that "
    "of what moves far."
)
ABOUT_COUNT = (
    "About 72 tokens of the first frame and 200 of the second one in all rows (18 windows of 2x2: 162). The second frame's windows follow "
    "the flow and are larger by about two thirds, jitter 2.5 patches (18 of 2x2: larger by half, 0.5)."
)
NOTE_TABLES = (
    "minutes: of one core in the training's steps. EPE in percent of zero flow's, on 64 pairs' windows placed as in training and on 24 "
    "full frames; mean over the seeds ± half of their range."
)
ABOUT_LOGITS = (
    "A known remedy for more tokens at test than in training: logits times log(keys now) / log(keys in training), without training. In "
    "all attentions of encoder and decoder (each with its own number of keys in training), or in the features' logits of the global "
    "matching, or in both; also half as much (the root), and half as much the other way. Held-out synthetic pairs."
)


# ------------------------------------------------------------------ what the experiments share


def recipe_of(key: str) -> Recipe:
    return load_recipe(RECIPES / KINDS[key].recipe, list(KINDS[key].overrides))


def train(context: Context, keys: Sequence[str]) -> dict[str, list[Path]]:
    """The kinds' trainings: for each key the folders of its finished seeds."""
    runs = {
        key: seeds(context, f"flow/{key}", KINDS[key].recipe, KINDS[key].label, "", KINDS[key].overrides)
        for key in keys
    }
    folders = train_all(seed_by_seed(list(runs.values())), context)
    return {key: [folders[run.name] for run in runs[key] if run.name in folders] for key in keys}


def tokens(recipe: Recipe, frame: tuple[int, int] = FRAME, patch_size: int = 16) -> tuple[int, int]:
    """Tokens of the first and of the second frame that a training keeps of a pair of `frame` pixels."""
    grid: Size = (-(-frame[0] // patch_size), -(-frame[1] // patch_size))
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


def crop_tile() -> Tile:
    """The crops' size in pixels, which their tiles have too."""
    height, width = recipe_of("crops").windows.size or (0, 0)
    return 16 * height, 16 * width


def held_out() -> FlowSet:
    """The full frames that trainings are scored on."""
    recipe = recipe_of("windows")
    chosen = recipe.evaluation.sets[0]
    return FlowSet("frames", f"held-out {FRAME[0]}x{FRAME[1]}", open_set(recipe, chosen), chosen.length or 24)


def common(context: Context) -> Path:
    """Where figures of the frames themselves are kept."""
    return context.work / "flow" / "frames"


def minutes(points: Sequence[dict[str, float]], folder: Path) -> list[tuple[float, float]]:
    """A curve as (training time in minutes, value)."""
    return [(point[time_key(folder)] / 60, point["value"]) for point in points]


def network_text() -> str:
    """What all pages say of data and network."""
    config = recipe_of("windows").config()
    depth = f"{config.num_hidden_layers} + {config.decoder_num_hidden_layers} blocks of width {config.hidden_size}"
    return (
        f"Synthetic pairs of {FRAME[0]}x{FRAME[1]} px (768 tokens a frame); scenes and textures that scores are taken on are held out. "
        f"A network of {depth} with matching, from nothing, for minutes: figures are to be compared with each other only."
    )


# ------------------------------------------------------------------ figure 1


def figure1(context: Context) -> None:
    """EPE against training time, and what training and inference cost: Win-Win, full resolution, crops (one pass and in tiles)."""
    name = "figure1-flow"
    folders = train(context, FIGURE1)
    tile, frames = crop_tile(), held_out()
    edges = [share * tile[0] for share in SHARES]
    ways = {"windows": Way(), "crops": Way(), "full": Way(), "crops-tiled": Way(tile, OVERLAP)}
    moves = measured(
        context, "displacements", common(context), lambda: displacements(frames.read(), tile[0], HISTOGRAM)
    )
    kinds: dict[str, dict[str, Any]] = {}
    for key, way in ways.items():
        origin = key.partition("-")[0]
        entries = []
        for folder in folders[origin]:
            ask = partial(score_folder, folder, frames, way, edges)
            scores = measured(context, f"frames-{way.key}", folder, ask)
            inference = measured(
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
            middle([run["seconds"] / 60 for run in kind["runs"]], 1),
            middle([run["seconds_per_pair"] for run in kind["runs"]], 3),
            middle([run["memory_gb"] for run in kind["runs"]], 2),
            passes[key][0] if passes[key] else None,
            middle([run["inference"][time_name(kind["runs"])] for run in kind["runs"]], 2),
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
                    "note": f"A crop, and a tile, is {tile[0]} px high and {tile[1]} px wide.",
                },
            ],
        },
    )
    return None


def about(key: str) -> dict[str, Any]:
    """What the JSON says of a kind of training."""
    recipe = recipe_of(key)
    return {
        "label": KINDS[key].label,
        "recipe": f"scripts/recipes/paper/{KINDS[key].recipe}",
        "overrides": list(KINDS[key].overrides),
        "tokens": list(tokens(recipe)),
        "steps": recipe.optimization.steps,
        "batch_size": recipe.optimization.batch_size,
    }


def run_of(folder: Path, key: str) -> dict[str, Any]:
    """What the JSON says of one training: its time, memory and curve."""
    options = recipe_of(key).optimization
    return {
        "seed": int(folder.name.rpartition("-")[2]),
        "seconds": spent(folder),
        "seconds_are": time_key(folder),
        "seconds_per_pair": spent(folder) / (options.steps * options.batch_size),
        "memory_gb": memory(folder),
        "curve": [list(point) for point in minutes(curve(folder, "frames", "epe"), folder)],
    }


def score_folder(folder: Path, frames: FlowSet, way: Way, edges: Sequence[float]) -> dict[str, Any]:
    """`score` of a training's model."""
    return score(load(folder / "model"), frames.read(), way, edges)


def time_name(runs: Sequence[dict[str, Any]]) -> str:
    """Which of an inference's times is shown: that of the trainings."""
    return runs[0]["seconds_are"] if runs else "cpu_seconds"


def seconds_of(model: Path, frames: FlowSet, way: Way) -> dict[str, Any]:
    """Time of one pair with one thread, the network alone: the median of a few, after one to warm up."""
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
    """The distribution of displacements in a sentence."""
    if moves is None:
        return ""
    return (
        f"Displacements: mean {moves['mean']:.1f} px, median {moves['median']:.1f}, 90 % below {moves['p90']:.0f}, 99 % below "
        f"{moves['p99']:.0f}; {100 * moves['longer_than_side']:.1f} % are longer than a crop is high ({moves['side']:.0f} px); "
        f"{100 * moves['occluded']:.0f} % of the pixels can't be seen in the second frame."
    )


def mean_of(values: Sequence[float | None]) -> float:
    """NaN of nothing."""
    return float(np.mean(known(values) or [math.nan]))


def median_of(values: Sequence[float | None]) -> float:
    """NaN of nothing."""
    return float(np.median(known(values) or [math.nan]))


def middle(values: Sequence[float | None], digits: int) -> str:
    """The median, as text; for times and memory."""
    return f"{median_of(values):.{digits}f}" if known(values) else "-"


def draw_figure1(
    path: Path, kinds: dict[str, dict[str, Any]], moves: dict[str, Any] | None, zero: float, seed_text: str
) -> None:
    """Error against time; error by displacement; times of training and inference; how far things move."""
    with figure(path, 12, 8.6, nrows=2, ncols=2) as (sheet, ((left, right), (times, motion))):
        lines = []
        for key, kind in kinds.items():
            label = f"{kind['label']}: {kind['tokens'][0]} + {kind['tokens'][1]} tokens"
            gigabytes = middle([run["memory_gb"] for run in kind["runs"]], 2)
            pairs = "1 pair" if kind["batch_size"] == 1 else f"{kind['batch_size']} pairs"
            label += f", {pairs} a step, {gigabytes} GB"
            if key == "crops-tiled":
                points = [[(run["seconds"] / 60, run["frames"]["epe"])] for run in kind["runs"]]
                lines.append(Line(key, f"{kind['label']}, overlap {OVERLAP:g}", points, alone=True))
            else:
                lines.append(Line(key, label, [[(x, y) for x, y in run["curve"]] for run in kind["runs"]]))
        draw_lines(left, lines)
        left.axhline(zero, color="#777777", linestyle=":", linewidth=1)
        left.annotate("zero flow", (0, zero), xytext=(4, 3), textcoords="offset points", fontsize=9, color="#555555")
        left.set_xlim(left=0)
        left.set_ylim(bottom=0)
        left.set_xlabel(f"training time, minutes{_unit(kinds)}")
        left.set_ylabel("EPE on full frames, px")
        headings(left, "Error against training time", f"{seed_text}; lines: mean, bands: least to largest")

        for key, kind in kinds.items():
            bands = [run["frames"]["bands"] for run in kind["runs"]]
            if not bands:
                continue
            values = [
                np.mean(known([one[i]["epe_matched"] for one in bands]) or [math.nan]) for i in range(len(bands[0]))
            ]
            style = "--" if key == "crops-tiled" else "-"
            right.plot(range(len(values)), values, style, marker="o", markersize=4.5, color=colour_of(key))
            right.set_xticks(range(len(values)), [f"{band['from']:.0f}" for band in bands[0]])
        right.set_xlabel("true displacement in px, from")
        right.set_ylabel("EPE where seen in both frames, px")
        right.set_ylim(bottom=0)
        headings(right, "At the end, by displacement", "the last band: longer than a crop, or a tile, is high")

        rows: list[tuple[str, float, str]] = []
        for key in FIGURE1:
            found = [run["seconds_per_pair"] for run in kinds[key]["runs"]]
            rows.append((f"training: {SHORT_LABELS[key]}", median_of(found), key))
        for key, text in (("windows", "inference: one pass"), ("crops-tiled", "inference: tiles")):
            runs = kinds[key]["runs"]
            found = [run["inference"][time_name(runs)] for run in runs]
            if key == "crops-tiled" and runs:
                text = f"inference: {runs[0]['frames']['passes']} tiles"
            rows.append((text, median_of(found), key))
        times.barh(range(len(rows)), [row[1] for row in rows], color=[colour_of(row[2]) for row in rows], height=0.6)
        for row, (_, value, _) in enumerate(rows):
            if math.isfinite(value):
                times.text(value, row, f" {value:.3g} s", va="center", fontsize=9)
        times.set_yticks(range(len(rows)), [row[0] for row in rows])
        times.invert_yaxis()
        times.grid(False, axis="y")
        times.set_xlim(0, 1.2 * max([row[1] for row in rows if math.isfinite(row[1])], default=1.0))
        times.set_xlabel(f"seconds{_unit(kinds)}")
        headings(times, "Time of training and inference", "a pair in training; a pair of full frames in inference")

        if moves is not None:
            shares = [100 * share for share in moves["histogram"]]
            labels = [f"{low:g}" for low in moves["bins"]]
            motion.bar(range(len(shares)), shares, width=0.9, align="edge", color="#777777")
            place = float(np.interp(math.log2(moves["side"]), np.log2(moves["bins"][1:]), range(1, len(labels))))
            motion.axvline(place, color=COLOURS["crops"], linestyle="--")
            motion.annotate(
                f"a crop's height,\n{100 * moves['longer_than_side']:.1f} % beyond",
                (place, max(shares)),
                xytext=(4, -4),
                textcoords="offset points",
                fontsize=9,
                va="top",
            )
            motion.set_xticks(range(len(labels)), labels)
            motion.set_xlabel("true displacement in px, from")
            motion.set_ylabel("% of the pixels")
            note = f"mean {moves['mean']:.0f} px, median {moves['median']:.0f}, 99 % below {moves['p99']:.0f}"
            headings(motion, "How far things move", note)
        sheet.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=1)


def _unit(kinds: dict[str, dict[str, Any]]) -> str:
    on_cpu = all(run["seconds_are"] == "cpu_seconds" for kind in kinds.values() for run in kind["runs"])
    return " of one core" if on_cpu else ""


# ------------------------------------------------------------------ figure 5


def figure5(context: Context) -> None:
    """EPE relative to zero flow's against test resolution, of figure 1's trainings."""
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
                ask = partial(score_folder, folder, frames, way, edges)
                sizes.append(measured(context, f"size-{size[0]}x{size[1]}-{way.key}", folder, ask))
            if all(sizes):
                found[key].append([one for one in sizes if one])
    counts = [len(entries) for entries in found.values()]
    if not any(counts):
        return context.console.print(f"{name}: nothing is scored yet")
    labels = {key: KINDS[key.partition("-")[0]].label for key in ways}
    labels["crops-tiled"] += f", in tiles of {tile[0]}x{tile[1]}"
    pixels = [height * width for height, width in SIZES]
    with figure(context.output / f"{name}.png", 7.5, 5.4) as (sheet, axes):
        lines = [
            Line(
                key,
                labels[key],
                [[(count, one["relative"]) for count, one in zip(pixels, entry, strict=True)] for entry in entries],
                dashed=key == "crops-tiled",
            )
            for key, entries in found.items()
        ]
        draw_lines(axes, lines)
        axes.axvline(FRAME[0] * FRAME[1], color="#777777", linestyle=":", linewidth=1)
        axes.axhline(100, color="#777777", linestyle=":", linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks(pixels, [f"{height}x{width}" for height, width in SIZES])
        axes.minorticks_off()
        axes.set_xlabel("test frames, px (dotted: the trainings' frames)")
        axes.set_ylabel("EPE, % of zero flow's")
        axes.set_ylim(bottom=0)
        headings(
            axes, "Flow: error against test resolution", f"{seeds_text(counts)}; {SIZE_PAIRS} held-out pairs a size"
        )
        sheet.legend(loc="outside lower center", ncols=2)
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
                    "note": "EPE in percent of zero flow's on the same pairs; mean over the seeds ± half of their range.",
                }
            ],
        },
    )
    return None


# ------------------------------------------------------------------ tables of windows


def at_step(folder: Path, label: str, step: int) -> dict[str, float] | None:
    """EPE of an evaluation set at a step, as {"step", "cpu_seconds", "seconds", "value"}."""
    return next((point for point in curve(folder, label, "epe") if point["step"] == step), None)


def zero_on_windows(recipe: Recipe) -> dict[str, float]:
    """EPE of zero flow on the windows that a training's evaluation draws."""
    source = open_set(recipe)
    collator = make_collator(recipe, source, 16, recipe.optimization.seed + 1)
    total = np.zeros(2)
    for example in source.examples(recipe.evaluation.windows):
        labels = collator([example])["labels"].permute(0, 1, 3, 4, 2).flatten(0, 3).numpy()
        error, there = errors_of(np.zeros_like(labels)[None], labels[None])
        total += [error.sum(), there.sum()]
    return {"epe": float(total[0] / total[1])}


def zero_on(pairs: Iterator[Pair]) -> dict[str, float]:
    """EPE of zero flow on full frames."""
    total = np.zeros(2)
    for pair in pairs:
        error, there = errors_of(np.zeros_like(pair.flow), pair.flow)
        total += [error.sum(), there.sum()]
    return {"epe": float(total[0] / total[1])}


def window_table(context: Context, name: str, title: str, text: str, rows: dict[str, str]) -> None:
    """Trainings that differ in their windows, all at the same step: on their own windows and on full frames. rows: key -> label."""
    folders = train(context, list(rows))
    options = load_recipe(RECIPES / SHORT).optimization
    step, batch = options.steps, options.batch_size
    frames_zero = measured(context, "zero", common(context), lambda: zero_on(held_out().read()))
    kinds: dict[str, dict[str, Any]] = {}
    for key, label in rows.items():
        recipe = recipe_of(key)
        zero = measured(
            context,
            f"zero-{recipe.windows.count}x{'x'.join(map(str, recipe.windows.size or ()))}",
            common(context),
            partial(zero_on_windows, recipe),
        )
        runs = []
        for folder in folders[key]:
            windows, frames = at_step(folder, "windows", step), at_step(folder, "frames", step)
            if windows and frames and zero and frames_zero:
                runs.append(
                    {
                        "seed": int(folder.name.rpartition("-")[2]),
                        "seconds": frames[time_key(folder)],
                        "windows_epe": windows["value"],
                        "frames_epe": frames["value"],
                        "windows": 100 * windows["value"] / zero["epe"],
                        "frames": 100 * frames["value"] / frames_zero["epe"],
                    }
                )
        kinds[key] = {**about(key), "label": label, "second_windows": second_of(recipe.second_windows), "runs": runs}
    counts = [len(kind["runs"]) for kind in kinds.values()]
    if not any(counts):
        return context.console.print(f"{name}: nothing is trained yet")
    groups = [
        (
            text,
            [Bar(kind["label"], [run[what] for run in kind["runs"]], key == "windows") for key, kind in kinds.items()],
        )
        for what, text in (("windows", "on windows, placed as in training"), ("frames", "on full frames"))
    ]
    dots(
        context.output / f"{name}.png",
        groups,
        "EPE, % of zero flow's",
        title,
        f"synthetic pairs of {FRAME[0]}x{FRAME[1]}, step {step}, {seeds_text(counts)}; dots: seeds, bars: mean",
    )
    shown = [
        [
            kind["label"],
            f"{kind['tokens'][0]} + {kind['tokens'][1]}",
            middle([run["seconds"] / 60 for run in kind["runs"]], 1),
            len(kind["runs"]),
            plus_minus([run["windows"] for run in kind["runs"]]),
            plus_minus([run["frames"] for run in kind["runs"]]),
            plus_minus([run["frames"] / run["windows"] for run in kind["runs"]], 2),
            plus_minus([run["frames_epe"] for run in kind["runs"]], 2),
        ]
        for kind in kinds.values()
    ]
    write_result(
        context,
        name,
        {
            "title": title,
            "about": f"{network_text()} {text}",
            "step": step,
            "zero_epe": frames_zero,
            "kinds": kinds,
            "tables": [
                {
                    "columns": [
                        "windows",
                        "tokens of both frames",
                        "minutes",
                        "seeds",
                        "on windows, % of zero",
                        "on full frames, % of zero",
                        "frames / windows",
                        "EPE on full frames, px",
                    ],
                    "rows": shown,
                    "note": f"After {step} steps of {batch} pairs. {NOTE_TABLES}",
                }
            ],
        },
    )
    return None


def second_of(rule: SecondStrategy) -> dict[str, Any]:
    return {
        "size": list(rule.size) if rule.size else None,
        "jitter": rule.jitter,
        "follow_probability": rule.follow_probability,
        "motion_share": rule.motion_share,
    }


def table_second_windows(context: Context) -> None:
    """Where the second frame's windows lie: following the flow or not, how exactly, how large."""
    window_table(
        context,
        "table-second-windows",
        "Windows of the second frame: following the flow or symmetric",
        ABOUT_SECOND,
        SECOND_WINDOWS,
    )


def table_flow_windows(context: Context) -> None:
    """How many windows, with about as many tokens in all."""
    window_table(context, "table-flow-windows", "Number of windows, flow", ABOUT_COUNT, FLOW_WINDOWS)


# ------------------------------------------------------------------ logits and the number of tokens


VARIANTS: dict[str, tuple[str, float, float]] = {  # key -> label, exponent of the attention's factor, of the matching's
    "none": ("as trained", 0.0, 0.0),
    "attention": ("attention scaled", 1.0, 0.0),
    "attention-half": ("attention, half as much", 0.5, 0.0),
    "attention-inverse": ("attention, half as much the other way", -0.5, 0.0),
    "matching": ("matching scaled", 0.0, 1.0),
    "matching-half": ("matching, half as much", 0.0, 0.5),
    "matching-inverse": ("matching, half as much the other way", 0.0, -0.5),
    "both": ("both scaled", 1.0, 1.0),
}
DRAWN = {
    "none": "#000000",
    "attention": "#0072B2",
    "attention-half": "#56B4E9",
    "matching": "#D55E00",
    "both": "#CC79A7",
}


def log_ratios(model: Any, recipe: Recipe, tokens_now: int) -> dict[str, float]:
    """log(keys now) / log(keys in training) of each attention: the encoder's, the decoder's two, the matching's.

    The encoder sees either view's windows in training; the mean of both logarithms counts.
    """
    first, second = tokens(recipe)
    trained = {"encoder": (first, second), "self": (first,), "cross": (second,)}
    ratios = {
        name: math.log(tokens_now) / (sum(math.log(count) for count in counts) / len(counts))
        for name, counts in trained.items()
    }
    if model.config.matching_stride:
        finer = (model.config.patch_size // model.config.matching_stride) ** 2
        ratios["matching"] = math.log(finer * tokens_now) / math.log(finer * second)
    return ratios


@contextmanager
def scaled_logits(model: Any, ratios: dict[str, float], attention: float, matching: float) -> Iterator[None]:
    """Within: each attention's logits times its ratio to the power `attention`, those of the global matching's features to `matching`.

    The matching's own temperature is bounded, and the bundled network's is at the bound, so its queries are scaled instead.
    """
    before = {}
    for name, module in model.named_modules():
        if isinstance(module, WinWinAttention):
            where = "encoder" if name.startswith("winwin.") else "cross" if name.endswith("cross_attention") else "self"
            before[module] = module.scaling
            module.scaling = module.scaling * ratios[where] ** attention
    matcher: Any = getattr(model, "matching", None)
    attend = getattr(matcher, "attend", None)
    if attend is not None and matching:
        factor = ratios["matching"] ** matching
        calls = iter(range(10**9))

        def louder(query: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
            is_global = next(calls) % 2 == 0  # the second call of each forward is the local one
            return attend(query * factor if is_global else query, *rest, **options)

        matcher.attend = louder
    try:
        yield
    finally:
        for module, scaling in before.items():
            module.scaling = scaling
        if attend is not None:
            matcher.attend = attend


def scale_logits(model_folder: str | Path, recipe: Recipe, frames: FlowSet) -> dict[str, Any]:
    """EPE of all variants on one set of frames: {"zero", "tokens", "ratios", "variants": {key: {"epe", "relative"}}}."""
    network = load(model_folder)
    pairs = list(frames.read())
    patch = network.model.config.patch_size
    height, width = pairs[0].size
    count = -(-height // patch) * -(-width // patch)
    ratios = log_ratios(network.model, recipe, count)
    found = {}
    for key, (_, attention, matching) in VARIANTS.items():
        with scaled_logits(network.model, ratios, attention, matching):
            found[key] = score(network, pairs, Way(), (0.0,))
    return {
        "tokens": count,
        "ratios": ratios,
        "zero": found["none"]["zero"],
        "variants": {key: {"epe": one["epe"], "relative": one["relative"]} for key, one in found.items()},
    }


def logit_scaling(context: Context) -> None:
    """Attention logits times log(tokens now) / log(tokens in training), in the transformer and in the matching: does it help?"""
    from winwin_hf import hub

    name = "logit-scaling-flow"
    bundled = hub.bundled()[CHECKPOINT]
    networks: dict[str, tuple[str, Path, Path, float]] = {  # label, model, where scores are kept, motion
        CHECKPOINT: (f"{CHECKPOINT} (bundled)", bundled, place_of(context), 15.0)
    }
    own = context.work / "flow" / "windows-0"
    if is_finished(own):
        motion = float(recipe_of("windows").data.settings["motion"])
        networks["figure1"] = ("figure 1's Win-Win, first seed", own / "model", own, motion)
    results: dict[str, dict[str, Any]] = {}
    for key, (label, model, place, motion) in networks.items():
        recipe = load_recipe(model / "recipe.yaml")
        sizes = {}
        for size in LOGIT_SIZES:
            ask = partial(scale_logits, model, recipe, synthetic(size, motion, LOGIT_PAIRS))
            one = measured(context, f"logits-{size[0]}x{size[1]}", place, ask)
            if one:
                sizes[f"{size[0]}x{size[1]}"] = one
        if sizes:
            results[key] = {"label": label, "tokens_in_training": list(tokens(recipe)), "sizes": sizes}
    if not results:
        return context.console.print(f"{name}: nothing is scored yet")
    with figure(context.output / f"{name}.png", 0.6 + 5.2 * len(results), 4.6, ncols=len(results), squeeze=False) as (
        sheet,
        grid,
    ):
        for axes, result in zip(grid[0], results.values(), strict=True):
            sizes = result["sizes"]
            for variant, colour in DRAWN.items():
                values = [one["variants"][variant]["epe"] / one["variants"]["none"]["epe"] for one in sizes.values()]
                changes = [100 * value - 100 for value in values]
                style = "-" if variant == "none" else "--"
                label = VARIANTS[variant][0]
                axes.plot(range(len(values)), changes, style, marker="o", markersize=4.5, color=colour, label=label)
            axes.set_xticks(range(len(sizes)), list(sizes))
            axes.set_xlabel("test frames, px")
            axes.set_ylabel("change of the EPE, %")
            headings(axes, result["label"], f"{LOGIT_PAIRS} pairs a size; below 0: better")
        sheet.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    rows = [
        [
            f"{result['label']}: {VARIANTS[variant][0]}",
            *(one["variants"][variant]["epe"] for one in result["sizes"].values()),
        ]
        for result in results.values()
        for variant in VARIANTS
    ]
    rows += [
        [f"{result['label']}: zero flow", *(one["zero"] for one in result["sizes"].values())]
        for result in results.values()
    ]
    write_result(
        context,
        name,
        {
            "title": "Attention logits scaled with the number of tokens at test time",
            "about": ABOUT_LOGITS,
            "results": results,
            "tables": [
                {
                    "columns": ["network and scaling", *(f"{height}x{width}" for height, width in LOGIT_SIZES)],
                    "rows": rows,
                    "note": "EPE in pixels.",
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
    "table-second-windows": Experiment(
        table_second_windows, "Second frame's windows: following or symmetric, jitter, size", hours=1.4
    ),
    "table-flow-windows": Experiment(
        table_flow_windows, "1, 2, 3, 4 and 18 windows of about as many tokens, flow", hours=0.7
    ),
    "logit-scaling-flow": Experiment(
        logit_scaling, "Logits scaled with the number of tokens at test time, flow: does it help?", hours=0.2
    ),
}
