"""The order of a training's examples: endless, seeded, with a share for each process and worker.

Notable:
- The example at a place depends on (seed, place) alone, so a training resumes exactly by starting at a later place. An optimiser step
  takes the next places, as many as its batches need: the same ones for any number of processes and loader processes.
- A mixture repeats each set `weight` times an epoch (CroCo-Flow: 40 x Sintel + 4 x Things + ...) and shuffles the whole. A
  fractional weight takes turns: with 0.5, one half of the set comes in one epoch, the other half in the next.
- Sets without random access (streamed shards, the Hub) are read by workers, each with its own shards. A mixture that contains
  one draws the set of each example at random, in the same proportions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from datasets.distributed import split_dataset_by_node
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from winwin_hf.data.sample import Reader, Sample
from winwin_hf.data.sources import Source

SHUFFLE_BUFFER = 256  # undecoded examples of a stream from which the next is drawn


@dataclass
class Part:
    """One set of a mixture. weight: number of passes over it in an epoch. length: number of examples of a pass; default: the whole
    set. An endless set in a mixture needs it."""

    source: Source
    weight: float = 1.0
    length: int | None = None

    @property
    def streamed(self) -> bool:
        """Whether there is no random access: neither rows nor, as in synthetic scenes, examples made from their number."""
        return self.source.at is None and isinstance(self.source.dataset, datasets.IterableDataset)

    def size(self) -> int | None:
        """Number of examples of one pass; None where it is unknown."""
        if self.source.at is not None or self.streamed:
            return self.length
        return min(len(self.source.dataset), self.length or len(self.source.dataset))

    def slots(self) -> int:
        """Number of examples of this set in an epoch."""
        size = self.size()
        if size is None:
            raise ValueError(
                f"{self.source.name} has no end: in a mixture it needs a length, the number of examples of one pass"
            )
        return max(1, round(self.weight * size))


class PartReader:
    """Reads each example of a mixture by the reader of its set."""

    def __init__(self, readers: Sequence[Reader]):
        self.readers = list(readers)

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Sample:
        return self.readers[int(example.get("part", 0))](example, rng)


class Mixture(Dataset):
    """Endless training on finite sets: example n belongs to epoch n // slots, and each epoch has its own order."""

    def __init__(self, parts: Sequence[Part], seed: int):
        self.parts, self.seed = list(parts), seed
        self.ends = np.cumsum([part.slots() for part in self.parts])
        self.epoch, self.order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, n: int) -> dict[str, Any]:
        epoch, place = divmod(n, int(self.ends[-1]))
        if epoch != self.epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self.epoch, self.order = epoch, rng.permutation(int(self.ends[-1]))
        slot = int(self.order[place])
        k = int(np.searchsorted(self.ends, slot, side="right"))
        part, first = self.parts[k], int(self.ends[k - 1]) if k else 0
        count = epoch * part.slots() + slot - first  # number of examples of this set before it
        if part.source.at is not None:
            return {**part.source.at(count), "index": n, "part": k}
        return {**part.source.dataset[count % (part.size() or 1)], "index": n, "part": k}


class Endless(Dataset):
    """Examples that are made from their number, such as synthetic scenes."""

    def __init__(self, at: Callable[[int], dict[str, Any]]):
        self.at = at

    def __getitem__(self, n: int) -> dict[str, Any]:
        return self.at(n)


class Streams(IterableDataset):
    """Examples of a mixture with streamed sets, for one process; every worker begins `skip` examples later.

    Skipped examples are read, but not decoded: a stream can't start in its middle.
    """

    def __init__(self, parts: Sequence[Part], seed: int, rank: int, world: int, skip: int = 0):
        super().__init__()
        self.parts, self.seed, self.rank, self.world, self.skip = list(parts), seed, rank, world, skip
        slots = [part.slots() for part in self.parts] if len(self.parts) > 1 else [1]
        self.shares = np.cumsum(slots) / sum(slots)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        place, lanes = self.rank * workers + worker, self.world * workers
        rng = np.random.default_rng([self.seed, place])
        lists = [
            self._rows(part, place, lanes) if not part.streamed else self._stream(part, workers) for part in self.parts
        ]
        for n in itertools.count():
            k = int(np.searchsorted(self.shares, rng.random(), side="right")) if len(lists) > 1 else 0
            example = next(lists[k])
            if n >= self.skip:
                yield {**example, "index": n * lanes + place, "part": k}

    def _rows(self, part: Part, place: int, lanes: int) -> Iterator[dict[str, Any]]:
        """Every `lanes`-th example of an endless shuffled pass over a set with random access."""
        mixture = Mixture([Part(part.source, length=part.length)], self.seed)
        return (mixture[n] for n in itertools.count(place, lanes))

    def _stream(self, part: Part, workers: int) -> Iterator[dict[str, Any]]:
        """Passes over this worker's shards without an end, shuffled anew each time."""
        name, stream = part.source.name, part.source.dataset.shuffle(seed=self.seed, buffer_size=SHUFFLE_BUFFER)
        stream = split_dataset_by_node(stream, self.rank, self.world)
        if stream.num_shards < workers:
            raise ValueError(
                f"{name}: {stream.num_shards} shards for the {workers} loader processes of each of {self.world} training "
                f"processes; expected at least one each. Make more shards, or lower optimization.num_workers"
            )
        for epoch in itertools.count():
            stream.set_epoch(epoch)
            empty = True
            for example in stream:
                empty = False
                yield example
            if empty:
                raise ValueError(f"{name}: a shard without examples")


class Counter(Sampler):
    """start, start + step, ... without an end."""

    def __init__(self, start: int, step: int):
        self.start, self.step = start, step

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start, self.step)


def ordered(
    parts: Sequence[Part], seed: int, rank: int, world: int, workers: int, start: int
) -> tuple[Any, Counter | None]:
    """
    (dataset, sampler) for the DataLoader of one process, to continue after `start` examples of all processes together.

    Streams: loader processes deliver batches in turn, so each must have given as many.
    """
    if any(part.streamed for part in parts):
        return Streams(parts, seed, rank, world, skip=start // (world * max(1, workers))), None
    only = parts[0].source.at if len(parts) == 1 else None
    return Mixture(parts, seed) if only is None else Endless(only), Counter(start + rank, world)
