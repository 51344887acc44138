"""Is a data set on disk whole and readable? Every file is listed and decoded; the figures show wrong units.

Notable:
- Worker processes get one row at a time through a pipe. So a file that crashes its process (a damaged HDF5 can crash the C
  library) is named, and a new process goes on; with `workers=0` it would take the caller with it.
- Without a name, every catalogued set is tried on the folder, which lists files but opens none. The sets that take any
  folder of images ("...-folder") count only where no other does.
- Figures are sums over known pixels, so they cost nothing beside decoding.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.benchmarks.entry import DataSet
from winwin_hf.data.formats.files import bytes_text
from winwin_hf.data.readers import FlowReader, SegmentationReader, plain_reader
from winwin_hf.data.rows import BrokenExample, Found, paths_of
from winwin_hf.data.sample import IGNORE
from winwin_hf.task import DataTask

SHOWN = 10  # missing and broken files that a table lists; the JSON has all
# Metres. Outside lies no scene that a network is trained on, but a file read in other units.
PLAUSIBLE_DEPTH = (0.1, 1000.0)


# ------------------------------------------------------------------------------------------------------------- the report


@dataclass
class SplitReport:
    """
    What was found of one split.

    examples: complete ones, the broken ones included. missing: path of each missing file. broken: a message for each example
    that can't be decoded; None if nothing was decoded.
    sizes: "HEIGHTxWIDTH" of the images -> how many examples have it. truth: examples with ground truth.
    known: share of their pixels whose ground truth is known. figures: of those pixels: mean and largest motion (px); smallest, mean
    and largest depth (m). classes: share of each class in them, by its name or id.
    bytes: of all files, each counted once. hints: what looks wrong but may be right.
    """

    name: str
    task: DataTask
    split: str
    examples: int
    missing: list[str] = field(default_factory=list)
    broken: list[str] | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    truth: int = 0
    known: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    classes: dict[str, float] | None = None
    bytes: int = 0
    seconds: float = 0.0
    hints: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.examples > 0 and not self.missing and not self.broken


@dataclass
class Report:
    """What `check` found. absent: "name:split" of splits that aren't there -> why; that is no fault."""

    root: str
    splits: list[SplitReport]
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing is missing or broken."""
        return bool(self.splits) and all(split.ok for split in self.splits)

    def json(self) -> str:
        """Everything, as a JSON text."""
        splits = [{**asdict(split), "ok": split.ok} for split in self.splits]
        return json.dumps({"root": self.root, "ok": self.ok, "splits": splits, "absent": self.absent}, indent=2)

    def lines(self, shown: int = SHOWN) -> list[str]:
        """Plain text, without a table."""
        lines = [
            ": ".join((f"{split.name}:{split.split}", ", ".join(text for text in _cells(split) if text)))
            for split in self.splits
        ]
        return lines + [text for text, _ in self._remarks(shown)]

    def __rich__(self) -> Group:
        table = Table("set", "split", "examples", "files", "image size", "ground truth", "figures", "size, time")
        for split in self.splits:
            style = "green" if split.ok else "red"
            table.add_row(Text(split.name, style), Text(split.split), *map(Text, _cells(split)))
        return Group(table, *(Text(text, style) for text, style in self._remarks(SHOWN)))

    def _remarks(self, shown: int) -> Iterator[tuple[str, str]]:
        """(line, style) for whatever doesn't fit into a table's row."""
        for split in self.splits:
            for what, messages in (("missing", split.missing), ("broken", split.broken or [])):
                yield from ((f"{what}: {message}", "red") for message in messages[:shown])
                if len(messages) > shown:
                    yield f"{what}: {len(messages) - shown} more in {split.name}:{split.split}", "red"
            yield from ((f"look at {split.name}:{split.split}: {hint}", "yellow") for hint in split.hints)
            if split.classes is not None:
                shares = sorted(split.classes.items(), key=lambda item: -item[1])
                text = ", ".join(f"{name} {share:.1%}" for name, share in shares[:shown])
                more = f", {len(shares) - shown} more" if len(shares) > shown else ""
                yield f"classes of {split.name}:{split.split}: {text}{more}", "dim"
        for key, reason in self.absent.items():
            yield f"not here: {key} ({reason.partition(': ')[0]})", "dim"


def _cells(split: SplitReport) -> list[str]:
    """Of a table's row, after the names: examples, files, sizes, ground truth, figures, cost."""
    faults = [f"{len(split.missing)} missing"] if split.missing else []
    if split.broken is not None:
        faults += [f"{len(split.broken)} broken"] if split.broken else ["all decoded"]
    sizes = sorted(split.sizes, key=_pixels)
    extent = " to ".join(dict.fromkeys((sizes[0], sizes[-1]))) if sizes else ""
    if len(sizes) > 2:
        extent += f" ({len(sizes)} sizes)"
    truth = "none" if split.broken is not None and not split.truth else ""
    if split.known is not None:
        few = f" in {split.truth}" if split.truth < split.examples - len(split.broken or []) else ""
        truth = f"{split.known:.1%} known{few}"
    unit = "px" if split.task == "optical-flow" else "m"
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.2f} {unit}" for name, value in split.figures.items())
    if split.classes is not None:
        figures = f"{len(split.classes)} classes"
    examples = f"{split.examples} example{'s' * (split.examples != 1)}"
    return [examples, ", ".join(faults), extent, truth, figures, f"{bytes_text(split.bytes)} in {split.seconds:.1f} s"]


