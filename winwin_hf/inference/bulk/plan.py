"""INPUT -> units of work. Nothing is decoded here, and nothing but names, headers of videos and Parquet's footers is read.

Notable:
- A unit is what a worker does at once: images that are read from the same place, up to UNIT of them. Its results are recorded together.
- Each image (for flow: each pair) has a name, which its result gets: the file's name without its suffix, `VIDEO/frame_0001`,
  `SHARD/row_000000`. Names never come out of a shard, so no shard can name a place.
- For flow, neighbours make pairs: pictures of one folder in the order of the numbers in their names, the frames of a video.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pyarrow.parquet as pq

from winwin_hf.data.formats.files import read_text
from winwin_hf.data.places import filesystem, is_remote, joined
from winwin_hf.inference.clips import IMAGE_SUFFIXES, open_clip
from winwin_hf.task import Task

UNIT = 32  # images at most
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
KINDS = {**dict.fromkeys(VIDEO_SUFFIXES, "video"), ".parquet": "parquet", ".tar": "tar"}
LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class Item:
    """One prediction to make. where: its images, as addresses, numbers of frames or numbers of rows."""

    name: str
    where: tuple[Any, ...]


@dataclass(frozen=True)
class Unit:
    """
    Work for one worker.

    Attributes:
        kind: "files", "video", "parquet" or "tar". source: the address of what holds the images; "" for files.
        items: what to predict; None: everything in `source`, whose rows are known only when it was read.
        stem: where `items` is None, of the names. done: then names that are predicted already.
    """

    kind: str
    source: str
    items: tuple[Item, ...] | None
    stem: str = ""
    done: frozenset[str] = frozenset()


def plan(given: str, task: Task) -> Iterator[Unit]:
    """
    The units of an input.

    Args:
        given: a folder, a pattern with * or ?, a .txt file with an address a line (two for flow), or one file; a path, or an address.
    Raises: FileNotFoundError where there is nothing; ValueError where nothing there can be read, or two results would have one name.
    """
    pairs = len(task.images) == 2
    if given.lower().endswith(LIST_SUFFIX):
        groups = [_listed(given, len(task.images))]
        units = [*_files(groups)]
    else:
        root, files = _found(given)
        by_kind: dict[str, list[str]] = {}
        for file in sorted(files, key=_order):
            suffix = posixpath.splitext(file)[1].lower()
            kind = "files" if suffix in IMAGE_SUFFIXES else KINDS.get(suffix, "")
            by_kind.setdefault(kind, []).append(file)
        by_kind.pop("", None)
        names = _named(root, [file for kind in by_kind.values() for file in kind])
        pictures = by_kind.pop("files", [])
        single = [Item(names[file], (file,)) for file in pictures]
        groups = [_neighbours(single) if pairs else single]
        units = [*_files(groups)]
        for kind, sources in by_kind.items():
            for source in sources:
                units += UNITS_OF[kind](source, names[source], pairs)
        if not units:
            kinds = ", ".join((*IMAGE_SUFFIXES, *KINDS))
            what = "pairs of neighbouring pictures, or other files" if pairs and pictures else "files"
            raise ValueError(f"{given}: nothing to predict in it; expected {what} that end in {kinds}")
    _check_names(item.name for unit in units for item in unit.items or ())
    return iter(units)


def _found(given: str) -> tuple[str, list[str]]:
    """The folder that an input is in, and the addresses of its files."""
    system, path = filesystem(given)
    protocol = given.partition("://")[0] + "://" if is_remote(given) else ""
    if any(letter in path for letter in "*?[") and not system.exists(path):
        found = [name for name, about in system.glob(path, detail=True).items() if about["type"] != "directory"]
        root = posixpath.commonpath([posixpath.dirname(name) for name in found]) if found else ""
    elif system.isfile(path):
        found, root = [path], posixpath.dirname(path)
    elif system.isdir(path):
        found, root = list(system.find(path)), path
    else:
        found, root = [], ""
    if not found:
        raise FileNotFoundError(
            f"{given}: nothing there; expected a folder, a pattern, a list ({LIST_SUFFIX}) or a file"
        )
    hidden = len(root)
    visible = [name for name in found if not any(part.startswith(".") for part in name[hidden:].split("/"))]
    return protocol + root, [protocol + name for name in visible]


def _listed(given: str, images: int) -> list[Item]:
    """The images that a list names, each line's relative to the list's folder."""
    if is_remote(given):
        system, path = filesystem(given)
        text = system.cat_file(path).decode("utf-8-sig")
    else:
        text = read_text(given)
    folder = given.rpartition("/")[0] or ("" if is_remote(given) else ".")
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split("\t") if "\t" in line else line.split() if images > 1 else [line.strip()]
        parts = [part.strip() for part in parts if part.strip()]
        if not parts:
            continue
        if len(parts) != images:
            raise ValueError(f"{given}: line {number} has {len(parts)} names; expected {images}")
        lines.append((number, tuple(part if is_remote(part) else joined(folder, part) for part in parts)))
    if not lines:
        raise ValueError(f"{given}: an empty list; expected an image a line")
    names = _named(_common(files[0] for _, files in lines), [files[0] for _, files in lines])
    times = Counter(files[0] for _, files in lines)
    items = []
    for number, files in lines:  # a frame may be the first of several pairs
        name = names[files[0]]
        items.append(Item(name if times[files[0]] == 1 else f"{name}.line{number}", files))
    return items


def _common(files: Iterable[str]) -> str:
    folders = {posixpath.dirname(file) for file in files}
    try:
        return posixpath.commonpath(folders)
    except ValueError:  # some absolute, some not
        return ""


def _named(root: str, files: list[str]) -> dict[str, str]:
    """File -> the name of its result, within `root`. Files of one stem keep their suffixes."""
    inside = {file: _within(root, file) for file in files}
    stems = Counter(posixpath.splitext(name)[0] for name in inside.values())
    names = {}
    for file, name in inside.items():
        stem = posixpath.splitext(name)[0]
        names[file] = stem if stems[stem] == 1 else name
    return names


def _check_names(names: Iterable[str]) -> None:
    """Raises ValueError where two results would have one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two inputs are called {name}; expected names that differ")
        seen.add(name)


