"""INPUT -> units of work. Nothing is decoded here, and nothing but names, headers of videos and Parquet's footers is read.

Notable:
- A unit is what a worker does at once: up to UNIT images that are read from the same place, whose results are recorded together; or a
  whole video, tar file or row group.
- Each image (for flow: each pair) has a name, which its result gets: the file's name without its suffix, `VIDEO/frame_0001`,
  `SHARD/row_000000`. Names never come out of a shard, so no shard can name a place.
- For flow, neighbours make pairs: pictures of one folder in the order of the numbers in their names, the frames of a video.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from glob import glob
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq

from winwin_hf.checked import few
from winwin_hf.data.ahead import in_order
from winwin_hf.data.benchmarks.listing import gaps
from winwin_hf.data.formats.files import read_text
from winwin_hf.data.places import content, filesystem, is_remote, joined, open_binary, plain, public_path, reaching
from winwin_hf.inference.clips import open_clip
from winwin_hf.model.pixels_winwin import IMAGE_SUFFIXES
from winwin_hf.redaction import redact
from winwin_hf.task import Task

UNIT = 32  # images at most
STAMPS = 8  # requests at a time
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
KINDS = {**dict.fromkeys(VIDEO_SUFFIXES, "video"), ".parquet": "parquet", ".tar": "tar"}
LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class Item:
    """One prediction to make. where: its images, as addresses, numbers of frames or numbers of rows. stamp: see `Unit`."""

    name: str
    where: tuple[Any, ...]
    stamp: str = ""


@dataclass(frozen=True)
class Unit:
    """
    Work for one worker.

    Attributes:
        kind: "files", "video", "parquet" or "tar". source: the address of what holds the images; "" for files.
        items: what to predict; None: everything in `source`, whose rows are known only when it was read.
        stem: where `items` is None, of the names. done: then names that are predicted already.
        stamp: size and time of the file, by which a later run sees that it changed; "" where they aren't known.
        expected: where `items` is None, how many there may be.
    """

    kind: str
    source: str
    items: tuple[Item, ...] | None
    stem: str = ""
    done: frozenset[str] = frozenset()
    stamp: str = ""
    expected: int = 0


def plan(given: str, task: Task, output: str = "", say: Callable[[str], None] | None = None) -> Iterator[Unit]:
    """
    The units of an input.

    Args:
        given: a folder, a pattern with * or ?, a .txt file with an address a line (two for flow), or one file; a path, or an address.
        output: what is in it is no input.
        say: told of files that are left out.
    Raises: FileNotFoundError where there is nothing; ValueError where nothing there can be read, or two results would have one name.
    """
    pairs = len(task.images) == 2
    if not given.strip():
        raise ValueError("INPUT is empty; expected a folder, a pattern, a list or a file")
    if given.lower().endswith(LIST_SUFFIX) and not _is_folder(given):
        units = _in_units("files", "", _listed(given, len(task.images)))
    else:
        root, stamps = _found(given, output)
        by_kind: dict[str, list[str]] = {}
        for file in sorted(stamps, key=_order):
            suffix = posixpath.splitext(file)[1].lower()
            kind = "files" if suffix in IMAGE_SUFFIXES else KINDS.get(suffix, "")
            by_kind.setdefault(kind, []).append(file)
        others = by_kind.pop("", [])
        names = _named(root, [file for kind in by_kind.values() for file in kind])
        pictures = by_kind.pop("files", [])
        items = [Item(names[file], (file,), stamps[file]) for file in pictures]
        units = _in_units("files", "", _neighbours(items) if pairs else items)
        for kind, sources in by_kind.items():
            for source in sources:
                units += [replace(unit, stamp=stamps[source]) for unit in UNITS_OF[kind](source, names[source], pairs)]
        if not units:
            kinds = ", ".join((*IMAGE_SUFFIXES, *KINDS))
            what = "pairs of neighbouring pictures, or other files" if pairs and pictures else "files"
            raise ValueError(f"{redact(given)}: nothing to predict in it; expected {what} that end in {kinds}")
        if others and say is not None:
            left_out = few([posixpath.basename(file) for file in others])
            say(
                f"{redact(given)}: left out {len(others)} of {len(stamps)} files, whose names aren't those of pictures or videos: "
                f"{left_out}"
            )
    _check_names(units)
    return iter(units)


def gap_in(units: Iterable[Unit]) -> str | None:
    """A sentence about pairs of pictures whose numbers say that others lie between them; None where there are none."""
    folders: dict[str, list[str]] = {}
    for unit in units:
        for item in unit.items or ():
            if unit.kind == "files" and len(item.where) == 2:
                for place in item.where:
                    folder, name = posixpath.split(place)
                    folders.setdefault(folder, []).append(posixpath.splitext(name)[0])
    for folder, stems in folders.items():
        for before, missing in gaps([*dict.fromkeys(stems)]):
            return f"{redact(folder)}: no frame {missing} after {before}; flow goes from each frame to the next one that is there"
    return None


def _is_folder(given: str) -> bool:
    system, path = filesystem(given)
    with reaching(given):
        return bool(system.isdir(path))


def _found(given: str, output: str) -> tuple[str, dict[str, str]]:
    """The folder that an input is in, and its files: address -> stamp."""
    if is_remote(given):
        if "::" in given:
            raise ValueError(f"{redact(given)}: a chained address; expected one without ::, or a list that names it")
        system, path = filesystem(given)
        with reaching(given):
            root, found = _remote(system, path)
    else:
        root, found = _local(given)
    place = lru_cache(_canonical)
    results = f"{place(output)}/" if output else ""
    hidden = len(root)
    visible = {
        name: stamp
        for name, stamp in found.items()
        if not any(part.startswith(".") for part in name[hidden:].split("/"))
        and not (results and f"{place(posixpath.dirname(name))}/".startswith(results))
    }
    if not visible and not found and is_remote(given):
        with reaching(given):  # file systems call what they can't reach absent
            system.info(path)
    if not visible:
        raise FileNotFoundError(
            f"{redact(given)}: nothing there; expected a folder, a pattern, a list ({LIST_SUFFIX}) or a file"
        )
    return root, visible


def _canonical(address: str) -> str:
    """An address in the one spelling that all its spellings share."""
    if not is_remote(address):
        return Path(address).resolve().as_posix()
    system, path = filesystem(address)
    return str(system.unstrip_protocol(path)).rstrip("/")


def _remote(system: Any, path: str) -> tuple[str, dict[str, str]]:
    if any(letter in path for letter in "*?[") and not system.exists(path):
        about = {name: entry for name, entry in system.glob(path, detail=True).items() if entry["type"] != "directory"}
        root = posixpath.commonpath([posixpath.dirname(name) for name in about]) if about else ""
    elif system.isfile(path):
        about, root = {path: system.info(path)}, posixpath.dirname(path)
    else:
        about, root = system.find(path, detail=True) if system.isdir(path) else {}, path
    return system.unstrip_protocol(root), {
        system.unstrip_protocol(name): _stamp(entry) for name, entry in about.items()
    }


def _stamp(entry: dict[str, Any]) -> str:
    """What a file system says of a file that changes with it."""
    keys = ("size", "ETag", "etag", "mtime", "LastModified", "created")
    return "-".join(str(entry[key]) for key in keys if entry.get(key))


def _local(given: str) -> tuple[str, dict[str, str]]:
    path = Path(given).absolute()
    if path.is_dir():
        root, files = path, _below(path, (path.resolve(),))
    elif path.exists():
        root, files = path.parent, [path]
    else:
        # Path.glob takes no absolute patterns
        files = [Path(name) for name in glob(str(path), recursive=True) if not Path(name).is_dir()]  # noqa: PTH207
        root = Path(posixpath.commonpath([file.parent.as_posix() for file in files])) if files else path
    return root.as_posix(), {file.as_posix(): stamp_of(file) for file in files}


def _below(folder: Path, within: tuple[Path, ...]) -> list[Path]:
    """The files of a folder, those behind links too, but for links that lead in a circle."""
    files = []
    for path in folder.iterdir():
        if not path.is_dir():
            files.append(path)
        elif not path.name.startswith(".") and not (path.is_symlink() and path.resolve() in within):
            files += _below(path, (*within, path.resolve()))
    return files


def stamp_of(file: str | Path) -> str:
    """Size and time of change of a file, as its place says them; "" where there is none."""
    if is_remote(str(file)):
        try:
            system, path = filesystem(str(file))
            return _stamp(system.info(path))
        except Exception:  # of any library below fsspec; reading it will say it
            return ""
    try:
        status = Path(file).stat()
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _listed(given: str, images: int) -> list[Item]:
    """The images that a list names, each line's relative to the list's folder."""
    text = content(given).decode("utf-8-sig", "surrogateescape") if is_remote(given) else read_text(given)
    folder = given.rpartition("/")[0] or ("" if is_remote(given) else ".")
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        parts = line.split("\t") if "\t" in line else line.split() if images > 1 else [line.strip()]
        parts = [part.strip() for part in parts if part.strip()]
        if not parts:
            continue
        if "\0" in line:
            raise ValueError(f"{redact(given)}: line {number} has a byte of 0; expected text")
        if is_remote(given) and any(
            urlsplit(part).scheme in ("file", "local") or part.startswith("/") for part in parts
        ):
            raise ValueError(
                f"{redact(given)}: line {number} names a file of this machine; expected paths below the list, or addresses"
            )
        if len(parts) != images:
            raise ValueError(f"{redact(given)}: line {number} has {len(parts)} names; expected {images}")
        lines.append((number, tuple(part if is_remote(part) else joined(folder, part) for part in map(plain, parts))))
    if not lines:
        raise ValueError(f"{redact(given)}: an empty list; expected an image a line")
    shown = [public_path(files[0]) for _, files in lines]
    names = _named(_common(shown), shown)
    times = Counter(shown)
    items = []
    asked = in_order(lambda files: " ".join(map(stamp_of, files)).strip(), [files for _, files in lines], STAMPS)
    for (number, files), first, stamp in zip(
        lines, shown, asked, strict=True
    ):  # a frame may be the first of several pairs
        name = names[first]
        items.append(Item(name if times[first] == 1 else f"{name}.line{number}", files, stamp))
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


def _check_names(units: Iterable[Unit]) -> None:
    """Raises ValueError where two results would have one name, or a picture one that a file of many may need."""
    seen: dict[str, str] = {}
    stems = {unit.stem for unit in units if unit.items is None}
    for unit in units:
        given = (
            [(item.name, unit.source or item.where[0]) for item in unit.items]
            if unit.items is not None
            else [(unit.stem, unit.source)]
        )
        for name, where in given:
            folders = name.split("/")
            taken = next((stem for n in range(1, len(folders)) if (stem := "/".join(folders[:n])) in stems), None)
            if name in seen or (taken is not None and taken != unit.stem):
                other = seen.get(name) or next((unit.source for unit in units if unit.stem == taken), name)
                raise ValueError(
                    f"{redact(str(where))} and {redact(str(other))}: both would be called {taken or name}; expected names that differ"
                )
            seen[name] = where


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
    folders: dict[str, list[Item]] = {}
    for item in items:
        folders.setdefault(posixpath.dirname(item.where[0]), []).append(item)
    return [
        replace(first, where=(first.where[0], second.where[0]), stamp=f"{first.stamp} {second.stamp}".strip())
        for group in folders.values()
        for first, second in pairwise(group)
    ]


def _in_units(kind: str, source: str, items: list[Item]) -> list[Unit]:
    return [Unit(kind, source, tuple(items[start : start + UNIT])) for start in range(0, len(items), UNIT)]


def _video(source: str, name: str, pairs: bool) -> list[Unit]:
    """A video is one unit: its frames are decoded from its beginning. How many there are its header only supposes."""
    count = 0
    if not is_remote(source):
        with suppress(ValueError, OSError):  # a worker will say what is wrong with it
            count = open_clip(source).count() or 0
    return [Unit("video", source, None, name, expected=max(count - pairs, 0))]


def _parquet(source: str, name: str, pairs: bool) -> list[Unit]:
    """Each row group is a unit, since it is read from its beginning."""
    try:
        with open_binary(source) as file:
            footer = pq.ParquetFile(file).metadata
            counts = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
            size = file.seek(0, os.SEEK_END)
    except Exception:  # whatever pyarrow raises for a damaged file: a worker will say it
        return [Unit("parquet", source, None, name)]
    if sum(counts) > size:  # no pictures, and too many to list: a worker will say it
        return [Unit("parquet", source, None, name)]
    units: list[Unit] = []
    start = 0
    for group, count in enumerate(counts):
        items = [Item(row_name(name, start + row), (group, row)) for row in range(count)]
        units.append(Unit("parquet", source, tuple(items)))
        start += count
    return units


def _tar(source: str, name: str, pairs: bool) -> list[Unit]:
    return [Unit("tar", source, None, name)]


def frame_name(stem: str, number: int) -> str:
    return f"{stem}/frame_{number + 1:04d}"


def row_name(stem: str, number: int) -> str:
    return f"{stem}/row_{number:06d}"


UNITS_OF: dict[str, Callable[[str, str, bool], list[Unit]]] = {"video": _video, "parquet": _parquet, "tar": _tar}
