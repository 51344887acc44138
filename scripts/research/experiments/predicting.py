"""Optical flow of a network in one pass or in tiles: predictions, their time, their scores.

Tiles are blended as CroCo-Flow blends them (winwin_hf/inference/flow.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from research.experiments.context import Context
from research.experiments.fields import Pair, Tally, Tile, add_errors, bands_of, read_pairs
from winwin_hf import bundled
from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.sources import Source, open_source
from winwin_hf.inference.flow import predict_flow
from winwin_hf.inference.predictor import Predictor
from winwin_hf.own_files import sha256_of

CHECKPOINT = "winwin-flow"
ALIASES = {"sintel": "sintel-clean"}


# ------------------------------------------------------------------ frames


@dataclass(frozen=True)
class FlowSet:
    """Frames to predict. key: in the JSON file. pairs: the most to read."""

    key: str
    label: str
    source: Source
    pairs: int

    def read(self) -> Iterator[Pair]:
        return read_pairs(self.source, self.pairs)


def synthetic(size: tuple[int, int], motion: float, pairs: int) -> FlowSet:
    """Held-out scenes of one size in pixels. motion: mean motion in pixels at 384x512."""
    settings = {"sizes": [list(size)], "motion": motion}
    source = open_source("synthetic-flow", split="val", settings=settings)
    return FlowSet("synthetic", f"synthetic {size[0]}x{size[1]}, motion {motion:g}", source, pairs)


def real_sets(context: Context, pairs: int) -> list[FlowSet]:
    """The flow sets of --data, in the split with ground truth, without pairs whose files are missing or broken."""
    found = []
    for given, path in context.data.items():
        name = ALIASES.get(given, given)
        if name in catalog.SETS and catalog.SETS[name].task == "optical-flow":
            source = open_source(name, path, catalog.entry_of(name).scored, skip_broken=True)
            found.append(FlowSet(name, name, source, pairs))
    return found


# ------------------------------------------------------------------ predicting


@dataclass(frozen=True)
class Way:
    """A way to predict a frame: in one pass (tile is None), or in tiles of (height, width) pixels."""

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
    """flow: (H, W, 2). seconds, cpu_seconds: of the network."""

    flow: np.ndarray
    passes: int
    seconds: float
    cpu_seconds: float


def load(name: str | Path) -> Predictor:
    """A flow network: a bundled checkpoint by name, or a training's model folder. Raises ValueError for another task."""
    return Predictor.load(name, "optical-flow", min_pixels=0, dtype=torch.float32)


def place_of(context: Context) -> Path:
    """The folder of the bundled network's scores, a different one for each version of its weights."""
    weights = bundled.folders()[CHECKPOINT] / "model.safetensors"
    return context.work / f"{CHECKPOINT}-{sha256_of(weights)[:8]}"


def predict(network: Predictor, pair: Pair, way: Way = Way()) -> Prediction:
    """Predicts one pair in float32."""
    model, processor = network.model, network.processor
    inputs = processor(images=pair.image, second_images=pair.second, return_tensors="pt").to(model.device)
    with torch.inference_mode(), clock(model.device) as spent:
        outputs = predict_flow(model, inputs["pixel_values"], inputs["second_pixel_values"], way.tile, way.overlap)
    flow = processor.post_process_optical_flow(outputs, target_sizes=[pair.size])[0]["flow"]
    array = np.ascontiguousarray(flow.permute(1, 2, 0).float().cpu().numpy())
    return Prediction(array, outputs.passes, *spent)


@contextmanager
def clock(device: torch.device) -> Iterator[list[float]]:
    """Gives a list that holds seconds and CPU seconds of what happens within, at the end."""
    spent: list[float] = []
    start = time.perf_counter(), time.process_time()
    yield spent
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    spent += [time.perf_counter() - start[0], time.process_time() - start[1]]


def score(network: Predictor, pairs: Iterable[Pair], way: Way, edges: Sequence[float]) -> dict[str, Any]:
    """
    Scores predictions of pairs, and zero flow beside them.

    Returns: "epe" over all pixels, "epe_matched" over pixels visible in both frames, "bands" by true displacement; "relative", the EPE in
        percent of zero flow's; "seconds" and "cpu_seconds" of the network for the median pair, and "time", the one of both that fits the
        device; "passes" of the last pair.
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
