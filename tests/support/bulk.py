"""`winwin predict` in this process, and what it wrote."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from winwin_hf.inference.bulk.run import Summary, predict, verify


def run(given: Any, output: Any, model: str, workers: int = 1, **options: Any) -> Summary:
    """One worker, which is this process: tests change things in it."""
    options = {"say": lambda _: None, **options}
    return predict(str(given), str(output), model, workers=workers, progress=False, **options)


def results(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def picture(value: int = 0, size: tuple[int, int] = (40, 56)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(file, "png")
    return file.getvalue()


def write(folder: Path, *names: str) -> Path:
    """Pictures, each of one value: its place in the list."""
    for value, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(value))
    return folder


def faults(given, output, model) -> list[str]:
    return verify(str(given), str(output), model)[1]


def tar_of(path: Path, *values: int | bytes, form: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for number, value in enumerate(values):
            content = picture(value) if isinstance(value, int) else value
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path.write_bytes(file.getvalue())
    return file.getvalue()
