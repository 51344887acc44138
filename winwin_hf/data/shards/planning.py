"""Which rows go into which shard, found from the sizes and times of their files; nothing is read.

A shard is identified by the digest of its rows: names, formats, and each file's path, size and time of change. An interrupted run
finds its finished shards by it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import numpy as np

from winwin_hf.data.formats.files import read_json
from winwin_hf.data.readers import examined
from winwin_hf.data.rows import COLUMNS, BrokenExample, cells_of, paths_of
from winwin_hf.data.shards.opening import SUFFIXES
from winwin_hf.own_files import sha256_of
from winwin_hf.task import TASKS, DataTask

UNPACKED = 8 * 2**20  # bytes that one entry of a file of many is assumed to take at most

# Suffixes that `load_dataset("webdataset")` would decode, and fail at: a Hypersim .h5 isn't an image.
NEUTRAL = {".h5": ".hdf5", ".hdf": ".hdf5", ".npz": ".zip", "": ".bin"}


@dataclass
class Row:
    """index: in the table. size: bytes of its files. files: their number. digest: of its name, formats and files."""

    index: int
    size: int
    files: int
    digest: str


@dataclass
class Shard:
    digest: str
    rows: list[Row]

    def file(self, format: str) -> str:
        return self.digest + SUFFIXES[format]

    def finished(self, work: Path, format: str, skip_broken: bool) -> bool:
        """Whether an earlier run wrote it from the same rows, and its SHA-256 is still the one noted then."""
        path, note = work / self.file(format), work / f"{self.digest}.json"
        if not (path.is_file() and note.is_file()):
            return False
        try:
            noted = read_json(note)
            noted["skipped"], noted["sha256"]
        except (ValueError, LookupError, TypeError):  # damaged: written again
            return False
        return (skip_broken or not noted["skipped"]) and sha256_of(path) == noted["sha256"]


def digest_of(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def file_name_of(text: str) -> str:
    """Text that is safe in a file's name: "train[:80%]" -> "train-80"."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-") or "x"


def plan(
    table: datasets.Dataset, task: DataTask, format: str, skip_broken: bool
) -> tuple[list[Row], list[dict[str, str]]]:
    """The rows to write, and (name, error) of those that lack a file. Raises BrokenExample for these unless `skip_broken`."""
    planned: list[Row] = []
    skipped: list[dict[str, str]] = []
    layouts: dict[tuple[tuple[str, str], ...], str] = {}
    entries = Counter(  # used of a file of many
        path.partition("::")[0] for row in table for path in paths_of(row, task) if "::" in path
    )
    for index, row in enumerate(table):
        try:
            with examined(row):
                sizes, marks = [], []
                for column in cells_of(task):
                    size, mark = _listed(row.get(column), entries)
                    sizes.append(size)
                    marks.append(mark)
        except BrokenExample as error:
            if not skip_broken:
                raise
            skipped.append({"name": row["name"], "error": without_folders(str(error), row, task)})
            continue
        texts = [row.get(column) for column in COLUMNS[task] if column not in cells_of(task)]
        planned.append(Row(index, sum(sizes), sum(mark is not None for mark in marks) + 1, digest_of(texts, marks)))
        layout = tuple((column, suffix_of(row[column], column, task)) for column in cells_of(task) if row.get(column))
        layouts.setdefault(layout, row["name"])
    if not planned:
        raise BrokenExample(f"all {len(table)} rows lack a file, such as {skipped[0]['error']}")
    if format == "webdataset" and len(layouts) > 1:
        (one, first), (other, second) = list(layouts.items())[:2]
        raise ValueError(
            f"{first} has {', '.join(map(''.join, one))} and {second} {', '.join(map(''.join, other))}: WebDataset's readers expect "
            "the same files in each example; expected rows that have, or the format parquet"
        )
    return planned, skipped


def _listed(cell: dict[str, Any] | None, entries: Counter[str]) -> tuple[int, list[Any] | None]:
    """(size in bytes, what changes when the file does) of a cell. Raises OSError naming the file."""
    if cell is None:
        return 0, None
    if cell.get("bytes") is not None:
        return len(cell["bytes"]), [cell.get("path"), hashlib.sha256(cell["bytes"]).hexdigest()]
    path = cell.get("path")
    if not path:
        raise ValueError("an empty cell; expected a path or bytes")
    file = Path(path.partition("::")[0])
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    status = file.stat()
    size = min(status.st_size // entries[str(file)], UNPACKED) if "::" in path else status.st_size
    return size, [path, status.st_size, status.st_mtime_ns]


def suffix_of(cell: dict[str, Any], column: str, task: DataTask) -> str:
    """The suffix, with the dot, of a cell's file in a tar."""
    path = cell.get("path") or ""
    if "::" in path and cell.get("bytes") is None:
        return ".png" if column in (*TASKS[task].images, "label", "occluded") else ".npy"
    suffix = re.sub(r"[^a-z0-9.]", "_", PurePosixPath(path.replace("\\", "/")).suffix.lower())
    return {".jpeg": ".jpg", **NEUTRAL}.get(suffix, suffix)


def cut(rows: list[Row], shard_size: int, multiple_of: int) -> list[list[Row]]:
    """Consecutive parts of about the same number of bytes, none empty."""
    ends = np.cumsum([max(row.size, 1) for row in rows])
    count = math.ceil(int(ends[-1]) / shard_size)
    count = min(-(-count // multiple_of) * multiple_of, len(rows))
    if count > multiple_of:
        count -= count % multiple_of
    middles = ends - np.diff(ends, prepend=0) / 2
    cuts = np.searchsorted(middles, ends[-1] * np.arange(1, count) / count).tolist()
    for k in range(count - 1):
        cuts[k] = max(cuts[k], cuts[k - 1] + 1 if k else 1)
    for k in reversed(range(count - 1)):
        cuts[k] = min(cuts[k], cuts[k + 1] - 1 if k + 1 < count - 1 else len(rows) - 1)
    return [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


def without_folders(message: str, row: dict[str, Any], task: DataTask) -> str:
    """The message with file names in the place of paths: it is published with the shards."""
    for path in paths_of(row, task):
        message = message.replace(path, PurePosixPath(path.replace("\\", "/")).name)
    return message
