"""What was done: one record for each image, by which a run goes on and is checked.

Files in the output's folder:

    manifest/run.json          the settings: results of other inputs, weights or formats don't mix with these
    manifest/part-*.jsonl      the records of up to UNIT images, written after their results
    manifest.jsonl             all of them, in the order of their names, when a run ended

A record has name, input (of a pair also input2; of a file of many also source), stamp, output (of a shard also row), sha256, bytes,
seconds, weights, and where depth has pixels that a .png can't hold, their share (beyond); or name, input, stamp, error. It holds as long as
its input has the same address and stamp, and its result is there.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from winwin_hf.inference.bulk.outputs import SHARDS, Place, digest
from winwin_hf.inference.bulk.plan import Item, Unit
from winwin_hf.redaction import redact

FOLDER, WHOLE, RUN = "manifest", "manifest.jsonl", "manifest/run.json"
Record = dict[str, Any]
shown = lru_cache(4096)(redact)  # of addresses, many of which are asked for often


def inputs_of(item: Item) -> dict[str, str]:
    """What a record says of a prediction of files."""
    names = ("input", "input2")
    return {**{key: shown(place) for key, place in zip(names, item.where, strict=False)}, "stamp": item.stamp}


@dataclass
class Manifest:
    """The records of a place."""

    place: Place
    records: dict[str, Record] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)  # sources whose rows were all read, and their stamps then
    parts: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, place: Place) -> Manifest:
        """Raises ValueError for a file of records that can't be read."""
        found = cls(place)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found._add(WHOLE, place.read(WHOLE))
        for name in place.names(FOLDER):
            if name.endswith(".jsonl"):
                found.parts.append(name)
                found._add(name, place.read(name))
        for source, stamp in found.ended.items():  # errors of the run before
            gone = [
                name
                for name, r in found.records.items()
                if "error" in r and (r.get("source"), r["stamp"]) == (source, stamp)
            ]
            for name in gone:
                del found.records[name]
        return found

    def _add(self, name: str, content: bytes) -> None:
        for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not _is_record(record):
                raise ValueError(
                    f"{self.place.shown}/{name}: line {number} is no record; expected a file of `winwin predict`"
                )
            if "ended" in record:
                self.ended[record["ended"]] = record["stamp"]
            else:
                self.records[record["name"]] = record

    def settings(self) -> dict[str, Any] | None:
        """Those of the runs that wrote here; None where there was none. Raises ValueError where they can't be read."""
        try:
            found = json.loads(self.place.read(RUN))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{self.place.shown}/{RUN}: not readable; expected a file of `winwin predict`")
        return found

    def check(self, settings: dict[str, Any]) -> bool:
        """Whether a run wrote here. Raises ValueError where it had other settings, FileExistsError where something else is there."""
        before = self.settings()
        if before is None:
            if there := self.place.anything(FOLDER):
                raise FileExistsError(
                    f"{self.place.shown}: {there} is there, and no manifest of `winwin predict`; expected a new or empty output"
                )
            return False
        if other := differences(before, settings):
            raise ValueError(
                f"{self.place.shown}: an earlier run with other settings left its results there ({other}); expected another output"
            )
        return True

    def fold(self) -> None:
        """Writes all records into one file, and removes the parts."""
        ended = [{"ended": source, "stamp": stamp} for source, stamp in sorted(self.ended.items())]
        self.place.write(WHOLE, lines([*(self.records[name] for name in sorted(self.records)), *ended]))
        for part in self.parts:
            self.place.remove(part)
        self.parts = []

    def of_sources(self) -> dict[str, list[Record]]:
        """The records of each file of many."""
        found: dict[str, list[Record]] = {}
        for record in self.records.values():
            if "source" in record:
                found.setdefault(record["source"], []).append(record)
        return found

    def holding(self, units: Iterable[Unit], files: frozenset[str]) -> frozenset[str]:
        """The names of units' results that needn't be made again, of those that are among `files`."""
        of_sources = self.of_sources()

        def holds(record: Record | None, **asked: str) -> bool:
            if record is None or "error" in record or file_of(record) not in files:
                return False
            return all(record.get(key) == value for key, value in asked.items())

        found: set[str] = set()
        for unit in units:
            if unit.items is None:
                mine = of_sources.get(shown(unit.source), [])
                found |= {record["name"] for record in mine if holds(record, stamp=unit.stamp)}
            elif unit.kind == "files":
                found |= {item.name for item in unit.items if holds(self.records.get(item.name), **inputs_of(item))}
            else:
                names = {item.name for item in unit.items}
                found |= {
                    record["name"]
                    for record in of_sources.get(shown(unit.source), [])
                    if record["name"] in names and holds(record, stamp=unit.stamp)
                }
        return frozenset(found)


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict):
        return False
    needed: tuple[str, ...] = ("name", "input", "stamp", "output", "sha256")
    if "ended" in record:
        needed = ("ended", "stamp")
    elif "error" in record:
        needed = ("name", "input", "stamp", "error")
    if not all(isinstance(record.get(key), str) for key in needed) or not isinstance(record.get("source", ""), str):
        return False
    if type(record.get("row", 0)) is not int:
        return False
    output = PurePosixPath(record.get("output", "x"))
    return not output.is_absolute() and ".." not in output.parts  # nothing outside of the output is read for a stranger


