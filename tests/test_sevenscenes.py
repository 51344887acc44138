"""7-Scenes: units, unknown depth, the split by time, augmentation and errors."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from winwin_hf.data.sample import ImageAugmentation
from winwin_hf.data.sevenscenes import DepthReader, load_seven_scenes

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "gamma": 0.0}


@pytest.fixture
def room(tmp_path):
    """Ten frames of 64x48; depth in millimetres grows with the frame's number and to the right."""
    (tmp_path / "rgb").mkdir()
    (tmp_path / "depth").mkdir()
    for i in range(10):
        depth = np.broadcast_to(1000 + 100 * i + np.arange(64, dtype=np.uint16), (48, 64)).astype(np.uint16)
        depth[:4], depth[4:6] = 0, 65535
        Image.fromarray(depth).save(tmp_path / "depth" / f"frame-{4 * i:06d}.png")
        image = np.full((48, 64, 3), 20 * i, np.uint8)
        Image.fromarray(image).save(tmp_path / "rgb" / f"frame-{4 * i:06d}.jpg")
    return tmp_path


def rng(seed=0):
    return np.random.default_rng(seed)


def test_units_and_unknown_pixels(room):
    dataset = load_seven_scenes(room, "all")
    sample = DepthReader()(dataset[3], rng())
    image, depth = sample.first((0, 0, 48, 64))
    assert image.dtype == np.uint8 and np.abs(image.astype(int) - 60).max() <= 2
    assert depth.dtype == np.float32 and np.isnan(depth[:6]).all()
    assert depth[6:] == pytest.approx(np.broadcast_to(1.3 + np.arange(64) / 1000, (42, 64)))
    near = DepthReader(max_depth=1.31)(dataset[3], rng()).first((0, 0, 48, 64))[1]
    assert np.isnan(near[:, 12:]).all() and np.isfinite(near[6:, :10]).all()


def test_split_is_by_time(room):
    train, val = load_seven_scenes(room, "train"), load_seven_scenes(room, "val")
    names = [p.rsplit("frame-", 1)[1] for p in [*train["path"], *val["path"]]]
    assert (len(train), len(val)) == (8, 2) and names == sorted(names)


def test_zoom_divides_depth(room):
    """Twice as large is half as far; mirrored, depth falls to the right."""
    example = load_seven_scenes(room, "all")[0]
    sample = DepthReader(ImageAugmentation(flip=0, scale=(2.0, 2.0), **STILL))(example, rng())
    assert (sample.height, sample.width) == (96, 128)
    depth = sample.first((0, 0, 96, 128))[1]
    assert np.isnan(depth[:12]).all() and depth[20, ::2] == pytest.approx((1 + np.arange(64) / 1000) / 2)
    sample = DepthReader(ImageAugmentation(flip=1, scale=(1.0, 1.0), **STILL))(example, rng())
    assert sample.first((0, 0, 48, 64))[1][20] == pytest.approx(1 + np.arange(64)[::-1] / 1000)


def test_clear_errors(room):
    with pytest.raises(ValueError, match="no split 'test'"):
        load_seven_scenes(room, "test")
    with pytest.raises(FileNotFoundError, match=r"rgb is missing: .*7-Scenes.*16-bit millimetres"):
        load_seven_scenes(room / "rgb", "train")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(room / "depth" / "frame-000000.png")
    with pytest.raises(ValueError, match=r"frame-000000\.jpg: .*uint8; expected a 16-bit PNG"):
        DepthReader()(load_seven_scenes(room, "train")[0], rng())
    Image.fromarray(np.zeros((40, 64), np.uint16)).save(room / "depth" / "frame-000004.png")
    with pytest.raises(ValueError, match=r"frame-000004\.jpg: the image has 48x64 .* 40x64"):
        DepthReader()(load_seven_scenes(room, "train")[1], rng())
    (room / "depth" / "frame-000008.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"frame-000008\.png is missing"):
        load_seven_scenes(room, "train")


def test_the_real_room(shared_data):
    root = shared_data / "7scenes-redkitchen"
    if not root.is_dir():
        pytest.skip("needs 7scenes-redkitchen beside the repository")
    train, val = load_seven_scenes(root, "train"), load_seven_scenes(root, "val")
    assert (len(train), len(val)) == (128, 32)
    image, depth = DepthReader()(train[0], rng()).first((0, 0, 480, 640))
    assert image.shape == (480, 640, 3)
    assert 0.1 < np.isnan(depth).mean() < 0.5 and np.nanmin(depth) > 0.3 and 1 < np.nanmedian(depth) < 4
