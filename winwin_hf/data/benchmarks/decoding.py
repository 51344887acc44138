"""Decodes every row of a split, in this process or in workers, and measures it.

Worker processes get one row at a time through a pipe. So a file that crashes its process (a damaged HDF5 can crash the C library)
is named, and a new process continues; with `workers=0` the crash would end the caller.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from winwin_hf.data.benchmarks.check_report import SplitReport, size_key
from winwin_hf.data.formats import IGNORE
from winwin_hf.data.readers import WHAT_255_MEANS, FlowReader, SegmentationReader, plain_reader
from winwin_hf.data.rows import BrokenExample, paths_of
from winwin_hf.pools import blocked_signals, ignore_stop_signals
from winwin_hf.task import DataTask

PLAUSIBLE_DEPTH = (0.3, 1000.0)  # metres; a mean depth outside is a sign of other units, or of a picture's 8 bits


@dataclass
class Measured:
    """Measurements of one example, or their sum. size: (height, width) of the image. truth: number of examples with ground truth.
    pixels, known: numbers of its pixels, and of the known ones. total, smallest, largest: of motion in pixels or depth in metres.
    diagonal: the largest frame's, in its own pixels. classes: number of pixels of each id."""

    size: tuple[int, int] = (0, 0)
    truth: int = 0
    pixels: int = 0
    known: int = 0
    total: float = 0.0
    smallest: float = math.inf
    largest: float = -math.inf
    diagonal: float = 0.0
    classes: np.ndarray | None = None

    def add(self, other: Measured) -> None:
        self.truth += other.truth
        self.pixels += other.pixels
        self.known += other.known
        self.total += other.total
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)
        self.diagonal = max(self.diagonal, other.diagonal)
        if other.classes is not None:
            self.classes = other.classes if self.classes is None else self.classes + other.classes


def measure(reader: Any, row: dict[str, Any]) -> Measured:
    """Decodes a row. Raises BrokenExample."""
    decoded = reader.decode(row)
    if isinstance(reader, FlowReader):
        image, target = decoded.image1, decoded.flow
    else:
        image, target = decoded
    measured = Measured(size=image.shape[:2], diagonal=math.hypot(*image.shape[:2]))
    if target is None:
        return measured
    measured.truth, measured.pixels = 1, target.shape[0] * target.shape[1]
    if isinstance(reader, SegmentationReader):
        counts = np.bincount(target.reshape(-1), minlength=256)
        measured.known, measured.classes = int(measured.pixels - counts[IGNORE]), counts[:IGNORE]
        return measured
    values = np.hypot(target[..., 0], target[..., 1]) if target.ndim == 3 else target
    values = values[~np.isnan(values)]
    measured.known = values.size
    if values.size:
        measured.total = float(values.sum(dtype=np.float64))
        measured.smallest, measured.largest = float(values.min()), float(values.max())
    return measured


def decode_rows(
    report: SplitReport, rows: Sequence[dict[str, Any]], labels: Sequence[str] | None, workers: int, bar: Any
) -> None:
    """Decodes the rows and fills in the report's fields that need it."""
    reader = plain_reader(report.task, labels)
    results = _in_processes(reader, rows, report.task, workers) if workers else _in_turn(reader, rows)
    sums, broken, sizes = Measured(), {}, Counter[str]()
    for index, result in results:
        bar.update()
        if isinstance(result, str):
            broken[index] = result
        else:
            sums.add(result)
            sizes["x".join(map(str, result.size))] += 1
    report.broken = [broken[index] for index in sorted(broken)]
    report.sizes = dict(sorted(sizes.items(), key=lambda item: size_key(item[0])))
    report.truth = sums.truth
    report.known = sums.known / sums.pixels if sums.pixels else None
    if sums.classes is not None:
        count = len(labels) if labels else int(np.flatnonzero(sums.classes).max(initial=-1)) + 1
        names = labels or [str(k) for k in range(count)]
        report.classes = {
            name: float(n) / max(sums.known, 1) for name, n in zip(names, sums.classes[:count], strict=True)
        }
    elif sums.known:
        mean = sums.total / sums.known
        report.figures = {"mean_motion": mean, "largest_motion": sums.largest}
        if report.task == "depth-estimation":
            report.figures = {
                "smallest_depth": sums.smallest,
                "mean_depth": mean,
                "largest_depth": sums.largest,
            }
    report.hints += _hints(report, sums)
    if report.task == "semantic-segmentation" and sums.truth:
        _judge_classes(report, sums, labels)


