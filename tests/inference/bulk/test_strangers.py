"""Inputs, outputs and manifests that a stranger made, or that changed between two runs: nothing is lost, mixed or believed silently."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import av
import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.bulk import picture, results, run, write

from winwin_hf.data import places
from winwin_hf.inference.bulk import engines, outputs, work
from winwin_hf.inference.bulk import run as runs
from winwin_hf.inference.bulk.manifest import Manifest
from winwin_hf.inference.bulk.outputs import Place
from winwin_hf.inference.bulk.plan import plan
from winwin_hf.inference.bulk.run import verify
from winwin_hf.inference.bulk.work import BrokenInput
from winwin_hf.inference.clips import missing_end, write_video
from winwin_hf.processes import locked
from winwin_hf.task import TASKS

pytestmark = pytest.mark.usefixtures("small_units")


def faults(given, output, model) -> list[str]:
    return verify(str(given), str(output), model)[1]


def tar_of(path: Path, *values: int | bytes, form: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for number, value in enumerate(values):
            content = picture(value) if isinstance(value, int) else value
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path.write_bytes(file.getvalue())
    return file.getvalue()


# ---- inputs that change ----


def test_another_input_is_refused(models, tmp_path):
    write(tmp_path / "day1", "0.png", "1.png")
    write(tmp_path / "day2", "0.png", "1.png")
    run(tmp_path / "day1", tmp_path / "out", models["depth"])
    before = results(tmp_path / "out")
    with pytest.raises(ValueError, match=r"an earlier run with other settings .*day1, not .*day2"):
        run(tmp_path / "day2", tmp_path / "out", models["depth"])
    assert results(tmp_path / "out") == before
    assert any("other settings" in fault for fault in faults(tmp_path / "day2", tmp_path / "out", models["depth"]))


@pytest.mark.parametrize("parquet", [False, True])
def test_an_input_that_changed_is_predicted_again(models, frames, tmp_path, parquet):
    options = {"parquet": parquet, "suffix": ".png" if parquet else None}
    run(frames, tmp_path / "out", models["depth"], **options)
    (frames / "2.png").write_bytes(picture(99, (40, 60)))
    assert any(fault.startswith("2: ") for fault in faults(frames, tmp_path / "out", models["depth"]))
    done = run(frames, tmp_path / "out", models["depth"], **options)
    assert done.predicted == (2 if parquet else 1)  # its shard is written anew
    run(frames, tmp_path / "whole", models["depth"], **options)
    assert faults(frames, tmp_path / "out", models["depth"]) == []
    if parquet:
        rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "out/data/*.parquet"), split="train")
        assert sorted(rows["name"]) == ["0", "1", "2", "3", "b/4", "b/5", "b/6"]
    else:
        assert results(tmp_path / "out")["2.npy"] == results(tmp_path / "whole")["2.npy"]


def test_a_frame_between_two_makes_two_new_pairs(models, tmp_path):
    folder = write(tmp_path / "in", "1.png", "3.png")
    run(folder, tmp_path / "out", models["flow"])
    (folder / "2.png").write_bytes(picture(7))
    assert run(folder, tmp_path / "out", models["flow"]).predicted == 2


def test_a_list_whose_lines_are_others(models, tmp_path):
    folder = write(tmp_path, "1.png", "2.png", "3.png")
    (folder / "l.txt").write_text("1.png 2.png\n1.png 3.png\n")
    run(folder / "l.txt", tmp_path / "out", models["flow"])
    (folder / "l.txt").write_text("1.png 3.png\n1.png 2.png\n")
    assert len(faults(folder / "l.txt", tmp_path / "out", models["flow"])) == 2
    assert run(folder / "l.txt", tmp_path / "out", models["flow"]).predicted == 2


def test_a_list_of_addresses_whose_pictures_changed(models, tmp_path):
    write(tmp_path, "1.png", "2.png")
    (tmp_path / "l.txt").write_text("".join(f"file://{tmp_path}/{name}.png\n" for name in (1, 2)))
    run(tmp_path / "l.txt", tmp_path / "out", models["depth"])
    assert run(tmp_path / "l.txt", tmp_path / "out", models["depth"]).reused == 2
    (tmp_path / "1.png").write_bytes(picture(9, (48, 64)))
    assert len(faults(tmp_path / "l.txt", tmp_path / "out", models["depth"])) == 1
    assert run(tmp_path / "l.txt", tmp_path / "out", models["depth"]).predicted == 1


def test_a_chained_address(models, tmp_path):
    with pytest.raises(ValueError, match="a chained address; expected one without ::"):
        run("zip://x::a.zip", tmp_path / "out", models["depth"])


def test_a_tar_that_grew(models, tmp_path):
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in" / "s.tar", 1, 2)
    run(tmp_path / "in", tmp_path / "out", models["depth"])
    assert run(tmp_path / "in", tmp_path / "out", models["depth"]).predicted == 0
    tar_of(tmp_path / "in" / "s.tar", 1, 2, 3)
    assert "changed since it was read" in faults(tmp_path / "in", tmp_path / "out", models["depth"])[0]
    assert run(tmp_path / "in", tmp_path / "out", models["depth"]).predicted == 3
    assert faults(tmp_path / "in", tmp_path / "out", models["depth"]) == []


# ---- files of many that are damaged ----


@pytest.mark.parametrize("kind", ["bit", "in a header", "between members", "zeros in the middle", "two in one"])
def test_a_damaged_tar_loses_no_rows_silently(models, tmp_path, kind):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "s.tar"
    content = bytearray(tar_of(path, 1, 2, 3))
    third = bytes(content).index(b"2.png")
    if kind == "bit":
        content[third + 100] ^= 1
    elif kind == "in a header":
        content = content[: third + 100]
    elif kind == "between members":
        content = content[:third]
    elif kind == "zeros in the middle":
        content = content[:third] + bytearray(512) + content[third:]
    else:
        content = content + content
    path.write_bytes(content)
    with pytest.raises(BrokenInput, match=r"s\.tar: not a readable tar file"):
        run(tmp_path / "in", tmp_path / "out", models["depth"])
    done = run(tmp_path / "in", tmp_path / "out", models["depth"], skip_broken=True)
    assert (
        done.predicted + done.reused == (2 if kind == "two in one" else 1) and len(done.broken) == 1
    )  # the row before may lack files
    assert any("s.tar" in fault for fault in faults(tmp_path / "in", tmp_path / "out", models["depth"]))


def test_a_broken_row_of_a_tar_is_tried_again(models, tmp_path):
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in" / "s.tar", 1, b"no picture", 3)
    done = run(tmp_path / "in", tmp_path / "out", models["depth"], skip_broken=True)
    assert done.predicted == 2 and len(done.broken) == 1
    assert any("s/row_000001" in fault for fault in faults(tmp_path / "in", tmp_path / "out", models["depth"]))
    assert len(run(tmp_path / "in", tmp_path / "out", models["depth"], skip_broken=True).broken) == 1
    tar_of(tmp_path / "in" / "s.tar", 1, 2, 3)
    run(tmp_path / "in", tmp_path / "out", models["depth"])
    assert faults(tmp_path / "in", tmp_path / "out", models["depth"]) == []
    assert "error" not in (tmp_path / "out" / "manifest.jsonl").read_text()


def test_links_and_hidden_files_of_a_tar(models, tmp_path):
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "s.tar", "w") as tar:
        for name, kind in (("0.png", None), ("._0.png", None), (".x/1.png", None), ("1.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind or tarfile.REGTYPE, "0.png" if kind else ""
            content = b"" if kind else picture(1)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    done = run(tmp_path / "in", tmp_path / "out", models["depth"], skip_broken=True)
    assert done.predicted == 1 and len(done.broken) == 1 and "a link within the archive" in done.broken[0]


def test_a_sparse_file_of_a_tar(models, tmp_path):
    """3 GB in 10 kB."""
    (tmp_path / "in").mkdir()
    big, tar = tmp_path / "x.png", shutil.which("tar")
    big.touch()
    os.truncate(big, 3 * 2**30)
    made = tar and subprocess.run(
        [tar, "-C", str(tmp_path), "-S", "-cf", str(tmp_path / "in/s.tar"), "x.png"], check=False
    )
    if not made or made.returncode or (tmp_path / "in/s.tar").stat().st_size > 2**20:
        pytest.skip("needs GNU tar")
    with pytest.raises(BrokenInput, match=r"s\.tar: .*x\.png is a sparse file"):
        run(tmp_path / "in", tmp_path / "out", models["depth"])


def test_going_on_with_many_files_looks_at_each_record_a_few_times(models, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for number in range(20):
        tar_of(tmp_path / "in" / f"{number}.tar", 1, 2)
    run(tmp_path / "in", tmp_path / "out", models["depth"])
    looked: list[int] = []

    class Counting(dict):
        def items(self):
            looked.append(len(self))
            return super().items()

        def values(self):
            looked.append(len(self))
            return super().values()

    true = Manifest.load

    def counted(place):
        found = true(place)
        found.records = Counting(found.records)
        return found

    monkeypatch.setattr(Manifest, "load", counted)
    assert run(tmp_path / "in", tmp_path / "out", models["depth"]).predicted == 0
    assert len(looked) < 15


def test_a_compressed_tar_is_refused(models, tmp_path):
    """It could unpack to anything."""
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "s.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x.png"), io.BytesIO())
    with pytest.raises(BrokenInput, match=r"s\.tar: not a readable tar file"):
        run(tmp_path / "in", tmp_path / "out", models["depth"])


def test_a_row_of_too_many_bytes(models, tmp_path, monkeypatch):
    monkeypatch.setattr("winwin_hf.inference.bulk.reading.MAX_FILE", 20)
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in" / "s.tar", 1)
    with pytest.raises(BrokenInput, match=r"the pictures of \./0 have"):
        run(tmp_path / "in", tmp_path / "out", models["depth"])


def test_equal_cells_of_parquet_are_read_one_by_one(models, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    cell = pa.array([picture(1) + bytes(2**20)])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), cell)
    pq.write_table(pa.table({"image": column}), tmp_path / "in" / "p.parquet", store_schema=False)
    before = pa.total_allocated_bytes()
    seen = []
    monkeypatch.setattr(
        work.Worker, "_predicted", lambda self, batch: iter(seen.append(pa.total_allocated_bytes() - before) or ())
    )
    run(tmp_path / "in", tmp_path / "out", models["depth"])
    assert len(seen) == 200 and max(seen) < 50 * 2**20


def video(path: Path, codec: str, count: int, rate: int = 10, step: int = 1) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), np.uint8))
            frame.pts = number * step
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.mark.parametrize("share", [0.5, 0.97])
@pytest.mark.parametrize("name", ["v.mkv", "v.avi", "v.mp4", "v.webm"])
def test_a_cut_video_is_a_broken_input(models, tmp_path, name, share):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    if name == "v.mp4":
        write_video(path, [np.random.default_rng(n).integers(0, 255, (48, 64, 3), np.uint8) for n in range(30)], 10)
    else:
        video(path, {"v.avi": "mjpeg", "v.webm": "libvpx-vp9"}.get(name, "libx264"), 30)
    if name == "v.mp4":  # its index before its frames, as for the web
        whole = path.read_bytes()
        with av.open(str(path)) as given, av.open(str(path) + ".mp4", "w", options={"movflags": "faststart"}) as made:
            stream = made.add_stream_from_template(given.streams.video[0])
            for packet in given.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    made.mux(packet)
        Path(str(path) + ".mp4").replace(path)
        assert path.read_bytes() != whole
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(BrokenInput, match=rf"{name}: .*(expected a whole video|can't be decoded)"):
        run(tmp_path / "in", tmp_path / "out", models["depth"])
    done = run(tmp_path / "in", tmp_path / "out", models["depth"], skip_broken=True)
    assert len(done.broken) == 1 and 0 < done.predicted + done.reused < 30
    assert faults(tmp_path / "in", tmp_path / "out", models["depth"])


@pytest.mark.parametrize("name", ["v.mkv", "v.avi", "v.mp4"])
@pytest.mark.parametrize("step", [1, 5])
def test_a_whole_video_is_none(models, tmp_path, name, step):
    """A slow one too, whose frames are shown for long, and one that something follows."""
    video(tmp_path / name, "mjpeg" if name == "v.avi" else "libx264", 6, step=step)
    assert missing_end(tmp_path / name) is None
    with (tmp_path / name).open("ab") as file:
        file.write(b"TAG of another program" * 9)
    assert missing_end(tmp_path / name) is None


def test_rows_that_take_no_bytes(models, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": pa.nulls(1_500_000, pa.binary())}), tmp_path / "in" / "p.parquet")
    with pytest.raises(BrokenInput, match=r"p\.parquet: 1,500,000 rows in .*; expected pictures"):
        run(tmp_path / "in", tmp_path / "out", models["depth"])
    write(tmp_path / "in", "1.png")
    done = run(tmp_path / "in", tmp_path / "out", models["depth"], skip_broken=True)
    assert done.predicted == 1 and len(done.broken) == 1


def test_the_frames_of_a_video_are_those_that_are_there(models, tmp_path):
    """Five by the rate in its header."""
    (tmp_path / "in").mkdir()
    video(tmp_path / "in" / "v.mkv", "libx264", 20, rate=5)
    with av.open(str(tmp_path / "in" / "v.mkv")) as container:
        assert not container.streams.video[0].frames
    assert run(tmp_path / "in", tmp_path / "out", models["depth"]).predicted == 20
    assert faults(tmp_path / "in", tmp_path / "out", models["depth"]) == []


def test_a_picture_and_a_row_of_one_name(models, tmp_path):
    folder = write(tmp_path / "in", "s/row_000000.png")
    tar_of(folder / "s.tar", 1)
    with pytest.raises(ValueError, match="two inputs are called s; expected names that differ"):
        run(folder, tmp_path / "out", models["depth"])


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


# ---- outputs and manifests ----


def test_a_run_that_ended_before_its_first_record_goes_on(models, frames, tmp_path):
    (tmp_path / "out" / "manifest").mkdir(parents=True)
    (tmp_path / "out" / "manifest" / ".run.w0000p1-x.json").touch()
    assert run(frames, tmp_path / "out", models["depth"]).predicted == 7


def test_an_output_stays_free_where_nothing_was_done(models, frames, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(models["depth"], broken)
    next(broken.glob("*.safetensors")).write_bytes(b"x")
    with pytest.raises((ValueError, OSError)):
        run(frames, tmp_path / "out", str(broken))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.json"))
    assert run(frames, tmp_path / "out", models["depth"]).predicted == 7


@pytest.mark.slow
def test_workers_say_why_they_cannot_begin(models, frames, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(models["depth"], broken)
    next(broken.glob("*.safetensors")).write_bytes(b"x")
    with pytest.raises((ValueError, OSError), match=r"model\.safetensors"):
        run(frames, tmp_path / "out", str(broken), workers=2)


def test_rows_without_a_record_are_removed(models, frames, tmp_path, monkeypatch):
    """A kill between a shard and its records."""
    out, true = tmp_path / "out", Place.write

    def stops(self, name, content):
        if name.startswith("manifest/part-") and list((out / "data").glob("*")):
            raise KeyboardInterrupt
        true(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "write", stops)
        with pytest.raises(KeyboardInterrupt):
            run(frames, out, models["depth"], parquet=True)
    assert len(list((out / "data").glob("*.parquet"))) == 1
    assert any("rows that belong to no record" in f or "no result" in f for f in faults(frames, out, models["depth"]))
    monkeypatch.setattr(work, "UNIT", 3)
    assert run(frames, out, models["depth"], parquet=True).predicted == 7
    rows = datasets.load_dataset("parquet", data_files=str(out / "data" / "*.parquet"), split="train")
    assert len(rows) == len(set(rows["name"])) == 7 and faults(frames, out, models["depth"]) == []


def test_a_result_that_is_gone_is_made_again(models, frames, tmp_path):
    run(frames, tmp_path / "out", models["depth"])
    before = results(tmp_path / "out")
    (tmp_path / "out" / "1.npy").unlink()
    assert run(frames, tmp_path / "out", models["depth"]).predicted == 1
    assert results(tmp_path / "out")["1.npy"] == before["1.npy"]


def test_other_networks_do_not_mix(models, frames, tmp_path):
    run(frames, tmp_path / "out", models["depth"])
    other = tmp_path / Path(models["depth"]).name
    shutil.copytree(models["depth"], other)
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.1, 0.2, 0.3]}))
    with pytest.raises(ValueError, match=r"other settings .*weights"):
        run(frames, tmp_path / "out", str(other))
    assert "other settings" in faults(frames, tmp_path / "out", str(other))[0]
    shutil.rmtree(tmp_path / "out" / "manifest")
    with pytest.raises(ValueError, match="no manifest of `winwin predict`"):
        faults(frames, tmp_path / "out", models["depth"])


GOOD = {"name": "0", "input": "x", "stamp": "", "output": "0.npy", "sha256": "0" * 64}


@pytest.mark.parametrize(
    "record",
    [
        {},
        {key: value for key, value in GOOD.items() if key != "sha256"},
        {key: value for key, value in GOOD.items() if key != "output"},
        {**GOOD, "output": "/dev/zero"},
        {**GOOD, "output": "../x"},
        {**GOOD, "source": 3},
        {"ended": "x"},
    ],
)
def test_records_that_no_run_wrote(models, frames, tmp_path, record):
    run(frames, tmp_path / "out", models["depth"])
    with (tmp_path / "out" / "manifest.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    for act in (run, faults):
        with pytest.raises(ValueError, match=r"manifest\.jsonl: line 8 is no record"):
            act(frames, tmp_path / "out", models["depth"])


@pytest.mark.parametrize("content", [b"[]", b'"x"', b"{", b"[" * 100_000])
def test_settings_that_no_run_wrote(models, frames, tmp_path, content):
    run(frames, tmp_path / "out", models["depth"])
    (tmp_path / "out" / "manifest" / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json: not readable"):
        run(frames, tmp_path / "out", models["depth"])


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest/run.json", "manifest/part-x.jsonl", "0.npy"])
def test_pipes_in_the_output(models, frames, tmp_path, name):
    out = tmp_path / "out"
    run(frames, out, models["depth"])
    (out / name).unlink(missing_ok=True)
    os.mkfifo(out / name)
    if name == "manifest/part-x.jsonl":  # no file, so none of its records
        assert faults(frames, out, models["depth"]) == []
    elif name == "0.npy":
        assert "a pipe" in faults(frames, out, models["depth"])[0]
    else:
        with pytest.raises(OSError, match="a pipe; expected a file"):
            faults(frames, out, models["depth"])


def test_a_run_that_came_while_the_input_was_listed(models, tmp_path, monkeypatch):
    one, two = write(tmp_path / "one", "1.png"), write(tmp_path / "two", "1.png")
    true = runs.plan

    def slow(given, *others):
        found = [*true(given, *others)]
        if given == str(two):
            run(one, tmp_path / "out", models["depth"])
        return iter(found)

    monkeypatch.setattr(runs, "plan", slow)
    with pytest.raises(ValueError, match="an earlier run with other settings"):
        run(two, tmp_path / "out", models["depth"])
    assert faults(one, tmp_path / "out", models["depth"]) == []


@pytest.mark.slow
def test_a_second_run_into_one_output_is_refused(models, frames, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    held = "import sys, time, pathlib; sys.path.insert(0, sys.argv[2])\nfrom winwin_hf.processes import locked\n"
    held += "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    root = str(Path(engines.__file__).parents[3])
    other = subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path / "out" / "manifest"), root], stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(FileExistsError, match=r"process \d+ on .* is predicting into it"):
            run(frames, tmp_path / "out", models["depth"])
    finally:
        other.kill()
        other.wait()
    with locked(tmp_path / "out" / "manifest"):
        pass
    assert run(frames, tmp_path / "out", models["depth"]).predicted == 7


def test_a_file_of_another_machine_appears_when_it_is_whole(monkeypatch):
    monkeypatch.setattr(outputs, "FILES", {"memory"})
    system, seen = fsspec.filesystem("memory"), []
    true = type(system).pipe_file
    monkeypatch.setattr(
        type(system), "pipe_file", lambda self, path, *given: seen.append(path) or true(self, path, *given)
    )
    try:
        Place("memory://whole").write("a/1.npy", b"x")
        assert seen == ["/whole/a/.1.npy.part"] and system.find("/whole") == ["/whole/a/1.npy"]
    finally:
        system.rm("/whole", recursive=True)


def test_too_many_threads(models, frames, tmp_path):
    with pytest.raises(ValueError, match="threads 100000: expected 1 or more, and at most 1024"):
        run(frames, tmp_path / "out", models["depth"], threads=100_000)


def test_the_records_of_a_run_are_of_their_inputs(models, frames, tmp_path):
    run(frames, tmp_path / "out", models["flow"], skip_broken=True)
    record = Manifest.load(Place(str(tmp_path / "out"))).records["0"]
    assert record["input"].endswith("0.png") and record["input2"].endswith("1.png") and record["stamp"]
