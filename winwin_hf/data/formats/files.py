"""Opening, checking and writing files, for the readers and writers of every format.

Notable:
- A source is a path, or a `Blob`: bytes with a name. Every reader takes either.
- Nothing is allocated on the word of a header alone: `check_claim` compares it with the stored size.
- Every writer uses `write_atomic`: a reader never sees half a file, and a failed write leaves the old one.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import secrets
import shutil
import socket
import tempfile
import textwrap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import psutil
from safetensors import SafetensorError

from winwin_hf.model.pixels_winwin import LIMIT, MAX_PIXELS, check_regular, check_unmasked, pixel_limit
from winwin_hf.own_files import check_held, remove_tree, undisturbed

DEFLATE_RATIO = 1100  # deflate (PNG, gzip, zip) packs at most about 1032 : 1
MAX_TEXT_BYTES = 100 * 10**6  # of a list of frames, a record of results or a config
MAX_CHANNELS = 4  # values of a pixel of one decoded array


@dataclass(frozen=True)
class Blob:
    """A file that is in memory: its bytes, and the name that messages give it."""

    data: bytes
    name: str

    def __repr__(self) -> str:
        return f"Blob({self.name!r}, {len(self.data)} bytes)"


FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # of a disk that takes no more
FULL_BELOW = 1 << 16  # bytes that are free on such a disk, of which numpy says how much it has written
PathLike: TypeAlias = "str | Path"
Source: TypeAlias = "str | Path | Blob"


def name_of(source: Source) -> str:
    return source.name if isinstance(source, Blob) else str(source)


@contextmanager
def opened(source: Source) -> Iterator[tuple[BinaryIO, int]]:
    """Yields (binary file at its start, its size in bytes). Raises FileNotFoundError or another OSError naming the path."""
    if isinstance(source, Blob):
        yield io.BytesIO(source.data), len(source.data)
        return
    check_regular(source)
    try:
        with Path(source).open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            yield file, size
    except OSError as error:  # of a disk or a server that fails while it reads, the system's error has no name
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(source)
        raise


def content_of(source: Source) -> bytes:
    with opened(source) as (file, _):
        return file.read()


def read_text(path: PathLike, errors: str = "strict") -> str:
    """
    A text file in UTF-8.

    Args:
        errors: of `bytes.decode`, for bytes that aren't UTF-8.
    Raises: ValueError, naming the file, for other bytes, and for more than MAX_TEXT_BYTES; OSError as `opened`.
    """
    try:
        with opened(path) as (file, size):
            if size > MAX_TEXT_BYTES:
                raise ValueError(f"{path}: {bytes_text(size)}; expected a text of at most {bytes_text(MAX_TEXT_BYTES)}")
            return file.read(MAX_TEXT_BYTES).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text in UTF-8 (byte {error.start} is {error.object[error.start]:#04x})"
        ) from None


def read_bounded(file: Any) -> bytes:
    """The bytes of an open file. Raises ValueError for more than a text has."""
    found: bytes = file.read(MAX_TEXT_BYTES + 1)
    if len(found) > MAX_TEXT_BYTES:
        raise ValueError(f"more than {bytes_text(MAX_TEXT_BYTES)}; expected a text")
    return found


def read_json(path: PathLike) -> Any:
    """The value in a JSON file. Raises ValueError, naming the file, for anything else; OSError as `opened`."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable JSON ({str(error).lower() or 'empty'})") from None


