"""Pictures of results: curves with the spread of their seeds, and dots for each seed.

- A kind of training has the same colour and marker in every picture. The colours are those of Okabe and Ito, which colour-blind
  readers can tell apart.
- A line is the mean over the seeds; its band reaches from the lowest to the highest value.
- matplotlib is imported when something is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from winwin_hf.data.formats import write_atomic

# A kind whose key begins with a name has its colour; others take the next free one.
COLOURS = {
    "windows": "#0072B2",
    "full": "#000000",
    "crops-tiled": "#D55E00",
    "crops": "#E69F00",
    "vitdet": "#009E73",
    "rope": "#0072B2",
    "rope_frame": "#D55E00",
    "learned": "#009E73",
}
MORE_COLOURS = ("#CC79A7", "#56B4E9", "#8C564B", "#7F7F7F", "#BCBD22")
MARKERS = {"windows": "o", "full": "s", "crops-tiled": "v", "crops": "^", "vitdet": "D"}
STYLE: Any = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 3.2,
}


@dataclass
class Line:
    """
    One kind of training in a plot.

    Attributes:
        key: decides the colour. label: in the legend.
        points: for each seed its (x, y), all seeds with the same x.
        dashed: shares the colour of another line with this key.
        alone: a marker with error bars, for a kind with one point.
    """

    key: str
    label: str
    points: list[list[tuple[float, float]]] = field(default_factory=list)
    dashed: bool = False
    alone: bool = False


@contextmanager
def figure(
    path: Path, width: float = 7.0, height: float = 4.6, palette: bool = False, **subplots: Any
) -> Iterator[tuple[Any, Any]]:
    """
    Gives a figure and its axes and saves them to `path` at the end.

    Args:
        width, height: in inches.
        palette: fewer pixels and 256 colours; a sheet of photographs then takes a fifth of the bytes.
        subplots: options of matplotlib's `Figure.subplots`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        sheet = Figure(figsize=(width, height), layout="constrained")
        axes = sheet.subplots(**subplots)
        yield sheet, axes
        with write_atomic(path) as temporary:
            sheet.savefig(temporary, dpi=110 if palette else 150)
            if palette:
                with Image.open(temporary) as drawn:
                    colours = drawn.convert("RGB")
                few = colours.quantize(256, Image.Quantize.MEDIANCUT)
                colours.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG).save(
                    temporary, format="PNG", optimize=True
                )


def colour_of(key: str, taken: Sequence[str] = ()) -> str:
    """The colour of the longest name that the key begins with, or the next one that is not taken."""
    names = [name for name in COLOURS if key == name or key.startswith(name + "-")]
    if names and COLOURS[max(names, key=len)] not in taken:
        return COLOURS[max(names, key=len)]
    return next((colour for colour in MORE_COLOURS if colour not in taken), MORE_COLOURS[-1])


def draw_lines(axes: Any, lines: Sequence[Line]) -> None:
    """Draws each kind's mean over its seeds, with a band from the lowest to the highest."""
    taken: list[str] = []
    for line in lines:
        seeds = [seed for seed in line.points if seed]
        if not seeds:
            continue
        colour = colour_of(line.key, () if line.dashed else taken)
        taken.append(colour)
        shortest = min(len(seed) for seed in seeds)
        columns = [[seed[i] for seed in seeds] for i in range(shortest)]
        x = [sum(p[0] for p in column) / len(column) for column in columns]
        y = [sum(p[1] for p in column) / len(column) for column in columns]
        low, high = ([edge(p[1] for p in column) for column in columns] for edge in (min, max))
        marker = MARKERS.get(line.key, "o")
        if line.alone:
            below, above = ([abs(a - b) for a, b in zip(y, bound, strict=True)] for bound in (low, high))
            axes.errorbar(x, y, [below, above], fmt=marker, color=colour, markersize=7, capsize=3, label=line.label)
            continue
        style = "--" if line.dashed else "-"
        axes.plot(x, y, style, marker=marker, markersize=4.5, color=colour, linewidth=1.8, label=line.label)
        if len(seeds) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def curves(
    path: Path,
    lines: Sequence[Line],
    x: str,
    y: str,
    title: str,
    note: str = "",
    ticks: Sequence[float] | None = None,
    log_x: bool = False,
    legend_columns: int = 1,
) -> None:
    """Draws one plot of several kinds with the legend below. note: small print under the title, such as the number of seeds."""
    with figure(path, height=4.2 + 0.22 * len(lines) / legend_columns) as (sheet, axes):
        draw_lines(axes, lines)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if log_x:
            axes.set_xscale("log")
        if ticks:
            axes.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        headings(axes, title, note)
        sheet.legend(loc="outside lower center", ncols=legend_columns)


def headings(axes: Any, title: str, note: str = "") -> None:
    """Sets a bold title on the left and the note in grey below it."""
    axes.set_title(title + ("\n" if note else ""), loc="left", fontweight="bold")
    if note:
        axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=9, color="#555555", va="bottom")


@dataclass
class Bar:
    """One kind in `dots`: its value for each seed. reference: the others are compared with it."""

    label: str
    values: list[float]
    reference: bool = False


def dots(path: Path, groups: Sequence[tuple[str, Sequence[Bar]]], x: str, title: str, note: str = "") -> None:
    """
    Draws kinds below one another: a dot for each seed, a stroke and a number for their mean.

    groups: (what is measured, its kinds), side by side, each with a range of its own.
    """
    most = max(len(bars) for _, bars in groups)
    width, height = 3.0 + 3.4 * len(groups), 1.5 + 0.42 * most
    with figure(path, width, height, ncols=len(groups), squeeze=False, sharey=len(groups) > 1) as (sheet, grid):
        for axes, (name, bars) in zip(grid[0], groups, strict=True):
            values = [value for bar in bars for value in bar.values]
            for row, bar in enumerate(bars):
                colour = COLOURS["windows"] if bar.reference else "#666666"
                if bar.values:
                    middle = sum(bar.values) / len(bar.values)
                    axes.plot(bar.values, [row] * len(bar.values), "o", color=colour, markersize=6, alpha=0.6)
                    axes.plot([middle, middle], [row - 0.25, row + 0.25], color=colour, linewidth=2)
                    axes.text(max(bar.values), row, f"   {middle:.1f}", va="center", fontsize=9, color=colour)
            axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
            axes.set_ylim(len(bars) - 0.4, -0.6)  # the first on top
            if values:
                room = max(max(values) - min(values), 1.0)
                axes.set_xlim(min(values) - 0.15 * room, max(values) + 0.35 * room)
            axes.set_xlabel(x)
            if len(groups) > 1:
                axes.set_title(name, fontsize=10)
        sheet.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
        if note:
            sheet.supxlabel(note, fontsize=9, color="#555555", x=0.01, ha="left")
