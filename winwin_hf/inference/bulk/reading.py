"""A unit of work -> its images, one prediction after the other."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from winwin_hf.data import formats
from winwin_hf.data.formats.files import Blob, bytes_text, decoding
from winwin_hf.data.places import MAX_FILE, is_remote, open_binary, public_path, reaching, source_of
from winwin_hf.data.shards.tars import open_tar
from winwin_hf.inference.bulk.plan import Item, Unit, frame_name, row_name
from winwin_hf.inference.clips import open_clip
from winwin_hf.model.pixels_winwin import IMAGE_SUFFIXES
from winwin_hf.task import Task

# Columns and files of a row that hold its image where they aren't called as the task's own are.
USUAL = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Wanted:
    """A prediction to make: its name, what messages call its input, a function that reads its images; item: where these are files."""

    name: str
    source: str
    read: Callable[[], list[np.ndarray]]
    item: Item | None = None


def images_of(unit: Unit, task: Task) -> Iterator[Wanted]:
    """The predictions of a unit in order. What can't be read at all raises here, a single broken image when it is read."""
    return READERS[unit.kind](unit, task)


def _files(unit: Unit, task: Task) -> Iterator[Wanted]:
    picture = lru_cache(maxsize=2)(lambda address: formats.read_image(source_of(address)))  # neighbours share a frame
    for item in unit.items or ():
        yield Wanted(item.name, item.where[0], partial(_all, picture, item.where), item)


def _all(read: Callable[[Any], np.ndarray], places: tuple[Any, ...]) -> list[np.ndarray]:
    return [read(place) for place in places]


def _video(unit: Unit, task: Task) -> Iterator[Wanted]:
    with _on_disk(unit.source) as path:
        before, place = None, None
        for number, frame in enumerate(replace(open_clip(path), name=unit.source).frames()):
            images = [frame] if len(task.images) == 1 else [before, frame]
            place, before = (number, None) if len(task.images) == 1 else (number - 1, frame)
            name = frame_name(unit.stem, place)
            if place >= 0 and name not in unit.done:
                yield Wanted(name, f"{unit.source}#{place}", partial(list, images))
        if place == -1:  # of a pair
            raise ValueError(f"{unit.source}: a single frame; expected two or more")


def _parquet(unit: Unit, task: Task) -> Iterator[Wanted]:
    with open_binary(unit.source) as file:
        with decoding(unit.source, "Parquet file"):
            parquet = pq.ParquetFile(file)
        if not unit.items:
            size = bytes_text(file.seek(0, os.SEEK_END))
            raise ValueError(f"{unit.source}: {parquet.metadata.num_rows:,} rows in {size}; expected pictures")
        columns = _columns(parquet.schema_arrow.names, task, unit.source)
        wanted = {item.where[1]: item for item in unit.items}
        # One row after the other: equal cells are stored once, so a few bytes may be many rows of megabytes.
        rows = parquet.iter_batches(1, row_groups=[unit.items[0].where[0]], columns=list(columns))
        for number in range(max(wanted) + 1):
            with reaching(unit.source), decoding(unit.source, "Parquet file"):
                batch = next(rows, None)
            if batch is None:
                raise ValueError(f"{unit.source}: fewer rows than its footer said")
            if item := wanted.get(number):
                source = f"{unit.source}#{item.where[0]}/{item.where[1]}"
                yield Wanted(item.name, source, partial(_cells, batch.to_pylist()[0], columns, item))


def _columns(names: list[str], task: Task, source: str) -> tuple[str, ...]:
    """The columns that hold a row's images. Raises ValueError where there are none."""
    if set(task.images) <= set(names):
        return task.images
    found = [name for name in USUAL if name in names]
    if len(task.images) == 1 and found:
        return (found[0],)
    raise ValueError(f"{source}: its columns are {', '.join(names)[:200]}; expected {' and '.join(task.images)}")


def _cells(row: dict[str, Any], columns: tuple[str, ...], item: Item) -> list[np.ndarray]:
    images = []
    for column in columns:
        cell = row[column]
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):  # a path would be one of this machine's
            raise ValueError(
                f"{item.name}: column {column} holds no file; expected its bytes, as `datasets` stores images"
            )
        images.append(formats.read_image(Blob(content, item.name)))
    return images


def _tar(unit: Unit, task: Task) -> Iterator[Wanted]:
    """Rows of a WebDataset: files whose names are the same up to the first dot follow each other."""
    try:
        with open_binary(unit.source) as file, open_tar(file) as tar:
            number = -1
            for number, (key, files) in enumerate(_rows(tar, unit.source)):
                name = row_name(unit.stem, number)
                if name not in unit.done:
                    yield Wanted(name, f"{unit.source}#{key}", partial(_members, name, files, task))
            if number < 0:
                raise ValueError(
                    f"{unit.source}: no pictures in it; expected files that end in {', '.join(IMAGE_SUFFIXES)}"
                )
    except tarfile.TarError as error:
        raise ValueError(f"{unit.source}: not a readable tar file ({error})") from error


def _rows(tar: tarfile.TarFile, source: str) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    key, size = "", 0
    files: dict[str, bytes | None] = {}
    for member in tar:
        hidden = any(part.strip(".") and part.startswith(".") for part in PurePosixPath(member.name).parts)
        if hidden or not (member.isfile() or member.islnk() or member.issym()):
            continue
        folder, name = str(PurePosixPath(member.name).parent), PurePosixPath(member.name).name
        stem, _, field = name.partition(".")
        if f"{folder}/{stem}" != key or field.lower() in files:  # the same name again is another row
            if files:
                yield key, files
            key, files, size = f"{folder}/{stem}", {}, 0
        if PurePosixPath(field or name).suffix.lower() in IMAGE_SUFFIXES or f".{field.lower()}" in IMAGE_SUFFIXES:
            size += member.size
            if size > MAX_FILE:
                raise ValueError(f"{source}: the pictures of {key} have {bytes_text(size)}; expected a row's")
            opened = tar.extractfile(member) if member.isfile() else None
            files[field.lower()] = opened.read() if opened else None  # what a link names may lie before it
    if files:
        yield key, files


def _members(name: str, files: dict[str, bytes | None], task: Task) -> list[np.ndarray]:
    images = []
    for column in task.images:
        usual = USUAL if len(task.images) == 1 else ()
        found = [field for field in files if field.partition(".")[0] in (column, *usual)]
        if not found:
            raise ValueError(f"{name}: its files end in {', '.join(files)[:200]}; expected one for {column}")
        if len(found) > 1:
            raise ValueError(
                f"{name}: files that end in {' and '.join(found)[:200]}; expected one picture for {column}"
            )
        content = files[found[0]]
        if content is None:
            raise ValueError(f"{name}: a link within the archive; expected a file")
        images.append(formats.read_image(Blob(content, name)))
    return images


@contextlib.contextmanager
def _on_disk(source: str) -> Iterator[str]:
    """The path of a file; of a remote one, of a copy that goes afterwards."""
    if not is_remote(source):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PurePosixPath(public_path(source)).name
        with open_binary(source) as file, copy.open("wb") as written, reaching(source):
            shutil.copyfileobj(file, written, 2**20)
        yield str(copy)


READERS: dict[str, Callable[[Unit, Task], Iterator[Wanted]]] = {
    "files": _files,
    "video": _video,
    "parquet": _parquet,
    "tar": _tar,
}