def read_values(source: Source, file: BinaryIO, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The next values of the opened source, as an array that owns them. The caller has checked that the file holds them."""
    done = 0
    with decoding(source, "file"):
        values = np.empty(shape, dtype)
        flat = values.reshape(-1).view(np.uint8).data
        while done < len(flat):
            got = file.readinto(flat[done:])  # type: ignore[attr-defined]
            if not got:
                raise EOFError("it ended while it was read")
            done += got
    return values


@contextmanager
def decoding(source: Source, kind: str) -> Iterator[None]:
    """Turns any exception of a library into one ValueError that names the file.

    Any: decoders raise struct.error, zlib.error, KeyError, RuntimeError, OverflowError and others for malformed files.
    """
    try:
        yield
    except Exception as error:
        reason = textwrap.shorten(re.sub(r" <_io\..*?>", "", str(error)), 200) or type(error).__name__
        raise ValueError(f"{name_of(source)}: not a readable {kind} ({reason}).") from error


def check_claim(name: str, shape: tuple[int, ...], value_bytes: float, stored: int, ratio: float) -> None:
    """Raises ValueError if an array of this shape can't come from `stored` bytes packed at most `ratio` : 1, or has more values than
    the largest picture that is read."""
    count, most = math.prod(shape), MAX_CHANNELS * pixel_limit(MAX_PIXELS)
    if count < 1 or count > most:
        raise ValueError(
            f"{name}: an array of {_times(shape)} values; expected between 1 and {most:,}, or a higher limit of pixels in the variable "
            f"{LIMIT}."
        )
    if count * value_bytes > ratio * stored:
        raise ValueError(f"{name}: an array of {_times(shape)} values cannot come from {stored} stored bytes.")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "0"


@contextmanager
def write_atomic(path: PathLike) -> Iterator[Path]:
    """Yields a temporary name in `path`'s folder, with its suffix; the file written there becomes `path` if nothing failed.

    ```python
    with write_atomic("flow.flo") as temporary:
        temporary.write_bytes(content)
    ```
    """
    path = Path(path)
    check_held(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist.")
    remove_leftovers(path.parent)
    stem = os.fsencode(path.stem)[:100].decode("utf-8", "ignore")  # systems limit a name's bytes
    temporary = path.with_name(f".{stem}.{owner()}{secrets.token_hex(4)}{path.suffix}")
    try:
        with told_of(path):
            yield temporary
            check_held(path)
            temporary.replace(path)
    finally:
        with undisturbed():
            temporary.unlink(missing_ok=True)


@contextmanager
def told_of(path: PathLike, reads: bool = False) -> Iterator[None]:
    """
    Errors of the disk, such as no space, name the file or folder that was to be written.

    reads: other files are read meanwhile, whose errors stay as they are.
    """
    try:
        yield
    except OSError as error:
        if reads and error.errno not in FULL and owner() not in f"{error.filename} {error}":
            raise
        if error.errno is not None and (error.filename is None or owner() in str(error.filename)):
            if error.errno == errno.ENOENT:  # no input is missing
                raise OSError(f"{path}: could not be written: its folder, or its temporary file, is gone") from error
            raise OSError(error.errno, error.strerror, str(path)) from error
        if type(error) is OSError and error.errno is None:  # numpy's, Pillow's and h5py's have neither number nor name
            if (
                re.search(r"\d+ requested and \d+ written", str(error))
                and shutil.disk_usage(Path(path).parent).free < FULL_BELOW
            ):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise OSError(f"{path}: could not be written ({' '.join(str(error).split())[:200]})") from error
        raise
    except SafetensorError as error:
        if reads:
            raise
        raise OSError(f"{path}: could not be written ({error})") from error


def check_room(path: PathLike, needed: int) -> None:
    """Raises OSError where the disk of a file or folder to be written has no room for `needed` bytes."""
    folder = Path(path).absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{path}: {bytes_text(free)} free on its disk; expected {bytes_text(needed)}")


# ---- what a killed run left ----

_OWNED = re.compile(r"\.(?P<name>.+)[.-]w(?P<machine>[0-9a-f]{4})p(?P<process>\d+)-")
NEW, OLD = "new", "old"  # in the temporary folder of `replacing_folder`
REPLACED = "replaced"  # in a temporary folder: files that were moved out of the way; only who moves them knows what to do with it
_cleaned: set[tuple[Path, int]] = set()


def owner() -> str:
    """What a temporary file's or folder's name holds: this machine and process, so that a later run knows whether it still lives."""
    return f"w{_machine()}p{os.getpid()}-"


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()) & 0xFFFF:04x}"


def leftovers(folder: Path) -> Iterator[tuple[Path, str]]:
    """What processes of this machine that have ended left in a folder under temporary names: (path, the name it was for)."""
    for path in folder.glob(".*"):
        match = _OWNED.match(path.name)
        if match and match["machine"] == _machine() and not psutil.pid_exists(int(match["process"])):
            yield path, match["name"]


def remove_leftovers(folder: PathLike) -> None:
    """
    Removes what processes of this machine that have ended left in a folder under temporary names; once a process and folder.

    A folder that one of them was about to replace gets its name back.
    """
    folder = Path(folder).absolute()
    if (folder, os.getpid()) in _cleaned:
        return
    _cleaned.add((folder, os.getpid()))
    for path, name in leftovers(folder):
        if path.is_dir() and not path.is_symlink():
            if not (path / REPLACED).exists():
                put_back(path, folder / name)
                remove_tree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


@contextmanager
def replacing_folder(folder: PathLike) -> Iterator[Path]:
    """
    Yields a new folder beside `folder`, which at the end takes its name; if anything fails, the old one stays.

    A process that is killed between the two renames leaves the old folder under a temporary name; the next `remove_leftovers` of the
    place puts it back.
    """
    folder = Path(folder).absolute()
    check_held(folder)
    with told_of(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-{owner()}", dir=folder.parent))
    try:
        new = temporary / NEW
        new.mkdir()  # not `temporary` itself, which only its owner may read
        yield new
        check_held(folder)
        if os.path.lexists(folder):
            folder.rename(temporary / OLD)
        new.rename(folder)
    finally:
        with undisturbed():
            put_back(temporary, folder)
            remove_tree(temporary, ignore_errors=True)


def put_back(temporary: Path, folder: Path) -> None:
    """Gives a folder its name back where a replacement of it ended between its two renames. temporary: of `replacing_folder`."""
    if os.path.lexists(temporary / OLD) and not os.path.lexists(folder):
        (temporary / OLD).rename(folder)


def bytes_text(count: float) -> str:
    """A number of bytes for a person, to three digits: "1.23 MB". 1 kB is 1000 bytes."""
    power = min(int(math.log(max(count, 1), 1000)), 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def check_suffix(path: PathLike, suffix: str) -> None:
    if Path(path).suffix.lower() != suffix:
        raise ValueError(f"{path}: expected a name that ends in {suffix}.")


def flow_array(path: PathLike, flow: Any) -> np.ndarray:
    """Flow to be written, as float32 (H, W, 2). Raises ValueError for another shape."""
    array = np.asarray(to_numpy(flow), np.float32)
    if array.ndim != 3 or array.shape[2] != 2 or 0 in array.shape:
        raise ValueError(
            f"{path}: flow to be written is (H, W, 2), got a shape of {array.shape}. From the model's (2, H, W), permute first."
        )
    return array


def map_array(path: PathLike, values: Any, what: str, dtype: Any = np.float32) -> np.ndarray:
    """A map to be written, as (H, W). Raises ValueError for another shape."""
    array = np.asarray(to_numpy(values), dtype)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{path}: {what} is (H, W), got a shape of {array.shape}.")
    return array


def to_numpy(values: Any) -> Any:
    """A torch tensor on any device as a NumPy array; anything else unchanged. Raises ValueError for a masked array."""
    if not hasattr(values, "detach"):
        check_unmasked("What is to be written", values)
        return values
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
