"""Names of any kind, and inputs that do not answer or have no end."""

from __future__ import annotations

import itertools
import os
import shutil
import socket

import fsspec
import numpy as np
import pytest
from support.bulk import picture, results, run, tar_of, write

from winwin_hf.data import places
from winwin_hf.inference.bulk.plan import plan
from winwin_hf.inference.bulk.run import verify
from winwin_hf.inference.bulk.work import BrokenInput
from winwin_hf.inference.clips import write_video
from winwin_hf.task import TASKS

pytestmark = pytest.mark.usefixtures("small_units")

# ---- names ----


@pytest.mark.parametrize(
    "name",
    ["a#1", "a::1", "a\u2028b", "a\x85b", "a\nb", "a%20b", "~", "[1]", "漢" * 80, os.fsdecode(b"caf\xe9"), "x" * 250],
    ids=["hash", "chain", "separator", "next line", "line", "percent", "home", "brackets", "long", "bytes", "longest"],
)
@pytest.mark.parametrize("parquet", [False, True])
def test_any_name_of_a_file(models, tmp_path, name, parquet):
    folder = write(tmp_path / "in", f"{name}.png", "other.png")
    options = {"parquet": parquet, "suffix": ".png"}
    assert run(folder, tmp_path / "out", models["depth"], **options).predicted == 2
    assert run(folder, tmp_path / "out", models["depth"], **options).reused == 2
    assert verify(str(folder), str(tmp_path / "out"), models["depth"]) == (2, [])


@pytest.mark.parametrize("where", ["in::put", "in#put"])
def test_any_name_of_a_folder(models, tmp_path, where):
    write(tmp_path / where, "1.png")
    assert run(tmp_path / where, tmp_path / f"{where}-out", models["depth"]).predicted == 1
    assert run(tmp_path / where, tmp_path / f"{where}-out", models["depth"]).reused == 1
    with pytest.raises(ValueError, match="other settings"):
        run(tmp_path / where, tmp_path / f"{where}-out", models["segmentation"])


def test_the_output_is_no_input(models, tmp_path):
    """However the two are spelled."""
    folder = write(tmp_path / "in", "1.png")
    (tmp_path / "link").symlink_to(folder)
    spellings = [("in", "in/a"), ("in/../in", "in/../in/b"), ("in", "link/c"), ("link", "in/d")]
    protocols = [("", ""), ("file://", ""), ("", "file://"), ("local://", "file://")]
    for (given, output), (first, second) in itertools.product(spellings, protocols):
        for _ in range(2):
            run(f"{first}{tmp_path}/{given}", f"{second}{tmp_path}/{output}", models["segmentation"])
        assert len([name for name in results(tmp_path / output) if name.endswith(".png")]) == 1
        shutil.rmtree(tmp_path / output)


def test_folders_behind_links_are_read_once(tmp_path):
    write(tmp_path / "far", "2.png")
    folder = write(tmp_path / "in", "1.png")
    (folder / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "circle").symlink_to(folder)
    names = [item.name for unit in plan(str(folder), TASKS["depth-estimation"]) for item in unit.items or ()]
    assert names == ["1", "linked/2"]


def test_a_folder_between_frames_separates_none(tmp_path):
    folder = write(tmp_path / "in", "1.png", "2/m.png", "3.png", "4.png")
    items = [item for unit in plan(str(folder), TASKS["optical-flow"]) for item in unit.items or ()]
    assert [item.name for item in items] == ["1", "3"]


def test_a_gap_is_told(models, tmp_path):
    said: list[str] = []
    run(write(tmp_path / "in", "f_1.png", "f_2.png", "f_4.png"), tmp_path / "out", models["flow"], say=said.append)
    assert any("no frame f_3 after f_2" in line for line in said)


def test_what_is_left_out_is_told(models, tmp_path):
    """Every picture that the package reads is predicted; files of other names are named."""
    folder = write(tmp_path / "in", "1.png", "2.GIF", "3.jp2", "4.tga", "5.jfif")
    (folder / "6.avif").write_bytes(b"")
    (folder / "notes.md").write_text("x")
    said: list[str] = []
    assert run(folder, tmp_path / "out", models["depth"], say=said.append).predicted == 5
    assert any("left out 2 of 7 files" in line and "6.avif, notes.md" in line for line in said)


