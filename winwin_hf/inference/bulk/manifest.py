"""What was done: one record for each image, by which a run goes on and is checked.

Files in the output's folder:

    manifest/run.json          the settings: results of other weights or formats don't mix with these
    manifest/part-*.jsonl      the records of up to UNIT images, written after their results
    manifest.jsonl             all of them, in the order of their names, when a run ended

A record has name, input, output, sha256, bytes, seconds, weights; or name, input, error.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from winwin_hf.inference.bulk.outputs import Place, digest

FOLDER, WHOLE, RUN = "manifest", "manifest.jsonl", "manifest/run.json"
Record = dict[str, Any]


@dataclass
class Manifest:
    """The records of a place."""

    place: Place
    records: dict[str, Record] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)  # sources whose rows were all read
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
        return found

    def _add(self, name: str, content: bytes) -> None:
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            try:
                record = json.loads(line)
                known = isinstance(record, dict) and all(
                    isinstance(record.get(key, ""), str) for key in ("name", "error", "output", "sha256", "ended")
                )
            except (ValueError, RecursionError):
                known = False
            if not known:
                raise ValueError(
                    f"{self.place.root}/{name}: line {number} is no record; expected a file of `winwin predict`"
                )
            if "ended" in record:
                self.ended.add(record["ended"])
            else:
                self.records[record["name"]] = record

    def claim(self, settings: dict[str, Any]) -> None:
        """Writes run.json. Raises ValueError where results of other settings are there, FileExistsError where something else is."""
        try:
            before = json.loads(self.place.read(RUN))
        except (FileNotFoundError, NotADirectoryError):
            before = None
        except (ValueError, RecursionError):
            raise ValueError(f"{self.place.root}/{RUN}: not readable; expected a file of `winwin predict`") from None
        if before is not None and before != settings:
            other = [
                f"{name} {before.get(name)}, not {value}"
                for name, value in settings.items()
                if before.get(name) != value
            ]
            raise ValueError(
                f"{self.place.root}: an earlier run with other settings left its results there ({'; '.join(other)[:300]}); expected "
                "another output"
            )
        if before is None and (there := self.place.anything()):
            raise FileExistsError(
                f"{self.place.root}: {there} is there, and no manifest of `winwin predict`; expected a new or empty output"
            )
        if before is None:
            self.place.write(RUN, lines([settings], indent=1))

    def done(self) -> frozenset[str]:
        """Names that have a result."""
        return frozenset(name for name, record in self.records.items() if "error" not in record)

    def fold(self) -> None:
        """Writes all records into one file, and removes the parts."""
        ended = [{"ended": source} for source in sorted(self.ended)]
        self.place.write(WHOLE, lines([*(self.records[name] for name in sorted(self.records)), *ended]))
        for part in self.parts:
            self.place.remove(part)
        self.parts = []


def lines(records: Iterable[Record], indent: int | None = None) -> bytes:
    return "".join(json.dumps(record, indent=indent, ensure_ascii=False) + "\n" for record in records).encode()


def part_of(records: list[Record]) -> tuple[str, bytes]:
    """The name and the content of a file of records; the same images have the same name."""
    names = json.dumps([record.get("name", record.get("ended")) for record in records])
    return f"{FOLDER}/part-{digest(names.encode())[:20]}.jsonl", lines(records)


def wrong(manifest: Manifest, names: Iterable[str]) -> Iterator[str]:
    """What is wrong with the results of a run, a sentence each: inputs without one, results that are gone or changed."""
    asked = set()
    for name in names:
        asked.add(name)
        record = manifest.records.get(name)
        if record is None:
            yield f"{name}: no result"
        elif "error" in record:
            yield f"{name}: {record['error']}"
    shards: dict[str, dict[str, bytes]] = {}
    for name, record in sorted(manifest.records.items(), key=lambda entry: entry[1].get("output", "")):
        if "error" in record:
            continue
        yield from _unlike(manifest.place, name, record, shards)


def _unlike(place: Place, name: str, record: Record, shards: dict[str, dict[str, bytes]]) -> Iterator[str]:
    file, _, row = record["output"].partition("#")
    try:
        if row:
            if file not in shards:
                shards.clear()  # records come in the order of their files
                shards[file] = rows_of(place.read(file))
            content = shards[file].get(name)
        else:
            content = place.read(file)
    except FileNotFoundError:
        yield f"{name}: {file} is missing"
        return
    except ValueError as error:
        yield f"{name}: {file} can't be read ({error})"
        return
    if content is None or digest(content) != record["sha256"]:
        yield f"{name}: {file} is not what was written"


def rows_of(content: bytes) -> dict[str, bytes]:
    """Name -> the bytes of the result, of a shard of Parquet. Raises ValueError for anything else."""
    try:
        table = pq.read_table(io.BytesIO(content)).to_pylist()
        return {row["name"]: next(cell["bytes"] for cell in row.values() if isinstance(cell, dict)) for row in table}
    except Exception as error:  # whatever pyarrow raises for a damaged file
        raise ValueError(str(error)[:200]) from error
