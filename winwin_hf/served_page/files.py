"""The folder of a page's files: its own, bounded in size and age, gone with the process."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Collection
from pathlib import Path

from filelock import FileLock, Timeout

from winwin_hf.served_page.limits import Limits

LOCK = ".running"  # held while the process of a work folder lives
NEW_FOLDER_SECONDS = 60  # a younger folder may be about to be filled
SWEEP_SECONDS = 30
MAX_PATH = 4096  # characters
LEAST_BYTES = 8192  # that a file takes on the disk: a block, and its folder another


class WorkFolder:
    """A folder for all files of this process's page, below GRADIO_TEMP_DIR or the system's temporary folder; a context manager.

    Attributes:
        path: the folder. files: what Gradio serves, below it: uploads and results.
        removal: the thread that removes what pages left here that were killed.
    """

    def __init__(self, name: str) -> None:
        base = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()).resolve()
        base.mkdir(parents=True, exist_ok=True)
        # beside the page, which serves at once: they may hold a hundred thousand files
        left = [folder for folder in base.glob(f"{name}-*") if not _in_use(folder)]
        self.removal = threading.Thread(target=_remove_all, args=(left,), daemon=True)
        self.removal.start()
        self.path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
        self._lock = FileLock(self.path / LOCK)
        self._lock.acquire()
        self.files = self.path / "files"
        temporary = self.path / "temporary"
        for folder in (self.files, temporary):
            folder.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(self.files)
        for name in ("gradio.routes", "gradio.route_utils"):  # which read the variable when they were imported
            if name in sys.modules:
                sys.modules[name].DEFAULT_TEMP_DIR = str(self.files)  # type: ignore[attr-defined]
        tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)  # parts of uploads, and what decoders write
        atexit.register(self.remove)

    def remove(self) -> None:
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> WorkFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _remove_all(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _in_use(folder: Path) -> bool:
    """True while the process that made the folder lives, and for another user's folder."""
    if folder.is_symlink():
        return True
    lock = FileLock(folder / LOCK)
    try:
        if time.time() - folder.stat().st_ctime < NEW_FOLDER_SECONDS and not (folder / LOCK).exists():
            return True  # a process that starts at this moment
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


class Janitor:
    """Deletes old files, then the oldest until the rest is within the limit, then empty folders. What lies there at the start stays.

    Args:
        known: sets of paths that Gradio keeps; deleted files leave them.
    """

    def __init__(self, folder: WorkFolder, limits: Limits, known: Collection[set[str]] = ()) -> None:
        self.folder, self.limits, self.known = folder.path, limits, known
        self.kept = {entry.path for entry in _files(self.folder)}
        self._one = threading.Lock()

    def run(self) -> None:
        while self.folder.exists():
            time.sleep(SWEEP_SECONDS)
            self.sweep()
            return_memory()

    def sweep(self, now: float | None = None) -> int:
        """Bytes on the disk that are left. now: seconds since the epoch."""
        now = time.time() if now is None else now
        with self._one:
            found = []
            for entry in _files(self.folder):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found.append((status.st_ctime, max(status.st_size, LEAST_BYTES), entry.path))
            total = sum(size for _, size, _ in found)
            for changed, size, path in sorted(found):
                if now - changed <= self.limits.kept_seconds and total <= self.limits.disk_bytes:
                    break
                if path not in self.kept:
                    Path(path).unlink(missing_ok=True)
                    total -= size
            for root, folders, _ in os.walk(self.folder, topdown=False):
                for name in folders:
                    _remove_empty(Path(root, name), now, self.folder)
            for names in self.known:
                names.difference_update([name for name in list(names) if not os.path.exists(name)])  # noqa: PTH110
            return total


def remove_parts(files: Path, before: float) -> None:
    """Removes what uploads that broke off left. before: seconds since the epoch, at which no upload that goes on had begun."""
    with os.scandir(files) as entries:
        for entry in entries:
            # as Gradio names what it receives
            if entry.name.startswith("tmp") and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_ctime < before:
                        Path(entry.path).unlink()


def return_memory() -> None:
    """Gives freed memory back to the system. glibc keeps what each of the server's threads once used for a picture."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _files(folder: Path) -> list[os.DirEntry[str]]:
    """All files below a folder, links included; links aren't followed."""
    found, waiting = [], [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        found.append(entry)
        except FileNotFoundError:
            continue
    return found


def _remove_empty(folder: Path, now: float, top: Path) -> None:
    """Removes a folder that is empty and isn't new. Those right below `top` stay."""
    with contextlib.suppress(OSError):  # it isn't empty
        if folder.parent != top and now - folder.stat().st_ctime > NEW_FOLDER_SECONDS:
            folder.rmdir()


def own_file(path: str, files: Path, examples: Collection[Path] = ()) -> Path | None:
    """The file, if it lies in `files` or is one of `examples`; else None, and no other folder was looked into.

    Args:
        path: what a client says. files: a folder without links in its path.
    """
    if len(path) > MAX_PATH or "\0" in path or not os.path.isabs(path):  # noqa: PTH117
        return None
    plain = Path(os.path.normpath(path))
    if plain in examples:
        return plain
    if files not in plain.parents:
        return None
    found = plain.resolve()
    return found if files in found.parents and found.is_file() else None
