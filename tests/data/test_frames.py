"""Synthetic scenes as files and as shards: what is written is what was rendered; what is done stays."""

import hashlib
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("embreex", reason="needs winwin-hf[worlds]")
trimesh = pytest.importorskip("trimesh", reason="needs winwin-hf[worlds]")

from winwin_hf.cli.main import app
from winwin_hf.data import frames
from winwin_hf.data.frames import render_frames
from winwin_hf.data.readers import plain_reader
from winwin_hf.data.sources import open_source
from winwin_hf.hub.contents import dataset_contents

SMALL = {"height": 48, "width": 64, "texture_count": 2, "texture_weights": {"noise": 1.0}, "places": {"room": 1.0}}


def source_of(task):
    return open_source("synthetic-worlds", settings={**SMALL, "task": task}, seed=3, length=3)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


@pytest.mark.parametrize("task", ["optical-flow", "depth-estimation", "semantic-segmentation"])
def test_files_hold_what_was_rendered(tmp_path, task):
    source = source_of(task)
    rows = render_frames(source, tmp_path / "frames", 2)
    reader = plain_reader(task, source.labels)
    for n in range(2):
        world = source.reader(source.at(n), np.random.default_rng(n))
        image, target = world.first((0, 0, 48, 64))
        read = reader.decode(rows[n])
        if task == "optical-flow":
            assert np.array_equal(read.image1, image)
            assert np.array_equal(read.image2, world.second((0, 0, 48, 64)))
            assert np.array_equal(read.flow, target, equal_nan=True)
            assert np.array_equal(read.occluded, world.occlusion((0, 0, 48, 64)))
        else:
            assert np.array_equal(read[0], image)
            assert np.array_equal(read[1], target, equal_nan=task == "depth-estimation")


def test_what_is_done_is_not_rendered_again(tmp_path):
    source = source_of("depth-estimation")
    render_frames(source, tmp_path, 2)
    kept = (tmp_path / "scene-00000000.png").stat().st_mtime_ns
    (tmp_path / "scene-00000001.json").unlink()
    rows = render_frames(source, tmp_path, 3)
    assert len(rows) == 3
    assert (tmp_path / "scene-00000000.png").stat().st_mtime_ns == kept