def _within(root: str, file: str) -> str:
    """The part of a file's address below `root`, without anything that leads out of the output's folder."""
    rest = file[len(root) :] if root and file.startswith(root) else file.partition("://")[2] or file
    parts = [part for part in re.split(r"[/\\]", rest) if part not in ("", ".", "..")]
    return "/".join(parts)


def _order(file: str) -> list[Any]:
    """By the numbers in a name: 2 before 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", file)]


def _neighbours(items: list[Item]) -> list[Item]:
    """Pairs of pictures that follow each other in one folder; each has the first one's name."""
    return [
        replace(first, where=(first.where[0], second.where[0]))
        for first, second in pairwise(items)
        if posixpath.dirname(first.where[0]) == posixpath.dirname(second.where[0])
    ]


def _in_units(kind: str, source: str, items: list[Item]) -> list[Unit]:
    return [Unit(kind, source, tuple(items[start : start + UNIT])) for start in range(0, len(items), UNIT)]


def _files(groups: list[list[Item]]) -> list[Unit]:
    return [unit for group in groups for unit in _in_units("files", "", group)]


def _video(source: str, name: str, pairs: bool) -> list[Unit]:
    """A video is one unit: its frames are decoded from its beginning."""
    count = None
    if not is_remote(source):
        with suppress(ValueError, OSError):  # a worker will say what is wrong with it
            count = open_clip(source).count()
    if count is None:
        return [Unit("video", source, None, name)]
    numbers = range(count - 1 if pairs else count)
    items = [Item(frame_name(name, n), (n, n + 1) if pairs else (n,)) for n in numbers]
    return [Unit("video", source, tuple(items))] if items else []


def _parquet(source: str, name: str, pairs: bool) -> list[Unit]:
    """The rows of each row group are units of their own."""
    system, path = filesystem(source)
    try:
        with system.open(path, "rb") as file:
            footer = pq.ParquetFile(file).metadata
            counts = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    except Exception:  # whatever pyarrow raises for a damaged file: a worker will say it
        return [Unit("parquet", source, None, name)]
    units, start = [], 0
    for group, count in enumerate(counts):
        items = [Item(row_name(name, start + row), (group, row)) for row in range(count)]
        units += _in_units("parquet", source, items)
        start += count
    return units


def _tar(source: str, name: str, pairs: bool) -> list[Unit]:
    return [Unit("tar", source, None, name)]


def frame_name(stem: str, number: int) -> str:
    return f"{stem}/frame_{number + 1:04d}"


def row_name(stem: str, number: int) -> str:
    return f"{stem}/row_{number:06d}"


UNITS_OF: dict[str, Callable[[str, str, bool], list[Unit]]] = {"video": _video, "parquet": _parquet, "tar": _tar}
