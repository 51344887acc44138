"""Copies of files from behind an address, in a folder of bounded size that the processes of a machine share.

Notable:
- A file is fetched in parts, each within a time and several times if need be, and compared with its SHA-256.
- A copy appears when it is whole. One process fetches it; others wait for that.
- Before a file comes, those go that were used longest ago, but none that a process reads.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
from fsspec.asyn import AsyncFileSystem

from winwin_hf.data.ahead import in_order
from winwin_hf.data.formats.files import bytes_text, told_of, write_atomic
from winwin_hf.data.places import filesystem
from winwin_hf.model.pixels_winwin import check_regular
from winwin_hf.redaction import redact

try:
    import fcntl
except ImportError:  # Windows, which lets nobody remove a file that is open
    fcntl = None  # type: ignore[assignment]

PART = 8 * 2**20  # bytes of a request
CONNECTIONS = 4  # requests at a time, of one file
TIMEOUT = 60.0  # seconds of a request
ATTEMPTS = 8
LONGEST_PAUSE = 30.0  # seconds between two attempts
ROOM_WAIT = 60.0  # seconds to wait until others have read what they have open
OVERHEAD = 2048  # bytes of a row besides its files, and of an Arrow file besides its rows
LOCKS = 64  # files, so that a cache of many shards doesn't have as many


class NoRoom(OSError):
    """The cache holds nothing that may go."""


@dataclass(frozen=True)
class Noted:
    """A file that a cache copies: where it is, what its dataset.json says of it."""

    address: str
    rows: int
    size: int
    sha256: str

    @property
    def mark(self) -> dict[bytes, bytes]:
        """By which a copy is known."""
        return {b"sha256": self.sha256.encode(), b"rows": str(self.rows).encode()}

    @property
    def overhead(self) -> int:
        """Bytes of its copy besides the contents, at most."""
        return OVERHEAD * (self.rows + 1)


class Copy:
    """A copy that is open for reading: an Arrow file with a batch for each row. While it is open, nobody removes it."""

    def __init__(self, path: Path, noted: Noted):
        """Raises FileNotFoundError where there is no whole copy, OSError where something else is in its place."""
        check_regular(path)
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            if fcntl is not None:
                fcntl.flock(self.number, fcntl.LOCK_SH)
                if os.fstat(self.number).st_ino != path.stat().st_ino:
                    raise FileNotFoundError(path)  # it was removed while this waited
            try:
                self.file = pa.memory_map(str(path))
                self.batches = pa.ipc.open_file(self.file)
            except pa.ArrowInvalid:
                self.batches = None
            if self.batches is None or self.batches.schema.metadata != noted.mark:  # damaged, or another shard's
                path.unlink(missing_ok=True)
                raise FileNotFoundError(path)
            os.utime(path)
        except BaseException:
            os.close(self.number)
            raise

    def row(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.batches.get_batch(number).to_pylist()[0]
        return found

    def close(self) -> None:
        self.file.close()
        os.close(self.number)


Reading = Callable[[Path], tuple[pa.Schema, int, Iterator[pa.RecordBatch]]]


class Cache:
    """
    A folder of copies.

    Args:
        limit: bytes of all files in it.
        reading: a fetched file -> the schema of its rows, their bytes in memory, and a batch for each.
    """

    def __init__(self, folder: Path, limit: int, reading: Reading):
        self.folder, self.limit, self.reading = folder, limit, reading

    def opened(self, noted: Noted, wait: bool = True) -> Copy:
        """
        A copy, which is fetched where there is none.

        Args:
            wait: for others to close theirs, where there is no room.
        Raises: OSError: it can't be fetched or stored. NoRoom: all that is there is in use. ValueError: it isn't what was noted.
        """
        path = self.folder / f"{noted.sha256}.arrow"
        for _ in range(3):
            with suppress(FileNotFoundError):
                return Copy(path, noted)
            with told_of(self.folder):
                self.folder.joinpath(".locks").mkdir(parents=True, exist_ok=True)
            with self._lock(str(int(noted.sha256[:8], 16) % LOCKS)):
                if not path.exists():
                    self._fetch(noted, path, wait)
        raise OSError(f"{path}: gone or damaged as soon as it was written")

    def _fetch(self, noted: Noted, path: Path, wait: bool) -> None:
        with write_atomic(path) as copy:
            fetched = copy.with_suffix(".fetched")
            try:
                self._reserve(fetched, noted.size, wait)
                fetch(noted, fetched)
                try:
                    schema, size, batches = self.reading(fetched)
                    self._reserve(copy, size + noted.overhead, wait)
                    rows = _write(copy, schema.with_metadata(noted.mark), batches)
                    if rows != noted.rows:
                        raise ValueError(f"{rows} rows; expected {noted.rows}, by its dataset.json")
                except (ValueError, pa.ArrowTypeError, LookupError) as error:
                    raise ValueError(f"{redact(noted.address)}: not a shard ({str(error)[:200]})") from error
            finally:
                fetched.unlink(missing_ok=True)

    def _reserve(self, path: Path, size: int, wait: bool) -> None:
        """Makes a file of `size` bytes, which take no place on the disk until they are written; removes copies for it. Raises NoRoom."""
        end = time.monotonic() + (ROOM_WAIT if wait else 0)
        while True:
            with self._lock("room"):
                if self._make_room(size):
                    with path.open("wb") as file:
                        file.truncate(size)
                    return
            if time.monotonic() >= end:
                raise NoRoom(
                    f"{self.folder}: no room for {bytes_text(size)} more, what is there is in use; expected a larger cache_gb than "
                    f"{self.limit / 1e9:g}, or fewer tracks"
                )
            time.sleep(0.5)

    def _make_room(self, size: int) -> bool:
        """Removes copies until `size` bytes more fit into the cache; whether they do."""
        found = []
        for file in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if file.is_file():
                    status = file.stat()
                    found.append((status.st_mtime, status.st_size, file))
        excess = sum(stored for _, stored, _ in found) + size - self.limit
        for _, stored, file in sorted(found):
            if excess <= 0:
                break
            if file.suffix == ".arrow" and not file.name.startswith(".") and _removed(file):
                excess -= stored
        return excess <= 0

    def _lock(self, name: str) -> filelock.BaseFileLock:
        return filelock.FileLock(self.folder / ".locks" / f"{name}.lock")


def _removed(file: Path) -> bool:
    """Removes a copy that nobody reads."""
    try:
        if fcntl is None:
            file.unlink()
            return True
        number = os.open(file, os.O_RDONLY)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
        finally:
            os.close(number)
    except FileNotFoundError:
        return True
    except OSError:  # in use
        return False
    return True


def fetch(noted: Noted, path: Path) -> None:
    """
    Writes what is behind an address to a file that is there.

    Raises: FileNotFoundError, PermissionError, or OSError after `ATTEMPTS`; ValueError where it isn't what was noted.
    """
    system, there = filesystem(noted.address)
    digest, stopped = hashlib.sha256(), threading.Event()

    def part(start: int) -> bytes:
        return _part(system, there, start, min(start + PART, noted.size), noted.address, stopped)

    with path.open("r+b") as file, closing(in_order(part, range(0, noted.size, PART), CONNECTIONS)) as parts:
        try:
            for content in parts:
                digest.update(content)
                with told_of(path.parent):
                    file.write(content)
        finally:
            stopped.set()
    if digest.hexdigest() != noted.sha256:
        raise ValueError(
            f"{redact(noted.address)}: not the file that its dataset.json describes (SHA-256); expected it unchanged"
        )


def _part(system: Any, path: str, start: int, end: int, address: str, stopped: threading.Event) -> bytes:
    limit = {"timeout": TIMEOUT} if isinstance(system, AsyncFileSystem) else {}  # others have time limits of their own
    for attempt in range(ATTEMPTS):
        try:
            content: bytes = system.cat_file(path, start=start, end=end, **limit)
            if len(content) == end - start:
                return content
            reason = f"{len(content)} of {end - start} bytes came"
        except (FileNotFoundError, PermissionError) as error:  # another attempt wouldn't help
            raise type(error)(f"{redact(address)}: {redact(str(error)) or type(error).__name__}") from error
        except Exception as error:  # of any library below fsspec: aiohttp's and botocore's are no OSErrors
            reason = f"{type(error).__name__} {redact(str(error))}".strip()
        # not at the same moment as others; from the system's generator, since the training's must not move
        if attempt == ATTEMPTS - 1 or stopped.wait(
            min(2.0**attempt, LONGEST_PAUSE) * (0.5 + secrets.randbelow(1000) / 1000)
        ):
            break
    raise OSError(
        f"{redact(address)}: bytes {start} to {end} could not be read in {ATTEMPTS} attempts ({reason[:300]})"
    )


def _write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
    """Writes an Arrow file in the place that was reserved for it; returns the number of batches."""
    count = 0
    with told_of(path.parent), path.open("r+b") as file:
        with pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch.replace_schema_metadata(schema.metadata))
                count += 1
        file.truncate(file.tell())
    return count
