"""Copies of files from behind an address, in a folder of bounded size that the processes of a machine share.

Notable:
- A file is fetched in parts, each within a time and several times if need be, and compared with its SHA-256.
- A copy appears when it is whole. One process fetches it; others wait for that.
- Before a file comes, those go that were used longest ago, but none that a process reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
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
PASSING = (408, 425, 429)  # of the statuses of HTTP that refuse, those after which another attempt may help
LONGEST_PAUSE = 30.0  # seconds between two attempts
ROOM_WAIT = 60.0  # seconds to wait until others have read what they have open
OVERHEAD = 4096  # bytes of a row besides its files, and of a copy besides its rows
ABANDONED = 3600.0  # seconds after which nobody writes to an unfinished copy any more
SUFFIX, TRAILER = ".rows", struct.Struct("<QI")
COPIES = re.compile(r"[0-9a-f]{64}\.rows|\.[0-9a-f]{64}\.w[0-9a-f]{4}p\d+-[0-9a-f]+\.(rows|fetched)")
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
    def overhead(self) -> int:
        """Bytes of its copy besides the contents, at most."""
        return OVERHEAD * (self.rows + 1)


class Shortened(ValueError):
    """A file behind an address has fewer bytes than were noted."""


class Damaged(OSError):
    """A copy doesn't hold what was written. It is gone now."""


class Copy:
    """
    A copy that is open for reading. While it is open, nobody removes it.

    It holds the rows one after the other (`packed`), then as JSON the shard's SHA-256 and of each row place, length and CRC-32, then
    `TRAILER`: where that begins, and its own CRC-32.
    """

    def __init__(self, path: Path, noted: Noted):
        """Raises FileNotFoundError where there is no whole copy, OSError where something else is in its place."""
        check_regular(path)
        self.path = path
        self.file = os.fdopen(
            os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
        )
        try:
            if fcntl is not None:
                fcntl.flock(self.file, fcntl.LOCK_SH)
                if os.fstat(self.file.fileno()).st_ino != path.stat().st_ino:
                    raise FileNotFoundError(path)  # it was removed while this waited
            self.index = self._read_index(noted)
            os.utime(path)
        except BaseException:
            self.close()
            raise

    def _read_index(self, noted: Noted) -> list[tuple[int, int, int]]:
        try:
            end = self.file.seek(-TRAILER.size, os.SEEK_END)
            start, checksum = TRAILER.unpack(self.file.read(TRAILER.size))
            self.file.seek(start)
            text = self.file.read(max(end - start, 0))
            if zlib.crc32(text) == checksum:
                found = json.loads(text)
                index = [(int(place), int(size), int(crc)) for place, size, crc in found["rows"]]
                within = all(min(place, size) >= 0 and size <= start - place for place, size, _ in index)
                if found["sha256"] == noted.sha256 and len(index) == noted.rows and within:
                    return index
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError, OSError, struct.error):
            pass
        self.path.unlink(missing_ok=True)  # damaged, or another shard's
        raise FileNotFoundError(self.path)

    def row(self, number: int) -> dict[str, Any]:
        """Raises Damaged."""
        start, size, checksum = self.index[number]
        self.file.seek(start)
        content = self.file.read(size)
        if zlib.crc32(content) == checksum:
            with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
                return unpacked(content)
        self.path.unlink(missing_ok=True)
        raise Damaged(f"{self.path}: row {number} isn't what was written")

    def close(self) -> None:
        self.file.close()


