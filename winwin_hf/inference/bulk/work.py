"""One worker: a network that was loaded once, and runs units of work.

Notable:
- Images are read, and results written, by threads of their own while the network computes; no more than a few images wait.
- A batch holds images of one padded size that follow each other, so that it is the same in every run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from winwin_hf.data.ahead import in_order
from winwin_hf.data.formats import MOST_METRES
from winwin_hf.inference.bulk.manifest import FOLDER, Record, inputs_of, part_of, shown
from winwin_hf.inference.bulk.outputs import FORMATS, SHARDS, Place, digest, encoded, shard, written
from winwin_hf.inference.bulk.plan import UNIT, Unit
from winwin_hf.inference.bulk.reading import Wanted, images_of
from winwin_hf.inference.predictor import Predictor
from winwin_hf.own_files import held_by_others, is_held
from winwin_hf.processes import LOCK
from winwin_hf.redaction import redact
from winwin_hf.task import TASKS


class BrokenInput(ValueError):
    """An input that can't be read or used. The message names it."""


@dataclass(frozen=True)
class Job:
    """
    What every worker is told.

    Attributes:
        model: a folder or a Hub repository. weights: what records say of their version.
        output: the place of results. suffix: of each. parquet: whether results are rows of shards.
        batch: images of one size at once. skip_broken: record what can't be read, and go on.
        threads: of torch on a CPU; None: torch's own number.
        lock: the text in the lock of the output, "" where it has none.
    """

    model: str
    task: str
    weights: str
    output: str
    suffix: str
    parquet: bool = False
    quality: str | None = None
    device: str = "auto"
    batch: int = 1
    skip_broken: bool = False
    threads: int | None = None
    lock: str = ""


@dataclass(frozen=True)
class Loaded:
    """A prediction to make, with its images, or why they can't be read."""

    wanted: Wanted
    images: list[np.ndarray]
    error: str = ""


