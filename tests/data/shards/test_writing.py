"""Shards are whole or not there: interrupted runs, broken files, refusals."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.shards import H, W, assert_same, decoded, files_of, make_rows, write

from winwin_hf.data import formats
from winwin_hf.data.readers import DepthReader
from winwin_hf.data.rows import BrokenExample, cell, table
from winwin_hf.data.shards import open_shards, shards_info, write_shards, writing

# ------------------------------------------------------------------------------------------------------------- interruptions


class Interrupted(Exception):
    pass


def interrupted(*_):
    raise Interrupted


def interrupt(monkeypatch, at: int) -> list[str]:
    """Ends the writing at the row of this name; gives the list of the rows that are decoded."""
    decode = DepthReader.decode
    seen: list[str] = []

    def decoding(self, example):
        seen.append(example["name"])
        if len(seen) == at:
            raise Interrupted
        return decode(self, example)

    monkeypatch.setattr(DepthReader, "decode", decoding)
    return seen


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_leaves_nothing_and_is_gone_on_with(tmp_path, monkeypatch, format, workers):
    rows = make_rows(tmp_path / "files", "depth-estimation")
    options = {"task": "depth-estimation", "format": format, "shard_size": 1_500, "workers": workers}
    undisturbed = write(rows, tmp_path / "whole", **options)
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt(patch, at=7)
        with pytest.raises(Interrupted):
            write(rows, output, **options)
    assert [path.name for path in output.iterdir()] == [".mine-train.writing"]
    with pytest.raises(FileNotFoundError, match="has finished"):
        open_shards(output)
    finished = {p.name: p.stat().st_mtime_ns for p in (output / ".mine-train.writing").iterdir()}
    assert 2 <= len(finished) < 2 * len(undisturbed)  # shards and their notes
    with monkeypatch.context() as patch:
        seen = interrupt(patch, at=10**9)
        written = write(rows, output, **options)
    info = shards_info(output)
    kept = len(finished) // 2
    assert sorted(seen) == sorted(row["name"] for row in rows[sum(f["rows"] for f in info["files"][:kept]) :])
    times = [time for name, time in finished.items() if not name.endswith(".json")]
    assert sorted(path.stat().st_mtime_ns for path in written[:kept]) == sorted(times)  # renamed, not written again
    assert files_of(output) == files_of(tmp_path / "whole")  # as if nothing had happened; no temporary files


def test_a_finished_shard_is_only_taken_again_if_it_is_provably_the_same(tmp_path, monkeypatch):
    rows = make_rows(tmp_path / "files", "depth-estimation")
    output = tmp_path / "out"

    def stop_and_go_on(change) -> int:
        shutil.rmtree(output, ignore_errors=True)
        with monkeypatch.context() as patch:
            interrupt(patch, at=7)
            with pytest.raises(Interrupted):
                write(rows, output, "depth-estimation", shard_size=1_500)
        change()
        with monkeypatch.context() as patch:
            seen = interrupt(patch, at=10**9)
            write(rows, output, "depth-estimation", shard_size=1_500)
        assert_same(decoded(open_shards(output), "depth-estimation"), decoded(rows, "depth-estimation"))
        return len(seen)

    def another_depth():
        path = Path(rows[0]["depth"]["path"])
        depth = formats.read_depth_png(path, 1000)
        depth[0] = 2.5
        formats.write_depth_png(path, depth)

    def damaged_shard():
        path = min((output / ".mine-train.writing").glob("*.parquet"))
        path.write_bytes(path.read_bytes()[:-1] + b"x")

    def another_format():
        rows[1]["depth_format"] = "png:2000"

    undisturbed = stop_and_go_on(lambda: None)
    assert undisturbed < len(rows)
    for change in (another_depth, damaged_shard, another_format):
        assert stop_and_go_on(change) > undisturbed, change.__name__


def test_an_interruption_between_the_final_names(tmp_path, monkeypatch):
    rows = make_rows(tmp_path / "files", "depth-estimation")
    write(rows, tmp_path / "whole", "depth-estimation")
    for broken in ("card", "SIDECAR"):
        output = tmp_path / broken
        with monkeypatch.context() as patch:
            patch.setattr(writing, broken, None)  # the shards have their names already
            with pytest.raises(TypeError):
                write(rows, output, "depth-estimation")
        if broken == "card":
            assert list(output.glob("*.parquet"))
        with pytest.raises(FileNotFoundError, match="has finished"):
            shards_info(output)
        with monkeypatch.context() as patch:
            seen = interrupt(patch, at=10**9)
            write(rows, output, "depth-estimation")
        assert files_of(output) == files_of(tmp_path / "whole")
        if broken == "card":
            assert seen == []
    with monkeypatch.context() as patch:
        patch.setattr(writing, "remove_tree", interrupted)  # everything is written
        with pytest.raises(Interrupted):
            write(rows, tmp_path / "kept", "depth-estimation")
    (tmp_path / "kept" / ".mine-train.writing" / writing.COMMIT).unlink()  # whatever was removed before
    with pytest.raises(FileExistsError, match="is there already"):
        write(rows, tmp_path / "kept", "depth-estimation")
    assert files_of(tmp_path / "kept") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("split", ["train", "val"])
def test_two_at_once_do_not_take_each_others_shards(tmp_path, monkeypatch, split):
    """Another process with the same set, whose unfinished shards would be removed, or with one whose dataset.json would be replaced."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    rows, output = make_rows(tmp_path / "files", "depth-estimation"), tmp_path / "out"
    write(rows, tmp_path / "whole", "depth-estimation")
    fork = multiprocessing.get_context("fork")
    reached, go_on = fork.Event(), fork.Event()
    decode = DepthReader.decode

    def waiting(self, example):
        reached.set()
        assert go_on.wait(60)
        return decode(self, example)

    monkeypatch.setattr(DepthReader, "decode", waiting)
    first = fork.Process(target=write, args=(rows, output, "depth-estimation"))
    first.start()
    assert reached.wait(60)
    with pytest.raises(
        FileExistsError, match=rf"out: process {first.pid} on .* is writing shards into it; choose another"
    ):
        write(rows, output, "depth-estimation", split=split)
    go_on.set()
    first.join()
    assert first.exitcode == 0 and files_of(output) == files_of(tmp_path / "whole")


