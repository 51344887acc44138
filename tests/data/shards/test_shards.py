"""Shards give back every row bit for bit, to one process or many."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets.distributed import split_dataset_by_node
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.places import FRAMES
from support.shards import LABELS, H, W, assert_same, decoded, make_rows, write
from torch.utils.data import DataLoader

from winwin_hf.data import formats
from winwin_hf.data.benchmarks import catalog, check
from winwin_hf.data.readers import plain_reader
from winwin_hf.data.rows import COLUMNS, BrokenExample, Found, cell, cells_of, table, undecoded
from winwin_hf.data.shards import open_shards, packing, planning, reading, shards_info, write_shards
from winwin_hf.own_files import sha256_of

TESTS = FRAMES


# ------------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("task", ["optical-flow", "depth-estimation", "semantic-segmentation"])
@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_rows_come_back_bit_for_bit(tmp_path, task, format):
    rows = make_rows(tmp_path / "files", task)
    written = write(rows, tmp_path / "out", task, format=format)
    suffix = {"parquet": "parquet", "webdataset": "tar"}[format]
    assert len(written) > 2
    assert [p.name for p in written] == [
        f"mine-train-{k:05d}-of-{len(written):05d}.{suffix}" for k in range(len(written))
    ]
    shutil.rmtree(tmp_path / "files")  # nothing refers to it any more
    original = decoded(make_rows(tmp_path / "again", task), task)
    for streaming in (True, False):
        back = open_shards(tmp_path / "out", streaming=streaming)
        assert isinstance(back, datasets.IterableDataset if streaming else datasets.Dataset)
        assert list(back.features) == list(COLUMNS[task])
        back = list(back)
        assert_same(decoded(back, task), original)
        texts = [column for column in COLUMNS[task] if column not in cells_of(task)]
        assert [[row[c] for c in texts] for row in back] == [[row[c] for c in texts] for row in rows]
        assert back[3]["image1" if task == "optical-flow" else "image"]["path"] == (
            "3.image1.png" if task == "optical-flow" else "3.image.png"
        )
    info = shards_info(tmp_path / "out")
    assert info["labels"] == (list(LABELS) if task == "semantic-segmentation" else None)
    assert (info["name"], info["task"], info["split"], info["rows"]) == ("mine", task, "train", len(rows))
    for noted, path in zip(info["files"], written, strict=True):
        assert noted["file"] == path.name and noted["bytes"] == path.stat().st_size
        assert noted["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum(noted["rows"] for noted in info["files"]) == len(rows)


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_entries_of_a_file_of_many_are_unpacked(tmp_path, format):
    rng = np.random.default_rng(1)
    images, depths = rng.integers(0, 255, (4, H, W, 3), np.uint8), rng.uniform(0.5, 9, (4, H, W)).astype(np.float32)
    formats.write_nyu_mat(tmp_path / "all.mat", images, depths)
    cells = [cell(f"{tmp_path / 'all.mat'}::{k}") for k in (2, 0, 3)]
    rows = [{"name": str(k), "image": c, "depth": c, "depth_format": "nyu-mat"} for k, c in enumerate(cells)]
    write(rows, tmp_path / "out", "depth-estimation", format=format)
    back = list(open_shards(tmp_path / "out"))
    assert [row["depth_format"] for row in back] == ["npy"] * 3
    assert [row["image"]["path"] for row in back] == ["all.mat-2.png", "all.mat-0.png", "all.mat-3.png"]
    assert_same(decoded(back, "depth-estimation"), decoded(rows, "depth-estimation"))
    assert shards_info(tmp_path / "out")["formats"] == {"depth_format": ["npy"]}


REAL = ["flow/HD1K", "flow/KITTI-2015", "flow/SceneFlow", "flow/FlyingChairs", "flow/Middlebury-stereo", "flow/Spring"]
REAL += ["depth/hypersim", "depth/middlebury2014", "depth/kitti", "depth/nyu_depth_v2"]
REAL += ["segmentation/ade20k", "segmentation/cityscapes", "segmentation/bdd100k", "segmentation/camvid-original"]
REAL += ["segmentation/labelme-facade"]


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
@pytest.mark.parametrize("folder", REAL)
def test_every_real_layout_survives(tmp_path, folder, format):
    for k, (entry, split, found) in enumerate(check.discover(TESTS / folder)[0]):
        output = tmp_path / str(k)
        dataset = table(found.rows, entry.task)
        options = {"task": entry.task, "name": entry.name, "split": split, "labels": entry.labels}
        try:
            write_shards(dataset, output, format=format, **options)
        except ValueError as error:  # some examples have a mask and others none
            assert format == "webdataset" and "the format parquet" in str(error)
            continue
        reader = plain_reader(entry.task, entry.labels)
        for before, after in zip(undecoded(dataset), open_shards(output), strict=True):
            one, two = reader.decode(before), reader.decode(after)
            pairs = zip(
                *(dataclasses.astuple(x) if entry.task == "optical-flow" else x for x in (one, two)), strict=True
            )
            for x, y in pairs:
                np.testing.assert_array_equal(x, y)


def test_cells_that_are_none_stay_none(tmp_path):
    rows = make_rows(tmp_path / "files", "optical-flow", 4)
    for row in rows[1:3]:
        row |= {"occluded": None, "occluded_format": None}
    rows[2] |= {"flow": None, "flow_format": None}
    write(rows, tmp_path / "parquet")
    back = list(open_shards(tmp_path / "parquet"))
    assert [row["occluded"] is None for row in back] == [False, True, True, False]
    assert [row["flow_format"] for row in back] == ["flo", "flo", None, "flo"]
    assert_same(decoded(back, "optical-flow"), decoded(rows, "optical-flow"))
    with pytest.raises(ValueError, match=r"frame 0 has image1\.png.*frame 1 .*the format parquet"):
        write(rows, tmp_path / "webdataset", format="webdataset")
    assert not (tmp_path / "webdataset").exists()
    for row in rows:  # a split without ground truth is fine
        row |= {"occluded": None, "occluded_format": None, "flow": None, "flow_format": None}
    write(rows, tmp_path / "test", format="webdataset")
    assert_same(decoded(open_shards(tmp_path / "test"), "optical-flow"), decoded(rows, "optical-flow"))


def test_shards_of_shards_and_of_images_in_memory(tmp_path):
    rows = make_rows(tmp_path / "files", "depth-estimation")
    write(rows, tmp_path / "one", "depth-estimation")
    again = open_shards(tmp_path / "one", streaming=False)
    write_shards(
        again, tmp_path / "two", task="depth-estimation", name="mine", split="train", format="webdataset", workers=2
    )
    assert_same(decoded(open_shards(tmp_path / "two"), "depth-estimation"), decoded(rows, "depth-estimation"))


@pytest.mark.slow  # a fresh process imports everything
def test_a_bare_process_reads_them_without_this_package(tmp_path):
    rows = make_rows(tmp_path / "files", "semantic-segmentation", 5)
    for format in ("parquet", "webdataset"):
        write(rows, tmp_path / format, "semantic-segmentation", format=format, split="train[:5]")
    script = """
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
import numpy as np
from datasets import load_dataset
root = Path(sys.argv[1])
names = [f"scene.{k // 3}/frame {k}" for k in range(5)]
images = [np.asarray(__import__("PIL.Image").Image.open(root / "files" / f"{k}.image.png")) for k in range(5)]
labels = [(root / "files" / f"{k}.l.png").read_bytes() for k in range(5)]
files = {kind: sorted(map(str, (root / kind).glob("mine*"))) for kind in ("parquet", "webdataset")}
for streaming in (True, False):
    rows = list(load_dataset("parquet", data_files=files["parquet"], split="train", streaming=streaming))
    assert [row["name"] for row in rows] == names, rows
    assert [row["label"]["bytes"] for row in rows] == labels and rows[0]["label_format"] == "ids:4"
    assert all((np.asarray(row["image"]) == image).all() for row, image in zip(rows, images, strict=True))
    rows = list(load_dataset("webdataset", data_files=files["webdataset"], split="train", streaming=streaming))
    assert [row["json"]["name"] for row in rows] == names, rows
    assert rows[0]["json"]["label_format"] == "ids:4" and "label.png" in rows[0]
    assert all((np.asarray(row["image.png"]) == image).all() for row, image in zip(rows, images, strict=True))
