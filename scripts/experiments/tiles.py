"""Tiles against one pass, with one and the same network: figure 4 (error maps, seams, matches beyond a tile), and what overlap costs.

Notable:
- the network is the bundled winwin-flow, trained from two windows; nothing is trained here.
- tiles are blended as CroCo-Flow blends them (winwin_hf/inference.py), so only the network differs from its tiled inference.
- frames are held-out synthetic ones, and with `--data sintel=FOLDER` (or any flow set of `winwin data list`) real benchmarks'.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from winwin_hf import hub, inference, predictors, visualization
from winwin_hf.data import catalog
from winwin_hf.data.sources import Source, open_source

from .draw import COLOURS, figure
from .fields import (
    DISTANCES,
    SEAM,
    SHARES,
    Pair,
    Tally,
    Tile,
    add_errors,
    add_held,
    add_seams,
    bands_of,
    displacements,
    errors_of,
    held,
    read_pairs,
    seam_figures,
    seams_of,
)
from .runs import Context, Experiment, measured, write_result

CHECKPOINT = "winwin-flow"
SIZE = (768, 1024)
OVERLAPS = (0.0, 0.5)
CROCO_TILE = (320, 384)
CROCO_OVERLAPS = (0.5, 0.7, 0.9)
# Figure 4. Mean motion in pixels at 384 x 512 (about 1.3 times that here; winwin-flow was trained with 15), and tiles of about a sixth
# and a quarter of the frame's sides: which way wins depends on both, so all of them are in the tables, and in the picture those of
# `PICTURED`, real sets in the last.
MOTIONS = (25.0, 30.0)
TILES = ((128, 160), (192, 256))
PICTURED = ((25.0, (128, 160)), (30.0, (192, 256)))
FIGURE4_PAIRS = 12
TILING_MOTION, TILING_PAIRS = 15.0, 4
ALIASES = {"sintel": "sintel-clean"}
COLOUR = {"direct": COLOURS["windows"], "tiled-0": COLOURS["crops-tiled"], "tiled-0.5": COLOURS["crops"]}
HISTOGRAM = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)  # px

ABOUT_FIGURE4 = (
    f"The bundled {CHECKPOINT}, once on the whole frame and once in tiles, blended as CroCo-Flow blends them, for each motion and each "
    "size of tile. Which way has the smaller error depends on both. Of each set the picture shows the pair with the largest share of "
    f"matches that no tile holds (by the truth). On a seam: nearer than {SEAM} px. A jump is the length of the difference of two "
    "neighbouring vectors; its excess is what it has more than the truth's. Rows of one pass at the seams of tiles: the same places of "
    "a prediction that has no seams."
)
ABOUT_TILING = (
    f"The bundled {CHECKPOINT} on the whole frame, and in tiles of {CROCO_TILE[0]}x{CROCO_TILE[1]} px blended as CroCo-Flow blends them, "
    "at its overlaps. Seconds: CPU time of one thread (on an accelerator: time passed), median pair, the network alone. The last column: "
    "displacements longer than the tile is high."
)


# ------------------------------------------------------------------ predicting


@dataclass(frozen=True)
class Way:
    """How a frame is predicted: in one pass (no tile), or in tiles of (height, width) pixels."""

    tile: Tile | None = None
    overlap: float = 0.5

    @property
    def key(self) -> str:
        return "direct" if self.tile is None else f"tiled-{self.overlap:g}"

    @property
    def label(self) -> str:
        return "one pass" if self.tile is None else f"tiles, overlap {self.overlap:g}"


@dataclass
class Prediction:
    """flow (H, W, 2). seconds passed, and CPU seconds of this process; the network alone."""

    flow: np.ndarray
    passes: int
    seconds: float
    cpu_seconds: float


def load(name: str | Path) -> predictors.Network:
    """A bundled checkpoint by name, or a training's model folder."""
    network = predictors.load(str(name), Accelerator())
    if not isinstance(network, predictors.Network) or network.task != "flow":
        raise ValueError(f"{name}: expected a checkpoint for optical flow")
    return network


def place_of(context: Context) -> Path:
    """Where scores of the bundled network are kept: a folder for each version of its weights."""
    weights = hub.bundled()[CHECKPOINT] / "model.safetensors"
    return context.work / f"{CHECKPOINT}-{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}"


