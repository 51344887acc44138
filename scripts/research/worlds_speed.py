"""Rendered pairs of synthetic worlds a second and core: the windows of a flow recipe against whole frames.

Two windows of 8x8 patches of frame 1 with their flow, and two of 16x16 of frame 2, as in
flow-wide-windows; medians of five blocks of worlds.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from winwin_hf.cli.errors import UsageError, one_line_errors, parse_size
from winwin_hf.data.sources import open_source

PATCH, BLOCKS = 16, 5
FIRST, SECOND = 8, 16  # sides of the windows of the two frames, in patches


def main(
    meshes: Annotated[Path | None, typer.Option(help="Folder of meshes. Default: shapes of our own alone.")] = None,
    textures: Annotated[Path | None, typer.Option(help="Folder of photographs.")] = None,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the frames.")] = "480x640",
    worlds: Annotated[int, typer.Option(min=1, help="Worlds in each of five blocks.")] = 20,
    warmup: Annotated[int, typer.Option(min=0, help="Worlds before them, which fill the caches.")] = 100,
) -> None:
    """Measure rendering in CPU seconds of this process."""
    cv2.setNumThreads(1)
    height, width = parse_size("--size", size) or (0, 0)
    if min(height, width) < SECOND * PATCH:
        raise UsageError(
            f"--size {size}: expected at least {SECOND * PATCH} pixels a side, as large as the second frame's windows"
        )
    settings = {"height": height, "width": width, **({"textures": str(textures)} if textures else {})}
    source = open_source("synthetic-worlds", str(meshes) if meshes else None, settings=settings)
    rng = np.random.default_rng(0)
    assert source.at is not None
    whole = (0, 0, height, width)
    seconds: dict[str, list[float]] = {"placing": [], "windows": [], "whole frames": []}
    for n in range(warmup):
        source.reader(source.at(n), rng).first(_box(rng, FIRST, height, width))  # type: ignore[arg-type]
    for block in range(BLOCKS):
        spent = dict.fromkeys(seconds, 0.0)
        for n in range(warmup + block * worlds, warmup + (block + 1) * worlds):
            start = time.process_time()
            world = source.reader(source.at(n), rng)
            placed = time.process_time()
            for _ in range(2):
                world.first(_box(rng, FIRST, height, width))
                world.second(_box(rng, SECOND, height, width))
            cut = time.process_time()
            world.first(whole)
            world.second(whole)
            spent["placing"] += placed - start
            spent["windows"] += cut - start
            spent["whole frames"] += time.process_time() - cut + placed - start
        for name, value in spent.items():
            seconds[name].append(value / worlds)
    for name, values in seconds.items():
        print(f"{name:14} {statistics.median(values):.3f} s a pair ({min(values):.3f} - {max(values):.3f})")


def _box(rng: np.random.Generator, side: int, height: int, width: int) -> tuple[int, int, int, int]:
    """A random window of so many patches."""
    top = PATCH * int(rng.integers(0, height // PATCH - side + 1))
    left = PATCH * int(rng.integers(0, width // PATCH - side + 1))
    return top, left, side * PATCH, side * PATCH


if __name__ == "__main__":
    typer.run(one_line_errors(main))
