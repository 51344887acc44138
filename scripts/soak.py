#!/usr/bin/env python3
"""Long runs under watch: memory, file handles, threads and shared memory must stay flat, and nothing may be lost.

    python scripts/soak.py space --minutes 10 --clients 50
    python scripts/soak.py video --frames 2000
    python scripts/soak.py train --minutes 30

Each prints a table for docs/reliability.md; the exit status is 1 where something was lost or grew.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
import yaml
from PIL import Image

from winwin_hf.cli.errors import UsageError, one_line_errors
from winwin_hf.inference import clips
from winwin_hf.recipes import recipe_path

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "spaces" / "winwin-demo"
WINWIN = [sys.executable, "-c", "from winwin_command import app; app()"]
TIMEOUT = 600  # seconds without an answer: the request is lost
END_SECONDS = 60  # that a process may take to end after SIGTERM
GROWTH = 0.1  # share by which memory may grow from the second fifth of a run to its last
# handles and threads come and go with connections
LOOSE = 20
app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, no_args_is_help=True)

Minutes = Annotated[float, typer.Option(min=0.01)]
WarmUp = Annotated[float, typer.Option(min=0, help="Minutes at the start that don't count as growth.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Between two samples, in seconds.")]


# ------------------------------------------------------------------ samples


@dataclass(frozen=True)
class Sample:
    """Of a process and its children. memory: resident bytes. shared: files in /dev/shm. disk: bytes below a folder."""

    minute: float
    memory: int
    handles: int
    threads: int
    processes: int
    shared: int
    disk: int


def sample(process: psutil.Process, start: float, folder: Path | None = None) -> Sample:
    memory = handles = threads = count = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied), one.oneshot():
            memory += one.memory_info().rss
            handles += one.num_fds() if hasattr(one, "num_fds") else one.num_handles()
            threads += one.num_threads()
            count += 1
    shm = Path("/dev/shm")  # noqa: S108
    shared = len(list(shm.iterdir())) if shm.is_dir() else 0
    return Sample((time.monotonic() - start) / 60, memory, handles, threads, count, shared, size_of(folder))


def size_of(folder: Path | None) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for root, _, names in os.walk(folder or "/nonexistent"):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(root, name).lstat().st_size
    return total


class Watch:
    """Takes samples in a thread of its own while the block runs."""

    def __init__(self, pid: int, seconds: float, folder: Path | None = None) -> None:
        self.process, self.seconds, self.folder = psutil.Process(pid), seconds, folder
        self.samples: list[Sample] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        start = time.monotonic()
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.samples.append(sample(self.process, start, self.folder))
            if self._end.wait(self.seconds):
                return


def grown(samples: Sequence[Sample]) -> list[str]:
    """What is not flat: the median of the last fifth of the samples against that of the second fifth."""
    if len(samples) < 10:
        return ["fewer than ten samples: nothing can be said about growth"]
    fifth = len(samples) // 5
    found = []
    for name in ("memory", "handles", "threads", "shared"):
        early, late = (
            statistics.median(getattr(one, name) for one in part)
            for part in (samples[fifth : 2 * fifth], samples[-fifth:])
        )
        allowed = GROWTH * early if name == "memory" else LOOSE
        if late - early > allowed:
            found.append(f"{name} grew from {early:.0f} to {late:.0f}")
    return found


def after(samples: Sequence[Sample], minute: float) -> list[Sample]:
    """The samples from a minute on."""
    return [one for one in samples if one.minute >= minute]


def table(samples: Sequence[Sample], rows: int = 12) -> str:
    """Markdown, at most about `rows` rows spread over the run."""
    lines = [
        "| minute | memory MB | handles | threads | processes | /dev/shm | disk MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in samples[:: max(1, len(samples) // rows)]:
        lines.append(
            f"| {one.minute:.1f} | {one.memory / 1e6:.0f} | {one.handles} | {one.threads} | {one.processes} | {one.shared} "
            f"| {one.disk / 1e6:.0f} |"
        )
    return "\n".join(lines)


def finish(problems: Sequence[str]) -> None:
    print("\n".join(f"- {problem}" for problem in problems) or "flat, nothing lost")
    raise typer.Exit(1 if problems else 0)


# ------------------------------------------------------------------ the page


@dataclass
class Counts:
    """What the clients saw. seconds: of each answer, by its event."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    refused: collections.Counter[str] = field(default_factory=collections.Counter)
    lost: list[str] = field(default_factory=list)
    left: int = 0  # requests that a client gave up, as somebody who closes the page
    _one: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, event: str, seconds: float) -> None:
        with self._one:
            self.seconds[event].append(seconds)

    def refuse(self, reason: str) -> None:
        with self._one:
            self.refused[reason] += 1

    def lose(self, what: str) -> None:
        with self._one:
            self.lost.append(what)