def predict(network: predictors.Network, pair: Pair, way: Way = Way()) -> Prediction:
    """One pair, in float32."""
    model, processor = network.model, network.processor
    inputs = processor.preprocess(pair.image, pair.second, return_tensors="pt").to(model.device)
    with torch.inference_mode(), clock(model.device) as spent:
        outputs = inference.predict_flow(
            model, inputs["pixel_values"], inputs["second_pixel_values"], way.tile, way.overlap
        )
    flow = processor.post_process_optical_flow(outputs, target_sizes=[pair.size])[0]["flow"]
    array = np.ascontiguousarray(flow.permute(1, 2, 0).float().cpu().numpy())
    return Prediction(array, outputs.passes, *spent)


@contextmanager
def clock(device: torch.device) -> Iterator[list[float]]:
    """[seconds, CPU seconds] of what is done within, there at the end."""
    spent: list[float] = []
    began = time.perf_counter(), time.process_time()
    yield spent
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    spent += [time.perf_counter() - began[0], time.process_time() - began[1]]


def score(network: predictors.Network, pairs: Iterable[Pair], way: Way, edges: Sequence[float]) -> dict[str, Any]:
    """
    EPE over all pixels of pairs, of those seen in both frames (matched), and by true displacement; beside it zero flow's.

    relative: EPE in percent of zero flow's. seconds, cpu_seconds: of the median pair, the network alone; time: the one that says more on
    this device. passes: of the last.
    """
    tally, spent, passes = Tally(), [], 0
    for pair in pairs:
        prediction = predict(network, pair, way)
        passes = prediction.passes
        spent.append((prediction.seconds, prediction.cpu_seconds))
        add_errors(tally, "epe", prediction.flow, pair, edges)
        add_errors(tally, "zero", np.zeros_like(pair.flow), pair, edges)
    seconds, cpu_seconds = np.median(np.array(spent), axis=0).tolist()
    return {
        "epe": tally.mean("epe"),
        "relative": 100 * tally.ratio("epe", "zero"),
        "zero": tally.mean("zero"),
        "epe_matched": tally.mean("epe matched"),
        "zero_matched": tally.mean("zero matched"),
        "bands": bands_of(tally, "epe", edges),
        "passes": passes,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "time": cpu_seconds if network.model.device.type == "cpu" else seconds,
        "pairs": len(spent),
    }


# ------------------------------------------------------------------ frames


@dataclass(frozen=True)
class FlowSet:
    """Frames to predict. key: in JSON. pairs: how many of them at most."""

    key: str
    label: str
    source: Source
    pairs: int

    def read(self) -> Iterator[Pair]:
        return read_pairs(self.source, self.pairs)


def synthetic(size: tuple[int, int], motion: float, pairs: int) -> FlowSet:
    """Held-out scenes of one size."""
    settings = {"sizes": [list(size)], "motion": motion}
    source = open_source("synthetic-flow", split="val", settings=settings)
    return FlowSet("synthetic", f"synthetic {size[0]}x{size[1]}, motion {motion:g}", source, pairs)


def real_sets(context: Context, pairs: int) -> list[FlowSet]:
    """The flow sets among --data, the split with ground truth. Pairs with missing files are left out."""
    found = []
    for given, path in context.data.items():
        name = ALIASES.get(given, given)
        if name in catalog.SETS and catalog.SETS[name].task == "flow":
            source = open_source(name, path, catalog.entry_of(name).scored, skip_broken=True)
            found.append(FlowSet(name, name, source, pairs))
    return found


# ------------------------------------------------------------------ figure 4


def compare(network: predictors.Network, frames: FlowSet, tile: Tile, overlaps: Sequence[float]) -> dict[str, Any]:
    """
    One pass against tiles: EPE, seams, and matches that a tile can't hold.

    seams, held: for each tiling, "tiled" and "direct", the latter at the same places. example: number of the pair with the largest
    share of matches that no tile of the first tiling holds, which the truth alone decides.
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
            beyond = float((~holds & ~pair.gone()).mean())
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


@dataclass
class Example:
    """What a set's picture shows: one pair and its predictions by way."""

    pair: Pair
    flows: dict[str, np.ndarray] = field(default_factory=dict)


def example_of(network: predictors.Network, frames: FlowSet, number: int, tile: Tile) -> Example:
    pair = next(pair for index, pair in enumerate(frames.read()) if index == number)
    ways = [Way(), *(Way(tile, overlap) for overlap in OVERLAPS)]
    return Example(pair, {way.key: predict(network, pair, way).flow for way in ways})


