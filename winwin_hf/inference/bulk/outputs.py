"""Where results go: files of a folder or of an object store, or shards of Parquet.

Notable:
- On disk a file is written under a temporary name and renamed. An object store shows an object when it is whole.
- A result of Parquet is the same file's bytes in a cell, in the columns that `rows.COLUMNS` has for targets.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from winwin_hf.data import formats
from winwin_hf.data.formats.files import write_atomic
from winwin_hf.data.places import content, filesystem, is_remote, joined, reaching
from winwin_hf.data.rows import COLUMNS, TEXT
from winwin_hf.own_files import check_held, made_folder
from winwin_hf.redaction import redact
from winwin_hf.task import Task

SHARDS = "data"  # folder of Parquet
FILES = {"ftp", "hdfs", "sftp", "smb", "ssh", "webhdfs"}  # where a file shows before it is whole, unlike an object
MAX_READ = 2**32  # bytes of a manifest, a result or a shard
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

    @property
    def shown(self) -> str:
        """How messages call it."""
        return redact(self.root)

    def write(self, name: str, content: bytes) -> None:
        """Writes a file that appears when it is whole. Raises OSError, which names it."""
        address = joined(self.root, name)
        if is_remote(address):
            system, path = filesystem(address)
            folder, _, file = path.rpartition("/")
            with reaching(address):
                system.makedirs(folder, exist_ok=True)
                if address.partition("://")[0] in FILES:
                    system.pipe_file(f"{folder}/.{file}.part", content)
                    system.mv(f"{folder}/.{file}.part", path)
                else:
                    system.pipe_file(path, content)
            return
        check_held(Path(address))  # before a folder is made
        with made_folder(Path(address).parent), write_atomic(address) as temporary:
            temporary.write_bytes(content)

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError where there is no such file."""
        address = joined(self.root, name)
        if not is_remote(address) and not os.path.lexists(address):  # Path.exists would follow links
            raise FileNotFoundError(address)
        return content(address, MAX_READ)

    def names(self, folder: str) -> list[str]:
        """The files in a folder of this place, without what is half written."""
        system, path = filesystem(joined(self.root, folder))
        with reaching(self.root):
            if not system.isdir(path):
                return []
            found = [
                entry["name"].rpartition("/")[2] for entry in system.ls(path, detail=True) if entry["type"] == "file"
            ]
        return sorted(f"{folder}/{name}" for name in found if name and not name.startswith("."))

    def files(self) -> frozenset[str]:
        """The files of this place, by their names in it."""
        system, path = filesystem(self.root)
        with reaching(self.root):
            if not system.isdir(path):
                return frozenset()
            system.invalidate_cache()
            return frozenset(name[len(path.rstrip("/")) + 1 :] for name in system.find(path))

    def anything(self, but: str) -> str:
        """The name of something in this place besides empty folders, and `but` with hidden files alone; "" where there is nothing."""
        system, path = filesystem(self.root)
        with reaching(self.root):
            if not system.exists(path):
                return ""
            if not system.isdir(path):
                return str(path.rpartition("/")[2])
            found = [entry.rstrip("/").rpartition("/")[2] for entry in system.ls(path, detail=False)]
            if but in found and not self.names(but):
                found.remove(but)
            # A run that was killed before its first result leaves an empty folder.
            found = [
                name
                for name in found
                if not system.isdir(f"{path}/{name}") or system.ls(f"{path}/{name}", detail=False)
            ]
        return next((name for name in found if name), "")

    def remove(self, name: str) -> None:
        address = joined(self.root, name)
        if not is_remote(address):
            check_held(Path(address))
        system, path = filesystem(address)
        with reaching(self.root):
            system.rm_file(path)


def written(place: Place, name: str, values: np.ndarray, task: Task) -> bytes:
    """Writes a prediction's values as a file, whose suffix says its format; returns its bytes."""
    if is_remote(place.root):
        content = encoded(values, task, PurePosixPath(name).suffix)
        place.write(name, content)
        return content
    path = Path(place.root) / name
    with made_folder(path.parent):
        _write(path, values, task)  # under a temporary name first, as all of these functions do
    return path.read_bytes()


def encoded(values: np.ndarray, task: Task, suffix: str) -> bytes:
    """A prediction's values as the bytes of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"result{suffix}"
        _write(path, values, task)
        return path.read_bytes()


def _write(path: Path, values: np.ndarray, task: Task) -> None:
    if task.name == "optical-flow":
        flow = np.ascontiguousarray(values.transpose(1, 2, 0))
        (formats.write_flo if path.suffix == ".flo" else formats.write_npy)(path, flow)
    elif task.name == "depth-estimation":
        formats.write_depth(path, values)
    else:
        formats.write_labels(path, values)


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
