"""Shards behind an address: rows by number, through a cache that stays small, whatever the place does that they come from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import re
import shutil
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support.shards
from fsspec.implementations.local import LocalFileSystem
from support.shards import make_rows

from winwin_hf.data.rows import COLUMNS, table
from winwin_hf.data.shards import CachedShards, caching, open_shards, write_shards
from winwin_hf.data.shards.caching import NoRoom
from winwin_hf.data.sources import Source, open_source
from winwin_hf.data.streams import Mixture, Part, ShardOrder, ordered

ROWS = 23
CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
KINDS = [pa.string(), CELL, CELL, pa.string()]


class Unreliable(LocalFileSystem):
    """unreliable://PATH: files of this machine, whose requests are counted and fail as they are told to."""

    protocol = "unreliable"
    requests: Counter = Counter()
    faults: list = []  # of the next requests: an exception, or the bytes that are missing; None: none

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(path.removeprefix("unreliable://"))

    def cat_file(self, path, start=None, end=None, **_):
        self.requests[Path(path).name] += 1
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        return super().cat_file(path, start=start, end=None if end is None else end - (fault or 0))


@pytest.fixture(autouse=True)
def unreliable(monkeypatch):
    fsspec.register_implementation("unreliable", Unreliable, clobber=True)
    monkeypatch.setattr(caching, "LONGEST_PAUSE", 0.0)
    Unreliable.requests.clear()
    Unreliable.faults.clear()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """23 rows of depth in 8 shards."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:  # so that pictures are most of a shard
        patch.setattr(support.shards, "H", 60)
        patch.setattr(support.shards, "W", 80)
        rows = table(make_rows(folder / "rows", "depth-estimation", ROWS), "depth-estimation")
    for format in ("parquet", "webdataset"):
        shards = write_shards(
            rows,
            folder / format,
            task="depth-estimation",
            name="s",
            split="train",
            shard_size=200_000,
            multiple_of=8,
            format=format,
        )
        assert len(shards) == 8
    return folder


def opened(
    written: Path, folder: Path, cache_gb: float = 1.0, tracks: int = 2, format: str = "parquet"
) -> CachedShards:
    found = open_shards(f"unreliable://{written / format}", cache=str(folder), cache_gb=cache_gb, tracks=tracks)
    assert isinstance(found, CachedShards)
    return found


def mixture(shards: CachedShards, world: int = 1, **options) -> Mixture:
    return Mixture([Part(Source("s", "depth-estimation", shards, None), **options)], seed=5, world=world)


def names(dataset, numbers) -> list[str]:
    return [dataset[n]["name"] for n in numbers]


def used(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_rows_are_those_of_the_folder(written, tmp_path, format):
    shards = opened(written, tmp_path / "cache", format=format)
    rows = list(open_shards(written / format))
    assert len(shards) == ROWS and [shards[number] for number in range(ROWS)] == rows == list(shards)
    assert pickle.loads(pickle.dumps(shards))[7] == rows[7]
    assert set(Unreliable.requests) == {file.name for file in (written / format).glob("s-*")}
    assert set(Unreliable.requests.values()) == {1}
    with pytest.raises(IndexError, match="row 23 of 23"):
        shards[ROWS]


@pytest.mark.parametrize("tracks", [1, 2, 5, 8, 40])
def test_each_row_once_an_epoch_in_the_same_order_for_any_number_of_processes(written, tmp_path, tracks):
    whole = names(mixture(opened(written, tmp_path, tracks=tracks)), range(3 * ROWS))
    epochs = [whole[e * ROWS : (e + 1) * ROWS] for e in range(3)]
    assert all(len(set(epoch)) == ROWS for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 3
    for world in (1, 2, 3):
        part = Part(Source("s", "depth-estimation", opened(written, tmp_path, tracks=tracks), None))
        for start in (0, 7, 31):
            found: dict[int, str] = {}
            for rank in range(world):
                dataset, sampler = ordered([part], 5, rank, world, 2, start)
                for n, _ in zip(sampler, range(9), strict=False):
                    found[n] = dataset[n]["name"]
            assert [found[n] for n in sorted(found)] == whole[start : start + 9 * world]


def test_a_process_reads_shards_of_its_own(written, tmp_path):
    order = ShardOrder([shard.rows for shard in opened(written, tmp_path).shards], 5)
    for world in (2, 4):
        shards, mixed = opened(written, tmp_path, tracks=4), None
        mixed = mixture(shards, world)
        assert shards.open_at_once == 4 // world
        read = []
        for rank in range(world):
            places = range(rank, ROWS, world)
            read.append({order.find(mixed.tracks[0]._rank(place)[0])[1] for place in places})
        assert set().union(*read) == set(range(8))
        assert sum(len(shards) for shards in read) <= 8 + 4 - 1


def test_resuming_fetches_no_shard_that_was_read(written, tmp_path):
    whole = mixture(opened(written, tmp_path / "a", tracks=1))
    expected = names(whole, range(ROWS))
    Unreliable.requests.clear()
    assert names(mixture(opened(written, tmp_path / "b", tracks=1)), range(20, ROWS)) == expected[20:]
    assert len(Unreliable.requests) <= 4  # those of three rows, and the next


def test_in_a_mixture_each_row_has_its_turn(written, tmp_path):
    def both(world: int = 1) -> Mixture:
        other = Source("o", "depth-estimation", table([{"name": f"o{n}"} for n in range(6)], "depth-estimation"), None)
        cached = Source("s", "depth-estimation", opened(written, tmp_path, tracks=4), None)
        return Mixture([Part(other, weight=2), Part(cached)], seed=1, world=world)

    found = names(both(), range(2 * (ROWS + 12)))
    for epoch in (found[: ROWS + 12], found[ROWS + 12 :]):
        tally = Counter(epoch)
        assert all(tally[f"o{n}"] == 2 for n in range(6)) and len(tally) == ROWS + 6
    assert names(both(2), range(30, 50)) == found[30:50]


def test_a_lonely_set_has_the_order_of_a_mixture(written, tmp_path):
    """The formula without a list of places, and the list."""
    mixed = mixture(opened(written, tmp_path, tracks=5))
    tracks = mixed.tracks[0]
    alone = [tracks._rank(place) for place in range(ROWS)]
    tracks.alone = False
    tracks.begin(np.arange(ROWS), ROWS)
    assert [tracks._rank(place) for place in range(ROWS)] == alone


def test_length_and_weight(written, tmp_path):
    first = [row["name"] for row in open_shards(written / "parquet")][:10]
    found = names(mixture(opened(written, tmp_path), length=10), range(30))
    assert all(sorted(found[start : start + 10]) == sorted(first) for start in (0, 10, 20))
    found = names(mixture(opened(written, tmp_path), weight=2), range(2 * ROWS))
    assert set(Counter(found).values()) == {2}


@pytest.fixture
def most_of_it(written, tmp_path) -> float:
    """GB of three quarters of all copies."""
    list(opened(written, tmp_path / "all"))
    size = used(tmp_path / "all")
    Unreliable.requests.clear()
    return size / 1.35e9


def test_the_cache_stays_small(written, tmp_path, most_of_it):
    folder = tmp_path / "cache"
    mixed, most = mixture(opened(written, folder, most_of_it, tracks=1)), 0
    for n in range(2 * ROWS):
        mixed[n]
        most = max(most, used(folder))
    assert 0 < most <= most_of_it * 1e9 and len(list(folder.glob("*.rows"))) > 1
    assert set(Unreliable.requests) == {file.name for file in (written / "parquet").glob("s-*")}


def test_what_is_open_stays(written, tmp_path, most_of_it, monkeypatch):
    monkeypatch.setattr(caching, "ROOM_WAIT", 0.0)
    reader, other = (opened(written, tmp_path / "cache", most_of_it) for _ in range(2))
    row, other.open_at_once = reader[0], 9
    with pytest.raises(NoRoom, match=r"no room for .* expected a larger cache_gb than"):
        list(other)
    Unreliable.requests.clear()
    assert reader[0] == row and opened(written, tmp_path / "cache", most_of_it)[0] == row and not Unreliable.requests
    for copy in other._copies.values():
        copy.close()
    assert len(list(reader)) == ROWS


def test_a_file_of_many_parts(written, tmp_path, monkeypatch):
    expected = list(opened(written, tmp_path / "a"))
    monkeypatch.setattr(caching, "PART", 1000)
    Unreliable.requests.clear()
    Unreliable.faults += [None, 7, OSError("reset")] * 9
    assert list(opened(written, tmp_path / "b")) == expected and min(Unreliable.requests.values()) > 20


@pytest.mark.parametrize("fault", [OSError("reset"), TimeoutError("slow"), RuntimeError("of a library"), 5])
def test_a_request_that_fails_is_made_again(written, tmp_path, fault):
    Unreliable.faults += [fault] * 3
    assert opened(written, tmp_path)[0]["name"] and Unreliable.requests.total() == 4


def test_after_some_attempts_the_file_is_named(written, tmp_path):
    Unreliable.faults += [OSError("reset by ?X-Amz-Signature=secret")] * 99
    with pytest.raises(
        OSError, match=r"s-train-00000-of-00008\.parquet: bytes 0 to \d+ could not be read in 8 attempts"
    ) as e:
        opened(written, tmp_path)[0]
    assert "secret" not in str(e.value) and used(tmp_path) == 0
    Unreliable.faults[:] = [PermissionError("no")]
    with pytest.raises(PermissionError, match=r"s-train-00000-of-00008\.parquet: no"):
        opened(written, tmp_path)[0]
    Unreliable.faults.clear()
    assert opened(written, tmp_path)[0]["name"]


def changed(written: Path, folder: Path, change) -> Path:
    """A copy of the shards, whose description is changed."""
    shutil.copytree(written / "parquet", folder)
    info = json.loads((folder / "dataset.json").read_text())
    change(folder, info)
    with contextlib.suppress(TypeError, KeyError):  # a description that is checked before
        info["rows"] = sum(file["rows"] for file in info["files"])
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f, i: (f / i["files"][0]["file"]).unlink(), FileNotFoundError, "00000-of-00008.parquet: "),
        (
            lambda f, i: i["files"][0].update(sha256="0" * 64),
            ValueError,
            "not the file that its dataset.json describes",
        ),
        (
            lambda f, i: i["files"][0].update(rows=99),
            ValueError,
            r"00000-of-00008\.parquet: not a shard \(\d rows; expected 99",
        ),
    ],
)
def test_what_no_command_wrote(written, tmp_path, change, error, message):
    folder = changed(written, tmp_path / "copy", change)
    with pytest.raises(error, match=message):
        open_shards(f"unreliable://{folder}", cache=str(tmp_path / "cache"))[0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("files", value) for value in ([], {}, None, "abc", 5, ["x"], [{}])],
        *[("files.0", entry) for entry in ({"sha256": "../../x"}, {"sha256": 5}, {"file": "../x"}, {"file": ".."})],
        *[("files.0", {"rows": rows}) for rows in (True, 0, -1, 1.5, 10**15, 10**30, None)],
        *[("files.0", {"bytes": size}) for size in (-1, 10**30, "9")],
        *[("task", value) for value in ("x", [], None, {})],
        *[("labels", value) for value in (5, [1], "abc")],
        *[("name", None), ("split", 3), ("format", ["parquet"]), ("format", {}), ("layout", [1])],
    ],
)
def test_descriptions_that_no_command_wrote(written, tmp_path, field, value):
    def change(folder, info):
        if field == "files.0":
            info["files"][0].update(value)
        else:
            info[field] = value

    folder = changed(written, tmp_path / "copy", change)
    for streaming in (True, False):
        with pytest.raises(ValueError, match=r"dataset\.json: (files|task|labels|name|split) has|expected layout 1"):
            open_shards(folder, streaming=streaming)


def test_a_shard_of_other_columns(written, tmp_path):
    def other(folder, info):
        file = folder / info["files"][0]["file"]
        pq.write_table(pa.table({"x": [1]}), file)
        content = file.read_bytes()
        info["files"][0] |= {"bytes": len(content), "rows": 1, "sha256": hashlib.sha256(content).hexdigest()}

    folder = changed(written, tmp_path / "copy", other)
    with pytest.raises(ValueError, match=r"00000-of-00008\.parquet: not a shard"):
        open_shards(f"unreliable://{folder}", cache=str(tmp_path / "cache"))[0]  # type: ignore[index]


def test_a_damaged_copy_is_fetched_again(written, tmp_path):
    expected = opened(written, tmp_path)[0]
    copy = next(tmp_path.glob("*.rows"))
    copy.write_bytes(copy.read_bytes()[:99])
    assert opened(written, tmp_path)[0] == expected and Unreliable.requests.total() == 2


def test_any_flipped_bit_of_a_copy_is_seen(written, tmp_path):
    expected = list(opened(written, tmp_path))
    copy = next(tmp_path.glob("*.rows"))
    whole = copy.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 40).astype(int):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        copy.write_bytes(damaged)
        Unreliable.requests.clear()
        assert list(opened(written, tmp_path)) == expected and Unreliable.requests.total() == 1
        assert copy.read_bytes() == whole


@pytest.mark.parametrize(
    "forge",
    [
        lambda place, size, crc: [-1, size, crc],
        lambda place, size, crc: [2**62, size, crc],
        lambda place, size, crc: [place, 2**62, crc],
        lambda place, size, crc: [place, float("inf"), crc],
        lambda place, size, crc: "deep",
        lambda place, size, crc: [place, 4, zlib.crc32(bytes(4))],
    ],
)
def test_a_copy_that_somebody_wrote_with_right_checksums_is_fetched_again(written, tmp_path, forge):
    expected = list(opened(written, tmp_path))
    copy = next(tmp_path.glob("*.rows"))
    whole = copy.read_bytes()
    start, _ = caching.TRAILER.unpack(whole[-caching.TRAILER.size :])
    index = json.loads(whole[start : -caching.TRAILER.size])
    place = index["rows"][0][0]
    index["rows"][0] = forge(*index["rows"][0])
    text = json.dumps(index).encode().replace(b'"deep"', b"[" * 10**5 + b"]" * 10**5)
    empty = whole[:place] + bytes(4) + whole[place + 4 : start]
    copy.write_bytes(empty + text + caching.TRAILER.pack(start, zlib.crc32(text)))
    Unreliable.requests.clear()
    assert list(opened(written, tmp_path)) == expected and Unreliable.requests.total() == 1
    assert copy.read_bytes() == whole


@pytest.mark.parametrize(
    ("status", "attempts", "library"),
    [(403, 1, "aiohttp"), (404, 1, "httpx"), (404, 1, ""), (429, 2, "aiohttp"), (503, 2, "httpx")],
)
def test_a_server_that_refuses_is_asked_once(written, tmp_path, status, attempts, library):
    """And again after those answers that pass. A missing file's name stands in its error once."""
    error: Any = RuntimeError("refused") if library else FileNotFoundError("unreliable://x")
    if library == "aiohttp":
        error.status = status
    elif library:
        error.response = SimpleNamespace(status_code=status)
    Unreliable.faults.append(error)
    if attempts == 2:
        opened(written, tmp_path)[0]
    else:
        with pytest.raises(OSError, match=r"^unreliable:.*parquet: (refused \(RuntimeError refused\)|unreliable://x)$"):
            opened(written, tmp_path)[0]
    assert Unreliable.requests.total() == attempts


