"""Sources: one face for folders, shards, what `load_dataset` opens, and synthetic scenes."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image
from support.places import FRAMES

from winwin_hf.data import formats
from winwin_hf.data.augmentation import FlowAugmentation, ImageAugmentation
from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.shards import write_shards
from winwin_hf.data.sources import open_source

DATA = FRAMES
CAMVID = DATA / "CamVid"


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_catalogued_set():
    source = open_source("camvid", str(CAMVID), "val")
    assert (source.task, len(source), len(source.labels), source.missing) == ("semantic-segmentation", 2, 11, ())
    assert source.reader.augmentation is None and source.entry is catalog.SETS["camvid"]
    examples = list(source.examples())
    assert [e["index"] for e in examples] == [0, 1]
    assert source.reader(examples[1], rng()).height == 90


def test_augmentation_only_in_training_or_on_demand():
    assert open_source("camvid", str(CAMVID), augment=True).reader.augmentation == ImageAugmentation()
    assert open_source("camvid", str(CAMVID), settings={"flip": 0}).reader.augmentation == ImageAugmentation(flip=0)
    assert open_source("camvid", str(CAMVID)).reader.augmentation is None
    sintel = open_source("sintel-clean", str(DATA / "flow" / "Sintel"), augment=True, skip_broken=True)
    assert sintel.reader.augmentation == FlowAugmentation()
    with pytest.raises(ValueError, match="settings of semantic-segmentation: unknown flp"):
        open_source("camvid", str(CAMVID), settings={"flp": 0})


def test_shards_are_the_set_they_were_made_from(tmp_path):
    rows = catalog.load("camvid", CAMVID, "train")
    labels = catalog.SETS["camvid"].labels
    write_shards(
        rows, tmp_path / "s", task="semantic-segmentation", name="camvid", split="train", labels=labels, shard_size=1
    )
    plain = open_source("camvid", str(CAMVID))
    for options in ({}, {"streaming": False}):
        source = open_source("shards", str(tmp_path / "s"), options=options)
        assert isinstance(source.dataset, datasets.IterableDataset) == (not options)
        assert (source.name, source.task, source.labels) == ("camvid", "semantic-segmentation", labels)
        pairs = list(zip(source.examples(), plain.examples(), strict=True))
        assert len(pairs) == 3
        for ours, theirs in pairs:
            assert ours["name"] == theirs["name"] and ours["index"] == theirs["index"]
            for a, b in zip(source.reader.decode(ours), plain.reader.decode(theirs), strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_split_that_shards_do_not_hold_is_an_error_and_a_part_is_that_part(tmp_path):
    rows = catalog.load("camvid", CAMVID, "train")
    labels = catalog.labels_of("camvid", CAMVID)
    write_shards(rows, tmp_path / "s", task="semantic-segmentation", name="camvid", split="train", labels=labels)
    path, whole = str(tmp_path / "s"), {"streaming": False}
    for split in ("val", "nonsense", "val[:50%]"):
        with pytest.raises(ValueError, match="holds the split 'train', not"):
            open_source("shards", path, split, options=whole)
    with pytest.raises(ValueError, match="streamed and cached whole"):
        open_source("shards", path, "train[:1]")
    assert len(open_source("shards", path, "train[:1]", options=whole).dataset) == 1 < len(rows)


@pytest.fixture
def hub_folder(tmp_path):
    """A data set such as people put on the Hub: depth as 16-bit PNG, in columns of their own names."""
    depth = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) + 500

    def picture(array: np.ndarray) -> dict:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    table = datasets.Dataset.from_dict(
        {
            "rgb": [picture(np.full((48, 64, 3), i, np.uint8)) for i in range(5)],
            "depth_map": [picture(depth + i) for i in range(5)],
            "camera": ["a"] * 5,
        },
        datasets.Features(rgb=datasets.Image(), depth_map=datasets.Image(), camera=datasets.Value("string")),
    )
    table.to_parquet(tmp_path / "train.parquet")
    return tmp_path, depth


@pytest.mark.parametrize("streaming", [True, False])
def test_columns_of_other_names(hub_folder, streaming):
    folder, depth = hub_folder
    options = {
        "task": "depth-estimation",
        "columns": {"image": "rgb", "depth": "depth_map"},
        "format": "png:1000",
        "streaming": streaming,
    }
    source = open_source("hub", str(folder), "train", options=options)
    examples = list(source.examples(4, rank=1, world=2))
    assert [e["index"] for e in examples] == [1, 3]
    image, metres = source.reader.decode(examples[1])
    assert (image == 3).all()
    np.testing.assert_allclose(metres, (depth + 3) / 1000, rtol=1e-6)


def test_flow_in_an_array_column(tmp_path):
    flow = np.random.default_rng(0).normal(size=(2, 20, 30)).astype(np.float32)
    image = np.zeros((20, 30, 3), np.uint8)
    formats.save_image(tmp_path / "a.png", image)
    table = datasets.Dataset.from_dict(
        {"image1": [str(tmp_path / "a.png")], "image2": [str(tmp_path / "a.png")], "flow": [flow]},
        datasets.Features(
            image1=datasets.Image(), image2=datasets.Image(), flow=datasets.Array3D((2, 20, 30), "float32")
        ),
    )
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set" / "train.parquet")
    source = open_source("hub", str(tmp_path / "set"), options={"task": "optical-flow"})
    pair = source.reader.decode(next(source.examples()))
    np.testing.assert_array_equal(pair.flow, flow.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "options of hub: task: Field required|options of hub"),
        (
            {"task": "depth-estimation"},
            r"no column image \(as image\), depth \(as depth\); it has rgb, depth_map, camera",
        ),
        (
            {"task": "depth-estimation", "columns": {"picture": "rgb"}},
            "columns maps the unknown picture; expected .*image",
        ),
        ({"task": "semantic-segmentation", "columns": {"image": "rgb", "label": "depth_map"}}, "needs its class names"),
        ({"task": "depth-estimation", "colums": {}}, "unknown colums"),
    ],
)
def test_hub_options_that_do_not_fit(hub_folder, options, message):
    with pytest.raises(ValueError, match=message):
        open_source("hub", str(hub_folder[0]), "train", options=options)


def test_broken_cell_of_a_shard_names_its_row(hub_folder):
    options = {"task": "depth-estimation", "columns": {"image": "rgb", "depth": "depth_map"}, "format": "pfm"}
    source = open_source("hub", str(hub_folder[0]), "train", options=options)
    with pytest.raises(BrokenExample, match="example 0"):
        source.reader.decode(next(source.examples()))


def cells(path: str | None, data: bytes | None) -> dict:
    return {"bytes": data, "path": path}


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("column", ["image", "depth"])
def test_rows_of_strangers_name_no_other_files_of_this_machine(tmp_path, monkeypatch, streaming, column):
    """Such pictures could end in an evaluation's worst ones, which are published."""
    secret, own = tmp_path / "secret.png", tmp_path / "datasets--me--set" / "own.png"
    own.parent.mkdir()
    for path in (secret, own):
        formats.save_image(path, np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("winwin_hf.data.sources.check_metadata", lambda *_: None)
    load = datasets.load_dataset

    def rows(path: str, bare: bool = False) -> list:
        found = {name: [cells("x.png", secret.read_bytes())] * 2 for name in ("image", "depth")}
        found[column] = [{"path": path}] * 2 if bare else [cells("x.png", secret.read_bytes()), cells(path, None)]
        pq.write_table(pa.table(found), tmp_path / "train.parquet")
        files = {"train": str(tmp_path / "train.parquet")}
        monkeypatch.setattr(
            datasets, "load_dataset", lambda *_, **given: load("parquet", **{**given, "data_files": files})
        )
        options = {"task": "depth-estimation", "format": "png:1000", "streaming": streaming}
        return list(open_source("hub", "me/set", "train", options=options).examples())

    for path in (str(secret), f"{own.parent}/../secret.png", "/dev/zero"):
        with pytest.raises(ValueError, match=rf"column {column} names the file .* of this machine"):
            rows(path)
    with pytest.raises(ValueError, match=rf"column {column} names the file .* of this machine"):
        rows(str(secret), bare=True)
    with pytest.raises(ValueError, match=rf"column {column} names 'zip://.*, a part of an archive; expected streaming"):
        rows(f"zip://a.png::{own.parent}/a.zip")
    assert len(rows(str(own))) == len(rows(str(own), bare=True)) == 2


NINE = "a: &a [{}]".format(", ".join("1" * 9))
BOMB = "\n".join(
    [
        NINE,
        *(f"{y}: &{y} [{', '.join(['*' + x] * 9)}]" for x, y in zip("abcdefg", "bcdefgh", strict=True)),
        "configs: *h",
    ]
)


@pytest.mark.parametrize(
    ("readme", "message"),
    [
        (BOMB, "aliases"),
        ("configs: !!python/object:os.system x", "README.md: expected YAML"),
        ("configs:\n- config_name: default\n  data_files: /etc/passwd", "can't be read as a data set"),
    ],
)
def test_metadata_of_a_stranger_costs_nothing(hub_folder, readme, message):
    folder, _ = hub_folder
    (folder / "README.md").write_text(f"---\n{readme}\n---\n")
    if "aliases" in message:
        (folder / "README.md").rename(folder / ".huggingface.yaml")
        (folder / ".huggingface.yaml").write_text(readme)
    options = {"task": "depth-estimation", "columns": {"image": "rgb", "depth": "depth_map"}, "format": "png:1000"}
    with pytest.raises((ValueError, OSError), match=message) as error:
        open_source("hub", str(folder), "train", options=options)
    assert str(error.value).startswith(f"{folder}: ") and len(str(error.value)) < 1000


def test_what_is_no_source():
    with pytest.raises(ValueError, match="unknown data set 'imagenet'"):
        open_source("imagenet")
    with pytest.raises(ValueError, match="'camvid' needs a path"):
        open_source("camvid")


def test_a_length_is_of_scenes_alone():
    with pytest.raises(ValueError, match=r"length=5: for synthetic scenes; camvid has .* 'train\[:100\]'"):
        open_source("camvid", str(FRAMES), length=5)
