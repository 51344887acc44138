"""Shards in an object store that fails, stalls and gives half: nothing twice, nothing lost, with two nodes of two loader processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.places import HANGS_AFTER, ROOT
from support.shards import make_rows

from winwin_hf.data.rows import table
from winwin_hf.data.shards import open_shards, write_shards
from winwin_hf.data.sources import Source
from winwin_hf.data.streams import Mixture, Part

pytestmark = pytest.mark.cluster

ROWS, SHARDS, TRACKS, NODES = 96, 16, 4, 2


@pytest.fixture(scope="module")
def store():
    pytest.importorskip("moto.server", reason="needs moto[s3], flask, flask-cors")
    pytest.importorskip("s3fs")
    from support.object_store import ObjectStore

    found = ObjectStore()
    yield found
    found.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    rows = table(make_rows(folder / "rows", "depth-estimation", ROWS), "depth-estimation")
    files = write_shards(
        rows, folder / "set", task="depth-estimation", name="s", split="train", shard_size=10**9, multiple_of=SHARDS
    )
    assert len(files) == SHARDS
    return folder / "set"


@pytest.fixture(scope="module")
def bucket(store, written) -> str:
    import s3fs

    os.environ.update(store.environment)
    system = s3fs.S3FileSystem(endpoint_url=store.environment["FSSPEC_S3_ENDPOINT_URL"], skip_instance_cache=True)
    system.mkdir("bucket")
    for file in written.iterdir():
        system.pipe_file(f"bucket/set/{file.name}", file.read_bytes())
    return "s3://bucket"


@pytest.fixture(scope="module")
def order(written, tmp_path_factory) -> list[str]:
    """Two epochs' names, in the order of one process that nothing disturbs."""
    shards = open_shards(written, cached=True, cache=str(tmp_path_factory.mktemp("whole")), tracks=TRACKS)
    mixture = Mixture([Part(Source("s", "depth-estimation", shards, None))], seed=5)  # type: ignore[arg-type]
    return [mixture[n]["name"] for n in range(2 * ROWS)]


class Node:
    """A process of `support.reading_node`, with a cache of its own."""

    def __init__(self, store, folder: Path, bucket: str, rank: int, start: int, batches: int, cache_gb: float):
        self.output, self.cache = folder / f"node-{rank}.jsonl", folder / f"cache-{rank}"
        given = {
            "path": f"{bucket}/set",
            "options": {"cache": str(self.cache), "cache_gb": cache_gb, "tracks": TRACKS},
            **{"rank": rank, "world": NODES, "start": start, "count": batches, "output": str(self.output)},
        }
        environment = {**os.environ, **store.environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        command = [sys.executable, "-m", "support.reading_node", json.dumps(given)]
        self.process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def seen(self) -> list[dict]:
        lines = self.output.read_text().splitlines() if self.output.exists() else []
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def end(self) -> None:
        _, errors = self.process.communicate(timeout=HANGS_AFTER)
        assert self.process.returncode == 0, errors


def room(written: Path) -> float:
    """GB: not even half of the set."""
    return 0.45 * sum(file.stat().st_size + 2048 * 7 for file in written.glob("*.parquet")) / 1e9


def used(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) if folder.exists() else 0


def test_two_nodes_read_each_example_once_whatever_happens(store, bucket, written, order, tmp_path):
    store.every = 5
    largest, batches, seen = room(written), 2 * ROWS // (3 * NODES), {}
    start = 0
    for killed in (True, True, False):
        nodes = [
            Node(store, tmp_path, bucket, rank, start, batches - start // (3 * NODES), largest) for rank in range(NODES)
        ]
        before, end = [len(node.seen()) for node in nodes], time.monotonic() + HANGS_AFTER
        if killed:  # as a training does, all begin again after the steps that all have made
            while min(len(node.seen()) - had for node, had in zip(nodes, before, strict=True)) < 12:
                assert time.monotonic() < end and all(node.process.poll() is None for node in nodes)
                assert all(used(node.cache) <= largest * 1e9 for node in nodes)
                time.sleep(0.02)
            for node in nodes:
                node.kill()
        else:
            for node in nodes:
                node.end()
        steps = min((len(node.seen())) for node in nodes) // 3
        for node in nodes:
            kept = node.seen()[: 3 * steps]
            node.output.write_text("".join(json.dumps(example) + "\n" for example in kept))
        start = 3 * NODES * steps
    for node in nodes:
        seen |= {example["index"]: example["name"] for example in node.seen()}
    assert [seen[n] for n in range(2 * ROWS)] == order
    assert set(store.failed) == {"busy", "stall", "half", "reset"}
    assert all(used(node.cache) <= largest * 1e9 for node in nodes)


def test_a_shard_comes_to_one_node(store, bucket, written, tmp_path):
    store.every = 0
    store.sent.clear()
    nodes = [Node(store, tmp_path, bucket, rank, 0, ROWS // (3 * NODES), 1.0) for rank in range(NODES)]
    for node in nodes:
        node.end()
    sizes = {file.name: file.stat().st_size for file in written.glob("*.parquet")}
    # an epoch: each shard once, those that a cut divides twice, and what comes early for the next epoch
    assert sum(store.sent[name] for name in sizes) / max(sizes.values()) <= SHARDS + (TRACKS - 1) + TRACKS
    assert all(store.sent[name] >= size for name, size in sizes.items())
