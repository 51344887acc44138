"""Synthetic scenes rendered to files, so that shards can be made of them: for GPUs that learn faster than CPUs render. Source: ours."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
from tqdm import tqdm

from winwin_hf.data.formats import write_atomic
from winwin_hf.data.formats.arrays import write_flo, write_npy
from winwin_hf.data.formats.images import write_labels
from winwin_hf.data.rows import cell, table
from winwin_hf.data.sources import Source


def render_frames(
    source: Source, folder: Path, count: int, workers: int = 0, progress: bool = False
) -> datasets.Dataset:
    """
    The first scenes of a synthetic source as whole frames in a folder, and their rows. Those that an interrupted run has finished stay.

    Args:
        workers: number of processes; 0: this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    assert source.at is not None
    write = partial(_write, source, folder)
    todo = [n for n in range(count) if not (folder / f"{_name(n)}.json").is_file()]
    shown = tqdm(total=count, initial=count - len(todo), desc=f"render {source.name}", disable=not progress)
    with shown:
        if workers:
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                for _ in pool.map(write, todo, chunksize=4):
                    shown.update()
        else:
            for n in todo:
                write(n)
                shown.update()
    rows = [json.loads((folder / f"{_name(n)}.json").read_text()) for n in range(count)]
    return table(
        [{k: cell(folder / v) if k in CELLS and v else v for k, v in row.items()} for row in rows], source.task
    )


CELLS = ("image", "image1", "image2", "flow", "occluded", "depth", "label")


def _name(n: int) -> str:
    return f"scene-{n:07d}"


def _write(source: Source, folder: Path, n: int) -> None:
    """One scene's files; the last of them says that all are there."""
    assert source.at is not None
    sample: Any = source.reader(source.at(n), np.random.default_rng(n))
    whole, name = (0, 0, sample.height, sample.width), _name(n)
    image, target = sample.first(whole)
    row: dict[str, Any] = {"name": name}
    if source.task == "optical-flow":
        row |= {"image1": f"{name}-1.png", "image2": f"{name}-2.png", "flow": f"{name}.flo", "flow_format": "flo"}
        _picture(folder / row["image1"], image)
        _picture(folder / row["image2"], sample.second(whole))
        write_flo(folder / row["flow"], target)
        if hasattr(sample, "occlusion"):
            row |= {"occluded": f"{name}-occluded.png", "occluded_format": "png"}
            write_labels(folder / row["occluded"], np.where(sample.occlusion(whole), 255, 0).astype(np.uint8))
    elif source.task == "depth-estimation":
        row |= {"image": f"{name}.png", "depth": f"{name}.npy", "depth_format": "npy"}
        _picture(folder / row["image"], image)
        write_npy(folder / row["depth"], target)
    else:
        row |= {"image": f"{name}.png", "label": f"{name}-label.png", "label_format": "ids"}
        _picture(folder / row["image"], image)
        write_labels(folder / row["label"], target)
    with write_atomic(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(row))


def _picture(path: Path, image: np.ndarray) -> None:
    with write_atomic(path) as temporary:
        data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        temporary.write_bytes(data.tobytes())
