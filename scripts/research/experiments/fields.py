"""Measures of flow fields: displacements, errors by displacement, jumps at the seams of tiles, matches that no tile contains.

- All figures are sums over pixels (`Tally`), so a mean is taken over the pixels of all pairs.
- The direct prediction is measured at the same seams: a jump of the true motion is no artefact of tiles.

Flow is float32 (H, W, 2), (right, down) in pixels, NaN = unknown. A tile is (height, width) in pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from winwin_hf.data.readers import FlowReader
from winwin_hf.data.sources import Source
from winwin_hf.inference.flow import tile_positions

Tile = tuple[int, int]

HISTOGRAM = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)  # px: lower ends of the bins of `displacements`
SEAM = 4  # px: pixels nearer to a seam than this are on it
DISTANCES = (0, 2, 4, 8, 16, 32, 64, 128)  # px from a seam: lower ends of the bands
SHARES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)  # of a tile's shorter side: lower ends of the bands of displacement


# ------------------------------------------------------------------ pairs


@dataclass
class Pair:
    """
    Two frames, uint8 (H, W, 3), with the true flow.

    occluded: (H, W) bool, whether a pixel's match is hidden in the second frame or outside of it; None: not known.
    """

    name: str
    image: np.ndarray
    second: np.ndarray
    flow: np.ndarray
    occluded: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def unmatched(self) -> np.ndarray:
        """(H, W) bool: whether the match is not visible in the second frame. False where the flow is unknown."""
        height, width = self.size
        x, y = _matches(self.flow)
        with np.errstate(invalid="ignore"):
            outside = (x < -0.5) | (y < -0.5) | (x > width - 0.5) | (y > height - 0.5)
        return outside if self.occluded is None else outside | self.occluded


def read_pairs(source: Source, length: int | None = None) -> Iterator[Pair]:
    """
    Reads pairs of a flow source.

    length: number of pairs: the first ones of a stream, evenly spaced ones of a set on disk, whose neighbours are similar. None: all.
    """
    examples: Iterable[dict[str, Any]] = source.examples(length)
    if length is not None and hasattr(source.dataset, "__len__") and len(source) > length:
        examples = ({"index": i, **source.dataset[i]} for i in (len(source) * n // length for n in range(length)))
    for example in examples:
        name = str(example.get("name") or f"{source.name}-{example['index']:06d}")
        if isinstance(source.reader, FlowReader):
            frames = source.reader.decode(example)
            if frames.flow is not None:
                yield Pair(name, frames.image1, frames.image2, frames.flow, frames.occluded)
            continue
        scene: Any = source.reader(example, np.random.default_rng(0))
        box = (0, 0, scene.height, scene.width)
        image, flow = scene.first(box)
        yield Pair(name, image, scene.second(box), flow, scene.occlusion(box))


def _matches(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y of each pixel's match in the second frame, (H, W) each."""
    height, width = flow.shape[:2]
    return np.arange(width) + flow[..., 0], np.arange(height)[:, None] + flow[..., 1]


# ------------------------------------------------------------------ sums


class Tally:
    """Sums and counts of values, by name."""

    def __init__(self, sums: dict[str, list[float]] | None = None) -> None:
        self.sums: dict[str, list[float]] = {} if sums is None else sums

    def add(self, name: str, values: np.ndarray, where: np.ndarray | None = None) -> None:
        chosen = values if where is None else values[where]
        entry = self.sums.setdefault(name, [0.0, 0])
        entry[0] += float(chosen.sum(dtype=np.float64))
        entry[1] += int(chosen.size)

    def mean(self, name: str) -> float:
        """NaN if nothing was counted."""
        total, count = self.sums.get(name, (0.0, 0))
        return total / count if count else math.nan

    def count(self, name: str) -> int:
        return int(self.sums.get(name, (0.0, 0))[1])

    def ratio(self, name: str, other: str) -> float:
        below = self.mean(other)
        return self.mean(name) / below if below else math.nan


