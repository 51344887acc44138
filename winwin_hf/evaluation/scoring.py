"""Scoring a predictor on whole frames: the one loop behind `winwin evaluate` and a training's own evaluation.

Notable:
- every process takes every n-th frame; the per-image sums of all frames are gathered and added with one rounding, so the
  figures are the same to the last digit with any number of processes.
- a frame that can't be read ends the scoring with its name, or with `skip_broken` is left out, counted and named.
- frames without ground truth are predicted (for a benchmark's submission) and not scored.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from winwin_hf.data.readers import DepthReader, FlowReader, SegmentationReader
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.sources import Source
from winwin_hf.evaluation.metrics import DepthMetric, FlowMetric, SegmentationMetric, sum_rows
from winwin_hf.task import TASKS

Metric = FlowMetric | SegmentationMetric | DepthMetric


@dataclass
class Frame:
    """One decoded example. image, second: uint8 (H, W, 3). target: flow (2, H, W) or twice as high and wide, depth (H, W), labels
    (H, W); None where the set has no ground truth. occluded: bool, of the target's size, or None."""

    index: int
    name: str
    image: np.ndarray
    second: np.ndarray | None
    target: np.ndarray | None
    occluded: np.ndarray | None = None


@dataclass
class Scored:
    """One image's result: its sums (`Metric.row`) and the seconds of its prediction."""

    index: int
    name: str
    size: tuple[int, int]
    row: np.ndarray | None
    seconds: float


@dataclass
class Result:
    """What a set gave. figures: `Metric.compute` of all scored images. images: in the set's order. broken: (name, reason) of those
    left out. worst: (frame, prediction), the worst first, of those this process has."""

    figures: dict[str, Any]
    images: list[Scored]
    broken: list[tuple[str, str]]
    metric: Metric
    worst: list[tuple[Frame, np.ndarray]] = field(default_factory=list)

    def figures_of(self, image: Scored) -> dict[str, Any]:
        """The figures of one image alone."""
        return self.metric.compute(image.row) if image.row is not None else {}

    def seconds(self) -> float:
        """Median seconds of a prediction: the first ones warm caches up."""
        return float(np.median([image.seconds for image in self.images])) if self.images else float("nan")


def new_metric(source: Source, double: str = "best", align: str | None = None) -> Metric:
    """The metric of a source's task, empty. double: of flow, see FlowMetric ("best" is how Spring's benchmark scores). align: of
    depth, see DepthMetric."""
    entry = source.entry
    if source.task == "optical-flow":
        return FlowMetric(double=double)
    if source.task == "semantic-segmentation":
        labels = source.labels or ()
        return SegmentationMetric(len(labels), names=labels)
    low, high = entry.depth_range if entry else (1e-3, float("inf"))
    return DepthMetric(low, high, crop=entry.crop if entry else None, align=align)


def read_frame(source: Source, example: dict[str, Any]) -> Frame:
    """A whole frame: as it is stored, or through the source's augmentation if it has one. Raises BrokenExample."""
    index, reader = int(example["index"]), source.reader
    name = str(example.get("name") or f"{source.name}-{index:06d}")
    if getattr(reader, "augmentation", None) is None and isinstance(reader, FlowReader):
        pair = reader.decode(example)
        flow = None if pair.flow is None else pair.flow.transpose(2, 0, 1)
        return Frame(index, name, pair.image1, pair.image2, flow, pair.occluded)
    if getattr(reader, "augmentation", None) is None and isinstance(reader, DepthReader | SegmentationReader):
        image, target = reader.decode(example)
        return Frame(index, name, image, None, target)
    sample = reader(example, np.random.default_rng(index))
    box = (0, 0, sample.height, sample.width)
    image, target = sample.first(box)
    if source.task != "optical-flow":
        return Frame(index, name, image, None, target)
    return Frame(index, name, image, sample.second(box), target.transpose(2, 0, 1))


def score(
    predict: Callable[[np.ndarray, np.ndarray | None], np.ndarray],
    source: Source,
    metric: Metric,
    accelerator: Accelerator,
    length: int | None = None,
    skip_broken: bool = False,
    keep_worst: int = 0,
    done: Callable[[Frame, np.ndarray], None] | None = None,
    title: str = "",
) -> Result:
    """
    Predicts every frame (the first `length`) of a source and scores those with ground truth. Same figures in every process.

    Args:
        predict: see predictors.py. If it has an attribute `uncertainty`, that is the last prediction's, for the flow's AUSE.
        keep_worst: so many of the worst frames are kept with their predictions, for pictures.
        done: called in the process that predicted it, with each frame and its prediction.
    Raises: BrokenExample, unless `skip_broken`; ValueError if nothing could be predicted.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    key, less = TASKS[source.task].figure, TASKS[source.task].lower_is_better
    images: list[Scored] = []
    broken: list[tuple[int, str, str]] = []
    worst: list[tuple[float, int, Frame, np.ndarray]] = []  # a heap whose first is the best of the worst
    total = None if not hasattr(source.dataset, "__len__") else -(-min(len(source), length or len(source)) // world)
    shown = accelerator.is_main_process
    with tqdm(total=total, desc=title, disable=not shown, leave=False, mininterval=1) as bar:
        for example in source.examples(length, rank, world):
            try:
                frame = read_frame(source, example)
            except BrokenExample as error:
                if not skip_broken:
                    raise
                broken.append((int(example["index"]), str(example.get("name", example["index"])), str(error)))
                bar.update()
                continue
            start = time.perf_counter()
            prediction = predict(frame.image, frame.second)
            seconds = time.perf_counter() - start
            row = None
            if frame.target is not None:
                masks = {}
                if source.task == "optical-flow":
                    masks = {"occluded": frame.occluded, "uncertainty": getattr(predict, "uncertainty", None)}
                row = metric.row(prediction, frame.target, **masks)
                value = float(metric.compute(row)[key])
                if keep_worst and np.isfinite(value):
                    item = (value if less else -value, -frame.index, frame, prediction)
                    (heapq.heappush if len(worst) < keep_worst else heapq.heappushpop)(worst, item)
            size = (frame.image.shape[0], frame.image.shape[1])
            images.append(Scored(frame.index, frame.name, size, row, seconds))
            if done is not None:
                done(frame, prediction)
            bar.update()
    if world > 1:
        images, broken = gather_object(images), gather_object(broken)
        ranking = gather_object([item[:2] for item in worst])
    else:
        ranking = [item[:2] for item in worst]
    images.sort(key=lambda image: image.index)
    if not images:
        raise ValueError(f"{source.name}: no frame could be predicted" + (f"; {broken[0][2]}" if broken else ""))
    rows = [image.row for image in images if image.row is not None]
    state = sum_rows(rows) if rows else metric.state
    chosen = sorted(ranking, reverse=True)[:keep_worst]
    mine = {item[:2]: item[2:] for item in worst}
    return Result(
        metric.compute(state) if rows else {},
        images,
        [(name, reason) for _, name, reason in sorted(broken)],
        metric,
        [mine[place] for place in chosen if place in mine],
    )