def packed(row: dict[str, Any]) -> bytes:
    """A row as bytes: the length of a text, a JSON of texts and lengths, the contents of files. Raises ValueError for another row."""
    head: dict[str, Any] = {}
    contents = []
    for column, value in row.items():
        head[column] = value
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            if not isinstance(content, bytes | None) or not isinstance(path, str | None):
                raise ValueError(f"column {column} holds no file")
            head[column] = {"size": None if content is None else len(content), "path": path}
            contents.append(content or b"")
        elif not isinstance(value, str | None):
            raise ValueError(f"column {column} holds neither a text nor a file")
    text = json.dumps(head, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return b"".join([len(text).to_bytes(4, "little"), text, *contents])


def unpacked(content: bytes) -> dict[str, Any]:
    """Raises ValueError, LookupError, TypeError, AttributeError or RecursionError for what `packed` hasn't made."""
    place = 4 + int.from_bytes(content[:4], "little")
    row: dict[str, Any] = json.loads(content[4:place].decode("utf-8", "surrogatepass"))
    for column, value in row.items():
        if isinstance(value, dict):
            size = value["size"]
            cell = None if size is None else content[place : place + size]
            row[column], place = {"bytes": cell, "path": value["path"]}, place + (size or 0)
    if place != len(content):
        raise ValueError("not as long as its cells")
    return row


Reading = Callable[[Path], tuple[int, Iterator[dict[str, Any]]]]


class Cache:
    """
    A folder of copies.

    Args:
        limit: bytes of all copies in it. Other files are none of its business.
        reading: a fetched file -> the bytes of its rows, and the rows.
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
        path = self.folder / f"{noted.sha256}{SUFFIX}"
        with self._writable():
            pass
        for _ in range(3):
            with suppress(FileNotFoundError):
                return Copy(path, noted)
            with self._lock(str(int(noted.sha256[:8], 16) % LOCKS)):
                if not path.exists():
                    try:
                        self._fetch(noted, path, wait)
                    except FileNotFoundError as error:
                        if error.errno is None:  # `fetch`'s: what was to be fetched isn't there
                            raise
                        raise OSError(
                            f"{self.folder}: removed while it was used; expected a folder that stays"
                        ) from error
        raise OSError(f"{path}: gone or damaged as soon as it was written")

    def _fetch(self, noted: Noted, path: Path, wait: bool) -> None:
        with write_atomic(path) as copy:
            fetched = copy.with_suffix(".fetched")
            try:
                self._reserve(fetched, noted.size, wait)
                fetch(noted, fetched)
                try:
                    size, rows = self.reading(fetched)
                    self._reserve(copy, size + noted.overhead, wait)
                    _write(copy, noted, rows, size + noted.overhead)
                except (ValueError, pa.ArrowTypeError, LookupError) as error:
                    raise ValueError(f"{redact(noted.address)}: not a shard ({str(error)[:200]})") from error
            finally:
                fetched.unlink(missing_ok=True)

    def _reserve(self, path: Path, size: int, wait: bool) -> None:
        """Makes a file of `size` bytes, which take no place on the disk until they are written; removes copies for it. Raises NoRoom."""
        end = time.monotonic() + (ROOM_WAIT if wait and size <= self.limit else 0)
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
                if COPIES.fullmatch(file.name) and file.is_file():
                    status = file.stat()
                    unfinished = file.name.startswith(".")
                    if (
                        unfinished and time.time() - status.st_mtime > ABANDONED
                    ):  # perhaps of another machine, or of that name
                        file.unlink()
                        continue
                    found.append((unfinished, status.st_mtime, status.st_size, file))
        excess = sum(stored for *_, stored, _ in found) + size - self.limit
        for unfinished, _, stored, file in sorted(found):
            if excess <= 0 or unfinished:
                break
            if _removed(file):
                excess -= stored
        return excess <= 0

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        lock = filelock.FileLock(self.folder / ".locks" / f"{name}.lock")
        with self._writable():
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            self.folder.joinpath(".locks").mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise OSError(
                f"{self.folder}: no place for a cache ({error.strerror or error}); expected a folder that can be written"
            ) from error


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
            there = system.info(path, **limit).get("size")
            if isinstance(there, int) and there < end:  # another attempt wouldn't help
                raise Shortened(f"{redact(address)}: {there} bytes; expected more, by its dataset.json")
        except Shortened:
            raise
        except (FileNotFoundError, PermissionError) as error:  # nor here
            said = redact(str(error))
            said = "no such file" if isinstance(error, FileNotFoundError) and said in ("", redact(address)) else said
            raise type(error)(f"{redact(address)}: {said or type(error).__name__}") from error
        except Exception as error:  # of any library below fsspec: aiohttp's and botocore's are no OSErrors
            reason = " ".join(f"{type(error).__name__} {redact(str(error))}".split())
            status = getattr(error, "status", getattr(getattr(error, "response", None), "status_code", None))  # of HTTP
            if isinstance(status, int) and 400 <= status < 500 and status not in PASSING:
                raise ConnectionError(f"{redact(address)}: refused ({reason[:300]})") from error
        # not at the same moment as others; from the system's generator, since the training's must not move
        if attempt == ATTEMPTS - 1 or stopped.wait(
            min(2.0**attempt, LONGEST_PAUSE) * (0.5 + secrets.randbelow(1000) / 1000)
        ):
            break
    raise ConnectionError(  # no error of the file that is written
        f"{redact(address)}: bytes {start} to {end} could not be read in {ATTEMPTS} attempts ({reason[:300]})"
    )


def _write(path: Path, noted: Noted, rows: Iterator[dict[str, Any]], most: int) -> None:
    """A copy in the place that was reserved for it. Raises ValueError for rows of more than `most` bytes, or another number of them."""
    index = []
    with path.open("r+b") as file:
        for row in rows:
            content = packed(row)
            if file.tell() + len(content) > most:
                raise ValueError("its rows take more than it says")
            index.append((file.tell(), len(content), zlib.crc32(content)))
            with told_of(path.parent):
                file.write(content)
        if len(index) != noted.rows:
            raise ValueError(f"{len(index)} rows; expected {noted.rows}, by its dataset.json")
        text = json.dumps({"sha256": noted.sha256, "rows": index}).encode()
        with told_of(path.parent):
            trailer = TRAILER.pack(file.tell(), zlib.crc32(text))
            file.write(text + trailer)
            file.truncate()
