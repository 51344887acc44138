"""The folder of a guarded page, and the janitor."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from winwin_hf.served_page import Limits
from winwin_hf.served_page.files import LOCK, Janitor, WorkFolder, own_file


def write(path: Path, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


# ------------------------------------------------------------------ the folder


def test_files_are_own_ones(tmp_path: Path) -> None:
    files, outside = tmp_path / "files", write(tmp_path / "secret.png")
    inside, example = write(files / "a" / "b.png"), write(tmp_path / "examples" / "e.png")
    (files / "link.png").symlink_to(outside)
    (files / "up").symlink_to(tmp_path)
    assert own_file(str(inside), files) == inside
    assert own_file(f"{files}/a/../a/./b.png", files) == inside
    assert own_file(str(example), files) is None and own_file(str(example), files, {example}) == example
    for other in (
        outside,
        files / "link.png",
        files / "up" / "secret.png",
        files / "a",
        files,
        tmp_path / "filesx" / "b",
    ):
        assert own_file(str(other), files, {example}) is None, other
    for text in ("", "b.png", f"{inside}\0", f"{files}/../secret.png", f"file://{inside}", "/" * 5000):
        assert own_file(text, files, {example}) is None, text


def test_nothing_outside_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that not even the time of an answer says whether a file is there."""

    def looked(*_: Any, **__: Any) -> None:
        raise AssertionError

    for name in ("stat", "lstat", "readlink"):
        monkeypatch.setattr(os, name, looked)
    answer = own_file("/etc/passwd", Path("/tmp/files"))
    monkeypatch.undo()
    assert answer is None


def test_the_folder_is_private_and_goes(folder: WorkFolder) -> None:
    assert folder.path.stat().st_mode & 0o077 == 0
    assert os.environ["GRADIO_TEMP_DIR"] == str(folder.files)
    assert Path(tempfile.mkdtemp()).parent.parent == folder.path
    folder.remove()
    assert not folder.path.exists()


HOLD = """
import sys, time
sys.modules['winwin_command'] = None  # else the package imports torch
from winwin_hf.served_page import WorkFolder
folder = WorkFolder("page")
folder.removal.join()
print(folder.path, flush=True)
time.sleep(600)
"""


def test_what_a_killed_process_left_goes_with_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> tuple[subprocess.Popen, Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GRADIO_TEMP_DIR": str(tmp_path)},
        )
        assert process.stdout
        return process, Path(process.stdout.readline().strip())

    (killed, left), (living, used) = start(), start()
    write(left / "files" / "upload.png")
    elsewhere = write(tmp_path / "other" / "file")
    (tmp_path / "page-link").symlink_to(tmp_path / "other")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert left.exists()
    third, path = start()
    assert not left.exists() and used.exists() and path.exists() and elsewhere.exists()
    for process in (living, third):
        process.kill()
        process.wait()


# ------------------------------------------------------------------ the janitor


def left(folder: WorkFolder) -> set[str]:
    return {path.name for path in folder.files.rglob("*")}


def test_old_files_and_empty_folders_go(folder: WorkFolder) -> None:
    write(folder.files / "example" / "kept.jpg")
    janitor = Janitor(folder, Limits(kept_seconds=100))
    path = write(folder.files / "upload" / "picture.png")
    (folder.files / "empty" / "below").mkdir(parents=True)
    (folder.files / "link").symlink_to(folder.path.parent)
    known = {str(path), str(folder.files / "example" / "kept.jpg"), "/nowhere"}
    janitor.known = [known]
    janitor.sweep()
    assert {"upload", "picture.png", "empty", "below"} <= left(folder)
    assert known == {str(path), str(folder.files / "example" / "kept.jpg")}
    janitor.sweep(now=time.time() + 101)
    assert left(folder) == {"example", "kept.jpg"} and folder.path.parent.exists()
    assert {path.name for path in folder.path.iterdir()} == {"files", "temporary", LOCK}


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    """Also that between blocks which are still in use."""
    code = """
import psutil
from winwin_hf.served_page.files import return_memory
blocks = [bytearray(50_000) for _ in range(2000)]
used = blocks[::20]
del blocks
before = psutil.Process().memory_info().rss
return_memory()
print(before - psutil.Process().memory_info().rss)
"""
    light = "import sys; sys.modules['winwin_command'] = None\n"  # else the package imports torch
    done = subprocess.run([sys.executable, "-c", light + code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50e6


def test_the_oldest_go_when_they_are_too_many(folder: WorkFolder) -> None:
    janitor = Janitor(folder, Limits(disk_bytes=350_000))
    for number in range(6):
        write(folder.files / str(number) / f"{number}.npy", 100_000)
        time.sleep(0.01)
    assert janitor.sweep() <= 350_000
    assert {name for name in left(folder) if name.endswith(".npy")} == {"3.npy", "4.npy", "5.npy"}


def test_many_small_files_count(folder: WorkFolder) -> None:
    janitor = Janitor(folder, Limits(disk_bytes=50 * 8192))
    for number in range(200):
        write(folder.files / "many" / f"{number}", 1)
    janitor.sweep()
    assert len(left(folder)) <= 51


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_the_files_go_with_a_signal(tmp_path: Path) -> None:
    """SIGHUP too, of a terminal that closes; under nohup it is ignored, and the page goes on."""
    code = """
import os, signal, sys
import gradio
from winwin_hf.served_page import Limits, WorkFolder, serve
class Page(gradio.Blocks):
    def launch(self, **_):
        for number in self.signals:
            os.kill(os.getpid(), number)
        print("goes on")
signal.signal(signal.SIGHUP, signal.SIG_DFL)
for signals in ((signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGHUP, signal.SIGTERM)):
    if len(signals) > 1:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with WorkFolder("page") as folder:
        page = Page()
        page.signals = signals
        serve(page, folder, Limits())
        print("ended")
"""
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path), "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["ended"] * 3 and not [*tmp_path.iterdir()]