def errors_of(flow: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) end-point errors, 0 where the truth is unknown, and where it is known."""
    known = np.isfinite(truth).all(axis=-1)
    return np.where(known, _length(np.where(known[..., None], flow - truth, 0)), 0), known


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.hypot(vectors[..., 0], vectors[..., 1])


def add_errors(tally: Tally, name: str, flow: np.ndarray, pair: Pair, edges: Sequence[float]) -> None:
    """
    Adds a prediction's errors under NAME, of pixels visible in both frames under "NAME matched", and by true displacement under
    "NAME EDGE" and "NAME matched EDGE"; EDGE is the lower end of a band.
    """
    error, known = errors_of(flow, pair.flow)
    matched = known & ~pair.unmatched()
    length = np.where(known, _length(np.where(known[..., None], pair.flow, 0)), 0)
    tally.add(name, error, known)
    tally.add(f"{name} matched", error, matched)
    for low, high in itertools.pairwise((*edges, math.inf)):
        band = (length >= low) & (length < high)
        tally.add(f"{name} {low:g}", error, known & band)
        tally.add(f"{name} matched {low:g}", error, matched & band)


def bands_of(tally: Tally, name: str, edges: Sequence[float]) -> list[dict[str, float]]:
    """The errors of `add_errors` by band of displacement. share: of all known pixels."""
    total = tally.count(name) or math.nan
    return [
        {
            "from": float(low),
            "epe": tally.mean(f"{name} {low:g}"),
            "share": tally.count(f"{name} {low:g}") / total,
            "epe_matched": tally.mean(f"{name} matched {low:g}"),
            "share_matched": tally.count(f"{name} matched {low:g}") / total,
        }
        for low in edges
    ]


# ------------------------------------------------------------------ displacements


def displacements(pairs: Iterable[Pair], side: float, bins: Sequence[float]) -> dict[str, Any]:
    """
    The distribution of |flow| in pixels over every seventh known pixel of all pairs.

    Returns: mean, median, percentiles and "most"; the share longer than `side`, of all pixels and of those visible in both frames; the
        share "occluded"; a histogram of shares over `bins`.
    """
    lengths, hidden = [], []
    for pair in pairs:
        known = np.isfinite(pair.flow).all(axis=-1).ravel()[::7]
        lengths.append(_length(pair.flow).ravel()[::7][known])
        hidden.append(pair.unmatched().ravel()[::7][known])
    length, gone = np.concatenate(lengths), np.concatenate(hidden)
    counts = np.histogram(length, [*bins, math.inf])[0]
    return {
        "pairs": len(lengths),
        "mean": float(length.mean()),
        **{name: float(np.percentile(length, p)) for name, p in (("median", 50), ("p90", 90), ("p99", 99))},
        "most": float(length.max()),
        "side": side,
        "longer_than_side": float((length > side).mean()),
        "longer_than_side_matched": float((length[~gone] > side).mean()),
        "occluded": float(gone.mean()),
        "bins": list(bins),
        "histogram": (counts / counts.sum()).tolist(),
    }


# ------------------------------------------------------------------ seams


def seams(length: int, tile: int, overlap: float) -> list[int]:
    """The seams of tiles along an axis of `length` pixels; seam s lies between the pixels s - 1 and s."""
    starts = tile_positions(length, min(tile, length), overlap)
    edges = {edge for start in starts for edge in (start, start + min(tile, length))}
    return sorted(edge for edge in edges if 0 < edge < length)


def seams_of(size: tuple[int, int], tile: Tile, overlap: float, patch: int = 16) -> tuple[list[int], list[int]]:
    """Seams between rows and between columns of a frame of (height, width), which is padded to whole patches and then tiled."""
    rows, columns = (
        [seam for seam in seams(-(-side // patch) * patch, extent, overlap) if seam < side]
        for side, extent in zip(size, tile, strict=True)
    )
    return rows, columns


def seam_distance(size: tuple[int, int], rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
    """(H, W): pixels between each pixel and the nearest seam, 0 for pixels at the seam; infinite without seams."""

    def along(length: int, edges: Sequence[int]) -> np.ndarray:
        place, nearest = np.arange(length), np.full(length, np.inf)
        for edge in edges:
            nearest = np.minimum(nearest, np.where(place >= edge, place - edge, edge - 1 - place))
        return nearest

    return np.minimum(along(size[0], rows)[:, None], along(size[1], columns))


def add_seams(
    tally: Tally, name: str, flow: np.ndarray, truth: np.ndarray, rows: Sequence[int], columns: Sequence[int]
) -> None:
    """
    Adds figures of a prediction under "NAME seam ..." and "NAME elsewhere ...":
    - error: the end-point error of pixels nearer to a seam than `SEAM` and of the others; by distance under "NAME distance D";
    - jump, true jump, error jump: |f(p) - f(q)| of neighbouring pixels p and q with or without a seam between them, where f is the
      prediction, the truth, or their difference.
    """
    error, known = errors_of(flow, truth)
    distance = seam_distance((flow.shape[0], flow.shape[1]), rows, columns)
    tally.add(f"{name} seam error", error, known & (distance < SEAM))
    tally.add(f"{name} elsewhere error", error, known & (distance >= SEAM))
    for low, high in itertools.pairwise((*DISTANCES, math.inf)):
        tally.add(f"{name} distance {low}", error, known & (distance >= low) & (distance < high))
    fields = {"jump": flow, "true jump": truth, "error jump": flow - truth}
    for axis, edges in enumerate((rows, columns)):
        here = np.zeros(flow.shape[axis] - 1, bool)
        here[[edge - 1 for edge in edges]] = True
        at_seam = here[:, None] if axis == 0 else here[None]
        both = np.logical_and(*(np.take(known, range(s, s + known.shape[axis] - 1), axis) for s in (0, 1)))
        for what, field in fields.items():
            step = _length(np.diff(field, axis=axis))
            tally.add(f"{name} seam {what}", step, both & at_seam)
            tally.add(f"{name} elsewhere {what}", step, both & ~at_seam)


def seam_figures(tally: Tally, name: str) -> dict[str, Any]:
    """
    The figures of `add_seams`, in pixels.

    "excess" is a jump minus the true jump. A "ratio" divides the value at seams by the value elsewhere. Without artefacts the excess is
    the same in both places, and the ratios are those of the direct prediction.
    """
    places = ("seam", "elsewhere")
    figures: dict[str, Any] = {}
    for what in ("error", "jump", "true jump", "error jump"):
        key = what.replace(" ", "_")
        figures |= {f"{key}_{place}": tally.mean(f"{name} {place} {what}") for place in places}
        figures[f"{key}_ratio"] = tally.ratio(f"{name} seam {what}", f"{name} elsewhere {what}")
    for place in places:
        figures[f"excess_{place}"] = figures[f"jump_{place}"] - figures[f"true_jump_{place}"]
    figures["by_distance"] = [{"from": low, "epe": tally.mean(f"{name} distance {low}")} for low in DISTANCES]
    return figures


# ------------------------------------------------------------------ matches that no tile contains


def held(flow: np.ndarray, tile: Tile, overlap: float, patch: int = 16) -> np.ndarray:
    """(H, W) bool: whether a tile contains both the pixel and its match. False where the flow is unknown."""
    height, width = flow.shape[:2]
    x, y = _matches(flow)
    result = np.zeros((height, width), bool)
    starts = []
    for side, extent in zip((height, width), tile, strict=True):
        padded = -(-side // patch) * patch
        starts.append([(start, min(extent, padded)) for start in tile_positions(padded, min(extent, padded), overlap)])
    with np.errstate(invalid="ignore"):
        for (top, high), (left, wide) in itertools.product(*starts):
            box = (slice(top, top + high), slice(left, left + wide))
            down, right = y[box] - top, x[box] - left
            result[box] |= (down > -0.5) & (down < high - 0.5) & (right > -0.5) & (right < wide - 0.5)
    return result


def add_held(tally: Tally, name: str, flow: np.ndarray, pair: Pair, holds: np.ndarray) -> None:
    """Adds errors under "NAME held" (match in a tile), "NAME beyond" (match in no tile) and "NAME gone" (match not visible)."""
    error, known = errors_of(flow, pair.flow)
    gone = pair.unmatched()
    tally.add(f"{name} held", error, known & ~gone & holds)
    tally.add(f"{name} beyond", error, known & ~gone & ~holds)
    tally.add(f"{name} gone", error, known & gone)