def test_the_same_rows_make_the_same_bytes(tmp_path):
    rows = make_rows(tmp_path / "files", "optical-flow")
    for format in ("parquet", "webdataset"):
        write(rows, tmp_path / "one" / format, format=format)
        write(rows, tmp_path / "two" / format, format=format, workers=3)
        assert files_of(tmp_path / "one" / format) == files_of(tmp_path / "two" / format)


# ---------------------------------------------------------------------------------------------------- broken files, refusals


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_broken_or_missing_file_stops_with_its_name_or_is_skipped(tmp_path, format):
    rows = make_rows(tmp_path / "files", "optical-flow")
    flow, image = tmp_path / "files" / "5.flo", tmp_path / "files" / "2.image2.png"
    flow.write_bytes(flow.read_bytes()[:-1])
    output = tmp_path / "out"
    with pytest.raises(BrokenExample, match=f"frame 5: {re.escape(str(flow))}"):
        write(rows, output, format=format)
    assert not [path for path in output.iterdir() if not path.name.startswith(".")]
    image.unlink()
    with pytest.raises(BrokenExample, match=f"frame 2: {re.escape(str(image))} is missing"):
        write(rows, output, format=format)
    write(rows, output, format=format, skip_broken=True)
    names = [row["name"] for row in rows if row["name"][-1] not in "25"]
    assert [row["name"] for row in open_shards(output)] == names
    info = shards_info(output)
    assert info["rows"] == 7 and [item["name"] for item in info["skipped"]] == ["scene.0/frame 2", "scene.1/frame 5"]
    assert "5.flo" in info["skipped"][1]["error"]
    for path in (output / "dataset.json", output / "README.md"):  # nothing about this machine's folders
        assert str(tmp_path) not in path.read_text()
    assert "2 more had missing or unreadable files" in (output / "README.md").read_text()


def test_a_shard_that_left_out_rows_is_not_taken_again_by_a_strict_run(tmp_path, monkeypatch):
    rows = make_rows(tmp_path / "files", "depth-estimation")
    bad = tmp_path / "files" / "0.d.png"
    bad.write_bytes(b"")
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt(patch, at=6)
        with pytest.raises(Interrupted):
            write(rows, output, "depth-estimation", shard_size=1_500, skip_broken=True)
    with pytest.raises(BrokenExample, match="frame 0"):
        write(rows, output, "depth-estimation", shard_size=1_500)


def test_rows_that_are_all_broken(tmp_path):
    rows = make_rows(tmp_path / "files", "depth-estimation", 3)
    for k in range(3):
        (tmp_path / "files" / f"{k}.d.png").write_bytes(b"")
    with pytest.raises(BrokenExample, match=r"all 3 rows are broken, such as .*0\.d\.png"):
        write(rows, tmp_path / "out", "depth-estimation", skip_broken=True)
    shutil.rmtree(tmp_path / "files")
    with pytest.raises(BrokenExample, match="all 3 rows lack a file"):
        write(rows, tmp_path / "none", "depth-estimation", skip_broken=True)