def test_flow_of_a_single_frame_is_a_broken_input(models, tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "v.mp4", [np.zeros((48, 64, 3), np.uint8)], 10)
    with pytest.raises(BrokenInput, match=r"v\.mp4: a single frame; expected two or more"):
        run(tmp_path / "in", tmp_path / "out", models["flow"])
    assert run(tmp_path / "in", tmp_path / "out2", models["depth"]).predicted == 1


def test_a_folder_called_like_a_list(models, tmp_path):
    assert run(write(tmp_path / "set.txt", "1.png"), tmp_path / "out", models["depth"]).predicted == 1
    with pytest.raises(ValueError, match="INPUT is empty"):
        run("", tmp_path / "out2", models["depth"])


@pytest.mark.parametrize("names", [("a.png", "a.npy/b.png"), ("manifest/run.json/b.png",), ("manifest.jsonl/b.png",)])
def test_names_in_the_way_of_others_are_refused_at_once(models, tmp_path, names):
    with pytest.raises(ValueError, match="is a result, or the manifest"):
        run(write(tmp_path / "in", *names), tmp_path / "out", models["depth"])
    assert not (tmp_path / "out").exists()


def test_passwords_stay_out_of_names(tmp_path):
    listed = tmp_path / "l.txt"
    listed.write_text("http://user:hunter2secret@127.0.0.1:9/a/1.png?sig=x/y.png\nhttp://127.0.0.1:9/b/2.png\n")
    items = [item for unit in plan(str(listed), TASKS["depth-estimation"]) for item in unit.items or ()]
    assert [item.name for item in items] == ["a/1", "b/2"]


# ---- what does not answer, and what has no end ----


@pytest.mark.parametrize("name", ["x.tar", "x.parquet", "x.mp4", "x.png"])
def test_a_pipe_is_a_broken_input(models, tmp_path, name):
    folder = write(tmp_path / "in", "1.png")
    os.mkfifo(folder / name)
    done = run(folder, tmp_path / "out", models["depth"], skip_broken=True)
    assert done.predicted == 1 and "a pipe" in done.broken[0]


def test_what_cannot_be_reached_is_skipped_and_named(models, tmp_path):
    write(tmp_path, "1.png")
    (tmp_path / "l.txt").write_text("1.png\nhttp://127.0.0.1:9/2.png\nzip://a.png::/etc/passwd\nnothing://x.png\n")
    done = run(tmp_path / "l.txt", tmp_path / "out", models["depth"], skip_broken=True)
    assert done.predicted == 1 and len(done.broken) == 3
    for name, said in zip(("http://127.0.0.1:9/2.png", "zip://a.png", "nothing://x.png"), done.broken, strict=True):
        assert name in said


def test_a_server_that_says_nothing(models, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "SILENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "l.txt").write_text(f"http://127.0.0.1:{silent.getsockname()[1]}/1.png\n")
        with pytest.raises(BrokenInput, match=r"/1\.png: could not be reached"):
            run(tmp_path / "l.txt", tmp_path / "out", models["depth"])


def test_a_tar_without_pictures(models, tmp_path):
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in" / "s.tar")
    with pytest.raises(BrokenInput, match=r"s\.tar: no pictures in it"):
        run(tmp_path / "in", tmp_path / "out", models["depth"])


def test_more_than_a_picture_has(models, tmp_path, monkeypatch):
    monkeypatch.setattr("winwin_hf.data.places.content.__defaults__", (20,))
    fsspec.filesystem("memory").pipe_file("/many/1.png", picture())
    try:
        with pytest.raises(BrokenInput, match=r"memory://many/1\.png: more than 20"):
            (tmp_path / "l.txt").write_text("memory://many/1.png\n")
            run(tmp_path / "l.txt", tmp_path / "out", models["depth"])
    finally:
        fsspec.filesystem("memory").rm("/many", recursive=True)