def motion_of(frames: FlowSet, tile: Tile) -> dict[str, Any]:
    return displacements(frames.read(), min(tile), HISTOGRAM)


def figure4_cases(context: Context) -> Iterator[tuple[str, FlowSet, Tile, bool]]:
    """What is compared: a name, frames, the tiles' size, and whether it is in the picture."""
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
        moves = measured(context, f"figure4-{key}-motion", place, partial(motion_of, frames, tile))
        result = measured(context, f"figure4-{key}", place, partial(compare, network, frames, tile, OVERLAPS))
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
    """Tables of the page: all pixels, seams, matches beyond a tile, and by displacement."""
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
                ("held", "a tile holds the match"),
                ("beyond", "no tile does"),
                ("gone", "not in the second frame"),
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
        overall.append([f"{label}: nothing moves", None, result["zero"], None])
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
            "title": "Matches that a tile can't hold",
            "columns": ["pixels", "% of all", "EPE, one pass", "EPE, tiles"],
            "rows": beyond,
        },
        {
            "title": "By displacement, where seen in both frames",
            "columns": ["displacement", "% of all pixels", *(f"EPE, {way}" for way in ways)],
            "rows": bands,
        },
    ]


def draw_figure4(path: Path, results: dict[str, dict[str, Any]], examples: dict[str, Example]) -> None:
    """Three rows a set: frames and flows, more flows and curves, error maps with the tiles' grid."""
    shown, width = [key for key in results if key in examples], 15.0
    heights = []
    for key in shown:
        height, wide = examples[key].pair.size
        picture = width / 4 * height / wide + 0.4
        heights += [picture, max(picture, 2.8), picture]
    rows = {"nrows": len(heights), "gridspec_kw": {"height_ratios": heights}}
    with figure(path, width, sum(heights), ncols=4, **rows) as (_, grid):
        for index, key in enumerate(shown):
            draw_set(grid[3 * index : 3 * index + 3], results[key], examples[key])


def draw_set(axes: Any, result: dict[str, Any], example: Example) -> None:
    """The twelve plots of one set."""
    pair, tile = example.pair, tuple(result["tile"])
    known = np.isfinite(pair.flow).all(axis=-1)
    longest = max(1.0, float(np.percentile(np.hypot(*pair.flow[known].T), 99)))
    errors = {key: np.where(known, errors_of(flow, pair.flow)[0], np.nan) for key, flow in example.flows.items()}
    tiled = [key for key in example.flows if key != "direct"]
    highest = max(1.0, float(np.nanpercentile(errors[tiled[0]], 95)))
    ways = result["ways"]

    def show(place: Any, picture: np.ndarray, title: str, **options: Any) -> Any:
        place.grid(False)
        place.set_axis_off()
        place.set_title(title, loc="left", fontsize=10)
        return place.imshow(picture, interpolation="nearest", **options)

    def colours(flow: np.ndarray) -> np.ndarray:
        return visualization.flow_to_image(flow, longest)

    show(axes[0][0], pair.image, result["label"])
    show(axes[0][1], pair.second, f"second frame ({pair.name})")
    show(axes[0][2], colours(pair.flow), f"true motion (full colour: {longest:.0f} px)")
    show(axes[0][3], colours(example.flows["direct"]), "predicted in one pass")
    for place, key in zip(axes[1], tiled, strict=False):
        show(place, colours(example.flows[key]), f"predicted in {ways[key]['label']}")
    draw_distance(axes[1][2], result)
    draw_bands(axes[1][3], result)
    for place, key in zip(axes[2], example.flows, strict=False):
        mean = float(np.nanmean(errors[key]))
        title = f"error, {ways[key]['label']}: mean {mean:.1f} px (yellow: {highest:.0f})"
        show(place, errors[key], title, cmap="inferno", vmin=0, vmax=highest)
        way = key if key != "direct" else tiled[0]
        draw_grid(place, seams_of(pair.size, tile, float(way.partition("-")[2])), faint=key == "direct")
    place = axes[2][3]
    beyond = ~held(pair.flow, tile, OVERLAPS[0]) & ~pair.gone() & known
    show(
        place, np.where(beyond, 0.0, 1.0), f"black: in no tile ({ways[tiled[0]]['label']})", cmap="gray", vmin=0, vmax=1
    )
    draw_grid(place, seams_of(pair.size, tile, OVERLAPS[0]), colour="#D55E00")


