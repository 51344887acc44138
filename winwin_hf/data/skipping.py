"""Reading a batch of which some examples may be broken."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.sample import Reader, Sample

logger = logging.getLogger(__name__)
MOST_WORKERS = 256  # each counts in its own place, so that no two write one number


class SkippingReader:
    """A reader that replaces examples of a batch that can't be read by others of the same batch.

    Each broken example is logged once in a process. A batch without any readable example raises BrokenExample.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._counts = torch.zeros(MOST_WORKERS, dtype=torch.int64).share_memory_()
        self._logged: set[str] = set()

    @property
    def broken(self) -> int:
        """Number of replaced examples so far, over all loader processes of this training process."""
        return int(self._counts.sum())

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Sample:
        return self.reader(example, rng)

    def batch(self, examples: list[dict[str, Any]], generators: list[np.random.Generator]) -> list[Sample]:
        """A sample for each example. A broken one's place goes to the next readable example, with the place's own generator."""
        samples = [self._read(example, rng) for example, rng in zip(examples, generators, strict=True)]
        readable = [i for i, sample in enumerate(samples) if sample is not None]
        if not readable:
            raise BrokenExample(f"no example of a batch of {len(examples)} could be read")
        found: list[Sample] = []
        for i, sample in enumerate(samples):
            if sample is None:
                other = min(readable, key=lambda j: (j - i) % len(samples))
                sample = self.reader(examples[other], generators[i])
            found.append(sample)
        return found

    def _read(self, example: dict[str, Any], rng: np.random.Generator) -> Sample | None:
        try:
            return self.reader(example, rng)
        except BrokenExample as error:
            worker = torch.utils.data.get_worker_info()
            self._counts[0 if worker is None else worker.id % MOST_WORKERS] += 1
            if str(error) not in self._logged:
                self._logged.add(str(error))
                logger.warning("left out: %s", error)
            return None


def read_batch(reader: Reader, examples: list[dict[str, Any]], generators: list[np.random.Generator]) -> list[Sample]:
    """A sample for each example, by its own generator."""
    if isinstance(reader, SkippingReader):
        return reader.batch(examples, generators)
    return [reader(example, rng) for example, rng in zip(examples, generators, strict=True)]