class Refused(Exception):
    """A clear refusal; its text is the reason."""


@functools.cache
def photographs() -> list[Image.Image]:
    names = ("bedroom_1", "bedroom_2", "street", "barn", "room")
    return [Image.open(SPACE / "examples" / f"{name}.jpg").convert("RGB") for name in names]


class Client:
    """One visitor, of an address of its own."""

    def __init__(self, url: str, number: int) -> None:
        self.url = url
        self.random = random.Random(number)
        # what a proxy on the same machine would say
        self.headers = {"X-Forwarded-For": f"203.0.{number // 250}.{number % 250 + 1}"}

    def open(self, path: str, data: bytes | None = None, kind: str = "application/json") -> Any:
        asked = urllib.request.Request(self.url + path, data, {**self.headers, "Content-Type": kind})
        return urllib.request.urlopen(asked, timeout=TIMEOUT)

    def picture(self, size: tuple[int, int]) -> bytes:
        """A JPEG that nobody sent before."""
        photograph = self.random.choice(photographs())
        left, top = (self.random.random() * side / 4 for side in photograph.size)
        part = photograph.crop((left, top, left + photograph.width * 0.7, top + photograph.height * 0.7)).resize(size)
        file = io.BytesIO()
        part.save(file, "JPEG", quality=88)
        return file.getvalue()

    def upload(self, *contents: bytes) -> list[dict[str, Any]]:
        parts = b"".join(
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="p.jpg"\r\n\r\n' + content + b"\r\n"
            for content in contents
        )
        with self.open("/gradio_api/upload", parts + b"--b--\r\n", "multipart/form-data; boundary=b") as answer:
            return [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in json.load(answer)]

    def ask(self, event: str, data: list[Any], leave: bool = False) -> list[Any]:
        """The outputs of an event. leave: hang up while it waits or runs."""
        with self.open(f"/gradio_api/call/{event}", json.dumps({"data": data}).encode()) as answer:
            number = json.load(answer)["event_id"]
        with self.open(f"/gradio_api/call/{event}/{number}") as stream:
            if leave:
                return []
            said = ""
            for line in stream:
                if line.startswith(b"event: "):
                    said = line[7:].strip().decode()
                elif line.startswith(b"data: ") and said in ("complete", "error"):
                    values = json.loads(line[6:])
                    if said == "complete":
                        return values
                    reason = values.get("error") if isinstance(values, dict) else values
                    if not reason:
                        raise RuntimeError("an error without a reason")
                    raise Refused(str(reason))
        raise RuntimeError("the stream ended without an answer")

    def visit(self, counts: Counts) -> None:
        """One request of a random kind, and what became of it."""
        kind = self.random.choices(("depth", "segment", "flow", "bad", "leave", "page"), (30, 30, 20, 8, 7, 5))[0]
        size = self.random.choice(((480, 270), (960, 540)))
        start = time.monotonic()
        try:
            if kind == "page":
                with self.open("/") as page:
                    page.read()
            elif kind == "bad":
                self.ask("depth", [*self.upload(b"no picture"), "540p"])
                raise RuntimeError("what is no picture was taken for one")
            elif kind == "flow":
                outputs = self.ask("flow", [*self.upload(self.picture(size), self.picture(size)), "540p"])
            else:
                more = [0.5, "540p"] if kind == "segment" else ["540p"]
                event = "depth" if kind == "leave" else kind
                outputs = self.ask(event, [*self.upload(self.picture(size)), *more], kind == "leave")
            seconds = time.monotonic() - start
            if kind in ("flow", "depth", "segment"):
                with self.open(f"/gradio_api/file={outputs[-1]['path']}") as file:
                    if not file.read():
                        raise RuntimeError("an empty file")
            if kind == "leave":
                counts.left += 1
            else:
                counts.answered(kind, seconds)
        except Refused as refusal:
            if kind == "bad" and "not a picture" in str(refusal):
                counts.answered("bad file, refused with the reason", time.monotonic() - start)
            else:
                counts.refuse(str(refusal)[:60])
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace")
            if error.code in (413, 429, 503) and reason:
                counts.refuse("the queue is full" if "ueue is full" in reason else reason[:60])
                time.sleep(self.random.uniform(1, 4))
            else:
                counts.lose(f"{kind}: {error.code} {reason[:100]}")
        except Exception as error:
            counts.lose(f"{kind}: {type(error).__name__}: {error}")


