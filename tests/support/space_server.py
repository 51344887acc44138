"""The demo as a process of its own on this machine, for the tests that talk to it: real HTTP, no network beyond loopback."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from support.places import HANGS_AFTER, ROOT
from winwin_hf import (
    WinWinConfig,
    WinWinForDepthEstimation,
    WinWinForOpticalFlow,
    WinWinForSemanticSegmentation,
    WinWinImageProcessor,
)

SPACE = ROOT / "spaces" / "winwin-demo"
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "head_hidden_size": 16,
}
MATCHING = {
    "patch_embedding": "conv_stem",
    "matching_stride": 4,
    "matching_size": 16,
}  # so that there are coarse passes
MODELS = {
    "flow": WinWinForOpticalFlow,
    "depth": WinWinForDepthEstimation,
    "segmentation": WinWinForSemanticSegmentation,
}
LABELS = {0: "sky", 1: "road", 2: "tree & <b>bush</b>"}


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen
    log: Path
    checkpoints: dict[str, str]  # task -> folder
    home: Path  # the folder in which it was started

    @property
    def files(self) -> Path:
        """What it serves: uploads and results."""
        return next(self.home.glob("files/winwin-*/files"))


def tiny_checkpoints(folder: Path) -> dict[str, str]:
    """A random checkpoint for each task, of a few thousand parameters."""
    torch.manual_seed(0)
    for task, cls in MODELS.items():
        config = WinWinConfig(**SIZES, **(MATCHING if task == "flow" else {}), id2label=LABELS)
        cls(config).save_pretrained(folder / task)
        WinWinImageProcessor().save_pretrained(folder / task)
    return {task: str(folder / task) for task in MODELS}


@functools.cache
def start() -> Server:
    """The one demo of this test session, with tiny random checkpoints; it ends with the session."""
    home = _home()
    checkpoints = tiny_checkpoints(home / "checkpoints")
    names = [part for task, name in checkpoints.items() for part in (f"--{task}", name)]
    return _launch(home, checkpoints, SPACE / "app.py", *names)


@functools.cache
def start_metric(name: str) -> Server:
    """The one page of a metric of this test session, such as "optical_flow"."""
    return _launch(_home(), {}, ROOT / "spaces" / name / "app.py")


def _home() -> Path:
    pytest.importorskip("gradio", reason="needs gradio (winwin-hf[demo])")
    home = Path(tempfile.mkdtemp(prefix="winwin-space-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def _launch(home: Path, checkpoints: dict[str, str], *command: Path | str) -> Server:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "GRADIO_TEMP_DIR": str(home / "files"),
        "GRADIO_SERVER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "no_proxy": "*",  # loopback goes through no proxy
    }
    environment.pop("SPACE_ID", None)
    log = home / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=home
        )
    atexit.register(process.kill)
    url = f"http://127.0.0.1:{port}"
    for _ in range(5 * HANGS_AFTER):
        if process.poll() is not None:
            pytest.fail(f"the page ended at once:\n{log.read_text()}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            break
        except OSError:
            time.sleep(0.2)
    else:
        pytest.fail(f"the page doesn't answer:\n{log.read_text()}")
    return Server(url, process, log, checkpoints, home)


def write_header(path: Path, width: int, height: int) -> str:
    """A PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data)
    return str(path)
