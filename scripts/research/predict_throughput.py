#!/usr/bin/env python3
"""`winwin predict` against a plain loop: images a second of two workers and of two processes that know nothing of each other, and memory.

    python scripts/research/predict_throughput.py --count 2000 --size 192x256

Both write the same .npy files, start from nothing (imports and loading are counted), and take turns. Memory is that of all processes of a
run, in each tenth of its time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import psutil
import typer

sys.path.append(str(Path(__file__).resolve().parents[1]))

from research.sizes import parse_size
from winwin_hf.bundled import examples_folder
from winwin_hf.cli.errors import UsageError, one_line_errors

LOOP = """
import sys
from pathlib import Path
import torch
from winwin_hf.data import formats
from winwin_hf.inference.predictor import Predictor
torch.set_num_threads(1)
predictor, output = Predictor.load("winwin-depth", device="cpu"), Path(sys.argv[1])
for name in sys.argv[2:]:
    formats.write_npy(output / (Path(name).stem + ".npy"), predictor(formats.read_image(name)).values)
"""


def run(commands: list[list[str]]) -> tuple[float, list[float]]:
    """Seconds until all have ended, and the largest memory in GB in each tenth of the time. None outlives an interruption."""
    start, samples = time.monotonic(), []
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    processes: list[subprocess.Popen] = []
    try:
        for command in commands:  # each the leader of a process group, with its workers
            processes.append(subprocess.Popen(command, **quiet, start_new_session=True))
        while any(process.poll() is None for process in processes):
            samples.append(sum(map(memory, processes)))
            time.sleep(0.2)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if any(process.returncode for process in processes):
        raise RuntimeError("a run failed")
    tenths = np.array_split(samples, 10)
    return time.monotonic() - start, [max(part) / 1e9 for part in tenths if len(part)]


def memory(process: subprocess.Popen) -> int:
    """Bytes that a process and its children hold alone."""
    try:
        parent = psutil.Process(process.pid)
        return sum(one.memory_full_info().uss for one in (parent, *parent.children(recursive=True)))
    except psutil.Error:
        return 0


def main(
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Frames.")] = 2000,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the frames.")] = "192x256",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way; figures are medians.")] = 3,
) -> None:
    """Measure both ways in turns."""
    height, width = parse_size("--size", size)
    whole = cv2.imread(str(examples_folder() / "room.jpg"))
    if height > whole.shape[0] or width > whole.shape[1]:
        raise UsageError(
            f"--size {size}: expected at most {whole.shape[0]}x{whole.shape[1]}, the picture that frames are cut from"
        )
    with tempfile.TemporaryDirectory() as place:
        given = Path(place) / "in"
        given.mkdir()
        for number, (row, column) in enumerate(np.random.default_rng(0).random((count, 2))):
            top, left = int(row * (whole.shape[0] - height)), int(column * (whole.shape[1] - width))
            cv2.imwrite(str(given / f"{number:05d}.png"), whole[top : top + height, left : left + width])
        names = sorted(map(str, given.iterdir()))
        speeds: dict[str, list[float]] = {"two plain loops": [], "winwin predict --workers 2": []}
        for turn in range(rounds):
            loops = Path(place) / f"loops{turn}"
            loops.mkdir()
            output = Path(place) / f"predict{turn}"
            ways = {
                "two plain loops": [[sys.executable, "-c", LOOP, str(loops), *names[half::2]] for half in (0, 1)],
                "winwin predict --workers 2": [
                    [sys.executable, "-m", "winwin_command", "predict", str(given), str(output)]
                    + ["--model", "winwin-depth", "--workers", "2", "--threads", "1"]
                ],
            }
            for way, commands in ways.items():
                seconds, held = run(commands)
                speeds[way].append(count / seconds)
                print(
                    f"{way}: {count / seconds:.2f} images/s, GB {' '.join(f'{gb:.2f}' for gb in held)}",
                    flush=True,
                )
            same = all(
                (loops / f"{Path(n).stem}.npy").read_bytes() == (output / f"{Path(n).stem}.npy").read_bytes()
                for n in names
            )
            print(f"the same files: {same}")
        loop, predict = (statistics.median(found) for found in speeds.values())
        print(f"medians: {loop:.2f} and {predict:.2f} images/s, ratio {predict / loop:.3f}")


if __name__ == "__main__":
    typer.run(one_line_errors(main))