class Worker:
    """Runs units. Loading takes seconds, so a process makes one."""

    def __init__(self, job: Job) -> None:
        if job.threads is not None and job.threads != torch.get_num_threads():
            torch.set_num_threads(job.threads)
        self.job = job
        self.task = TASKS[job.task]
        self.place = Place(job.output)
        if job.lock and not is_held(self.place.root):
            held_by_others(Path(self.place.root), Path(self.place.root) / FOLDER / LOCK, job.lock)
        self.predictor = Predictor.load(job.model, job.task, job.device, quality=job.quality)

    def run(self, unit: Unit) -> Iterator[list[Record]]:
        """Predicts a unit; gives records when they and their results are written. Raises BrokenInput, where that isn't to be skipped."""
        waiting: list[tuple[Record, bytes]] = []
        whole = True
        for record, content in in_order(partial(self._stored, unit), self._results(unit), 1, writes=True):
            whole &= "error" not in record
            waiting.append((record, content))
            if len(waiting) == UNIT:
                yield self._recorded(waiting)
                waiting = []
        if waiting:
            yield self._recorded(waiting)
        if unit.items is None and whole:
            ended = {"ended": shown(unit.source), "stamp": unit.stamp}
            self.place.write(*part_of([ended]))
            yield [ended]

    def _results(self, unit: Unit) -> Iterator[tuple[Loaded, Any]]:
        """Each prediction of a unit, in order; None for a broken input."""
        for batch in self._batches(unit):
            if batch[0].error:
                yield batch[0], None
                continue
            yield from self._predicted(batch)

    def _predicted(self, batch: list[Loaded]) -> Iterator[tuple[Loaded, Any]]:
        start = time.perf_counter()
        first, *second = (list(views) for views in zip(*(loaded.images for loaded in batch), strict=True))
        try:
            found = self.predictor.predict_batch(first, second[0] if second else None)
        except (ValueError, FloatingPointError) as error:  # a picture too large, a result that isn't finite
            if len(batch) > 1:  # which of them it is
                for loaded in batch:
                    yield from self._predicted([loaded])
                return
            wanted = batch[0].wanted
            yield Loaded(wanted, [], self._broken(wanted, error)), None
            return
        seconds = (time.perf_counter() - start) / len(batch)
        for loaded, prediction in zip(batch, found, strict=True):
            prediction.seconds = seconds
            yield loaded, prediction

    def _batches(self, unit: Unit) -> Iterator[list[Loaded]]:
        batch: list[Loaded] = []
        sizes = None
        try:
            for loaded in in_order(self._loaded, images_of(unit, self.task), 1 + (self.job.batch > 1)):
                here = None if loaded.error else self.predictor.processor.input_sizes(loaded.images[0].shape[:2])
                if batch and (here is None or here != sizes or len(batch) == self.job.batch):
                    yield batch
                    batch = []
                if here is None:
                    yield [loaded]
                    continue
                batch.append(loaded)
                sizes = here
        except (ValueError, OSError) as error:  # the file that holds the images
            if batch:
                yield batch
            if isinstance(error, BrokenInput):
                raise
            wanted = Wanted(unit.stem or unit.source.rpartition("/")[2], unit.source, list)
            yield [Loaded(wanted, [], self._broken(wanted, error))]
            return
        if batch:
            yield batch

    def _loaded(self, wanted: Wanted) -> Loaded:
        try:
            images = wanted.read()
            if len({image.shape for image in images}) > 1:
                sizes = " and ".join(f"{image.shape[0]}x{image.shape[1]}" for image in images)
                raise ValueError(f"frames of {sizes} (height x width); expected frames of one size")
        except (ValueError, OSError) as error:
            return Loaded(wanted, [], self._broken(wanted, error))
        return Loaded(wanted, images)

    def _broken(self, wanted: Wanted, error: Exception) -> str:
        text = redact(" ".join(str(error).split()))[:500]
        source = shown(wanted.source)
        said = text if source in text else f"{source}: {text}"
        if not self.job.skip_broken:
            raise BrokenInput(said) from error
        return said

    def _stored(self, unit: Unit, result: tuple[Loaded, Any]) -> tuple[Record, bytes]:
        """Writes a result, unless it becomes a row; returns its record and its bytes."""
        loaded, prediction = result
        record: Record = {"name": loaded.wanted.name}
        if loaded.wanted.item is not None:
            record |= inputs_of(loaded.wanted.item)
        else:
            record |= {"input": shown(loaded.wanted.source), "source": shown(unit.source), "stamp": unit.stamp}
        if prediction is None:
            return {**record, "error": loaded.error}, b""
        output = f"{record['name']}{self.job.suffix}"
        if self.job.parquet:
            content = encoded(prediction.values, self.task, self.job.suffix)
        else:
            content = written(self.place, output, prediction.values, self.task)
        record |= {"output": output, "sha256": digest(content), "bytes": len(content)}
        if FORMATS[self.task.name][self.job.suffix] == "png:1000" and (prediction.values > MOST_METRES).any():
            record["beyond"] = round(float((prediction.values > MOST_METRES).mean()), 4)
        return {**record, "seconds": round(prediction.seconds, 4), "weights": self.job.weights}, content

    def _recorded(self, made: list[tuple[Record, bytes]]) -> list[Record]:
        """Writes the records of results that are there, after their shard."""
        records = [record for record, _ in made]
        name, _ = part_of(records)
        if self.job.parquet:
            file = f"{SHARDS}/{name.rpartition('/')[2].removesuffix('.jsonl')}.parquet"
            target = self.task.target
            kind = FORMATS[self.task.name][self.job.suffix]
            rows = []
            for record, content in made:
                if "error" in record:
                    continue
                cell = {"bytes": content, "path": _unicode(record["output"].rpartition("/")[2])}
                texts = {key: _unicode(record[key]) for key in ("name", "input")}
                rows.append({**texts, target: cell, f"{target}_format": kind})
                record |= {"output": f"{file}#{len(rows) - 1}", "row": len(rows) - 1}
            if rows:
                self.place.write(file, shard(rows, self.task))
        self.place.write(*part_of(records))
        return records


def _unicode(name: str) -> str:
    """The name of a file, which need not be Unicode, for Parquet."""
    return name.encode("utf-8", "backslashreplace").decode()
