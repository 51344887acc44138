"""The rows of shards, one file after the other. A file of this machine is compared with its SHA-256 before its first row."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from winwin_hf.data.formats.files import read_bounded
from winwin_hf.data.places import is_remote, open_binary
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.shards.tars import open_tar
from winwin_hf.own_files import sha256_of
from winwin_hf.redaction import redact

_compared: dict[str, tuple[str, Any]] = {}  # file -> its SHA-256, and its stamp then; of this process


def read_shards(
    files: list[str], digests: list[str], counts: list[int], columns: tuple[str, ...], format: str
) -> Iterator[dict[str, Any]]:
    """
    The rows of shards, in order.

    Args:
        digests: their SHA-256. `datasets` makes the key of its own cache of them, too. counts: their numbers of rows.
    Raises: BrokenExample that names the file: it is missing, can't be read, or isn't the one that was written.
    """
    for file, digest, count in zip(files, digests, counts, strict=True):
        try:
            before = None if is_remote(file) else _compare(file, digest)
            found = 0
            for row in read_shard(file, columns, format):
                found += 1
                yield row
            if before is not None and before != _stamp(file):
                raise BrokenExample(f"{file}: changed while it was read")
            if found != count:
                raise BrokenExample(f"{redact(file)}: {found} rows; expected {count}, by the dataset.json beside it")
        except FileNotFoundError:
            raise BrokenExample(f"{redact(file)}: no such file") from None


def read_shard(file: str, columns: tuple[str, ...], format: str) -> Iterator[dict[str, Any]]:
    """The rows of one file, whatever its SHA-256. Raises BrokenExample that names it, OSError."""
    try:
        with open_binary(file) as opened:
            yield from (_parquet if format == "parquet" else _tar)(opened, columns)
    except (tarfile.TarError, pa.ArrowException, ValueError, LookupError) as error:
        raise BrokenExample(f"{redact(file)}: not a readable shard ({error})") from error


def _compare(file: str, digest: str) -> Any:
    """The stamp of a file that has this SHA-256; it is read once, as long as its stamp stays. Raises BrokenExample for another."""
    stamp = _stamp(file)
    if _compared.get(file) != (digest, stamp):
        if sha256_of(file) != digest:
            raise BrokenExample(f"{file}: not the file that was written, by the SHA-256 in the dataset.json beside it")
        _compared[file] = digest, stamp
    return stamp


def _stamp(file: str) -> Any:
    status = Path(file).stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _parquet(file: Any, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(1):  # equal cells are stored once: a few bytes may be many rows of megabytes
            row = batch.to_pylist()[0]
            yield {column: row[column] for column in columns}


def _tar(file: Any, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    contents: dict[str, bytes] = {}
    with open_tar(file) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is None:
                continue
            field = PurePosixPath(member.name).name.partition(".")[2]
            if field != "json":
                contents[field.partition(".")[0]] = content.read()
                continue
            texts = json.loads(read_bounded(content))  # the last file of a row
            paths = texts.pop("path")
            cells = {column: {"bytes": contents[column], "path": paths[column]} for column in paths}
            yield {column: cells.get(column, texts.get(column)) for column in columns}
            contents = {}
