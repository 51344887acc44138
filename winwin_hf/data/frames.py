"""
Synthetic scenes rendered to files, so that shards can be made of them: for GPUs that learn faster than CPUs render. Source: ours.

The last file of a scene says that the others are there, and what their bytes sum to: an interrupted run goes on behind those, and
renders again what was damaged since.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
from tqdm import tqdm

from winwin_hf.data.formats import write_atomic
from winwin_hf.data.formats.arrays import write_flo, write_npy
from winwin_hf.data.formats.files import bytes_text
from winwin_hf.data.formats.images import write_labels
from winwin_hf.data.rows import cell, table
from winwin_hf.data.sample import Reader
from winwin_hf.data.sources import Source
from winwin_hf.own_files import remove_tree
from winwin_hf.pools import process_pool
from winwin_hf.processes import LOCK
from winwin_hf.task import DataTask

AT_A_TIME = 4  # scenes that a process gets
CELLS = ("image", "image1", "image2", "flow", "occluded", "depth", "label")
BYTES_A_PIXEL = {
    "optical-flow": 13,
    "depth-estimation": 7,
    "semantic-segmentation": 3,
}  # of all files of a scene, about


@dataclass
class _Scenes:
    """What a process needs to render: no data set, which would travel over sockets."""

    reader: Reader
    at: Callable[[int], dict[str, Any]]
    task: DataTask
    folder: Path

    def __call__(self, numbers: range) -> int:
        """Writes the files of scenes, unless they are there and whole -> how many scenes."""
        for n in numbers:
            if not _is_whole(self.folder, n):
                _write(self.reader(self.at(n), np.random.default_rng(n)), self.task, self.folder, n)
        return len(numbers)


def render_frames(
    source: Source, folder: Path, count: int, workers: int = 0, progress: bool = False
) -> datasets.Dataset:
    """
    The first scenes of a synthetic source as whole frames in a folder, and their rows. Those that an interrupted run has finished stay.

    Args:
        workers: number of processes; 0: this one.
    Raises: OSError where the disk has too little space, ChildProcessError where a process was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    assert source.at is not None
    scenes = _Scenes(source.reader, source.at, source.task, folder)
    _check_space(source, folder, count)
    with tqdm(total=count, desc=f"render {source.name}", disable=not progress) as shown:
        if workers:
            parts = [range(n, min(n + AT_A_TIME, count)) for n in range(0, count, AT_A_TIME)]
            try:
                with process_pool(min(workers, len(parts)), "spawn", _start) as pool:
                    for start in range(0, len(parts), 1024):  # what is handed out is kept in memory
                        for done in [pool.submit(scenes, part) for part in parts[start : start + 1024]]:
                            shown.update(done.result())
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    f"{folder}: a process that renders was killed (for memory?); started again, the command goes on"
                ) from error
        else:
            for n in range(count):
                shown.update(scenes(range(n, n + 1)))
    rows = [json.loads((folder / f"{_name(n)}.json").read_text())["row"] for n in range(count)]
    return table(
        [{k: cell(folder / v) if k in CELLS and v else v for k, v in row.items()} for row in rows], source.task
    )


def _start() -> None:
    cv2.setNumThreads(1)  # by a name of its own: pickle would look for a built-in one in every module that is loaded


def remove_frames(folder: Path, count: int) -> None:
    """Removes the files of so many scenes, and the folder, if it holds nothing else but its lock."""
    names = {_name(n) for n in range(count)}
    for path in list(folder.iterdir()):
        if path.name[: len(_name(0))] in names:
            path.unlink()
    if all(path.name == LOCK for path in folder.iterdir()):
        remove_tree(folder)


def _check_space(source: Source, folder: Path, count: int) -> None:
    """Raises OSError where the frames and the shards of them won't fit on the disk, by the size of the first scene."""
    assert source.at is not None
    sample = source.reader(source.at(0), np.random.default_rng(0))
    # twice, as frames and in shards; those of an earlier run are there already
    needed = 2 * (count - sum(1 for _ in folder.glob("*.json"))) * sample.height * sample.width
    needed *= BYTES_A_PIXEL[source.task]
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{folder}: {bytes_text(free)} free; expected about {bytes_text(needed)} for {count:,} scenes")


def _name(n: int) -> str:
    return f"scene-{n:08d}"


def _sum(path: Path) -> int:
    return zlib.crc32(path.read_bytes())


def _is_whole(folder: Path, n: int) -> bool:
    """Whether a scene's files are all there, with the bytes that were written."""
    try:
        noted = json.loads((folder / f"{_name(n)}.json").read_text())
        return all(_sum(folder / name) == value for name, value in noted["sums"].items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _write(sample: Any, task: DataTask, folder: Path, n: int) -> None:
    """One scene's files; the last of them says that all are there."""
    whole, name = (0, 0, sample.height, sample.width), _name(n)
    image, target = sample.first(whole)
    row: dict[str, Any] = {"name": name}
    if task == "optical-flow":
        row |= {"image1": f"{name}-1.png", "image2": f"{name}-2.png", "flow": f"{name}.flo", "flow_format": "flo"}
        _picture(folder / row["image1"], image)
        _picture(folder / row["image2"], sample.second(whole))
        write_flo(folder / row["flow"], target)
        if hasattr(sample, "occlusion"):
            row |= {"occluded": f"{name}-occluded.png", "occluded_format": "png"}
            hidden = np.where(sample.occlusion(whole), 255, 0).astype(np.uint8)
            write_labels(folder / row["occluded"], hidden)
    elif task == "depth-estimation":
        row |= {"image": f"{name}.png", "depth": f"{name}.npy", "depth_format": "npy"}
        _picture(folder / row["image"], image)
        write_npy(folder / row["depth"], target)
    else:
        row |= {"image": f"{name}.png", "label": f"{name}-label.png", "label_format": "ids"}
        _picture(folder / row["image"], image)
        write_labels(folder / row["label"], target)
    sums = {row[column]: _sum(folder / row[column]) for column in CELLS if column in row}
    with write_atomic(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps({"row": row, "sums": sums}))


def _picture(path: Path, image: np.ndarray) -> None:
    with write_atomic(path) as temporary:
        data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        temporary.write_bytes(data.tobytes())