def draw_grid(
    axes: Any, lines: tuple[Sequence[int], Sequence[int]], colour: str = "white", faint: bool = False
) -> None:
    """The seams of tiles over a picture; dotted where the prediction knows nothing of them."""
    style: dict[str, Any] = {"color": colour, "linewidth": 0.6, "alpha": 0.7, "linestyle": ":" if faint else "-"}
    for row in lines[0]:
        axes.axhline(row - 0.5, **style)
    for column in lines[1]:
        axes.axvline(column - 0.5, **style)


def draw_distance(axes: Any, result: dict[str, Any]) -> None:
    """Error against distance from the nearest seam."""
    first, most = next(iter(result["seams"])), 0
    lines = {"direct": result["seams"][first]["direct"]}
    lines |= {key: entry["tiled"] for key, entry in result["seams"].items()}
    for key, figures in lines.items():
        values = [band["epe"] for band in figures["by_distance"] if band["epe"] is not None]  # no tile is as wide
        label = result["ways"][key]["label"] + (" (same places)" if key == "direct" else "")
        axes.plot(range(len(values)), values, "o-", markersize=4, color=COLOUR.get(key), label=label)
        most = max(most, len(values))
    axes.set_xticks(range(most), [f"{low}" for low in DISTANCES[:most]])
    axes.set_xlabel("pixels from the nearest seam, from")
    axes.set_ylim(bottom=0)
    axes.set_title(f"EPE near seams, px ({result['pairs']} pairs)", loc="left", fontsize=10)
    axes.legend()


def draw_bands(axes: Any, result: dict[str, Any]) -> None:
    """EPE by displacement, of pixels seen in both frames."""
    for key, way in result["ways"].items():
        values = [np.nan if band["epe_matched"] is None else band["epe_matched"] for band in way["bands"]]
        axes.plot(range(len(values)), values, "o-", markersize=4, color=COLOUR.get(key), label=way["label"])
    bands = result["ways"]["direct"]["bands"]
    axes.set_xticks(range(len(bands)), [f"{band['from']:.0f}" for band in bands])
    axes.axvline(len(bands) - 1, color="#777777", linestyle=":", linewidth=1)
    axes.annotate(
        "a tile's height", (len(bands) - 1, 0), xytext=(-3, 4), textcoords="offset points", fontsize=8, ha="right"
    )
    axes.set_xlabel("true displacement in px, from")
    axes.set_ylim(bottom=0)
    axes.set_title("EPE by displacement, px, where seen in both", loc="left", fontsize=10)
    axes.legend()


# ------------------------------------------------------------------ the same backbone in CroCo-Flow's tiles


def compare_tilings(network: predictors.Network, frames: FlowSet) -> dict[str, Any]:
    """`score` of one pass and of CroCo-Flow's tiles at its overlaps; each pair is read once for all."""
    torch.set_num_threads(1)  # CPU seconds of several threads hold their waiting, too
    edges = [share * min(CROCO_TILE) for share in SHARES]
    pairs = list(frames.read())
    predict(network, pairs[0])  # the first one pays for what is set up once
    ways = [Way(), *(Way(CROCO_TILE, overlap) for overlap in CROCO_OVERLAPS)]
    return {
        "label": frames.label,
        "size": list(pairs[0].size),
        "ways": {way.key: {"label": way.label, **score(network, pairs, way, edges)} for way in ways},
    }


def tiling_backbone(context: Context) -> None:
    """Tiling with the same network: what is gained in EPE by overlap, and what it costs."""
    network, place = load(CHECKPOINT), place_of(context)
    results = {}
    for frames in (synthetic(SIZE, TILING_MOTION, TILING_PAIRS), *real_sets(context, TILING_PAIRS)):
        result = measured(context, f"tiling-backbone-{frames.key}", place, partial(compare_tilings, network, frames))
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
                        "to one pass",
                        "EPE, px",
                        "seen in both frames",
                        f"from {CROCO_TILE[0]} px",
                    ],
                    "rows": rows,
                }
            ],
        },
    )
    return None


def draw_tilings(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """EPE against seconds, a plot for each set."""
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
    "figure4": Experiment(
        figure4, "Figure 4: error maps in one pass and in tiles, seams, matches beyond a tile", hours=0.2
    ),
    "tiling-backbone": Experiment(
        tiling_backbone, "The same network in one pass and in CroCo-Flow's tiles (a reviewer's question)", hours=0.2
    ),
}