def test_what_was_damaged_since_is_rendered_again(tmp_path):
    source = source_of("optical-flow")
    render_frames(source, tmp_path, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    flow = bytearray(before["scene-00000001.flo"])
    flow[100] ^= 1
    (tmp_path / "scene-00000001.flo").write_bytes(flow)
    (tmp_path / "scene-00000000.json").write_text("")
    (tmp_path / "scene-00000002-1.png").unlink()
    render_frames(source, tmp_path, 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_processes_render_the_same(tmp_path):
    source = source_of("depth-estimation")
    render_frames(source, tmp_path / "one", 2)
    render_frames(source, tmp_path / "two", 2, workers=2)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_scenes_that_will_not_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("winwin_hf.data.frames.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="expected about"):
        render_frames(source_of("depth-estimation"), tmp_path, 3)


def test_finished_shards_a_link_and_another_run_are_refused(tmp_path):
    arguments = [
        "data",
        "shards",
        "synthetic-worlds=none",
        "--length",
        1,
        "--option",
        "height=32",
        "--option",
        "width=32",
    ]
    assert run(*arguments, "-o", tmp_path / "a").exit_code == 0
    again = run(*arguments, "-o", tmp_path / "a")
    assert again.exit_code == 1 and "is there already" in again.stderr
    assert not list(tmp_path.glob(".a*"))
    described = json.dumps(["synthetic-worlds", "train", "none", {"height": 32, "width": 32}, 0, ""], sort_keys=True)
    digest = hashlib.sha256(described.encode()).hexdigest()[:12]
    left = tmp_path / f".a-{digest}.frames"  # of a run that was killed while it removed it
    left.mkdir()
    (left / "scene-00000000.npy").touch()
    assert run(*arguments, "-o", tmp_path / "a").exit_code == 1
    assert not left.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    other = run(*arguments, "-o", tmp_path / "mine")
    assert other.exit_code == 1 and "README.md is there already" in other.stderr
    assert not list(tmp_path.glob(".mine*.frames"))  # refused before anything is rendered
    name = f".b-{digest}.frames"
    (tmp_path / "victim").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "victim")
    linked = run(*arguments, "-o", tmp_path / "b")
    assert linked.exit_code == 1 and "a link" in linked.stderr
    assert not list((tmp_path / "victim").iterdir())


def test_shards_say_whose_meshes_and_photographs_they_show(tmp_path):
    (tmp_path / "meshes").mkdir()
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "meshes" / "car.ply")
    (tmp_path / "photographs").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photographs" / "a.png")
    options = [word for key, value in SMALL.items() for word in ("--option", f"{key}={json.dumps(value)}")]
    options += ["--option", f"textures={tmp_path / 'photographs'}", "--length", 1]
    found = run("data", "shards", f"synthetic-worlds={tmp_path / 'meshes'}", *options, "-o", tmp_path / "shards")
    assert found.exit_code == 0, found.output
    for name in ("README.md", "dataset.json"):
        text = (tmp_path / "shards" / name).read_text()
        assert "The licence of these photographs is unknown" in text
        assert "The licence of these meshes is unknown" in text
    assert any(
        "licence of synthetic-worlds is unknown" in said for said in dataset_contents(tmp_path / "shards").warnings
    )


def test_shards_of_worlds(tmp_path):
    options = [word for key, value in SMALL.items() for word in ("--option", f"{key}={json.dumps(value)}")]
    shards = tmp_path / "shards"
    found = run(
        "data",
        "shards",
        "synthetic-worlds=none",
        "--length",
        3,
        "--option",
        "task=depth-estimation",
        *options,
        "-o",
        shards,
    )
    assert found.exit_code == 0, found.output
    assert not list(tmp_path.glob(".*"))
    opened = open_source("shards", str(shards))
    assert opened.task == "depth-estimation"
    examples = list(opened.examples())
    assert len(examples) == 3
    sample = opened.reader(examples[0], np.random.default_rng(0))
    assert sample.first((0, 0, 16, 16))[0].shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["synthetic-worlds=none"], "--length"),
        (["synthetic-worlds=none", "--length", "2", "--option", "task=cooking"], "task"),
        (["synthetic-worlds=none", "--length", "2", "--option", "moon"], "moon"),
        (["synthetic-worlds=/nowhere/at/all", "--length", "2"], "nowhere"),
        (["camvid=/nowhere", "--length", "2"], "--length"),
    ],
)
def test_shards_refuse_what_makes_no_sense(tmp_path, arguments, named):
    found = run("data", "shards", *arguments, "-o", tmp_path / "out")
    assert found.exit_code in (1, 2)
    assert named in found.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_of_meshes_is_checked(tmp_path):
    for kind in ("car", "chair"):
        (tmp_path / kind).mkdir()
        trimesh.creation.box((1, 1, 1)).export(tmp_path / kind / "a.glb")
    found = run("data", "check", tmp_path, "--name", "synthetic-worlds", "-o", tmp_path / "report.json")
    assert found.exit_code == 0, found.output
    assert "car" in found.stdout and "street" in found.stdout
    assert json.loads((tmp_path / "report.json").read_text())["kinds"]["car"]["files"] == 1
    (tmp_path / "car" / "b.glb").write_bytes(b"no mesh")
    found = run("data", "check", tmp_path, "--name", "synthetic-worlds")
    assert found.exit_code == 1
    assert "b.glb" in found.stdout
    (tmp_path / "car" / "b.glb").unlink()
    (tmp_path / "car" / "c.obj").write_text(
        "mtllib c.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl a\nf 1/1 2/1 3/1\n"
    )
    (tmp_path / "car" / "c.mtl").write_text("newmtl a\nmap_Kd gone.png\n")
    found = run("data", "check", tmp_path, "--name", "synthetic-worlds")
    assert found.exit_code == 1
    assert "left out" in found.stdout and "gone.png" in found.stdout
    found = run("data", "check", tmp_path, "--name", "synthetic-worlds", "--option", "a=1")
    assert found.exit_code == 2


@pytest.mark.slow
def test_a_killed_worker_is_told_and_the_rest_stays(tmp_path):
    source = source_of("depth-estimation")
    seen = []

    def kill_one() -> None:
        while not seen:
            seen.extend(child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline()))
            time.sleep(0.1)
        while not list(tmp_path.glob("*.json")):
            time.sleep(0.05)
        seen[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(ChildProcessError, match="started again, the command goes on"):
        render_frames(source, tmp_path, 2000, workers=1)
    killer.join()
    assert list(tmp_path.glob("*.json"))


def test_a_disk_that_is_too_small_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(frames.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    options = ("--option", "height=48", "--option", "width=64", "--option", "texture_count=2")
    result = run("data", "shards", "synthetic-worlds=none", "--length", 6, "-o", tmp_path / "shards", *options)
    assert result.exit_code == 1 and "10 B free" in result.stderr and not list(tmp_path.iterdir())
