"""Files and folders of the package itself: opened and removed without following a link to somebody else's, and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winwin_hf.model.pixels_winwin import check_regular


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that end a command wait until its end: what tidies up is itself not interrupted. Only the main thread gets signals."""
    came: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # no SIGHUP on Windows
            number = getattr(signal, name, None)
            if number is not None and callable(signal.getsignal(number)):
                before[number] = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(came):
            os.kill(os.getpid(), number)


class TakenOver(OSError):
    """A folder isn't the one any more that this process locked."""


@dataclass
class _Held:
    """
    A folder that is locked: the text in its lock's file, and what tells lock and folder from others of their names. None: another
    process, maybe of another machine, holds the lock, and the text alone counts.
    """

    lock: Path
    text: str
    lock_identity: tuple[int, int] | None
    folder_identity: tuple[int, int] | None

    def is_the_same(self) -> bool:
        try:
            identity = _identity(self.lock)
            if identity == self.lock_identity:
                return True
        except OSError:  # the lock was deleted; the folder may be the same
            with contextlib.suppress(OSError):
                return _identity(self.lock.parent) == self.folder_identity
            return False
        # Some network file systems number their files anew. Only another file is read: closing this one would end its lock.
        with contextlib.suppress(OSError):
            status = self.lock.lstat()
            own = stat.S_ISREG(status.st_mode) and status.st_size == len(self.text.encode())
            if own and self.lock.read_text("utf-8", "replace") == self.text:
                if self.lock_identity is not None:
                    self.lock_identity = identity
                return True
        return False


_held: dict[Path, _Held] = {}


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def held(folder: Path, lock: Path, text: str) -> Iterator[None]:
    """
    Within it, what the package writes below a folder is refused once that is another one, or another process's, by `check_held`.

    Args:
        folder: the lock's, or one above it.
    Raises: TakenOver also in the place of an OSError that came from it, such as "no such file".
    """
    folder, lock = folder.absolute(), lock.absolute()
    _held[folder] = _Held(lock, text, _identity(lock), _identity(lock.parent))
    try:
        yield
    except TakenOver:
        raise
    except OSError:
        check_held(folder)
        raise
    finally:
        _held.pop(folder, None)


def held_by_others(folder: Path, lock: Path, text: str) -> None:
    """The same until this process ends, where the process that it works for holds the lock."""
    _held[folder.absolute()] = _Held(lock.absolute(), text, None, None)


def is_held(folder: str | Path) -> bool:
    """Whether this process holds the lock of a folder."""
    return Path(folder).absolute() in _held


def check_held(path: Path) -> None:
    """Raises TakenOver where `path` lies in a folder that this process locked, and that was removed, moved or replaced since."""
    place = path.absolute()
    for folder, one in list(_held.items()):
        if place.is_relative_to(folder) and not one.is_the_same():
            raise TakenOver(
                f"{folder} was removed, moved or replaced since this process locked it, or another process took it: nothing more is "
                "written there"
            )


@contextlib.contextmanager
def made_folder(folder: str | Path) -> Iterator[None]:
    """Makes a folder, with its parents; those that weren't there and are empty at the end are removed again."""
    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for place in made:
            with contextlib.suppress(OSError):  # not empty
                place.rmdir()


def open_own(path: Path, flags: int) -> int:
    """
    The descriptor of a file that the package writes in place; the file is made if there is none.

    Args:
        flags: of `os.open`, such as `os.O_RDWR`.
    Raises: TakenOver: as `check_held`. OSError, which names the path and what lies there, for anything but a file: a link could lead
        to a file of the user's.
    """
    check_held(path)
    # not to wait for the other end of a pipe; regular files don't mind. Windows lacks some of the flags
    more = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    try:
        number = os.open(path, flags | os.O_CREAT | more, 0o666)
    except OSError:
        _refuse_other(path)
        raise
    try:
        if path.is_symlink() or not stat.S_ISREG(os.fstat(number).st_mode):
            _refuse_other(path)
            raise OSError(f"{path}: changed while it was opened; expected a file")
    except BaseException:
        os.close(number)
        raise
    return number


def _refuse_other(path: Path) -> None:
    if path.is_symlink():
        raise OSError(f"{path}: a link, which is not followed; expected a file, or nothing")
    if os.path.lexists(path):
        check_regular(path)


def remove_tree(path: Path, ignore_errors: bool = False) -> None:
    """Removes a folder with all that is in it. Of a link only the link goes, and what it leads to stays. Raises: as `check_held`."""
    try:
        check_held(path)
    except TakenOver:  # it is another process's
        if ignore_errors:
            return
        raise
    for folder, one in list(_held.items()):
        if one.lock.is_relative_to(path.absolute()):
            _held.pop(folder, None)  # this process's own removal is no other's
    if not path.is_symlink():
        shutil.rmtree(path, ignore_errors=ignore_errors)
        return
    try:
        path.unlink()
    except OSError:
        if not ignore_errors:
            raise


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
