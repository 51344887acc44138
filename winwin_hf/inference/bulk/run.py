"""`winwin predict`: everything in an input, through a network, into an output."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from tqdm import tqdm

from winwin_hf import bundled
from winwin_hf.data.formats.files import told_of
from winwin_hf.data.places import is_remote, plain
from winwin_hf.downloads import downloaded
from winwin_hf.inference.bulk.engines import run_local, run_ray
from winwin_hf.inference.bulk.manifest import (
    FOLDER,
    RUN,
    WHOLE,
    Manifest,
    Record,
    differences,
    file_of,
    lines,
    shown,
    wrong,
)
from winwin_hf.inference.bulk.outputs import FORMATS, SHARDS, Place
from winwin_hf.inference.bulk.plan import Unit, gap_in, plan
from winwin_hf.inference.bulk.work import Job
from winwin_hf.inference.loading import load_config
from winwin_hf.inference.predictor import device_of
from winwin_hf.model.image_settings_winwin import check_quality
from winwin_hf.own_files import remove_tree, sha256_of
from winwin_hf.processes import LOCK, locked
from winwin_hf.redaction import redact
from winwin_hf.task import ARCHITECTURES, DENSE, TASKS, DoesNotFit, Task

Engine = Literal["local", "ray"]
MOST = 1024  # threads, workers or images of a batch; PyTorch ends the process where the system gives it no more threads
WORKER_MEMORY = 4 * 10**9  # bytes of a worker with a Full HD picture, and some room


@dataclass
class Summary:
    """What a run did. predicted: now; reused: by earlier runs; broken: sentences, one for each input that was skipped."""

    predicted: int
    reused: int
    broken: list[str]
    seconds: float  # of the network, all workers together
    beyond: int = 0  # depth maps that have farther pixels than a .png holds


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
    given, output = plain(given), plain(output)
    task = _task_of(model)
    if quality is not None and task.name != "optical-flow":
        raise DoesNotFit(f"{model}: quality {quality!r} is for networks of flow")
    if engine == "local":
        device_of(device)
    suffix = suffix or next(iter(FORMATS[task.name]))
    if suffix not in FORMATS[task.name]:
        raise DoesNotFit(f"--format {suffix}: expected {' or '.join(FORMATS[task.name])} for {task.title}")
    for name, value in (("workers", workers), ("threads", threads), ("batch-size", batch)):
        if value is not None and not 1 <= value <= MOST:
            raise DoesNotFit(f"--{name} {value}: expected 1 or more, and at most {MOST}")
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
    given = given if is_remote(given) else str(Path(given).absolute()) if given.strip() else given
    place = Place(job.output)
    settings = _settings(given, model, job)
    Manifest.load(place).check(settings)
    units = [*plan(given, task, job.output, say)]
    if gap := gap_in(units):
        say(gap)
    _check_collisions(units, job)

    def start(left: list[Unit]) -> Iterator[list[Record]]:
        if engine == "ray":
            return run_ray(locking, left, workers, address)
        return run_local(locking, left, min(count, max(len(left), 1)), devices)

    with _alone(place) as lock:
        locking = replace(job, lock=lock)
        manifest = Manifest.load(place)
        there = manifest.check(settings)  # once more: another run may have come while the input was listed
        if not there:
            place.write(RUN, lines([settings], indent=1))
        try:
            return _predict(units, manifest, job, count, start, progress, say)
        except BaseException:
            with contextlib.suppress(OSError):  # the error that ended it is told
                if not there and place.files() <= {RUN, f"{FOLDER}/{LOCK}"}:  # nothing was done
                    place.remove(RUN)
            raise


def _predict(
    units: list[Unit],
    manifest: Manifest,
    job: Job,
    count: int,
    start: Callable[[list[Unit]], Iterator[list[Record]]],
    progress: bool,
    say: Callable[[str], Any],
) -> Summary:
    """Predicts what is left. start: gives the records of units, of which `count` are done at once."""
    place = manifest.place
    if manifest.parts:
        manifest.fold()  # so that a later record is that of a later run
    held = _held(units, manifest, job.parquet)
    left = [*_left(units, held, manifest)]
    summary = Summary(0, len(held), [], 0.0)
    total = sum(unit.expected if unit.items is None else len(unit.items) for unit in left)
    most = -(-total // (4 * count))  # of a piece, so that no worker ends long before another
    left = [part for unit in left for part in _parts(unit, most)]
    if held:
        say(f"{place.shown}: {len(held)} results are there; going on")
    with tqdm(total=total or None, unit="image", disable=not progress, desc=TASKS[job.task].title) as bar:
        for records in start(left):
            for record in records:
                if "error" in record:
                    summary.broken.append(record["error"])
                elif "ended" not in record:
                    summary.predicted += 1
                    summary.seconds += record["seconds"]
                    summary.beyond += "beyond" in record
            bar.update(sum("ended" not in record for record in records))
    Manifest.load(place).fold()
    return summary


def verify(given: str, output: str, model: str = "winwin-depth") -> tuple[int, list[str]]:
    """The number of results, and what is wrong with them: inputs without one, results that are gone or not what was written, or of
    other weights or inputs. Raises ValueError where there is no manifest."""
    given, output = plain(given), plain(output)
    given = given if is_remote(given) else str(Path(given).absolute()) if given.strip() else given
    task = _task_of(model)
    manifest = Manifest.load(Place(output))
    before = manifest.settings()
    if before is None:
        raise ValueError(f"{redact(output)}: no manifest of `winwin predict`; expected its output")
    faults = []
    asked = {
        "input": redact(given),
        "model": Path(model).name,
        "task": task.name,
        "weights": _version(_folder_of(model)),
    }
    if other := differences(before, asked):
        faults.append(f"{redact(output)}: the results are of other settings ({other})")
    units = [*plan(given, task, output)]
    return sum("error" not in record for record in manifest.records.values()), [*faults, *wrong(manifest, units)]


def _settings(given: str, model: str, job: Job) -> dict[str, Any]:
    """What results that lie together have in common."""
    named = {name: getattr(job, name) for name in ("task", "weights", "suffix", "parquet", "quality")}
    return {"input": redact(given), "model": Path(model).name, **named}


@contextlib.contextmanager
def _alone(place: Place) -> Iterator[str]:
    """Keeps other runs of this machine from the output, where it is a folder of it; yields the text of its lock."""
    folder = Path(place.root) / FOLDER
    if is_remote(place.root):
        yield ""
        return
    made = not folder.exists()
    with told_of(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder, "predicting into it", output=folder.parent) as lock:
            try:
                yield lock
            finally:
                if made and not place.names(FOLDER):
                    remove_tree(folder, ignore_errors=True)
    finally:
        for empty in (folder, folder.parent) if made else ():
            with contextlib.suppress(OSError):
                empty.rmdir()


def _held(units: list[Unit], manifest: Manifest, parquet: bool) -> frozenset[str]:
    """The names of results that hold. Of shards, those with other rows are removed, so that `data` has each row once."""
    place = manifest.place
    held = manifest.holding(units, place.files())
    if not parquet:
        return held
    planned = {item.name for unit in units for item in unit.items or ()}
    sources = {shown(unit.source) for unit in units if unit.items is None}
    other = {
        file_of(record)
        for name, record in manifest.records.items()
        if "row" in record and name not in held and (name in planned or record.get("source") in sources)
    }
    known = {file_of(record) for record in manifest.records.values() if "row" in record}
    for file in place.names(SHARDS):
        if file in other or file not in known:
            place.remove(file)
    return frozenset(name for name in held if file_of(manifest.records[name]) not in other)


def _left(units: list[Unit], held: frozenset[str], manifest: Manifest) -> Iterator[Unit]:
    """Units without what is done."""
    of_sources = manifest.of_sources()
    for unit in units:
        if unit.items is None:
            source = shown(unit.source)
            names = frozenset(record["name"] for record in of_sources.get(source, ()))
            if manifest.ended.get(source) != unit.stamp or not names <= held:
                yield replace(unit, done=names & held)
            continue
        items = tuple(item for item in unit.items if item.name not in held)
        if items:
            yield replace(unit, items=items)


def _check_collisions(units: list[Unit], job: Job) -> None:
    """Raises ValueError where a result's file would be another's folder, or one of the manifest's."""
    if job.parquet:
        return
    files = {f"{item.name}{job.suffix}" for unit in units for item in unit.items or ()}
    taken = {WHOLE, *(f"{unit.stem}{job.suffix}" for unit in units if unit.items is None)}
    for name in [*files, *(f"{unit.stem}/x" for unit in units if unit.items is None)]:
        parts = name.split("/")
        for above in ("/".join(parts[:n]) for n in range(1, len(parts))):
            if above in files or above in (WHOLE, FOLDER, RUN):
                raise ValueError(f"{name}: {above} is a result, or the manifest; expected names that differ")
    if clash := files & taken:
        raise ValueError(f"{min(clash)}: two inputs are called so; expected names that differ")


def _parts(unit: Unit, most: int) -> Iterator[Unit]:
    """A unit in pieces of at most so many items; a video or tar file stays whole, since it is read from its beginning."""
    if unit.items is None:
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
    return folder if folder.is_dir() else downloaded(model, ["*.json", "*.safetensors"])


def _version(folder: Path) -> str:
    """Tells networks apart: the first digits of the SHA-256 of the SHA-256s of their weights, config and processor."""
    files = [*folder.glob("*.safetensors"), *folder.glob("onnx/*.onnx"), *folder.glob("*config.json")]
    digests = [sha256_of(file) for file in sorted(files)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_workers() -> int:
    return max(1, min(-(-_cores() // 4), int(psutil.virtual_memory().available // WORKER_MEMORY)))