def differences(before: dict[str, Any], settings: dict[str, Any]) -> str:
    """How settings differ, in words; "" where they don't."""
    other = [f"{name} {before.get(name)}, not {value}" for name, value in settings.items() if before.get(name) != value]
    return "; ".join(other)[:300]


def file_of(record: Record) -> str:
    """The file of a result; of a row, its shard."""
    output: str = record["output"]
    return output.rpartition("#")[0] if "row" in record else output


def lines(records: Iterable[Record], indent: int | None = None) -> bytes:
    text = "".join(json.dumps(record, indent=indent, ensure_ascii=False) + "\n" for record in records)
    try:
        return text.encode()
    except UnicodeEncodeError:  # of a file's name that isn't Unicode: as \udcff
        return "".join(json.dumps(record, indent=indent) + "\n" for record in records).encode()


def part_of(records: list[Record]) -> tuple[str, bytes]:
    """The name and the content of a file of records; the same images have the same name."""
    names = json.dumps([record.get("name", record.get("ended")) for record in records])
    return f"{FOLDER}/part-{digest(names.encode())[:20]}.jsonl", lines(records)


def wrong(manifest: Manifest, units: Iterable[Unit]) -> Iterator[str]:
    """What is wrong with the results of a run, a sentence each: inputs without one, results that are gone or changed."""
    units = list(units)
    held = manifest.holding(units, frozenset(file_of(r) for r in manifest.records.values() if "output" in r))
    of_sources = manifest.of_sources()
    for unit in units:
        if unit.items is None:
            source = shown(unit.source)
            for record in of_sources.get(source, []):
                if "error" in record:
                    yield f"{record['name']}: {record['error']}"
            if manifest.ended.get(source) != unit.stamp:
                yield f"{source}: {'changed since it was read' if source in manifest.ended else 'not read to its end'}"
        for item in unit.items or ():
            found = manifest.records.get(item.name)
            if found is None:
                yield f"{item.name}: no result"
            elif "error" in found:
                yield f"{item.name}: {found['error']}"
            elif item.name not in held:
                yield f"{item.name}: its input is another one than that of the result, or changed"
    shards: dict[str, list[bytes]] = {}
    for name, record in sorted(manifest.records.items(), key=lambda entry: entry[1].get("output", "")):
        if "error" not in record:
            yield from _unlike(manifest.place, name, record, shards)
    known = {file_of(record) for record in manifest.records.values() if "row" in record}
    for file in manifest.place.names(SHARDS) if known else ():
        if file not in known:
            yield f"{file}: rows that belong to no record"


def _unlike(place: Place, name: str, record: Record, shards: dict[str, list[bytes]]) -> Iterator[str]:
    file = file_of(record)
    try:
        if "row" in record:
            if file not in shards:
                shards.clear()  # records come in the order of their files
                shards[file] = rows_of(place.read(file))
            content = dict(enumerate(shards[file])).get(record["row"])
        else:
            content = place.read(file)
    except FileNotFoundError:
        yield f"{name}: {file} is missing"
        return
    except (ValueError, OSError) as error:
        yield f"{name}: {file} can't be read ({error})"
        return
    if content is None or digest(content) != record["sha256"]:
        yield f"{name}: {file} is not what was written"


def rows_of(content: bytes) -> list[bytes]:
    """The bytes of each result of a shard of Parquet. Raises ValueError for anything else."""
    try:
        table = pq.read_table(io.BytesIO(content)).to_pylist()
        return [next(cell["bytes"] for cell in row.values() if isinstance(cell, dict)) for row in table]
    except Exception as error:  # whatever pyarrow raises for a damaged file
        raise ValueError(str(error)[:200]) from error
