"""Checks that a data set on disk is complete and readable; figures of its ground truth show wrong units.

Without a name, every catalogued set is tried on the folder, which lists files but opens none. The sets that fit any folder of
images ("...-folder") count only if no other does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.benchmarks.check_report import Report, SplitReport
from winwin_hf.data.benchmarks.decoding import decode_rows
from winwin_hf.data.benchmarks.entry import DataSet
from winwin_hf.data.rows import Found, paths_of


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
    Lists and decodes every file of a data set's folder.

    Args:
        root: the folder that the set was unpacked to.
        name: of the set; None: every known set in the folder.
        splits: only these, or slices such as "train[:80%]"; None: all that exist.
        workers: number of processes that decode. 0: this process, which a file that crashes a C library would end.
        decode: False: only list the files.
        progress: show a bar, on stderr.
        options: keywords of the set's own function.
    Raises: FileNotFoundError for a missing folder or split, or a folder without a known set; ValueError for an unknown name, split
        or option.
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
    """The splits of a named set in the folder, and why others are absent. Raises if a requested split, or every one, is absent."""
    hits: Hits = []
    absent: dict[str, str] = {}
    errors: list[Exception] = []
    for split in splits or entry.splits:
        try:
            found = catalog.find(entry.name, root, split, **options)
            hits.append((entry, split, catalog.part_of(found, split, entry.task)))
        except FileNotFoundError as error:
            if splits:
                raise
            errors.append(error)
            absent[f"{entry.name}:{split}"] = str(error)
    if not hits:
        raise errors[0]
    return hits if splits else _without_union(hits), absent


def discover(root: Path, splits: Sequence[str] | None = None) -> tuple[Hits, dict[str, str]]:
    """Every catalogued set with files in the folder, by listing alone; and why their other splits are absent.

    Raises FileNotFoundError if there is no such set.
    """
    specific: Hits = []
    generic: Hits = []
    absent: dict[str, str] = {}
    faults: dict[str, ValueError] = {}
    for entry in catalog.SETS.values():
        for split in entry.splits if splits is None else [s for s in splits if s.partition("[")[0] in entry.splits]:
            try:
                found = catalog.part_of(catalog.find(entry.name, root, split), split, entry.task)
            except (FileNotFoundError, NotADirectoryError, ValueError) as error:
                absent[f"{entry.name}:{split}"] = str(error)
                if isinstance(error, ValueError):
                    faults.setdefault(entry.name, error)
                continue
            if found.rows or found.missing:
                (generic if entry.name.endswith("-folder") else specific).append((entry, split, found))
    # sets without a complete example, and those that fit any folder, are reported only if there is no other
    fault = next((error for name, error in faults.items() if name.endswith("-folder")), None)
    complete = [hit for hit in generic if hit[2].rows]
    # such as a names.txt that is wrong, rather than what would lack for another task
    for hits in ([hit for hit in specific if hit[2].rows], complete, specific, [] if fault else generic):
        if hits:
            names = {entry.name for entry, _, _ in hits}
            # with splits of which all are incomplete
            hits = [hit for hit in (*specific, *generic) if hit[0].name in names]
            if wrong := next((faults[name] for name in names if name in faults), None):
                raise wrong  # a split that is there, and can't be read
            absent = {key: reason for key, reason in absent.items() if key.partition(":")[0] in names}
            return hits if splits else _without_union(hits), absent
    if fault:
        raise fault
    wanted = f" with a split {' or '.join(splits)}" if splits else ""
    raise FileNotFoundError(
        f"{root}: holds none of the {len(catalog.SETS)} data sets that the package knows{wanted}, in the layout that they unpack in; "
        "give the set's name to see what was expected"
    )


def _without_union(hits: Hits) -> Hits:
    """The hits without a split "all" that is the union of the others, so that nothing is decoded twice."""
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
    """Checks the files of one split; see `check`. root: the folder of a set that has a names.txt of its classes."""
    start = time.monotonic()
    report = SplitReport(entry.name, entry.task, split, len(found.rows), list(found.missing))
    paths = {path.partition("::")[0] for row in found.rows for path in paths_of(row, entry.task)}
    gone = []
    for path in sorted(paths):
        try:
            report.bytes += Path(path).stat().st_size
        except OSError as error:  # a dangling link
            gone.append(f"{path} ({error.strerror})")
    report.missing += gone
    repeated = [name for name, count in Counter(row["name"] for row in found.rows).items() if count > 1]
    if repeated:
        report.hints.append(f"{len(repeated)} names aren't unique, such as {repeated[0]}")
    if decode:
        labels = entry.labels
        if entry.task == "semantic-segmentation" and root is not None and labels is None:
            labels = catalog.labels_of(entry.name, root)
            if labels is None:
                report.hints.append(
                    "no names.txt: a training needs the names of the classes there, or as its option names"
                )
        with tqdm(total=len(found.rows), desc=f"{entry.name}:{split}", disable=not progress, unit="ex") as bar:
            decode_rows(report, found.rows, labels, workers, bar)
    report.seconds = time.monotonic() - start
    return report
