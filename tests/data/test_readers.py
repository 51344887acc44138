"""Readers: from a row's cells to a sample, with one error that names the example and the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.places import FRAMES

from winwin_hf.data import formats
from winwin_hf.data.augmentation import FlowAugmentation, ImageAugmentation
from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.collator import WinWinCollator
from winwin_hf.data.readers import DepthReader, FlowReader, SegmentationReader
from winwin_hf.data.rows import BrokenExample, cell, table, undecoded
from winwin_hf.data.skipping import SkippingReader
from winwin_hf.windows import Strategy

DATA = FRAMES
STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "gamma": 0.0}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def camvid(tmp_path):
    return shutil.copytree(DATA / "CamVid", tmp_path / "CamVid")


@pytest.fixture
def room(tmp_path):
    """Ten frames of 64x48; depth in millimetres grows with the frame's number and to the right."""
    for folder in ("rgb", "depth"):
        (tmp_path / folder).mkdir()
    for i in range(10):
        depth = np.broadcast_to(1000 + 100 * i + np.arange(64, dtype=np.uint16), (48, 64)).astype(np.uint16)
        depth[:4], depth[4:6] = 0, 65535
        Image.fromarray(depth).save(tmp_path / "depth" / f"frame-{4 * i:06d}.png")
        Image.fromarray(np.full((48, 64, 3), 20 * i, np.uint8)).save(tmp_path / "rgb" / f"frame-{4 * i:06d}.jpg")
    return tmp_path


@pytest.fixture
def pair(tmp_path):
    """Two frames of 30x40, the second moved by (3, 1), as a row."""
    texture = rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    formats.save_image(tmp_path / "a.png", texture[5:35, 10:50])
    formats.save_image(tmp_path / "b.png", texture[4:34, 7:47])
    flow = np.full((30, 40, 2), (3, 1), np.float32)
    flow[0, 0] = np.nan
    formats.write_flo(tmp_path / "a.flo", flow)
    return {
        "name": "clip/a",
        "image1": cell(tmp_path / "a.png"),
        "image2": cell(tmp_path / "b.png"),
        "flow": cell(tmp_path / "a.flo"),
        "flow_format": "flo",
    }


def decoded(dataset, index=0):
    return undecoded(dataset)[index]


# ------------------------------------------------------------------ flow


def test_flow_pair_matches_under_its_flow(pair):
    sample = FlowReader()(pair, rng())
    image, flow = sample.first((2, 2, 20, 30))
    assert (flow == (3, 1)).all() and np.isnan(sample.first((0, 0, 1, 1))[1]).all()
    assert (sample.second((3, 5, 20, 30)) == image).all()


