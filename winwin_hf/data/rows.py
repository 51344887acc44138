"""The rows of every data set: references to files, and their formats.

Notable:
- A row describes itself: each target's column has a `*_format` beside it, which names its decoder and the decoder's
  parameters. So one reader a task reads any data set, shards of it, and mixtures.
- Nothing is decoded when a set is opened or sliced. A cell is {"path", "bytes"}, as in the Hub's own image columns: a
  local file has a path, a shard has bytes too. `path.mat::17` is entry 17 of a file that holds many.
- A file that can't be decoded raises a `BrokenExample` that names the row and the file; `SkippingReader` replaces and counts those.

Columns (a cell is None where a set lacks it):
- all: name, unique in its set and split, such as "alley_1/frame_0001".
- flow: image1, image2; flow and flow_format; occluded and occluded_format (pixels of image1 whose match isn't visible in
  image2).
- depth: image; depth and depth_format.
- segmentation: image; label and label_format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, Value

from winwin_hf.task import DataTask

CELL = {"bytes": Value("binary"), "path": Value("string")}  # as `datasets` stores an undecoded image
TEXT = Value("string")

# In a Dataset that a user opens, images decode to PIL on access; targets stay cells for `decode_*`.
COLUMNS: dict[DataTask, Features] = {
    "optical-flow": Features(
        name=TEXT,
        image1=Image(),
        image2=Image(),
        flow=CELL,
        flow_format=TEXT,
        occluded=CELL,
        occluded_format=TEXT,
    ),
    "depth-estimation": Features(name=TEXT, image=Image(), depth=CELL, depth_format=TEXT),
    "semantic-segmentation": Features(name=TEXT, image=Image(), label=CELL, label_format=TEXT),
}


class BrokenExample(ValueError):
    """A file of an example is missing, unreadable or doesn't fit the others. The message names the example and the file."""


@dataclass
class Found:
    """The files of one split. rows: complete ones only, in a fixed order. missing: paths of the files that incomplete rows lack."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __iadd__(self, other: Found) -> Found:
        self.rows += other.rows
        self.missing += other.missing
        return self


def cell(path: str | Path | None, data: bytes | None = None) -> dict[str, Any] | None:
    """A reference to a file; None stays None."""
    return None if path is None else {"bytes": data, "path": str(path)}


def cells_of(task: DataTask) -> list[str]:
    """The columns that hold files."""
    return [column for column, feature in COLUMNS[task].items() if feature != TEXT]


def paths_of(row: dict[str, Any], task: DataTask) -> list[str]:
    """The paths of a row's files, as its cells have them."""
    cells = [row.get(column) for column in cells_of(task)]
    return [cell["path"] for cell in cells if cell and cell.get("path")]


def in_text(found: Found, task: DataTask) -> Found:
    """Examples with names that no table holds, since they aren't UTF-8, count as incomplete."""
    rows, missing = [], list(found.missing)
    for row in found.rows:
        odd = [path for path in (row["name"], *paths_of(row, task)) if not _is_utf8(path)]
        missing += [
            f"{path.encode('utf-8', 'backslashreplace').decode()} (a name that isn't UTF-8)" for path in odd[-1:]
        ]
        rows += [] if odd else [row]
    return Found(rows, missing)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python stands bytes that are none in for surrogates
        return False
    return True


def table(rows: Iterable[dict[str, Any]], task: DataTask) -> Dataset:
    """Rows -> Dataset with the task's columns; those that a row lacks are None."""
    rows, features = list(rows), COLUMNS[task]
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in features}, features)


def undecoded(dataset: Any) -> Any:
    """The data set (map-style or streamed) with its images as cells instead of PIL images: a reader then decodes them and can
    name a broken file."""
    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, Image) and feature.decode:
            dataset = dataset.cast_column(name, Image(mode=feature.mode, decode=False))
    return dataset


def own_files_only(dataset: Any, task: DataTask, roots: Sequence[str | Path]) -> Any:
    """
    The data set (map-style or streamed), whose rows a stranger may have written, without references to other files of this machine.

    Args:
        roots: folders whose files a cell without bytes may name; none: every cell has bytes.
    Raises: ValueError that names the column and the path; a streamed set raises it at that row.
    """
    if not isinstance(dataset, Dataset):
        return dataset.map(partial(own_cells, task=task, roots=roots), features=dataset.features)
    for column in (column for column in cells_of(task) if column in dataset.column_names):
        stored = dataset.data.column(column)
        fields = {field.name for field in stored.type} if pa.types.is_struct(stored.type) else set()
        if "path" in fields:
            paths = pc.struct_field(stored, "path")
            if "bytes" in fields:
                paths = paths.filter(pc.is_null(pc.struct_field(stored, "bytes")))
            for path in paths.drop_null().unique().to_pylist():
                _check_own(column, path, roots)
    return dataset


def own_cells(row: dict[str, Any], task: DataTask, roots: Sequence[str | Path]) -> dict[str, Any]:
    """The row, see `own_files_only`."""
    for column in cells_of(task):
        found = row.get(column)
        if isinstance(found, dict) and found.get("bytes") is None and found.get("path"):
            _check_own(column, found["path"], roots)
    return row


def _check_own(column: str, path: str, roots: Sequence[str | Path]) -> None:
    if "://" in path:
        raise ValueError(
            f"column {column} names {path[:200]!r}, a part of an archive; expected streaming, which reads archives"
        )
    if not any(Path(path.partition("::")[0]).resolve().is_relative_to(Path(root).resolve()) for root in roots):
        known = f"a file in {', '.join(map(str, roots))}, or bytes" if roots else "bytes"
        raise ValueError(f"column {column} names the file {path[:200]!r} of this machine; expected {known}")
