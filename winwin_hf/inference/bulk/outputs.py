"""Where results go: files of a folder or of an object store, or shards of Parquet.

Notable:
- On disk a file is written under a temporary name and renamed. An object store shows an object when it is whole.
- A result of Parquet is the same file's bytes in a cell, in the columns that `rows.COLUMNS` has for targets.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from winwin_hf.data import formats
from winwin_hf.data.formats.files import write_atomic
from winwin_hf.data.places import filesystem, is_remote, joined
from winwin_hf.data.rows import COLUMNS, TEXT
from winwin_hf.task import Task

SHARDS = "data"  # folder of Parquet
# Task -> what a result may be written as; the first is the default. The key in `rows.COLUMNS`' *_format is its value.
FORMATS: dict[str, dict[str, str]] = {
    "optical-flow": {".flo": "flo", ".npy": "npy"},
    "depth-estimation": {".npy": "npy", ".png": "png:1000"},
    "semantic-segmentation": {".png": "ids"},
}


@dataclass(frozen=True)
class Place:
    """A folder, on disk or behind an address."""

    root: str

    def write(self, name: str, content: bytes) -> None:
        """Writes a file that appears when it is whole. Raises OSError, which names it."""
        address = joined(self.root, name)
        if is_remote(address):
            system, path = filesystem(address)
            try:
                system.makedirs(path.rpartition("/")[0], exist_ok=True)
                system.pipe_file(path, content)
            except OSError as error:
                raise OSError(f"{address}: could not be written ({error})") from error
            return
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        with write_atomic(address) as temporary:
            temporary.write_bytes(content)

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError where there is no such file."""
        system, path = filesystem(joined(self.root, name))
        content: bytes = system.cat_file(path)
        return content

    def names(self, folder: str) -> list[str]:
        """The files in a folder of this place, without what is half written."""
        system, path = filesystem(joined(self.root, folder))
        if not system.isdir(path):
            return []
        found = [entry.rpartition("/")[2] for entry in system.ls(path, detail=False)]
        return sorted(f"{folder}/{name}" for name in found if name and not name.startswith("."))

    def anything(self) -> str:
        """The name of something in this place; "" where it is empty or not there."""
        system, path = filesystem(self.root)
        if not system.exists(path):
            return ""
        if not system.isdir(path):
            return path.rpartition("/")[2]
        return next((entry.rstrip("/").rpartition("/")[2] for entry in system.ls(path, detail=False)), "")

    def remove(self, name: str) -> None:
        system, path = filesystem(joined(self.root, name))
        system.rm_file(path)


def encoded(values: np.ndarray, task: Task, suffix: str) -> bytes:
    """A prediction's values as the bytes of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"result{suffix}"
        if task.name == "optical-flow":
            flow = np.ascontiguousarray(values.transpose(1, 2, 0))
            (formats.write_flo if suffix == ".flo" else formats.write_npy)(path, flow)
        elif task.name == "depth-estimation":
            formats.write_depth(path, values)
        else:
            formats.write_labels(path, values)
        return path.read_bytes()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def features(task: Task) -> datasets.Features:
    """Columns of a shard of results: name, input, the result, its format."""
    columns = COLUMNS[task.data]  # type: ignore[index]
    target = task.target
    return datasets.Features({"name": TEXT, "input": TEXT, target: columns[target], f"{target}_format": TEXT})


def shard(rows: list[dict[str, Any]], task: Task) -> bytes:
    """A Parquet file of rows, which `datasets` reads with their features."""
    schema = features(task).arrow_schema
    file = io.BytesIO()
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema))
    return file.getvalue()