def test_what_others_left_in_the_folder(written, tmp_path, most_of_it):
    """Unfinished copies of a machine that is gone, and files that are none of the cache's."""
    folder = tmp_path / "cache"
    folder.mkdir()
    left = folder / f".{'0' * 64}.wffffp7-0123abcd.fetched"
    for path in (left, folder / "mine.bin"):
        path.write_bytes(b"")
        os.truncate(path, 10**9)
    os.utime(left, (0, 0))
    assert len(list(opened(written, folder, most_of_it))) == ROWS
    assert not left.exists() and (folder / "mine.bin").exists()


def test_rows_of_more_bytes_than_a_shard_says(written, tmp_path):
    """Equal cells are stored once."""

    def other(folder, info):
        file = folder / info["files"][0]["file"]
        columns = {
            name: pa.array([None] * 50, kind) for name, kind in zip(COLUMNS["depth-estimation"], KINDS, strict=True)
        }
        cell = pa.array([{"bytes": bytes(10**5), "path": "x"}], KINDS[1])
        columns["image"] = pa.concat_arrays([cell] * 50)
        pq.write_table(pa.table(columns), file, compression="zstd")
        content = file.read_bytes()
        assert len(content) < 10**5
        info["files"][0] |= {"bytes": len(content), "rows": 50, "sha256": hashlib.sha256(content).hexdigest()}

    folder = changed(written, tmp_path / "copy", other)
    with pytest.raises(ValueError, match=r"00000-of-00008\.parquet: not a shard \(its rows take more than it says"):
        open_shards(f"unreliable://{folder}", cache=str(tmp_path / "cache"))[0]  # type: ignore[index]
    assert used(tmp_path / "cache") == 0