def test_a_shard_of_broken_rows_only_is_left_out(tmp_path):
    rows = make_rows(tmp_path / "files", "depth-estimation", 4)
    (tmp_path / "files" / "1.d.png").write_bytes(b"not a png")
    written = write(rows, tmp_path / "out", "depth-estimation", shard_size=1, skip_broken=True)
    assert [path.name[-22:] for path in written] == [f"0000{k}-of-00003.parquet" for k in range(3)]
    assert len(list(open_shards(tmp_path / "out"))) == 3


def test_a_folder_with_other_files_is_refused(tmp_path):
    rows = make_rows(tmp_path / "files", "depth-estimation", 3)
    write(rows, tmp_path / "out", "depth-estimation")
    before = files_of(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"dataset\.json is there already"):
        write(rows, tmp_path / "out", "depth-estimation")
    assert files_of(tmp_path / "out") == before
    for name in ("README.md", "other-00000-of-00001.tar"):
        (tmp_path / name / "x").mkdir(parents=True)
        (tmp_path / name / name).write_text("mine")
        with pytest.raises(FileExistsError, match=name):
            write(rows, tmp_path / name, "depth-estimation")
        assert (tmp_path / name / name).read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="expected a folder"):
        write(rows, tmp_path / "file", "depth-estimation")


def test_a_disk_without_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    rows = make_rows(tmp_path / "files", "depth-estimation", 3)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: usage._replace(free=2_000))
    with pytest.raises(OSError, match=r"need about .* kB, its disk has 2 kB free"):
        write(rows, tmp_path / "out", "depth-estimation")


def test_wrong_arguments(tmp_path):
    rows = make_rows(tmp_path / "files", "depth-estimation", 3)
    out = tmp_path / "out"
    for options, message in [
        ({"format": "zip"}, "expected parquet or webdataset"),
        ({"task": "flow"}, "expected optical-flow or depth-estimation or semantic-segmentation"),
        ({"shard_size": 0}, "must be positive"),
        ({"task": "optical-flow"}, "without image1, image2"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_shards(
                table(rows, "depth-estimation"),
                out,
                **{"task": "depth-estimation", "name": "a", "split": "b", **options},
            )
    with pytest.raises(ValueError, match="got 0 rows"):
        write([], out, "depth-estimation")
    with pytest.raises(ValueError, match="got a IterableDataset"):
        stream = table(rows, "depth-estimation").to_iterable_dataset()
        write_shards(stream, out, task="depth-estimation", name="a", split="b")
    assert not out.exists()


def test_incomplete_or_other_shards_are_not_opened(tmp_path):
    rows = make_rows(tmp_path / "files", "depth-estimation")
    out = tmp_path / "out"
    first, second, *_ = write(rows, out, "depth-estimation")
    with pytest.raises(ValueError, match="holds the split 'train', not 'val'"):
        open_shards(out, split="val")
    for options in ({}, {"streaming": False, "cached": True}):
        with pytest.raises(ValueError, match="streamed and cached whole"):
            open_shards(out, split="train[:3]", **options)
    part = open_shards(out, streaming=False, split="train[1:3]")
    assert [row["name"] for row in part] == [row["name"] for row in rows[1:3]]
    assert len(list(open_shards(out, split="train"))) == 9
    content = second.read_bytes()
    second.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{second.name}: {len(content) - 1} bytes; expected {len(content)}"):
        open_shards(out)
    first.unlink()
    with pytest.raises(FileNotFoundError, match=f"{first.name} is missing"):
        open_shards(out)
    for text, message in [
        ("{", "not readable"),
        ('{"layout": 99}', "made by another version"),
        ("[]", "expected layout"),
    ]:
        (out / "dataset.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            shards_info(out)
    with pytest.raises(FileNotFoundError, match=r"no dataset\.json"):
        shards_info(tmp_path)


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_random_access_copy_is_not_an_old_one(tmp_path, format):
    """`datasets` keeps copies in its cache: other shards under the same names must not be taken for these."""
    for value in (3, 7):
        formats.save_image(tmp_path / "i.png", np.full((H, W, 3), value, np.uint8))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        write([{"name": "a", "image": cell(tmp_path / "i.png")}], tmp_path / "out", "depth-estimation", format=format)
        (row,) = open_shards(tmp_path / "out", streaming=False)
        assert decoded([row], "depth-estimation")[0][1][0, 0, 0] == value


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_an_address_serves_as_well_as_a_folder(tmp_path, format):
    rows = make_rows(tmp_path / "files", "depth-estimation")
    write(rows, tmp_path / "a [b]", "depth-estimation", format=format)
    assert_same(decoded(open_shards(tmp_path / "a [b]"), "depth-estimation"), decoded(rows, "depth-estimation"))
    write(rows, tmp_path / "c", "depth-estimation", format=format)
    assert_same(decoded(open_shards(f"file://{tmp_path}/c"), "depth-estimation"), decoded(rows, "depth-estimation"))
