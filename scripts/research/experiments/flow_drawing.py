"""The pictures of figures 1 and 5, flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.drawing import COLOURS, Line, colour_of, draw_lines, figure, headings
from research.experiments.flow_kinds import FIGURE1, FRAME, OVERLAP
from research.experiments.summaries import mean, median, median_text

SHORT_LABELS = {"windows": "Win-Win", "crops": "crops", "full": "full resolution"}


def draw_figure1(
    path: Path, kinds: dict[str, dict[str, Any]], moves: dict[str, Any] | None, zero: float, seed_text: str
) -> None:
    """Draws error against time, error by displacement, times of training and inference, and the distribution of displacements."""
    with figure(path, 12, 8.6, nrows=2, ncols=2) as (sheet, ((left, right), (times, motion))):
        lines = []
        for key, kind in kinds.items():
            label = f"{kind['label']}: {kind['tokens'][0]} + {kind['tokens'][1]} tokens"
            gigabytes = median_text([run["memory_gb"] for run in kind["runs"]], 2)
            pairs = "1 pair" if kind["batch_size"] == 1 else f"{kind['batch_size']} pairs"
            label += f", {pairs} a step, {gigabytes} GB"
            if key == "crops-tiled":
                points = [[(run["seconds"] / 60, run["frames"]["epe"])] for run in kind["runs"]]
                lines.append(Line(key, f"{kind['label']}, overlap {OVERLAP:g}", points, alone=True))
            else:
                lines.append(Line(key, label, [[(x, y) for x, y in run["curve"]] for run in kind["runs"]]))
        draw_lines(left, lines)
        left.axhline(zero, color="#777777", linestyle=":", linewidth=1)
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "top"}
        left.annotate("zero flow", (1, zero), xytext=(-4, -3), **place, fontsize=9, color="#555555")
        left.set_xlim(left=0)
        left.set_ylim(bottom=0)
        left.set_xlabel(f"training time, minutes{_unit(kinds)}")
        left.set_ylabel("EPE on full frames, px")
        headings(left, "Error against training time", f"{seed_text}; lines: mean, bands: lowest to highest")

        for key, kind in kinds.items():
            bands = [run["frames"]["bands"] for run in kind["runs"]]
            if not bands:
                continue
            values = [mean([one[i]["epe_matched"] for one in bands]) for i in range(len(bands[0]))]
            style = "--" if key == "crops-tiled" else "-"
            right.plot(range(len(values)), values, style, marker="o", markersize=4.5, color=colour_of(key))
            right.set_xticks(range(len(values)), [f"{band['from']:.0f}" for band in bands[0]])
        right.set_xlabel("true displacement in px, from")
        right.set_ylabel("EPE where seen in both frames, px")
        right.set_ylim(bottom=0)
        headings(right, "At the end, by displacement", "the last band: longer than a crop or a tile is high")

        rows: list[tuple[str, float, str]] = []
        for key in FIGURE1:
            found = [run["seconds_per_pair"] for run in kinds[key]["runs"]]
            rows.append((f"training: {SHORT_LABELS[key]}", median(found), key))
        for key, text in (("windows", "inference: one pass"), ("crops-tiled", "inference: tiles")):
            runs = kinds[key]["runs"]
            found = [run["inference"][time_name(runs)] for run in runs]
            if key == "crops-tiled" and runs:
                text = f"inference: {runs[0]['frames']['passes']} tiles"
            rows.append((text, median(found), key))
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


def time_name(runs: Sequence[dict[str, Any]]) -> str:
    """The key of the inference time to show, the same as of the trainings."""
    return runs[0]["seconds_are"] if runs else "cpu_seconds"


def draw_figure5(
    path: Path,
    found: dict[str, list[list[dict[str, Any]]]],
    labels: dict[str, str],
    sizes: Sequence[tuple[int, int]],
    note: str,
) -> None:
    """Draws the error against the size of test frames. found: by key, seed and size. note: small print."""
    pixels = [height * width for height, width in sizes]
    with figure(path, 7.5, 5.4) as (sheet, axes):
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
        axes.set_xticks(pixels, [f"{height}x{width}" for height, width in sizes])
        axes.minorticks_off()
        axes.set_xlabel("test frames, px (dotted: the trainings' frames)")
        axes.set_ylabel("EPE, % of zero flow's")
        axes.set_ylim(bottom=0)
        headings(axes, "Flow: error against test resolution", note)
        sheet.legend(loc="outside lower center", ncols=2)