def test_a_home_folder_and_one_that_is_not_ones_own(written, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    opened(written, "~/cache")[0]
    assert list((tmp_path / "cache").glob("*.rows"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file: no place for a cache .* expected a folder that can be written"):
        opened(written, tmp_path / "file")[0]


def test_a_copy_under_another_name_is_none(written, tmp_path):
    expected = list(opened(written, tmp_path))
    first, second = sorted(tmp_path.glob("*.rows"))[:2]
    first.rename(tmp_path / "x")
    second.rename(first)
    (tmp_path / "x").rename(second)
    assert list(opened(written, tmp_path)) == expected and Unreliable.requests.total() == 10


@pytest.mark.parametrize("kind", ["a pipe", "a folder"])
def test_something_else_in_the_place_of_a_copy(written, tmp_path, kind):
    opened(written, tmp_path)[0]
    copy = next(tmp_path.glob("*.rows"))
    copy.unlink()
    os.mkfifo(copy) if kind == "a pipe" else copy.mkdir()
    with pytest.raises(OSError, match=rf"\.rows: {kind}; expected a file"):
        opened(written, tmp_path)[0]


def test_wrong_settings(written, tmp_path):
    for tracks in (0, 10**9):  # memory is taken for each
        with pytest.raises(ValueError, match=f"tracks {tracks}: expected 1 to 65536"):
            opened(written, tmp_path, tracks=tracks)
    with pytest.raises(ValueError, match="tracks"):
        open_source("shards", str(written / "parquet"), options={"cached": True, "tracks": 10**9})
    options = {"cached": True, "cache_gb": float("inf")}
    with pytest.raises(ValueError, match="cache_gb"):
        open_source("shards", str(written / "parquet"), options=options)
    with pytest.raises(ValueError, match=r"cache_gb 1e-06: expected at least .* by the shards that are open"):
        mixture(opened(written, tmp_path, cache_gb=1e-6))


def test_the_least_cache_is_enough_for_loader_processes(written, tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "ROOM_WAIT", 0.0)
    for tracks, workers in ((1, 3), (2, 3), (4, 2)):
        folder = tmp_path / f"{tracks}-{workers}"
        part = Part(Source("s", "depth-estimation", opened(written, folder, 1e-6, tracks), None))
        with pytest.raises(ValueError, match=r"expected at least (\S+) for") as error:
            ordered([part], 5, 0, 1, workers, 0)
        least = float(re.search(r"at least (\S+) for", str(error.value))[1]) * 1.001  # type: ignore[index]
        readers = []
        for _ in range(workers):  # each is a copy of the data set, as in a process of its own
            part = Part(Source("s", "depth-estimation", opened(written, folder, least, tracks), None))
            readers.append(ordered([part], 5, 0, 1, workers, 0)[0])
        for n in range(2 * ROWS):
            assert readers[n // 3 % workers][n]["name"]


def test_sets_that_share_a_cache_need_room_for_all(written, tmp_path):
    def parts(gb: float) -> list[Part]:
        sets = [opened(written, tmp_path, gb, format=format) for format in ("parquet", "webdataset")]
        return [Part(Source("s", "depth-estimation", shards, None)) for shards in sets]

    alone = max(part.source.dataset.share(1) for part in parts(1.0)) / 1e9
    with pytest.raises(ValueError, match=r"cache_gb .*: expected at least"):
        Mixture(parts(1.2 * alone), seed=0)
    with pytest.raises(
        ValueError, match=r"cache_gb .*: expected at least"
    ):  # the smaller of two limits, however the folder is spelled
        first, second = parts(2 * alone)[0], parts(1.0)[1]
        second.source.dataset.cache.folder = tmp_path / ".." / tmp_path.name
        first.source.dataset.cache.limit = int(1.2e9 * alone)
        Mixture([first, second], seed=0)
    both = Mixture(parts(2 * alone), seed=0)
    assert len({both[n]["name"] for n in range(2 * ROWS)}) == ROWS


def test_processes_that_share_no_tracks_evenly_are_told(written, tmp_path, caplog):
    mixture(opened(written, tmp_path, tracks=4), world=3)
    assert "3 processes read 4 tracks" in caplog.text


def test_a_folder_is_cached_on_demand(written, tmp_path):
    found = open_shards(written / "parquet", cached=True, cache=str(tmp_path))
    assert isinstance(found, CachedShards) and found[3]["name"]
    assert isinstance(open_shards(written / "parquet", streaming=False, cached=True, cache=str(tmp_path)), CachedShards)
    assert not isinstance(open_shards(written / "parquet"), CachedShards)
