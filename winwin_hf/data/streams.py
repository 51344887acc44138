"""The order of a training's examples: endless, seeded, with a share for each process and worker.

Notable:
- The example at a place depends on (seed, place) alone, so a training resumes exactly by starting at a later place. An optimiser step
  takes the next places, as many as its batches need: the same ones for any number of processes and loader processes.
- A mixture repeats each set `weight` times an epoch (CroCo-Flow: 40 x Sintel + 4 x Things + ...) and shuffles the whole. A
  fractional weight takes turns: with 0.5, one half of the set comes in one epoch, the other half in the next.
- Cached shards are read a few at a time, so that each comes to one machine once an epoch (`Tracks`).
- Sets without random access (streamed shards, the Hub) are read by workers, each with its own shards. A mixture that contains
  one draws the set of each example at random, in the same proportions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, cast

import datasets
import numpy as np
from datasets.distributed import split_dataset_by_node
from pydantic import Field
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from winwin_hf.checked import check_fields
from winwin_hf.data.sample import Reader, Sample
from winwin_hf.data.shards import CachedShards
from winwin_hf.data.sources import Source

LONGEST_EPOCH = 10**9  # examples, whose order takes 8 bytes each
SHUFFLE_BUFFER = 256  # undecoded examples of a stream from which the next is drawn


@dataclass
class Part:
    """One set of a mixture. weight: number of passes over it in an epoch. length: number of examples of a pass; default: the whole
    set. An endless set in a mixture needs it."""

    source: Source
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    length: Annotated[int, Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "weight", "length")

    @property
    def streamed(self) -> bool:
        """Whether there is no random access: neither rows nor, as in synthetic scenes, examples made from their number."""
        return self.source.at is None and isinstance(self.source.dataset, datasets.IterableDataset)

    @property
    def cached(self) -> bool:
        return isinstance(self.source.dataset, CachedShards)

    def size(self) -> int | None:
        """Number of examples of one pass; None where it is unknown."""
        if self.source.at is not None or self.streamed:
            return self.length
        return min(len(self.source.dataset), self.length or len(self.source.dataset))

    def slots(self) -> int:
        """Number of examples of this set in an epoch; its size must be known."""
        return max(1, round(self.weight * (self.size() or 0)))


def slots_of(parts: Sequence[Part]) -> list[int]:
    """Number of examples of each set of a mixture in an epoch. Raises ValueError for one that doesn't say how many it has."""
    for i, part in enumerate(parts):
        if part.size() is None:
            raise ValueError(
                f"data.sets.{i}.length: {part.source.name} is read as a stream, or has no end: in a mixture it needs one, the number of "
                "examples of one pass"
            )
    return [part.slots() for part in parts]


class PartReader:
    """Reads each example of a mixture by the reader of its set."""

    def __init__(self, readers: Sequence[Reader]):
        self.readers = list(readers)

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Sample:
        return self.readers[int(example.get("part", 0))](example, rng)


@lru_cache(maxsize=2048)
def _permutation(count: int, *seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count)


class ShardOrder:
    """
    Pass after pass over the rows of shards: shards in random order, and the rows of each in random order. Source: ours.

    Args:
        rows: of each shard.
    """

    def __init__(self, rows: Sequence[int] | np.ndarray, seed: int):
        self.rows, self.seed = np.asarray(rows), seed
        self.firsts = np.cumsum(self.rows) - self.rows
        self.turn, self.order, self.ends = -1, np.empty(0, np.int64), np.empty(0, np.int64)

    def find(self, position: int) -> tuple[int, int, int]:
        """(number of the row, its shard, rows of that shard which follow) at a position of the endless sequence."""
        turn, position = divmod(position, int(self.rows.sum()))
        if turn != self.turn:
            self.turn, self.order = turn, _permutation(len(self.rows), self.seed, turn, 0)
            self.ends = np.cumsum(self.rows[self.order])
        place = int(np.searchsorted(self.ends, position, side="right"))
        shard = int(self.order[place])
        left = int(self.ends[place]) - position - 1
        count = int(self.rows[shard])
        row = int(_permutation(count, self.seed, turn, 1, shard)[count - 1 - left])
        return int(self.firsts[shard]) + row, shard, left


