"""Rows -> one shard: Parquet (the Hub's own form) or a tar file (WebDataset).

Notable:
- A shard holds the bytes of the original files, so rows come back bit for bit. Only an entry of a file that holds many
  (`file.mat::17`) is unpacked: images and labels as PNG, flow and depth as .npy.
- Every row is decoded, from the bytes that are written, before it becomes part of a shard.
- Parquet is written with pyarrow, not with `Dataset.to_parquet`: that one first copies all rows into an Arrow file, and bounds its
  row groups by a number of rows, not of bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from winwin_hf.data import formats
from winwin_hf.data.readers import examined
from winwin_hf.data.rows import COLUMNS, cells_of
from winwin_hf.data.shards.planning import file_name_of, suffix_of
from winwin_hf.task import DataTask

ROW_GROUP = 64 * 2**20  # bytes of files; a reader of Parquet holds one row group


def pack(row: dict[str, Any], task: DataTask, reader: Any) -> dict[str, Any]:
    """The row with all its columns; its cells hold the files' bytes and their names without folders. Raises BrokenExample."""
    packed: dict[str, Any] = {column: row.get(column) for column in COLUMNS[task]}
    with examined(row):
        for column in cells_of(task):
            cell = row.get(column)
            if cell is None:
                packed[f"{column}_format"] = None
            elif cell.get("bytes") is None and "::" in cell["path"]:
                packed |= _unpacked(cell["path"], column, packed.get(f"{column}_format"))
            elif cell.get("bytes") is None:
                packed[column] = {"bytes": Path(cell["path"]).read_bytes(), "path": cell["path"]}
    reader.decode(packed)  # before folders are cut off, so that messages name the files by their whole paths
    for column in cells_of(task):
        if (cell := packed[column]) is not None:
            packed[column] = {
                "bytes": cell["bytes"],
                "path": PurePosixPath((cell["path"] or "").replace("\\", "/")).name or None,
            }
    return {column: packed[column] for column in COLUMNS[task]}


def _unpacked(path: str, column: str, kind: str | None) -> dict[str, Any]:
    """The columns of an entry of a file of many, as a file of its own. Lossless."""
    name = path.replace("::", "-")  # a name with :: would be taken for an entry again
    content = io.BytesIO()
    if column in ("flow", "depth"):
        decode = formats.decode_flow if column == "flow" else formats.decode_depth
        np.save(content, decode(path, kind or ""))
        return {column: {"bytes": content.getvalue(), "path": f"{name}.npy"}, f"{column}_format": "npy"}
    new_format: dict[str, str] = {}
    if column == "label":
        pixels, new_format = formats.decode_label(path, kind or ""), {"label_format": "ids"}
    elif column == "occluded":
        pixels = formats.decode_mask(path, kind or "").astype(np.uint8) * 255
        new_format = {"occluded_format": "png"}
    else:
        pixels = formats.decode_image(path)
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "png")
    return {column: {"bytes": content.getvalue(), "path": f"{name}.png"}, **new_format}


def write_parquet(path: Path, rows: Iterable[tuple[int, dict[str, Any]]], task: DataTask) -> int:
    """Writes (index, row) pairs; returns the number of rows. The schema's metadata has the features for `load_dataset`."""
    schema = COLUMNS[task].arrow_schema
    texts = [column for column in COLUMNS[task] if column not in cells_of(task)]
    count, size = 0, 0
    group: list[dict[str, Any]] = []
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": texts, "write_statistics": texts}
    with pq.ParquetWriter(path, schema, **options) as writer:
        for _, row in rows:
            extent = sum(len(row[column]["bytes"]) for column in cells_of(task) if row[column] is not None)
            if group and size + extent > ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                size, group = 0, []
            group.append(row)
            size += extent
            count += 1
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))
    return count


def write_tar(path: Path, rows: Iterable[tuple[int, dict[str, Any]]], task: DataTask) -> int:
    """Writes (index, row) pairs; returns the number of rows. A row is one file for each cell, then `<key>.json` with the columns
    of text and the files' original names."""
    count = 0
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index, row in rows:
            key = f"{index:08d}-{file_name_of(row['name'])[:60]}"
            texts: dict[str, Any] = {column: row[column] for column in COLUMNS[task] if column not in cells_of(task)}
            texts["path"] = {column: row[column]["path"] for column in cells_of(task) if row[column] is not None}
            for column in texts["path"]:
                _add_member(tar, f"{key}.{column}{suffix_of(row[column], column, task)}", row[column]["bytes"])
            texts = {column: value for column, value in texts.items() if value is not None}
            _add_member(tar, f"{key}.json", json.dumps(texts).encode())
            count += 1
    return count


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, time and mode keep their defaults, so the same rows make the same bytes
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
