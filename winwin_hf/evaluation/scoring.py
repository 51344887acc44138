"""The loop that predicts and scores the frames of a data set, for `winwin evaluate` and for the evaluation during a training.

Every process takes every N-th frame. The rows of all frames are gathered and added with one rounding, so any number of processes
gives the same figures, to the last digit.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from winwin_hf.data.merging import translation
from winwin_hf.data.readers import DepthReader, FlowReader, SegmentationReader
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.sources import Source
from winwin_hf.evaluation.metrics import DepthMetric, FlowMetric, Metric, SegmentationMetric, TranslatedMetric, sum_rows
from winwin_hf.inference.predictor import Prediction
from winwin_hf.model.pixels_winwin import MAX_INPUT_PIXELS, check_pixels
from winwin_hf.task import TASKS


@dataclass
class Frame:
    """
    One decoded example.

    Attributes:
        image, second: uint8 RGB (H, W, 3).
        target: flow (2, H, W) or (2, 2H, 2W), depth (H, W) or labels (H, W); None without ground truth.
        occluded: bool, of the target's height and width, or None.
    """

    index: int
    name: str
    image: np.ndarray
    second: np.ndarray | None
    target: np.ndarray | None
    occluded: np.ndarray | None = None


@dataclass
class Scored:
    """
    One predicted image.

    Attributes:
        size: (height, width).
        row: its sums, see `Metric.row`; None without ground truth.
        seconds: of its prediction.
    """

    index: int
    name: str
    size: tuple[int, int]
    row: np.ndarray | None
    seconds: float


@dataclass
class Result:
    """
    What `score` found on a set.

    Attributes:
        figures: `Metric.compute` of all images with ground truth; empty if there are none.
        images: in the set's order.
        broken: (name, reason) of the examples that were left out.
        worst: (frame, prediction) of the worst images that this process predicted, the worst first.
    """

    figures: dict[str, Any]
    images: list[Scored]
    broken: list[tuple[str, str]]
    metric: Metric
    worst: list[tuple[Frame, np.ndarray]] = field(default_factory=list)

    def figures_of(self, image: Scored) -> dict[str, Any]:
        """The figures of one image alone."""
        return self.metric.compute(image.row) if image.row is not None else {}

    def seconds(self) -> float:
        """Median seconds of a prediction; the first ones, which fill caches, hardly change it."""
        return float(np.median([image.seconds for image in self.images])) if self.images else float("nan")


def new_metric(
    source: Source,
    double: str = "best",
    align: str | None = None,
    labels: Sequence[str] | None = None,
    synonyms: Mapping[str, Sequence[str]] | None = None,
) -> Metric:
    """
    An empty metric for a source, with its classes or its benchmark's depth range and crop.

    Args:
        double: for flow, see `FlowMetric`; "best" is how Spring's benchmark scores.
        align: for depth, see `DepthMetric`.
        labels, synonyms: of the network, where its classes may differ from the set's (`translation`).
    """
    entry = source.entry
    if source.task == "optical-flow":
        return FlowMetric(double=double)
    if source.task == "semantic-segmentation":
        names = source.labels or ()
        table = translation(labels, names, synonyms) if labels is not None and tuple(labels) != names else None
        return SegmentationMetric(len(names), names=names) if table is None else TranslatedMetric(table, names)
    low, high = entry.depth_range if entry else (1e-3, float("inf"))
    return DepthMetric(low, high, crop=entry.crop if entry else None, align=align)


def read_frame(source: Source, example: dict[str, Any]) -> Frame:
    """
    A whole frame as it is stored, or through the source's augmentation if it has one.

    Raises: BrokenExample; ValueError for a frame that is rendered with more pixels than a network takes, before it is.
    """
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
    check_pixels((sample.height, sample.width), MAX_INPUT_PIXELS, "smaller frames")
    whole = (0, 0, sample.height, sample.width)
    image, target = sample.first(whole)
    if source.task != "optical-flow":
        return Frame(index, name, image, None, target)
    return Frame(index, name, image, sample.second(whole), target.transpose(2, 0, 1))


def score(
    method: Callable[[np.ndarray, np.ndarray | None], Prediction],
    source: Source,
    metric: Metric,
    accelerator: Accelerator,
    length: int | None = None,
    skip_broken: bool = False,
    keep_worst: int = 0,
    on_prediction: Callable[[Frame, np.ndarray], None] | None = None,
    title: str = "",
) -> Result:
    """
    Predicts the frames of a source and scores those with ground truth. Every process returns the same figures.

    Args:
        method: a `Method`, or a function that is called like one. The `log_scale` of a flow is its uncertainty, for AUSE.
        length: use the first `length` examples; None: all.
        skip_broken: leave out examples that can't be read, instead of raising.
        keep_worst: how many of the worst frames to keep with their predictions, for pictures.
        on_prediction: called with each frame and its prediction, in the process that predicted it.
        title: of the progress bar.
    Raises:
        BrokenExample: an example can't be read, unless `skip_broken`.
        ValueError: no frame could be predicted.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    images: list[Scored] = []
    broken: list[tuple[int, str, str]] = []
    worst = _WorstFrames(keep_worst, source.task)
    total = None if not hasattr(source.dataset, "__len__") else -(-min(len(source), length or len(source)) // world)
    hidden = not accelerator.is_main_process
    for example in tqdm(source.examples(length, rank, world), title, total, disable=hidden, leave=False, mininterval=1):
        try:
            frame = read_frame(source, example)
        except BrokenExample as error:
            if not skip_broken:
                raise
            broken.append((int(example["index"]), str(example.get("name", example["index"])), str(error)))
            continue
        predicted = method(frame.image, frame.second)
        prediction = metric.fitted(predicted.values)
        row = None
        if frame.target is not None:
            maps = {}
            if source.task == "optical-flow":
                maps = {"occluded": frame.occluded, "uncertainty": predicted.log_scale}
            row = metric.row(prediction, frame.target, **maps)
            if keep_worst:
                worst.add(metric.compute(row), frame, prediction)
        size = (frame.image.shape[0], frame.image.shape[1])
        images.append(Scored(frame.index, frame.name, size, row, predicted.seconds))
        if on_prediction is not None:
            on_prediction(frame, prediction)
    if world > 1:
        images, broken = gather_object(images), gather_object(broken)
    images.sort(key=lambda image: image.index)
    if not images:
        raise ValueError(f"{source.name}: no frame could be predicted" + (f"; {broken[0][2]}" if broken else ""))
    rows = [image.row for image in images if image.row is not None]
    return Result(
        figures=metric.compute(sum_rows(rows)) if rows else {},
        images=images,
        broken=[(name, reason) for _, name, reason in sorted(broken)],
        metric=metric,
        worst=worst.gather(world),
    )


class _WorstFrames:
    """The `count` worst frames so far by their task's figure; of equal ones, the first of the set."""

    def __init__(self, count: int, task: str) -> None:
        self.count, self.task = count, TASKS[task]
        self.heap: list[tuple[float, int, Frame, np.ndarray]] = []  # (badness, -index, ...), the least bad first

    def add(self, figures: dict[str, Any], frame: Frame, prediction: np.ndarray) -> None:
        value = float(figures[self.task.figure])
        if not np.isfinite(value):
            return
        item = (value if self.task.lower_is_better else -value, -frame.index, frame, prediction)
        (heapq.heappush if len(self.heap) < self.count else heapq.heappushpop)(self.heap, item)

    def gather(self, world: int) -> list[tuple[Frame, np.ndarray]]:
        """Those of this process that are among the worst of all `world` processes, the worst first."""
        ranking = [item[:2] for item in self.heap]
        if world > 1:
            ranking = gather_object(ranking)
        mine = {item[:2]: item[2:] for item in self.heap}
        return [mine[place] for place in sorted(ranking, reverse=True)[: self.count] if place in mine]
