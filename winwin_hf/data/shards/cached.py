"""Rows of shards by their numbers, while the shards stay where they are: what is needed comes into a bounded cache."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from winwin_hf.data.places import joined
from winwin_hf.data.rows import COLUMNS, own_cells
from winwin_hf.data.shards.caching import Cache, Copy, Damaged, Noted
from winwin_hf.data.shards.reading import read_shard
from winwin_hf.task import DataTask

logger = logging.getLogger(__name__)
CACHE_GB = 50.0
TRACKS = 8
MOST_TRACKS = 2**16


class CachedShards:
    """
    The rows of a folder of shards: like a Dataset, each is read by its number, undecoded.

    Args:
        path: the folder, or an address that fsspec knows.
        info: its `shards_info`.
        folder: of the cache, on a disk of this machine; all its processes may use one.
        cache_gb: what the cache may take of the disk, in 10^9 bytes.
        tracks: shards that a training reads at the same time, all its processes together; see `streams.Tracks`.
    Raises: ValueError for no track.
    """

    def __init__(self, path: str, info: dict[str, Any], folder: Path, cache_gb: float = CACHE_GB, tracks: int = TRACKS):
        if not 1 <= tracks <= MOST_TRACKS:
            raise ValueError(f"tracks {tracks}: expected 1 to {MOST_TRACKS}")
        self.task, self.tracks, self.open_at_once = info["task"], tracks, 1
        self.shards = [
            Noted(joined(path, file["file"]), file["rows"], file["bytes"], file["sha256"]) for file in info["files"]
        ]
        limit = int(cache_gb * 1e9)
        self.ends = np.cumsum([shard.rows for shard in self.shards])
        self.cache = Cache(folder, limit, partial(_rows, info["format"], info["task"]))
        self._forget()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> dict[str, Any]:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        shard = int(np.searchsorted(self.ends, number, side="right"))
        place = number - int(self.ends[shard]) + self.shards[shard].rows
        try:
            row = self._copy(shard).row(place)
        except Damaged:  # fetched again
            self._copies.pop(shard).close()
            row = self._copy(shard).row(place)
        return own_cells(row, self.task, ())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._copies: OrderedDict[int, Copy] = OrderedDict()
        self._coming: set[int] = set()

    def share(self, world: int, workers: int = 0) -> int:
        """Told how many processes read it together, each with so many loader processes, it keeps as many shards open as one of them
        reads at the same time. Returns the bytes of the cache that this takes at most."""
        self.open_at_once = self.tracks // math.gcd(self.tracks, world)
        here = self.open_at_once * max(1, workers) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        here = min(here, len(self.shards))
        largest = max(shard.size + shard.overhead for shard in self.shards)
        if world > 1 and self.tracks % world:
            logger.warning(
                f"{world} processes read {self.tracks} tracks: some shards come to several machines; expected tracks to be a multiple of "
                "the number of processes"
            )
        return (here + 3) * largest  # one comes, its file and its copy, and an evaluation reads one

    def fetch_soon(self, shard: int) -> None:
        """Fetches a shard in the background. What goes wrong shows when it is read."""
        if self._process != os.getpid():
            self._leave()
        if shard not in self._coming and shard not in self._copies:
            self._coming.add(shard)
            threading.Thread(target=self._fetch, args=(shard,), daemon=True).start()

    def _fetch(self, shard: int) -> None:
        try:
            with suppress(OSError, ValueError):
                self.cache.opened(self.shards[shard], wait=False).close()
        finally:
            self._coming.discard(shard)

    def _copy(self, shard: int) -> Copy:
        if self._process != os.getpid():
            self._leave()
        if shard in self._copies:
            self._copies.move_to_end(shard)
        else:
            while len(self._copies) >= self.open_at_once:
                self._copies.popitem(last=False)[1].close()
            self._copies[shard] = self.cache.opened(self.shards[shard])
        return self._copies[shard]

    def _leave(self) -> None:
        """In a fork: what the parent has open stays the parent's, and its threads don't exist."""
        for copy in self._copies.values():
            copy.close()
        self._forget()


def _rows(format: str, task: DataTask, file: Path) -> tuple[int, Iterator[dict[str, Any]]]:
    """The rows of a shard, see `Cache`."""
    size = file.stat().st_size
    if format == "parquet":
        footer = pq.read_metadata(file)
        size = sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))
    return size, read_shard(str(file), tuple(COLUMNS[task]), format)