@contextlib.contextmanager
def page(folder: Path, checkpoints: Sequence[str]) -> Iterator[tuple[subprocess.Popen, str]]:
    """The demo as a process, its files below `folder`, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder)}
    command = [sys.executable, str(SPACE / "app.py"), "--port", str(port), *checkpoints]
    with (folder.parent / "page.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder.parent)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1000):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=5).close()
                break
            if process.poll() is not None:
                raise RuntimeError((folder.parent / "page.log").read_text()[-2000:])
            time.sleep(0.3)
        yield process, url
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen]:
    """A `winwin` command as a process, which doesn't outlive an interruption."""
    process = subprocess.Popen([*WINWIN, *arguments], cwd=ROOT)
    try:
        yield process
    finally:
        if process.poll() is None:
            end(process, signal.SIGTERM)
            process.kill()
            process.wait()


def end(process: subprocess.Popen, how: signal.Signals) -> list[str]:
    """Ends a process and returns what it left behind: itself or its children."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        return [f"after {how.name} the process still runs after {END_SECONDS} s"]
    _, alive = psutil.wait_procs(family, timeout=10)
    return [f"after {how.name} the child {one.pid} still runs" for one in alive]


@app.command()
@one_line_errors
def space(
    minutes: Minutes = 10.0,
    clients: Annotated[int, typer.Option(min=1)] = 50,
    every: Seconds = 5.0,
    warm_up: WarmUp = 3.0,  # kept results fill 128 MB; slow machines need longer
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="TASK=NAME, such as flow=FOLDER; default: bundled.")
    ] = None,
) -> None:
    """The demo page under many clients at once; then its end by SIGTERM and SIGKILL."""
    if wrong := [item for item in checkpoint or [] if not re.fullmatch(r"[\w-]+=.+", item)]:
        raise UsageError(f"--checkpoint {wrong[0]}: expected TASK=NAME, such as flow=FOLDER")
    names = [part for item in checkpoint or [] for part in (f"--{item.partition('=')[0]}", item.partition("=")[2])]
    counts, problems = Counts(), []
    with tempfile.TemporaryDirectory(prefix="soak-") as home:
        folder = Path(home) / "files"
        folder.mkdir()
        with page(folder, names) as (process, url), Watch(process.pid, every, folder) as watch:
            stop = time.monotonic() + 60 * minutes

            def visitor(number: int) -> None:
                client = Client(url, number)
                while time.monotonic() < stop:
                    client.visit(counts)

            threads = [threading.Thread(target=visitor, args=(number,)) for number in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            client = Client(url, 0)
            client.ask("flow", [*client.upload(*[client.picture((480, 270))] * 2), "540p"], leave=True)
            problems += end(process, signal.SIGTERM)  # in the middle of a request
            problems += [f"after SIGTERM {left.name} is left" for left in folder.iterdir()]
        with page(folder, names) as (process, url):
            client = Client(url, 0)
            client.upload(client.picture((64, 64)))
            killed = max(folder.iterdir(), key=lambda path: path.stat().st_ctime)
            problems += end(process, signal.SIGKILL)
        with page(folder, names) as (process, _):
            if killed.exists():
                problems.append("what a killed page left is still there after the next start")
            problems += end(process, signal.SIGHUP)
            problems += [f"after SIGHUP {left.name} is left" for left in folder.iterdir()]
    print(f"{clients} clients, {minutes:g} minutes\n")
    print("| answer | count | p50 s | p95 s | most s |\n|---|---|---|---|---|")
    for event, seconds in sorted(counts.seconds.items()):
        p50, p95 = np.percentile(seconds, (50, 95))
        print(f"| {event} | {len(seconds)} | {p50:.2f} | {p95:.2f} | {max(seconds):.2f} |")
    for reason, count in counts.refused.most_common():
        print(f"| refused: {reason} | {count} | | | |")
    print(f"| given up by the client | {counts.left} | | | |\n| lost | {len(counts.lost)} | | | |\n")
    print(table(watch.samples) + "\n")
    finish([*problems, *grown(after(watch.samples, warm_up)), *[f"lost: {what}" for what in counts.lost[:10]]])


# ------------------------------------------------------------------ a clip, a training


@app.command()
@one_line_errors
def video(
    frames: Annotated[int, typer.Option(min=2)] = 2000,
    width: Annotated[int, typer.Option(min=16)] = 320,
    height: Annotated[int, typer.Option(min=16)] = 192,
    every: Seconds = 2.0,
    warm_up: WarmUp = 1.0,
    model: str = "winwin-flow",
) -> None:
    """`winwin video` along a long clip."""
    with tempfile.TemporaryDirectory(prefix="soak-") as home:
        photograph = np.asarray(
            Image.open(SPACE / "examples" / "street.jpg").convert("RGB").resize((width + 64, height + 64))
        )
        way = (32 + 32 * np.sin(np.arange(frames)[:, None] / (17, 23))).astype(int)
        clip = Path(home) / "clip.mp4"
        clips.write_video(clip, (photograph[y : y + height, x : x + width] for x, y in way), 25)
        arguments = [
            "video",
            str(clip),
            "-o",
            f"{home}/flow",
            "--model",
            model,
            "--video",
            f"{home}/flow.mp4",
            "--no-flo",
        ]
        with running(*arguments) as process, Watch(process.pid, every) as watch:
            code = process.wait()
    print(f"{frames} frames of {width} x {height}\n\n{table(watch.samples)}\n")
    finish([*grown(after(watch.samples, warm_up)), *([f"exit code {code}"] if code else [])])


@app.command()
@one_line_errors
def train(
    minutes: Minutes = 30.0,
    every: Seconds = 10.0,
    warm_up: WarmUp = 3.0,
    recipe: Annotated[
        Path | None, typer.Option(help="A name or a file. Default: a small flow network on synthetic frames.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0)] = 1,
) -> None:
    """A training of `minutes`, then SIGTERM."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "head_hidden_size": 32}
    sizes |= {f"decoder_{name}": value for name, value in sizes.items() if not name.startswith("head")}
    small = {
        "task": "optical-flow",
        "model": {"config": sizes},
        "data": {
            "name": "synthetic-flow",
            "settings": {"height": 192, "width": 256, "cache_mb": 16},
        },  # full within a minute
        "optimization": {"batch_size": 4, "num_workers": workers, "steps": 10**6},
        "save_every": 100,
        "evaluation": {"every": 200, "windows": 8, "sets": [{"label": "own", "length": 4}]},
    }
    with tempfile.TemporaryDirectory(prefix="soak-") as home:
        path = recipe_path(recipe).resolve() if recipe is not None else Path(home) / "recipe.yaml"
        if recipe is None:
            path.write_text(yaml.safe_dump(small), encoding="utf-8")
        command = ["train", str(path), "--output", f"{home}/run"]
        with running(*command) as process, Watch(process.pid, every, Path(home)) as watch:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60 * minutes)
            ended = process.poll()
            problems = [f"it ended with {ended} before its time"] if ended is not None else end(process, signal.SIGTERM)
    print(f"{minutes:g} minutes, {workers} loader workers, exit code {process.returncode}\n\n{table(watch.samples)}\n")
    finish([*grown(after(watch.samples[:-1], warm_up)), *problems])


if __name__ == "__main__":
    app()
