"""Shards in an object store that fails, stalls and gives half: nothing twice, nothing lost, with two nodes of two loader processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.places import HANGS_AFTER, ROOT
from support.shards import make_rows
from support.space_server import tiny_checkpoints

from winwin_hf.data.rows import table
from winwin_hf.data.shards import open_shards, write_shards
from winwin_hf.data.shards.caching import OVERHEAD
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
def system(store):
    """The store, as this process sees it."""
    import s3fs

    return s3fs.S3FileSystem(key="test", secret="test", endpoint_url=store.environment["FSSPEC_S3_ENDPOINT_URL"])


@pytest.fixture(scope="module")
def bucket(system, written) -> str:
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
            "rank": rank,
            "world": NODES,
            "start": start,
            "count": batches,
            "output": str(self.output),
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
    """GB: half of the set, by the most that its copies may take."""
    rows = ROWS // SHARDS
    return 0.5 * sum(file.stat().st_size + OVERHEAD * (rows + 1) for file in written.glob("*.parquet")) / 1e9


def used(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) if folder.exists() else 0


def test_two_nodes_read_each_example_once_whatever_happens(store, bucket, written, order, tmp_path):
    store.every = 5
    limit, batches, seen = room(written), 2 * ROWS // (3 * NODES), {}
    start = 0
    for killed in (True, True, False):
        nodes = [
            Node(store, tmp_path, bucket, rank, start, batches - start // (3 * NODES), limit) for rank in range(NODES)
        ]
        before, end = [len(node.seen()) for node in nodes], time.monotonic() + HANGS_AFTER
        if killed:  # as a training does, all begin again after the steps that all have made
            while min(len(node.seen()) - had for node, had in zip(nodes, before, strict=True)) < 12:
                assert time.monotonic() < end
                for node in nodes:
                    assert node.process.poll() is None, node.process.communicate()[1]
                assert all(used(node.cache) <= limit * 1e9 for node in nodes)
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
    assert all(used(node.cache) <= limit * 1e9 for node in nodes)


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


SMALL_TRAINING = """
task: depth-estimation
model:
  config: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4, patch_size: 4, head_type: linear}
data: {name: shards, path: PATH, options: {cached: true, cache: CACHE, tracks: 4}}
windows: {kind: windows, count: 2, size: [1, 1]}
optimization: {steps: 6, batch_size: 2, warmup_steps: 1, num_workers: 2}
evaluation: {every: 0, windows: 0, sets: []}
save_every: 2
log_every: 1
trackers: []
"""


def winwin(store, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **store.environment, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "winwin_command", *words]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_AFTER)


def test_a_training_reads_from_the_store(store, bucket, written, tmp_path):
    """The losses are those of the same shards in a folder."""
    store.every = 5
    losses = []
    for name, place in (("folder", str(written)), ("store", f"{bucket}/set")):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(SMALL_TRAINING.replace("PATH", place).replace("CACHE", str(tmp_path / f"cache-{name}")))
        done = winwin(store, "train", str(recipe), "--output", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert len(losses[0]) == 6 and losses[0] == losses[1]


def test_predictions_go_from_store_to_store(store, bucket, system, tmp_path):
    store.every = 0
    models = tiny_checkpoints(tmp_path)
    rng = np.random.default_rng(0)
    for k in range(5):
        content = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 56, 3), np.uint8)).save(content, "png")
        system.pipe_file(f"bucket/in/{k}.png", content.getvalue())
    words = ["predict", f"{bucket}/in", f"{bucket}/out", "--model", models["depth"], "--workers", "1"]
    for said in ("5", "going on", "5 results, all as they were written"):
        done = winwin(store, *words, *(["--verify"] if "written" in said else []))
        assert done.returncode == 0 and said in done.stdout + done.stderr, done.stdout + done.stderr
    system.invalidate_cache()
    assert sorted(Path(name).name for name in system.ls("bucket/out") if name.endswith(".npy")) == [
        f"{k}.npy" for k in range(5)
    ]