def _hints(report: SplitReport, sums: Measured) -> list[str]:
    hints = []
    if report.name == "masks-folder" and any("holds the ids" in message for message in report.broken or ()):
        hints.append(
            "masks hold ids that aren't listed: add their names to names.txt, or give each class its stored value there (`lesion = 255`), "
            "or leave them out (option ignored)"
        )
    if sums.truth and not sums.known:
        hints.append(f"the ground truth of all {sums.truth} examples is unknown everywhere")
    if report.task == "optical-flow" and sums.known and sums.largest > sums.diagonal:
        hints.append(
            f"a motion of {sums.largest:.0f} px is longer than the frame's diagonal of {sums.diagonal:.0f} px: "
            "are these unknown vectors, or another unit?"
        )
    if report.task == "depth-estimation" and sums.known:
        mean, (low, high) = sums.total / sums.known, PLAUSIBLE_DEPTH
        if not low <= mean <= high:
            hints.append(f"a mean depth of {mean:.3g} m: are these metres?")
        if sums.smallest < 0:
            hints.append(f"a negative depth of {sums.smallest:.3g} m")
    return hints


def _judge_classes(report: SplitReport, sums: Measured, labels: Sequence[str] | None) -> None:
    """Faults and hints about which classes occur."""
    occurring = [name for name, share in (report.classes or {}).items() if share]
    if len(occurring) < 2 and sums.known < sums.pixels:
        held = f"only the class {occurring[0]}" if occurring else "no class"
        report.faults.append(f"its masks hold {held}, and 255: {WHAT_255_MEANS}")
    elif len(occurring) < 2:
        report.hints.append(
            f"its masks hold a single class ({', '.join(occurring)}): nothing can be learnt from these alone"
        )
    absent = [name for name in labels or () if name not in occurring]
    if absent and len(occurring) > 1:
        more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
        report.hints.append(f"no pixel is of {', '.join(absent[:10])}{more}: can't be learnt or scored here")


Result = tuple[int, "Measured | str"]


def _attempt(reader: Any, row: dict[str, Any]) -> Measured | str:
    """The measured row, or an error message."""
    try:
        return measure(reader, row)
    except BrokenExample as error:
        return str(error)
    except Exception as error:  # a decoder's own kind of error is a broken file, too
        return f"{row.get('name')}: {type(error).__name__}: {error}"


def _in_turn(reader: Any, rows: Iterable[dict[str, Any]]) -> Iterator[Result]:
    for index, row in enumerate(rows):
        yield index, _attempt(reader, row)


def _serve(connection: Any, reader: Any) -> None:
    """A worker process: rows in, results out, until a None comes."""
    ignore_stop_signals()
    try:
        connection.send("ready")
        while (row := connection.recv()) is not None:
            connection.send(_attempt(reader, row))
    except (EOFError, ConnectionError):  # the caller has ended
        pass


@dataclass
class _Worker:
    process: Any
    connection: Any
    index: int | None = None  # of the row it is decoding


def _in_processes(reader: Any, rows: Sequence[dict[str, Any]], task: DataTask, workers: int) -> Iterator[Result]:
    """(index, result) of every row, as they come. Raises RuntimeError if processes can't be started at all."""
    # A fork of this process would inherit locks that its threads (OpenCV's, Arrow's) hold; a server without threads doesn't.
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["winwin_hf.data.readers"])

    def start() -> _Worker:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, reader), daemon=True)
        with blocked_signals():  # also in the moments before it ignores them
            process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        return _Worker(process, ours)

    waiting = deque(range(len(rows)))
    pool = [start() for _ in range(min(workers, len(rows)))]
    try:
        while pool:
            ready = wait([worker.connection for worker in pool])
            for worker in [worker for worker in pool if worker.connection in ready]:
                try:
                    result = worker.connection.recv()
                except (EOFError, OSError):  # the process has ended
                    pool.remove(worker)
                    worker.process.join()
                    ending = _ending(worker.process.exitcode)
                    if worker.index is None:
                        raise RuntimeError(
                            f"a worker process ended before it began ({ending}); a script that checks with workers "
                            "needs `if __name__ == '__main__':`"
                        ) from None
                    row = rows[worker.index]
                    paths = ", ".join(paths_of(row, task))
                    yield worker.index, f"{row['name']}: decoding it ended the process ({ending}): {paths}"
                    if waiting:
                        pool.append(start())
                    continue
                if worker.index is not None:
                    yield worker.index, result
                worker.index = waiting.popleft() if waiting else None
                worker.connection.send(None if worker.index is None else rows[worker.index])
                if worker.index is None:
                    pool.remove(worker)
                    worker.process.join()
                    worker.connection.close()
    finally:
        for worker in pool:
            worker.process.kill()
            worker.process.join()


def _ending(code: int | None) -> str:
    """An exit code in words."""
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            pass
    return f"exit code {code}"
