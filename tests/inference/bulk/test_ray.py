"""The engine ray, on two nodes of this machine."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.places import HANGS_AFTER
from support.space_server import tiny_checkpoints

from winwin_hf.inference.bulk.run import predict, verify
from winwin_hf.inference.bulk.work import BrokenInput

pytestmark = pytest.mark.cluster
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="needs Ray (winwin-hf[cluster])")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_checkpoints(tmp_path_factory.mktemp("models"))["depth"]


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (64, 96, 3), np.uint8)).save(folder / f"{number:03d}.png")
    return folder


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


@pytest.mark.parametrize("killed", [False, True])
def test_two_nodes_of_which_one_is_killed(model, cluster, tmp_path, killed):
    """All results are there, none twice, equal to the local engine's bit for bit."""
    given, out, local = pictures(tmp_path / "in", 200), tmp_path / "out", tmp_path / "local"
    node = cluster.add_node(num_cpus=1)
    done = []

    def work() -> None:
        options = {"engine": "ray", "address": cluster.address, "workers": 2, "progress": False}
        done.append(predict(str(given), str(out), model, say=lambda _: None, **options))

    thread = threading.Thread(target=work)
    thread.start()
    if killed:
        end = time.monotonic() + HANGS_AFTER
        while len(results(out)) < 20:
            assert time.monotonic() < end and thread.is_alive()
            time.sleep(0.1)
        cluster.remove_node(node, allow_graceful=False)
    thread.join(HANGS_AFTER)
    assert done and done[0].predicted == 200 and not done[0].broken
    assert verify(str(given), str(out), model) == (200, [])
    predict(str(given), str(local), model, progress=False, say=lambda _: None)
    assert results(out) == results(local)
    again = predict(
        str(given), str(out), model, engine="ray", address=cluster.address, progress=False, say=lambda _: None
    )
    assert (again.predicted, again.reused) == (0, 200)


def test_a_broken_input_is_named_or_skipped(model, cluster, tmp_path):
    given = pictures(tmp_path / "in", 6)
    (given / "003.png").write_bytes(b"x")
    options = {"engine": "ray", "address": cluster.address, "progress": False, "say": lambda _: None}
    with pytest.raises(BrokenInput, match=r"003\.png: not a readable image"):
        predict(str(given), str(tmp_path / "out"), model, **options)
    done = predict(str(given), str(tmp_path / "out"), model, skip_broken=True, **options)
    assert len(done.broken) == 1 and done.predicted + done.reused == 5