def _pixels(size: str) -> tuple[int, str]:
    height, _, width = size.partition("x")
    return int(height) * int(width), size


# --------------------------------------------------------------------------------------------------------------- checking


def check(
    root: str | Path,
    name: str | None = None,
    splits: Sequence[str] | None = None,
    workers: int = 0,
    decode: bool = True,
    progress: bool = False,
    **options: Any,
) -> Report:
    """
    Looks through the folder of a data set.

    Args:
        root: what the set was unpacked to.
        name: of the set; None: each one that is found there.
        splits: only these; None: all that are there.
        workers: processes that decode. 0: this one, which a file that crashes a C library would end.
        decode: decode every file; without, files are listed only.
        progress: show a bar, on stderr.
        options: keywords of the set's own function.
    Raises: FileNotFoundError if there is no such folder, none of the splits asked for is there, or no known set is; ValueError for
        an unknown name, split or option.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected what a data set was unpacked to")
    if name is None:
        if options:
            raise ValueError(f"options ({', '.join(options)}) belong to one data set: expected its name")
        found, absent = discover(root, splits)
    else:
        found, absent = _find(catalog.entry_of(name), root, splits, options)
    reports = [
        check_split(entry, split, files, root=root, workers=workers, decode=decode, progress=progress)
        for entry, split, files in found
    ]
    return Report(str(root), reports, absent)


Hits = list[tuple[DataSet, str, Found]]


def _find(
    entry: DataSet, root: Path, splits: Sequence[str] | None, options: dict[str, Any]
) -> tuple[Hits, dict[str, str]]:
    """The splits of a named set that are in the folder, and why the others aren't. Raises where one that was asked for isn't,
    or none is."""
    hits: Hits = []
    absent: dict[str, str] = {}
    errors: list[Exception] = []
    for split in splits or entry.splits:
        try:
            hits.append((entry, split, catalog.find(entry.name, root, split, **options)))
        except FileNotFoundError as error:
            if splits:
                raise
            errors.append(error)
            absent[f"{entry.name}:{split}"] = str(error)
    if not hits:
        raise errors[0]
    return hits if splits else _without_union(hits), absent


def discover(root: Path, splits: Sequence[str] | None = None) -> tuple[Hits, dict[str, str]]:
    """Every catalogued set that the folder holds files of, by listing alone; and the splits of those that aren't there.

    Raises FileNotFoundError where there is none.
    """
    specific: Hits = []
    generic: Hits = []
    absent: dict[str, str] = {}
    for entry in catalog.SETS.values():
        for split in entry.splits if splits is None else [split for split in entry.splits if split in splits]:
            try:
                found = entry.find(root, split)
            except (FileNotFoundError, NotADirectoryError, ValueError) as error:
                absent[f"{entry.name}:{split}"] = str(error)
                continue
            if found.rows or found.missing:
                (generic if entry.name.endswith("-folder") else specific).append((entry, split, found))
    # a set without one complete example is told of only where nothing else is found
    for hits in ([hit for hit in specific if hit[2].rows], [hit for hit in generic if hit[2].rows], specific, generic):
        if hits:
            names = {entry.name for entry, _, _ in hits}
            absent = {key: reason for key, reason in absent.items() if key.partition(":")[0] in names}
            return hits if splits else _without_union(hits), absent
    wanted = f" with a split {' or '.join(splits)}" if splits else ""
    raise FileNotFoundError(
        f"{root}: holds none of the {len(catalog.SETS)} data sets that the package knows{wanted}, in the layout that they unpack in; "
        "give the set's name to see what was expected"
    )


def _without_union(hits: Hits) -> Hits:
    """Without each split "all" that is the others together: nothing is decoded twice."""
    others = {entry.name for entry, split, found in hits if split != "all" and found.rows}
    return [hit for hit in hits if hit[1] != "all" or hit[0].name not in others]


def check_split(
    entry: DataSet,
    split: str,
    found: Found,
    root: Path | None = None,
    workers: int = 0,
    decode: bool = True,
    progress: bool = False,
) -> SplitReport:
    """Checks what was found of one split; see `check`. root: where a set's class names may lie."""
    start = time.monotonic()
    report = SplitReport(entry.name, entry.task, split, len(found.rows), list(found.missing))
    paths = {path.partition("::")[0] for row in found.rows for path in paths_of(row, entry.task)}
    gone = []
    for path in sorted(paths):
        try:
            report.bytes += Path(path).stat().st_size
        except OSError as error:  # a link that leads nowhere
            gone.append(f"{path} ({error.strerror})")
    report.missing += gone
    repeated = [name for name, count in Counter(row["name"] for row in found.rows).items() if count > 1]
    if repeated:
        report.hints.append(f"{len(repeated)} names aren't unique, such as {repeated[0]}")
    if decode:
        labels = entry.labels
        if entry.task == "semantic-segmentation" and root is not None and labels is None:
            labels = catalog.labels_of(entry.name, root)
        with tqdm(total=len(found.rows), desc=f"{entry.name}:{split}", disable=not progress, unit="ex") as bar:
            _decode(report, found.rows, labels, workers, bar)
    report.seconds = time.monotonic() - start
    return report


