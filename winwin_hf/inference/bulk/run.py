"""`winwin predict`: everything in an input, through a network, into an output."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from huggingface_hub import snapshot_download
from tqdm import tqdm

from winwin_hf import bundled
from winwin_hf.data.places import is_remote
from winwin_hf.downloads import checked_downloads
from winwin_hf.inference.bulk.engines import run_local, run_ray
from winwin_hf.inference.bulk.manifest import Manifest, wrong
from winwin_hf.inference.bulk.outputs import FORMATS, Place
from winwin_hf.inference.bulk.plan import Unit, plan
from winwin_hf.inference.bulk.work import Job
from winwin_hf.inference.loading import load_config
from winwin_hf.inference.predictor import device_of
from winwin_hf.model.image_processing_winwin import check_quality
from winwin_hf.own_files import sha256_of
from winwin_hf.task import ARCHITECTURES, DENSE, TASKS, Task

Engine = Literal["local", "ray"]
WORKER_MEMORY = 4 * 10**9  # bytes of a worker with a Full HD picture, and some room


@dataclass
class Summary:
    """What a run did. predicted: now; reused: by earlier runs; broken: sentences, one for each input that was skipped."""

    predicted: int
    reused: int
    broken: list[str]
    seconds: float  # of the network, all workers together


def predict(
    given: str,
    output: str,
    model: str = "winwin-depth",
    *,
    engine: Engine = "local",
    address: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    batch: int | None = None,
    suffix: str | None = None,
    parquet: bool = False,
    quality: str | None = None,
    device: str = "auto",
    skip_broken: bool = False,
    progress: bool = True,
    say: Callable[[str], Any] = print,
) -> Summary:
    """
    Predicts for everything in `given`, and writes the results and a manifest. The same call goes on after an interruption.

    Args:
        given: see `plan.plan`. output: a folder, or an address that fsspec knows.
        engine: "local": processes of this machine. "ray": the actors of a Ray cluster, whose nodes see `given` and `output`, see `address`
            in `engines.run_ray`.
        workers: processes that hold a network each. None: one a GPU; on CPUs one for each 4 cores and 4 GB.
        threads: of a worker on a CPU. None: the machine's cores shared among the workers, torch's own number for one; on a cluster 4, or
            as many as a node has. The last digits of results depend on it.
        batch: images of one size at once. None: 8 on a GPU, 1 on a CPU.
        suffix: of results: .flo or .npy; .npy (metres) or .png (16-bit millimetres); .png. parquet: results as rows of shards.
        quality: of flow, see `Predictor.load`; None: "fast".
        skip_broken: record inputs that can't be read, and go on.
    Raises:
        FileNotFoundError: nothing is there. ValueError: an argument; an output of other settings; an input that can't be read
        (`BrokenInput`). OSError: a result can't be written.
    """
    check_quality(quality)
    task = _task_of(model)
    if quality is not None and task.name != "optical-flow":
        raise ValueError(f"{model}: quality {quality!r} is for networks of flow")
    if engine == "local":
        device_of(device)
    suffix = suffix or next(iter(FORMATS[task.name]))
    if suffix not in FORMATS[task.name]:
        raise ValueError(f"format {suffix}: expected {' or '.join(FORMATS[task.name])} for {task.title}")
    for name, value in (("workers", workers), ("threads", threads), ("batch", batch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}: expected 1 or more")
    if quality is None and task.name == "optical-flow":
        quality = "fast"
    folder = _folder_of(model)
    gpus = torch.cuda.device_count() if device == "auto" else int(device.startswith("cuda"))
    count = workers or gpus or _cpu_workers()
    devices = [f"cuda:{number}" for number in range(gpus)] if device == "auto" and gpus > 1 else []
    job = Job(
        model=str(folder),
        task=task.name,
        weights=_version(folder),
        output=output if is_remote(output) else str(Path(output).absolute()),
        suffix=suffix,
        parquet=parquet,
        quality=quality,
        device=device,
        batch=batch or (8 if gpus else 1),
        skip_broken=skip_broken,
        threads=threads if gpus or engine == "ray" or count == 1 else threads or max(1, _cores() // count),
    )
    given = given if is_remote(given) else str(Path(given).absolute())
    units = [*plan(given, task)]
    manifest = Manifest.load(Place(job.output))
    manifest.claim(
        {
            "model": Path(model).name,
            **{name: getattr(job, name) for name in ("task", "weights", "suffix", "parquet", "quality")},
        }
    )
    left = [*_left(units, manifest)]
    summary = Summary(0, len(manifest.done()), [], 0.0)
    total = sum(len(unit.items or ()) for unit in left)
    left = [
        part for unit in left for part in _parts(unit, -(-total // (4 * count)))
    ]  # so that no worker ends long before another
    if manifest.parts or summary.reused:
        say(f"{output}: {summary.reused} results are there; going on")
    made = (
        run_ray(job, left, workers, address)
        if engine == "ray"
        else run_local(job, left, min(count, max(len(left), 1)), devices)
    )
    with tqdm(total=total or None, unit="image", disable=not progress, desc=task.title) as bar:
        for records in made:
            for record in records:
                if "error" in record:
                    summary.broken.append(record["error"])
                elif "ended" not in record:
                    summary.predicted += 1
                    summary.seconds += record["seconds"]
            bar.update(sum("ended" not in record for record in records))
    if left or manifest.parts:
        Manifest.load(Place(job.output)).fold()
    return summary


def verify(given: str, output: str, model: str = "winwin-depth") -> tuple[int, list[str]]:
    """The number of results, and what is wrong with them: inputs without one, results that are gone or not what was written."""
    given = given if is_remote(given) else str(Path(given).absolute())
    manifest = Manifest.load(Place(output))
    names: list[str] = []
    faults: list[str] = []
    for unit in plan(given, _task_of(model)):
        names += [item.name for item in unit.items or ()]
        if unit.items is None and unit.source not in manifest.ended:
            faults.append(f"{unit.source}: not read to its end")
    return len(manifest.done()), [*faults, *wrong(manifest, names)]


def _left(units: list[Unit], manifest: Manifest) -> Iterator[Unit]:
    """Units without what is done."""
    done = manifest.done()
    for unit in units:
        if unit.items is None:
            if unit.source not in manifest.ended:
                mine = frozenset(name for name in done if name.startswith(f"{unit.stem}/"))
                yield replace(unit, done=mine)
            continue
        items = tuple(item for item in unit.items if item.name not in done)
        if items:
            yield replace(unit, items=items)


def _parts(unit: Unit, most: int) -> Iterator[Unit]:
    """A unit in pieces of at most so many items; a video stays whole, since it is decoded from its beginning."""
    if unit.items is None or unit.kind == "video":
        yield unit
        return
    for start in range(0, len(unit.items), most):
        yield replace(unit, items=unit.items[start : start + most])


def _task_of(model: str) -> Task:
    """Raises ValueError for a network that predicts no map."""
    architecture = (load_config(model).architectures or [""])[0]
    found = ARCHITECTURES.get(architecture)
    if found is None or found.name not in DENSE:
        titles = ", ".join(TASKS[name].title for name in DENSE)
        raise ValueError(
            f"{model} has the architecture {architecture or 'of nothing'}; expected a network for {titles}"
        )
    return found


def _folder_of(model: str) -> Path:
    """The folder of a network's files; one of the Hub is downloaded."""
    folder = Path(bundled.resolve(model))
    if folder.is_dir():
        return folder
    with checked_downloads(model):
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors"]))


def _version(folder: Path) -> str:
    """Tells weights apart: the first digits of the SHA-256 of their files' SHA-256s."""
    files = [*folder.glob("*.safetensors"), *folder.glob("onnx/*.onnx")]
    digests = [sha256_of(file) for file in sorted(files)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_workers() -> int:
    return max(1, min(-(-_cores() // 4), int(psutil.virtual_memory().available // WORKER_MEMORY)))
