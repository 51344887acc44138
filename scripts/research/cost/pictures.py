"""The pictures of cost.md: times of the alternatives, and time and memory against pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from research.cost.cases import NAMES, PRECISIONS
from research.drawing import figure

Figures = dict[str, Any]
FP32, BF16, OTHER = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito's


def draw_ratios(made: Figures, folder: Path) -> bool:
    """Draws how many times as long each alternative takes, measured and by FLOPs. False if nothing is measured."""
    bars: list[tuple[str, dict[str, float], float | None]] = []  # name, ratio by precision, ratio of the FLOPs
    training = made.get("train_step_720p", {})
    ratios = {p: training[p]["time_ratio"] for p in PRECISIONS if "time_ratio" in training.get(p, {})}
    if ratios:
        work = next(training[p].get("arithmetic_ratio") for p in ratios)
        bars.append(("training step, 1280x720:\nfull frame / two windows", ratios, work))
    steps = made.get("train_step_flow_1080p", {})
    for key, name in (("full_over_windows", "full frame"), ("crops_over_windows", "crops of 320x384")):
        found = {p: steps[p][key] for p in PRECISIONS if key in steps.get(p, {})}
        ratios = {p: f["time_ratio"] for p, f in found.items()}
        if ratios:
            work = next(iter(found.values())).get("arithmetic_ratio")
            bars.append((f"training step, flow 1920x1080:\n{name} / two windows", ratios, work))
    flow = made.get("flow_1080p", {})
    for overlap in (0.5, 0.7, 0.9):
        keys = {"fp32": f"tiled_{overlap}_over_direct", "bf16": f"tiled_{overlap}_over_direct_bf16"}
        ratios = {p: flow[key] for p, key in keys.items() if key in flow}
        if ratios:
            tflop = flow["tflop"]
            work = tflop[f"tiled_{overlap}"] / tflop["direct"] if len(tflop) > 1 else None
            bars.append((f"1080p pair:\ntiles at overlap {overlap} / direct", ratios, work))
    if not bars:
        return False
    with figure(folder / "cost-ratios.png", 7.5, 1.3 + 0.75 * len(bars)) as (sheet, axes):
        for row, (_, ratios, work) in enumerate(bars):
            for precision, shift, colour in (("fp32", -0.19, FP32), ("bf16", 0.19, BF16)):
                if precision in ratios:
                    label = NAMES[precision] if row == 0 else None
                    axes.barh(row + shift, ratios[precision], 0.36, color=colour, label=label)
                    # at the edge, where nothing is drawn over it
                    place = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
                    axes.text(1.01, row + shift, f"{ratios[precision]:.1f}x", color=colour, **place)
            if work:
                axes.plot([work], [row], "k|", markersize=22, markeredgewidth=2, label="by FLOPs")
        axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xscale("log")
        low = min(min(r.values()) for _, r, _ in bars)
        axes.set_xlim(min(0.5, 0.8 * low), 1.6 * max(max(r.values()) for _, r, _ in bars))
        ticks = [t for t in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.axvline(1, color="#999999", linewidth=1)
        axes.grid(False, axis="y")
        axes.set_xlabel("times as long")
        axes.set_title("Time of the alternatives", loc="left", fontweight="bold")
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        sheet.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=4)
    return True


def draw_curve(made: Figures, folder: Path) -> bool:
    """Draws time and peak memory of a direct pass against pixels. False if nothing is measured."""
    curve = made.get("memory_curve", {})
    if not curve:
        return False
    with figure(folder / "cost-curve.png", 9.0, 4.2, ncols=2) as (sheet, (times, memory)):
        for (precision, lines), colour in zip(curve.items(), (FP32, BF16), strict=False):
            pixels = [f["pixels"] / 1e6 for f in lines]
            times.plot(pixels, [f["seconds"] for f in lines], "o-", color=colour, label=NAMES[precision])
            memory.plot(pixels, [f["peak_gb"] for f in lines], "o-", color=colour)
        longest = max(curve.values(), key=len)
        pixels = [f["pixels"] / 1e6 for f in longest]
        for axes in (times, memory):
            axes.set_xlabel("megapixels of a frame")
            for f in longest:
                axes.annotate(
                    f["size"],
                    (f["pixels"] / 1e6, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(0, 1),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    fontsize=8,
                    color="#555555",
                )
                axes.axvline(f["pixels"] / 1e6, color="#EEEEEE", linewidth=1, zorder=0)
        times.set_xscale("log")
        times.set_yscale("log")
        times.set_xticks(pixels, [f"{p:.2g}" for p in pixels])
        low, high = times.get_ylim()
        ticks = [t * 10**e for e in range(-3, 4) for t in (1, 2, 5) if low <= t * 10**e <= high]
        times.set_yticks(ticks, [f"{t:g}" for t in ticks])
        times.minorticks_off()
        times.set_ylabel("seconds a pair, direct")
        top = max(f["peak_gb"] for lines in curve.values() for f in lines)
        # grows with the square of the pixels
        steps = [pixels[-1] * step / 100 for step in range(101)]
        square = [longest[-1]["tokens_x_tokens_gb"] * (step / pixels[-1]) ** 2 for step in steps]
        memory.plot(steps, square, "--", color=OTHER, label="one layer's tokens x tokens (never held)")
        memory.set_ylim(0, 1.3 * top)
        memory.set_xlim(0, 1.05 * max(pixels))
        memory.set_ylabel("peak memory, GB")
        for axes, title in ((times, "Time"), (memory, "Memory")):
            axes.set_title(f"{title}\n", loc="left", fontweight="bold")
        sheet.legend(loc="outside lower center", ncols=4)
    return True