for kind in files:  # by the dataset card
    loaded = load_dataset(str(root / kind), streaming=True)
    assert list(loaded) == ["train_5"] and len(list(loaded["train_5"])) == 5, loaded
assert not [name for name in sys.modules if name.startswith("winwin")]
print("fine")
"""
    result = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout == "fine\n", result.stderr


def test_a_tar_is_a_webdataset(tmp_path):
    rows = make_rows(tmp_path / "files", "optical-flow", 4)
    (path,) = write(rows, tmp_path / "out", format="webdataset", shard_size=10**9)
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        words = json.loads(tar.extractfile("00000002-scene-0-frame-2.json").read())
    assert [member.name for member in members[:5]] == [
        f"00000000-scene-0-frame-0.{field}"
        for field in ("image1.png", "image2.png", "flow.flo", "occluded.png", "json")
    ]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
    keys = [member.name.partition(".")[0] for member in members]
    assert len(set(keys)) == 4 and keys == sorted(keys)  # an example's files lie together
    assert words["name"] == "scene.0/frame 2" and words["path"]["flow"] == "2.flo"


def test_row_groups_fit_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "ROW_GROUP", 6_000)
    rows = make_rows(tmp_path / "files", "optical-flow")
    (path,) = write(rows, tmp_path / "out", shard_size=10**9)
    file = pq.ParquetFile(path)
    assert file.num_row_groups > 2
    size = sum(len(Path(rows[0][c]["path"]).read_bytes()) for c in cells_of("optical-flow"))
    assert all(file.metadata.row_group(k).num_rows <= 6_000 // (size - 100) for k in range(file.num_row_groups))


# ------------------------------------------------------------------------------------------------------------- many readers


def identity(row):
    return row


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
@pytest.mark.parametrize(("count", "multiple"), [(8, 4), (3, 1), (1, 1)])
def test_two_processes_of_two_workers_read_every_row_once(tmp_path, format, count, multiple):
    rows = make_rows(tmp_path / "files", "depth-estimation", 11)
    size = sum(path.stat().st_size for path in (tmp_path / "files").iterdir()) // count + 1
    written = write(rows, tmp_path / "out", "depth-estimation", format=format, shard_size=size, multiple_of=multiple)
    assert len(written) == count
    by_rank = []
    log = logging.FileHandler(tmp_path / "log")  # a file, since workers write to it, too
    datasets.logging.get_logger("datasets").addHandler(log)
    try:
        for rank in range(2):
            stream = split_dataset_by_node(open_shards(tmp_path / "out"), rank=rank, world_size=2)
            loader = DataLoader(stream, batch_size=None, num_workers=2, collate_fn=identity)
            by_rank.append([row["name"] for row in loader])
    finally:
        datasets.logging.get_logger("datasets").removeHandler(log)
        log.close()
    assert sorted(by_rank[0] + by_rank[1]) == sorted(row["name"] for row in rows)
    assert all(by_rank)  # a shard that is alone is shared by the processes, each has every other row
    # but a worker without a shard gets nothing, and `datasets` says so
    said = (tmp_path / "log").read_text()
    assert ("Too many dataloader workers: 2 (max is dataset.num_shards=1)" in said) == (count == 1)


def test_a_stream_goes_on_where_its_state_says(tmp_path):
    rows = make_rows(tmp_path / "files", "depth-estimation")
    for format in ("parquet", "webdataset"):
        write(rows, tmp_path / format, "depth-estimation", format=format)
        stream = open_shards(tmp_path / format)
        iterator = iter(stream)
        for _ in range(5):
            next(iterator)
        state = stream.state_dict()
        rest = open_shards(tmp_path / format)
        rest.load_state_dict(state)
        assert [row["name"] for row in rest] == [row["name"] for row in rows[5:]]


# --------------------------------------------------------------------------------------------------------------- the pieces


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(0, 5_000), min_size=1, max_size=60),
    shard_size=st.integers(1, 20_000),
    multiple=st.integers(1, 9),
)
def test_parts_are_consecutive_full_and_about_equal(sizes, shard_size, multiple):
    rows = [planning.Row(k, size, 1, str(k)) for k, size in enumerate(sizes)]
    parts = planning.cut(rows, shard_size, multiple)
    assert [row for part in parts for row in part] == rows and all(parts)
    if len(rows) >= multiple:
        assert len(parts) % multiple == 0
    if len(parts) > 1 and min(sizes) > 0:
        share = sum(sizes) / len(parts)
        extents = [sum(row.size for row in part) for part in parts]
        assert max(extents) <= share + 2 * max(sizes)


def test_the_card_says_what_is_in_it(tmp_path):
    rows = make_rows(tmp_path / "files", "semantic-segmentation", 4)
    write(rows, tmp_path / "out", "semantic-segmentation", source="https://example.org/set", terms="CC BY-NC 4.0")
    text = (tmp_path / "out" / "README.md").read_text()
    for part in ("source: https://example.org/set", "terms: CC BY-NC 4.0", "0 road, 1 car", "`ids:4`", "num_labels=4"):
        assert part in text
    assert "image-segmentation" in text and "4 examples in" in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].replace("FOLDER", str(tmp_path / "out"))
    names: dict = {}
    exec(code, names)
    np.testing.assert_array_equal(names["decoded"][1], decoded(rows[-1:], "semantic-segmentation")[0][2])


def test_a_catalogued_set_becomes_shards(tmp_path):
    entry = catalog.entry_of("camvid")
    dataset = catalog.load("camvid", TESTS / "CamVid", "train")
    write_shards(
        dataset,
        tmp_path / "out",
        task=entry.task,
        name=entry.name,
        split="train",
        labels=entry.labels,
        source=entry.source,
        terms=entry.terms,
    )
    assert shards_info(tmp_path / "out")["terms"] == entry.terms
    found = entry.find(TESTS / "CamVid", "train")
    assert isinstance(found, Found)
    reader = plain_reader("semantic-segmentation", entry.labels)
    for row, back in zip(found.rows, open_shards(tmp_path / "out"), strict=True):
        for x, y in zip(reader.decode(row), reader.decode(back), strict=True):
            np.testing.assert_array_equal(x, y)


def lies(out: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    info = json.loads((out / "dataset.json").read_text())
    change(info)
    (out / "dataset.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda info: info.update(rows=100), "rows has 100; expected as many as its files have"),
        (lambda info: info.update(rows=9.0), "rows has 9.0; expected as many as its files have"),
        (lambda info: info["files"].append(info["files"][0]), "files has .*; expected file, .* of each shard, once"),
    ],
)
def test_a_description_that_contradicts_itself(tmp_path, change, says):
    write(make_rows(tmp_path / "files", "depth-estimation"), tmp_path / "out", "depth-estimation")
    lies(tmp_path / "out", change)
    with pytest.raises(ValueError, match=rf"dataset\.json: {says}"):
        shards_info(tmp_path / "out")


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
@pytest.mark.parametrize("more", [1, -1])
def test_a_shard_has_the_rows_that_its_description_says(tmp_path, format, more):
    """Else an epoch was longer or shorter than a recipe took it for."""
    rows = make_rows(tmp_path / "files", "depth-estimation")
    first = write(rows, tmp_path / "out", "depth-estimation", format=format)[0]

    def change(info):
        info["rows"] += more
        info["files"][0]["rows"] += more

    lies(tmp_path / "out", change)
    with pytest.raises(BrokenExample, match=rf"^{first}: \d rows; expected \d, by the dataset.json beside it$"):
        list(open_shards(tmp_path / "out"))


def test_a_shard_that_the_description_does_not_name(tmp_path):
    """It was left out in silence."""
    first = write(make_rows(tmp_path / "files", "depth-estimation"), tmp_path / "out", "depth-estimation")[0]
    other = first.with_name("other.parquet")
    shutil.copy(first, other)
    with pytest.raises(BrokenExample, match=rf"^{other}: isn't in the dataset\.json beside it"):
        open_shards(tmp_path / "out")


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
@pytest.mark.parametrize("streaming", [True, False])
def test_a_shard_that_is_another_is_refused(tmp_path, format, streaming):
    """Of the same length, before the first row; what `datasets` copied stays right."""
    written = write(
        make_rows(tmp_path / "files", "depth-estimation"), tmp_path / "out", "depth-estimation", format=format
    )
    content = bytearray(written[1].read_bytes())
    content[len(content) // 2] ^= 1
    written[1].write_bytes(content)
    with pytest.raises(BrokenExample) as error:
        list(open_shards(tmp_path / "out", streaming=streaming))
    assert (
        str(error.value) == f"{written[1]}: not the file that was written, by the SHA-256 in the dataset.json beside it"
    )


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda one, two: shutil.copy(two, one), "not the file that was written"),
        (lambda one, two: one.write_bytes(one.read_bytes()[:-99]), "not the file that was written"),
        (lambda one, two: one.unlink(), "no such file"),
    ],
    ids=["replaced", "cut", "removed"],
)
def test_a_shard_that_changes_between_epochs_is_named(tmp_path, format, harm, says):
    rows = make_rows(tmp_path / "files", "depth-estimation")
    written = write(rows, tmp_path / "out", "depth-estimation", format=format)
    stream = open_shards(tmp_path / "out")
    assert len(list(stream)) == len(list(stream)) == len(rows)
    harm(*written[:2])
    with pytest.raises(BrokenExample, match=re.escape(f"{written[0]}: {says}")):
        list(stream)


def test_a_shard_is_compared_once(tmp_path, monkeypatch):
    written = write(make_rows(tmp_path / "files", "depth-estimation"), tmp_path / "out", "depth-estimation")
    compared = []
    monkeypatch.setattr(reading, "sha256_of", lambda file: compared.append(file) or sha256_of(file))
    stream = open_shards(tmp_path / "out")
    for _ in range(3):
        list(stream)
    assert compared == [str(path) for path in written]
