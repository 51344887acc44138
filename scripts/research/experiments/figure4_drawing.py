"""The picture of figure 4: for each set a pair with its flows and error maps, and curves of the whole set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from research.drawing import COLOURS, figure
from research.experiments.fields import DISTANCES, Pair, errors_of, held, seams_of
from winwin_hf.model.flow_colours_winwin import flow_to_image

COLOUR = {"direct": COLOURS["windows"], "tiled-0": COLOURS["crops-tiled"], "tiled-0.5": COLOURS["crops"]}


@dataclass
class Example:
    """One pair and its predictions: key of a way -> flow."""

    pair: Pair
    flows: dict[str, np.ndarray] = field(default_factory=dict)


def draw_figure4(path: Path, results: dict[str, dict[str, Any]], examples: dict[str, Example]) -> None:
    """Draws three rows for each set: frames and flows; more flows and curves; error maps with the seams of the tiles."""
    shown, width = [key for key in results if key in examples], 15.0
    heights = []
    for key in shown:
        height, wide = examples[key].pair.size
        picture = width / 4 * height / wide + 0.4
        heights += [picture, max(picture, 2.8), picture]
    rows = {"nrows": len(heights), "gridspec_kw": {"height_ratios": heights}}
    with figure(path, width, sum(heights), palette=True, ncols=4, **rows) as (_, grid):
        for index, key in enumerate(shown):
            draw_set(grid[3 * index : 3 * index + 3], results[key], examples[key])


def draw_set(axes: Any, result: dict[str, Any], example: Example) -> None:
    """Draws the twelve plots of one set."""
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
        return flow_to_image(flow, longest)

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
        draw_grid(place, seams_of(pair.size, tile, overlap_of(way)), faint=key == "direct")
    place, overlap = axes[2][3], overlap_of(tiled[0])
    beyond = ~held(pair.flow, tile, overlap) & ~pair.unmatched() & known
    show(
        place,
        np.where(beyond, 0.0, 1.0),
        f"black: match in no tile ({ways[tiled[0]]['label']})",
        cmap="gray",
        vmin=0,
        vmax=1,
    )
    draw_grid(place, seams_of(pair.size, tile, overlap), colour="#D55E00")


def overlap_of(key: str) -> float:
    """The overlap of a key such as "tiled-0.5"."""
    return float(key.partition("-")[2])


def draw_grid(
    axes: Any, lines: tuple[Sequence[int], Sequence[int]], colour: str = "white", faint: bool = False
) -> None:
    """Draws the seams of tiles over a picture; faint: dotted, over a prediction without tiles."""
    style: dict[str, Any] = {"color": colour, "linewidth": 0.6, "alpha": 0.7, "linestyle": ":" if faint else "-"}
    for row in lines[0]:
        axes.axhline(row - 0.5, **style)
    for column in lines[1]:
        axes.axvline(column - 0.5, **style)


def draw_distance(axes: Any, result: dict[str, Any]) -> None:
    """Draws the error against the distance from the nearest seam."""
    first, most = next(iter(result["seams"])), 0
    lines = {"direct": result["seams"][first]["direct"]}
    lines |= {key: entry["tiled"] for key, entry in result["seams"].items()}
    for key, figures in lines.items():
        values = [band["epe"] for band in figures["by_distance"] if band["epe"] is not None]  # None: no tile is as wide
        label = result["ways"][key]["label"] + (" (same places)" if key == "direct" else "")
        axes.plot(range(len(values)), values, "o-", markersize=4, color=COLOUR.get(key), label=label)
        most = max(most, len(values))
    axes.set_xticks(range(most), [f"{low}" for low in DISTANCES[:most]])
    axes.set_xlabel("pixels from the nearest seam, from")
    axes.set_ylim(bottom=0)
    axes.set_title(f"EPE near seams, px ({result['pairs']} pairs)", loc="left", fontsize=10)
    axes.legend()


def draw_bands(axes: Any, result: dict[str, Any]) -> None:
    """Draws the EPE by displacement, of pixels visible in both frames."""
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