# --------------------------------------------------------------------------------------------------------------- decoding


@dataclass
class Measured:
    """A decoded example, or the sum of several. size: of the first image. truth: with ground truth. pixels: of it; known: how many
    of them are. total, smallest, largest: motion in pixels or depth in metres. diagonal: of the largest frame, in its own pixels.
    classes: pixels of each id."""

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


def _decode(
    report: SplitReport, rows: Sequence[dict[str, Any]], labels: Sequence[str] | None, workers: int, bar: Any
) -> None:
    """Fills in what only decoding tells."""
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
    report.sizes = dict(sorted(sizes.items(), key=lambda item: _pixels(item[0])))
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


def _hints(report: SplitReport, sums: Measured) -> list[str]:
    hints = []
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


Result = tuple[int, "Measured | str"]


def _attempt(reader: Any, row: dict[str, Any]) -> Measured | str:
    """The measured row, or the message of what is wrong with it."""
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
    connection.send("ready")
    try:
        while (row := connection.recv()) is not None:
            connection.send(_attempt(reader, row))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):  # the caller is gone
        pass


@dataclass
class _Worker:
    process: Any
    connection: Any
    index: int | None = None  # of the row that it has


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
            worker.process.terminate()
            worker.process.join()


def _ending(code: int | None) -> str:
    """An exit code in words."""
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            pass
    return f"exit code {code}"
