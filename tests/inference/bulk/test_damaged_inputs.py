"""Tars, parquet files and videos that are damaged: no row is lost silently."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.bulk import faults, picture, run, tar_of, write

from winwin_hf.inference.bulk import work
from winwin_hf.inference.bulk.manifest import Manifest
from winwin_hf.inference.bulk.work import BrokenInput
from winwin_hf.inference.clips import missing_end, write_video

pytestmark = pytest.mark.usefixtures("small_units")


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


def test_pictures_of_one_name_in_a_tar_are_rows_or_refused(models, tmp_path):
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "s.tar", "w") as tar:
        for number, name in enumerate(("k.png", "k.png", "l.png", "l.jpg")):
            member, content = tarfile.TarInfo(name), picture(number)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    done = run(tmp_path / "in", tmp_path / "out", models["depth"], skip_broken=True)
    assert done.predicted == 2 and len(done.broken) == 1
    assert "files that end in png and jpg; expected one picture for image" in done.broken[0]


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
    with pytest.raises(ValueError, match=r"s\.tar: both would be called s; expected names that differ"):
        run(folder, tmp_path / "out", models["depth"])