def test_row_in_a_table_is_the_same_row(pair):
    """A Dataset shows pictures to a person, and cells to the reader."""
    dataset = table([pair], "optical-flow")
    assert dataset[0]["image1"].size == (40, 30)
    row = decoded(dataset)
    assert row["image1"]["path"].endswith("a.png") and row["occluded"] is None
    for a, b in zip(
        FlowReader()(row, rng()).first((0, 0, 30, 40)), FlowReader()(pair, rng()).first((0, 0, 30, 40)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_bytes_arrays_and_pictures_do_as_well(pair):
    frames = FlowReader().decode(pair)
    stored = {
        key: {"bytes": Path(pair[key]["path"]).read_bytes(), "path": None} for key in ("image1", "image2", "flow")
    }
    arrays = {
        "image1": frames.image1,
        "image2": Image.fromarray(frames.image2),
        "flow": frames.flow.transpose(2, 0, 1).tolist(),  # channels first, and as Arrow gives it
    }
    for row in ({**stored, "flow_format": "flo"}, arrays):
        again = FlowReader().decode(row)
        np.testing.assert_array_equal(again.image2, frames.image2)
        np.testing.assert_array_equal(again.flow, frames.flow)


def test_format_of_the_reader_serves_rows_without_one(pair):
    pair.pop("flow_format")
    assert FlowReader(format="flo").decode(pair).flow.shape == (30, 40, 2)
    with pytest.raises(BrokenExample, match="clip/a: no format is known for its flow"):
        FlowReader().decode(pair)


def test_flow_of_twice_the_size_is_kept_for_scoring_and_halved_for_training(pair, tmp_path):
    flow = np.zeros((60, 80, 2), np.float32)
    flow[::2, ::2], flow[1::2, 1::2] = (3, 1), 7
    formats.write_flo(tmp_path / "a.flo", flow)
    assert FlowReader().decode(pair).flow.shape == (60, 80, 2)
    assert (FlowReader()(pair, rng()).first((0, 0, 30, 40))[1] == (3, 1)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image2": None}, r"clip/a"),
        ({"flow": None}, r"clip/a: it has no flow; expected a split with ground truth"),
        ({"flow": {"path": "gone.flo", "bytes": None}}, r"clip/a: .*gone\.flo"),
        ({"flow": {"path": "x.flo", "bytes": b"PIEH"}}, r"clip/a: x\.flo"),
        ({"image1": {"path": "x.png", "bytes": b"no picture"}}, r"clip/a: x\.png"),
        ({"image1": {"path": None, "bytes": None}}, r"clip/a: an empty cell"),
        ({"flow_format": "flow"}, r"clip/a: .*'flow'"),
    ],
)
def test_broken_pairs_are_named(pair, change, message):
    if change.get("image2", 0) is None:
        change = {"image2": {"path": None, "bytes": None}}
    with pytest.raises(BrokenExample, match=message):
        FlowReader()({**pair, **change}, rng())


def test_frames_of_two_sizes(pair, tmp_path):
    formats.save_image(tmp_path / "b.png", np.zeros((30, 41, 3), np.uint8))
    with pytest.raises(BrokenExample, match="clip/a: the image has 30x40 pixels and its second image 30x41"):
        FlowReader().decode(pair)


def test_augmented_pair_goes_through_the_collator(pair):
    reader = FlowReader(FlowAugmentation())
    collator = WinWinCollator(reader, Strategy("windows", size=(1, 1)), "optical-flow", patch_size=8)
    batch = collator([{**pair, "index": i} for i in range(4)])
    again = collator([{**pair, "index": i} for i in range(4)])
    assert batch["pixel_values"].shape == (4, 2, 3, 8, 8) and batch["labels"].shape == (4, 2, 2, 8, 8)
    assert all(torch.equal(batch[key].nan_to_num(), again[key].nan_to_num()) for key in batch)


# ------------------------------------------------------------------ segmentation


def test_labels_stay_on_their_pixels_when_augmented(camvid):
    """Colours of the synthetic frames belong to classes, so image and labels can be compared after augmentation."""
    example = decoded(catalog.load("camvid", camvid, "train"), 1)
    image, label = SegmentationReader(11).decode(example)
    colours = {c: np.median(image[label == c], axis=0) for c in np.unique(label) if c != 255}
    reader = SegmentationReader(11, ImageAugmentation(**STILL))
    sizes = set()
    for seed in range(12):
        sample = reader(example, rng(seed))
        sizes.add((sample.height, sample.width))
        shown, there = sample.first((0, 0, sample.height, sample.width))
        for c, colour in colours.items():
            if (there == c).sum() > 200:
                assert np.abs(np.median(shown[there == c], axis=0) - colour).max() < 16
        again = reader(example, rng(seed))
        assert (again.first((3, 5, 20, 20))[0] == sample.first((3, 5, 20, 20))[0]).all()
    assert len(sizes) > 8


def test_segmentation_through_the_collator(camvid):
    dataset = undecoded(catalog.load("camvid", camvid, "train"))
    collator = WinWinCollator(
        SegmentationReader(11, ImageAugmentation()), Strategy("windows", size=(2, 2)), "semantic-segmentation"
    )
    batch = collator([{**dataset[i], "index": i} for i in range(3)])
    assert batch["pixel_values"].shape == (3, 2, 3, 32, 32) and batch["labels"].shape == (3, 2, 32, 32)
    assert ((batch["labels"] < 11) | (batch["labels"] == 255)).all() and batch["labels"].dtype == torch.int64


def test_annotations_that_do_not_fit(camvid):
    Image.fromarray(np.zeros((45, 60), np.uint8)).save(camvid / "trainannot" / "0001TP_000030.png")
    Image.fromarray(np.full((90, 120), 77, np.uint8)).save(camvid / "trainannot" / "0001TP_000060.png")
    dataset = undecoded(catalog.load("camvid", camvid, "train"))
    with pytest.raises(BrokenExample, match=r"0001TP_000030.*: the image has 90x120 pixels and its annotation 45x60"):
        SegmentationReader(11).decode(dataset[0])
    with pytest.raises(BrokenExample, match=r"0001TP_000060.*: .* ids \[77\]; expected 0 to 10"):
        SegmentationReader(11).decode(dataset[1])
    colours = {"name": "a", "image": np.zeros((8, 8, 3), np.uint8), "label": np.zeros((8, 8, 3), np.uint8)}
    with pytest.raises(
        BrokenExample, match=r"a: its annotation has the shape \(8, 8, 3\); expected class ids \(H, W\)"
    ):
        SegmentationReader(11).decode(colours)


# ------------------------------------------------------------------ depth


def test_more_classes_than_8_bits_are_refused():
    assert SegmentationReader(255).num_labels == 255
    with pytest.raises(ValueError, match="256 classes; labels have 8 bits"):
        SegmentationReader(256)


def test_units_and_unknown_pixels(room):
    example = decoded(catalog.load("seven-scenes", room, "all"), 3)
    image, depth = DepthReader()(example, rng()).first((0, 0, 48, 64))
    assert image.dtype == np.uint8 and np.abs(image.astype(int) - 60).max() <= 2
    assert depth.dtype == np.float32 and np.isnan(depth[:6]).all()
    assert depth[6:] == pytest.approx(np.broadcast_to(1.3 + np.arange(64) / 1000, (42, 64)))
    near = DepthReader(max_depth=1.31)(example, rng()).first((0, 0, 48, 64))[1]
    assert np.isnan(near[:, 12:]).all() and np.isfinite(near[6:, :10]).all()


def test_zoom_divides_depth(room):
    """Twice as large is half as far; mirrored, depth falls to the right."""
    example = decoded(catalog.load("seven-scenes", room, "all"))
    sample = DepthReader(ImageAugmentation(flip=0, scale=(2.0, 2.0), **STILL))(example, rng())
    assert (sample.height, sample.width) == (96, 128)
    depth = sample.first((0, 0, 96, 128))[1]
    assert np.isnan(depth[:12]).all() and depth[20, ::2] == pytest.approx((1 + np.arange(64) / 1000) / 2)
    sample = DepthReader(ImageAugmentation(flip=1, scale=(1.0, 1.0), **STILL))(example, rng())
    assert sample.first((0, 0, 48, 64))[1][20] == pytest.approx(1 + np.arange(64)[::-1] / 1000)


def test_depth_of_another_size(room):
    Image.fromarray(np.zeros((40, 64), np.uint16)).save(room / "depth" / "frame-000004.png")
    with pytest.raises(BrokenExample, match=r"frame-000004.*: the image has 48x64 pixels and its depth 40x64"):
        DepthReader().decode(decoded(catalog.load("seven-scenes", room, "train"), 1))


# ------------------------------------------------------------------ what is left out


def test_collator_leaves_broken_examples_out_and_counts_them(camvid, caplog):
    (camvid / "train" / "0001TP_000060.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    dataset = undecoded(catalog.load("camvid", camvid, "train"))
    examples = [{**dataset[i], "index": i} for i in range(3)]
    options = {
        "reader": SegmentationReader(11),
        "strategy": Strategy("windows", size=(2, 2)),
        "task": "semantic-segmentation",
    }
    with pytest.raises(BrokenExample, match=r"0001TP_000060.*0001TP_000060\.png"):
        WinWinCollator(**options)(examples)
    reader = SkippingReader(options["reader"])
    collator = WinWinCollator(**{**options, "reader": reader})
    batch = collator(examples)
    assert "left out: 0001TP_000060" in caplog.text
    assert reader.broken == 1 and len(batch["labels"]) == 3
    whole = WinWinCollator(**options)([examples[0], examples[2]])
    assert torch.equal(batch["pixel_values"][[0, 2]], whole["pixel_values"])  # the others are what they would have been
    with pytest.raises(BrokenExample, match="no example of a batch of 1"):
        collator(examples[1:2])
    assert reader.broken == 2 and caplog.text.count("left out") == 1  # named once