class Tracks:
    """
    The rows of cached shards, for the places of an epoch that are theirs.

    An epoch's rows, shard after shard (`ShardOrder`), are cut into `tracks` parts of equal length. Place n of the epoch is the next row of
    part n % tracks. Processes take places in turns; if their number divides the number of tracks, each reads parts of its own,
    and a shard comes to one process alone, but for the `tracks` - 1 that a cut divides. Source: ours.

    Args:
        part: of the mixture. alone: it has no other. world: number of processes. workers: loader processes of each.
    """

    def __init__(self, part: Part, seed: int, alone: bool, world: int, workers: int):
        self.shards, self.slots, self.alone = cast(CachedShards, part.source.dataset), part.slots(), alone
        self.count = self.shards.tracks
        counts = np.minimum(np.cumsum([shard.rows for shard in self.shards.shards]), part.size() or 0)
        self.order = ShardOrder(np.diff(counts, prepend=0), seed)
        self.ranks, self.ends = np.empty(0, np.int64), np.empty(0, np.int64)
        self.asked: dict[int, int] = {}
        self.takes = self.shards.share(world, workers)

    def begin(self, places: np.ndarray, total: int) -> None:
        """Takes the places of an epoch that are this set's, of `total`. Not needed where all are."""
        tracks = places % self.count
        self.ranks = np.zeros(total, np.int64)
        self.ranks[places[np.argsort(tracks, kind="stable")]] = np.arange(len(places))
        self.ends = np.cumsum(np.bincount(tracks, minlength=self.count))

    def at(self, epoch: int, place: int) -> dict[str, Any]:
        """The row at a place of an epoch. The shard that follows in its track comes meanwhile."""
        track = place % self.count
        rank, rest = self._rank(place)
        row, shard, left = self.order.find(epoch * self.slots + rank)
        if self.asked.get(track) != shard:
            self.asked[track] = shard
            if left < rest:
                self._fetch_soon(epoch, rank + left + 1)
            elif self.alone:  # the track goes on in the next epoch
                epoch, place = divmod(epoch * self.slots + place + (rest + 1) * self.count, self.slots)
                self._fetch_soon(epoch, self._rank(place)[0])
        return self.shards[row]

    def _fetch_soon(self, epoch: int, rank: int) -> None:
        self.shards.fetch_soon(self.order.find(epoch * self.slots + rank)[1])

    def _rank(self, place: int) -> tuple[int, int]:
        """(which of the epoch's rows is at a place, how many follow in its track)."""
        track, step = place % self.count, place // self.count
        if not self.alone:
            return int(self.ranks[place]), int(self.ends[track] - self.ranks[place]) - 1
        length, more = divmod(self.slots, self.count)
        return track * length + min(track, more) + step, length + (track < more) - step - 1


def check_caches(sets: Sequence[tuple[CachedShards, int]]) -> None:
    """Raises ValueError where sets need more of a cache than it may hold; several may share one. sets: each with the bytes it takes."""
    for folder in {shards.cache.folder.resolve() for shards, _ in sets}:
        here = [(shards.cache.limit, takes) for shards, takes in sets if shards.cache.folder.resolve() == folder]
        limit, needed = min(limit for limit, _ in here), sum(takes for _, takes in here)
        if limit < needed:
            raise ValueError(
                f"cache_gb {limit / 1e9:g}: expected at least {needed / 1e9:.3g} for {folder}, by the shards that are open at "
                "the same time while others come; or fewer tracks or loader processes"
            )


class Mixture(Dataset):
    """Endless training on finite sets: example n belongs to epoch n // slots, and each epoch has its own order."""

    def __init__(self, parts: Sequence[Part], seed: int, world: int = 1, workers: int = 0):
        self.parts, self.seed = list(parts), seed
        for name, value, least in (("parts", len(self.parts), 1), ("world", world, 1), ("workers", workers, 0)):
            if value < least:
                raise ValueError(f"Mixture: {name}: expected at least {least}, got {value}")
        self.ends = np.cumsum(slots_of(self.parts))
        if self.ends[-1] > LONGEST_EPOCH and not all(part.cached for part in self.parts):
            raise ValueError(
                f"Mixture: an epoch of {self.ends[-1]:,} examples; expected at most {LONGEST_EPOCH:,}: smaller weights"
            )
        self.epoch, self.order = -1, np.empty(0, dtype=np.int64)
        alone = len(self.parts) == 1
        self.tracks = {k: Tracks(part, seed, alone, world, workers) for k, part in enumerate(self.parts) if part.cached}
        check_caches([(tracks.shards, tracks.takes) for tracks in self.tracks.values()])

    def __getitem__(self, n: int) -> dict[str, Any]:
        if n < 0:
            raise IndexError(f"example {n}; expected 0 or more, of an endless sequence")
        epoch, place = divmod(n, int(self.ends[-1]))
        if len(self.parts) == 1 and self.tracks:  # no list of all places: there may be hundreds of millions
            return {**self.tracks[0].at(epoch, place), "index": n, "part": 0}
        if epoch != self.epoch:
            self._begin(epoch)
        slot = int(self.order[place])
        k = int(np.searchsorted(self.ends, slot, side="right"))
        part, first = self.parts[k], int(self.ends[k - 1]) if k else 0
        if k in self.tracks:
            return {**self.tracks[k].at(epoch, place), "index": n, "part": k}
        count = epoch * part.slots() + slot - first  # number of examples of this set before it
        if part.source.at is not None:
            return {**part.source.at(count), "index": n, "part": k}
        return {**part.source.dataset[count % (part.size() or 1)], "index": n, "part": k}

    def _begin(self, epoch: int) -> None:
        rng = np.random.default_rng([self.seed, epoch])
        self.epoch, self.order = epoch, rng.permutation(int(self.ends[-1]))
        for k, tracks in self.tracks.items():
            owners = np.searchsorted(self.ends, self.order, side="right")
            tracks.begin(np.flatnonzero(owners == k), len(self.order))


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
        slots = slots_of(self.parts) if len(self.parts) > 1 else [1]
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
        mixture = Mixture([Part(part.source, length=part.length)], self.seed, 1, lanes)
        return (mixture[n] for n in itertools.count(place, lanes))

    def _stream(self, part: Part, workers: int) -> Iterator[dict[str, Any]]:
        """Passes over this worker's shards without an end, shuffled anew each time."""
        name, stream = part.source.name, cast(datasets.IterableDataset, part.source.dataset)
        stream = stream.shuffle(seed=self.seed, buffer_size=SHUFFLE_BUFFER)
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
    return Mixture(parts, seed, world, workers) if only is None else Endless(only), Counter(start + rank, world)
