"""A unit of work -> its images, one prediction after the other."""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from winwin_hf.data import formats
from winwin_hf.data.formats.files import Blob, bytes_text, decoding
from winwin_hf.data.places import filesystem, is_remote, source_of
from winwin_hf.inference.bulk.plan import Item, Unit, frame_name, row_name
from winwin_hf.inference.clips import IMAGE_SUFFIXES, open_clip
from winwin_hf.task import Task

MAX_PICTURE = 2**30  # bytes of one file within a shard
# Columns and files of a row that hold its image where they aren't called as the task's own are.
USUAL = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Wanted:
    """A prediction to make: its name, what its input is called in records, and a function that reads its images."""

    name: str
    source: str
    read: Callable[[], list[np.ndarray]]


def images_of(unit: Unit, task: Task) -> Iterator[Wanted]:
    """The predictions of a unit in order. What can't be read at all raises here, a single broken image when it is read."""
    return READERS[unit.kind](unit, task)


def _files(unit: Unit, task: Task) -> Iterator[Wanted]:
    picture = lru_cache(maxsize=2)(lambda address: formats.read_image(source_of(address)))  # neighbours share a frame
    for item in unit.items or ():
        yield Wanted(item.name, item.where[0], partial(_all, picture, item.where))


def _all(read: Callable[[Any], np.ndarray], places: tuple[Any, ...]) -> list[np.ndarray]:
    return [read(place) for place in places]


def _video(unit: Unit, task: Task) -> Iterator[Wanted]:
    wanted = None if unit.items is None else {item.where[0]: item.name for item in unit.items}
    last = max(wanted) if wanted else 0
    with _on_disk(unit.source) as path:
        frames = open_clip(path).frames()
        before: np.ndarray | None = None
        for number, frame in enumerate(frames):
            images = [frame]
            if len(task.images) == 2:
                images, before, number = [before, frame] if before is not None else [], frame, number - 1
            if not images:
                continue
            name = frame_name(unit.stem, number) if wanted is None else wanted.get(number)
            if name is not None and name not in unit.done:
                yield Wanted(name, f"{unit.source}#{number}", partial(list, images))
            if wanted is not None and number >= last:
                return


def _parquet(unit: Unit, task: Task) -> Iterator[Wanted]:
    system, path = filesystem(unit.source)
    items = unit.items or ()
    with system.open(path, "rb") as file:
        with decoding(unit.source, "Parquet file"):
            parquet = pq.ParquetFile(file)
        if not items:
            return
        columns = _columns(parquet.schema_arrow.names, task, unit.source)
        with decoding(unit.source, "Parquet file"):
            group = parquet.read_row_group(items[0].where[0], columns=list(columns))
        for item in items:
            row = group.slice(item.where[1], 1).to_pylist()[0]
            yield Wanted(
                item.name, f"{unit.source}#{item.where[0]}/{item.where[1]}", partial(_cells, row, columns, item)
            )


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
    system, path = filesystem(unit.source)
    with system.open(path, "rb") as file, _opened_tar(file, unit.source) as tar:
        key, number = "", 0
        files: dict[str, bytes] = {}
        for member in tar:
            if not member.isfile():
                continue
            folder, name = str(PurePosixPath(member.name).parent), PurePosixPath(member.name).name
            stem, _, field = name.partition(".")
            if f"{folder}/{stem}" != key:
                if files:
                    yield from _row(unit, task, key, number, files)
                    number += 1
                key, files = f"{folder}/{stem}", {}
            if PurePosixPath(field or name).suffix.lower() in IMAGE_SUFFIXES or f".{field.lower()}" in IMAGE_SUFFIXES:
                if member.size > MAX_PICTURE:
                    raise ValueError(f"{unit.source}: {member.name} has {bytes_text(member.size)}; expected a picture")
                files[field.lower()] = tar.extractfile(member).read()  # type: ignore[union-attr]
        if files:
            yield from _row(unit, task, key, number, files)


@contextlib.contextmanager
def _opened_tar(file: Any, source: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            yield tar
    except tarfile.TarError as error:
        raise ValueError(f"{source}: not a readable tar file ({error})") from error


def _row(unit: Unit, task: Task, key: str, number: int, files: dict[str, bytes]) -> Iterator[Wanted]:
    name = row_name(unit.stem, number)
    if name not in unit.done:
        yield Wanted(name, f"{unit.source}#{key}", partial(_members, name, dict(files), task))


def _members(name: str, files: dict[str, bytes], task: Task) -> list[np.ndarray]:
    images = []
    for column in task.images:
        usual = USUAL if len(task.images) == 1 else ()
        found = [field for field in files if field.partition(".")[0] in (column, *usual)]
        if not found:
            raise ValueError(f"{name}: its files end in {', '.join(files)[:200]}; expected one for {column}")
        images.append(formats.read_image(Blob(files[found[0]], name)))
    return images


@contextlib.contextmanager
def _on_disk(source: str) -> Iterator[str]:
    """The path of a file; of a remote one, of a copy that goes afterwards."""
    if not is_remote(source):
        yield source
        return
    system, path = filesystem(source)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PurePosixPath(path).name
        system.get_file(path, str(copy))
        yield str(copy)


READERS: dict[str, Callable[[Unit, Task], Iterator[Wanted]]] = {
    "files": _files,
    "video": _video,
    "parquet": _parquet,
    "tar": _tar,
}
