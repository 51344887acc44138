"""Files of images, flow and depth: bit-exact round trips, and one clear error for a malformed file."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from winwin_hf.data import formats

flows = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=6).map(lambda shape: (*shape, 2)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(flow=flows)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_flo_round_trip_is_bit_exact(tmp_path, flow):
    formats.write_flo(tmp_path / "flow.flo", flow)
    assert formats.read_flo(tmp_path / "flow.flo", unknown_to_nan=False).tobytes() == flow.tobytes()
    read = formats.read_flo(tmp_path / "flow.flo")
    known = (np.abs(flow) <= 1e9).all(axis=2)
    assert read[known].tobytes() == flow[known].tobytes() and np.isnan(read[~known]).all()


def test_flo_layout_and_unknown_vectors(tmp_path):
    flow = np.array([[[1.5, -2], [np.nan, 3], [4, np.inf]]], np.float32)
    formats.write_flo(tmp_path / "flow.flo", torch.from_numpy(flow))
    content = (tmp_path / "flow.flo").read_bytes()
    assert content[:12] == b"PIEH" + struct.pack("<ii", 3, 1)
    assert np.array_equal(np.frombuffer(content[12:], "<f4"), np.float32([1.5, -2, 1e10, 1e10, 1e10, 1e10]))
    assert np.isnan(formats.read_flo(tmp_path / "flow.flo")[0, 1:]).all()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PIEH\x02\x00",
        b"PIEX" + struct.pack("<ii", 1, 1) + bytes(8),
        b"PIEH" + struct.pack("<ii", 2, 2) + bytes(31),
        b"PIEH" + struct.pack("<ii", 2, 2) + bytes(33),
        b"PIEH" + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + bytes(32),
        b"PIEH" + struct.pack("<ii", -2, 2) + bytes(32),
        b"PIEH" + struct.pack("<ii", 0, 0),
    ],
)
def test_malformed_flo_is_one_error_that_names_it(tmp_path, content):
    (tmp_path / "bad.flo").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.flo"):
        formats.read_flo(tmp_path / "bad.flo")


def test_flow_of_the_wrong_shape_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="permute"):
        formats.write_flo(tmp_path / "flow.flo", np.zeros((2, 5, 6)))
    with pytest.raises(FileNotFoundError, match="folder"):
        formats.write_flo(tmp_path / "no" / "flow.flo", np.zeros((5, 6, 2)))
    assert list(tmp_path.iterdir()) == []


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), formats.write_atomic(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt" and temporary != path
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with formats.write_atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_images(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    formats.save_image(tmp_path / "image.png", image)
    assert np.array_equal(formats.read_image(tmp_path / "image.png"), image)
    formats.save_image(tmp_path / "grey.png", image[..., 0])
    assert np.array_equal(formats.read_image(tmp_path / "grey.png"), image[..., :1].repeat(3, axis=2))
    Image.fromarray(image[..., 0].astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    assert np.array_equal(formats.read_image(tmp_path / "grey16.png"), image[..., :1].repeat(3, axis=2))
    Image.fromarray(np.dstack([image, np.zeros((20, 30), np.uint8)])).save(tmp_path / "clear.png")
    assert (formats.read_image(tmp_path / "clear.png") == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(formats.read_image(tmp_path / "turned.png"), image[::-1, ::-1])


def test_unreadable_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        formats.read_image(tmp_path / "none.png")
    formats.save_image(tmp_path / "image.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "half.png").write_bytes((tmp_path / "image.png").read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no image")
    for name in ("half.png", "text.png"):
        with pytest.raises(ValueError, match=name):
            formats.read_image(tmp_path / name)
    with pytest.raises(ValueError, match="suffix"):
        formats.save_image(tmp_path / "image.xyz", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        formats.save_image(tmp_path / "float.png", np.zeros((4, 4, 3)))


def write_png16(path: Path, array: np.ndarray) -> None:
    assert cv2.imwrite(str(path), array)


def test_kitti_flow(tmp_path):
    raw = np.zeros((2, 3, 3), np.uint16)  # OpenCV's order: valid, v, u
    raw[0, 0] = (1, 32768 - 64, 32768 + 96)
    raw[1, 2] = (1, 65535, 1)
    write_png16(tmp_path / "flow.png", raw)
    flow = formats.read_kitti_flow(tmp_path / "flow.png")
    assert flow.dtype == np.float32 and flow.shape == (2, 3, 2)
    assert np.array_equal(flow[0, 0], [1.5, -1.0])
    assert np.array_equal(flow[1, 2], np.float32([(1 - 32768) / 64, (65535 - 32768) / 64]))
    assert np.isnan(flow).all(axis=2).sum() == 4


def test_depth_png(tmp_path):
    write_png16(tmp_path / "depth.png", np.array([[0, 500, 65535]], np.uint16))
    depth = formats.read_depth_png(tmp_path / "depth.png", scale=1000)
    np.testing.assert_array_equal(depth, np.float32([[np.nan, 0.5, 65.535]]))
    assert np.isnan(formats.read_depth_png(tmp_path / "depth.png", 1000, unknown=(0, 65535))[0, 2])
    formats.write_depth_png(tmp_path / "out.png", np.array([[np.nan, 1.234, 0.0001, 100.0, np.inf, -1]]))
    expected = np.float32([[np.nan, 1.234, 0.001, np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(formats.read_depth_png(tmp_path / "out.png", 1000), expected)
    with pytest.raises(ValueError, match="scale"):
        formats.read_depth_png(tmp_path / "depth.png", 0)


def test_malformed_png(tmp_path):
    write_png16(tmp_path / "good.png", np.random.default_rng(0).integers(0, 65536, (40, 40, 3)).astype(np.uint16))
    content = (tmp_path / "good.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "huge.png").write_bytes(content[:16] + struct.pack(">II", 2**20, 2**20) + content[24:])
    (tmp_path / "text.png").write_text("no image" * 10)
    formats.save_image(tmp_path / "eight.png", np.zeros((4, 4, 3), np.uint8))
    for name in ("half.png", "huge.png", "text.png", "eight.png"):
        with pytest.raises(ValueError, match=name):
            formats.read_kitti_flow(tmp_path / name)
    with pytest.raises(ValueError, match=r"good\.png"):
        formats.read_depth_png(tmp_path / "good.png", 256)


def test_real_files(shared_data):
    flow = formats.read_flo(shared_data / "middlebury-flow/other-gt-flow/RubberWhale/flow10.flo")
    assert flow.shape == (388, 584, 2) and 0 < np.isnan(flow[..., 0]).mean() < 0.1 and np.nanmax(np.abs(flow)) < 10
    kitti = formats.read_kitti_flow(next((shared_data / "KITTI/training/flow_occ").glob("*_10.png")))
    assert kitti.shape == (375, 1242, 2) and 0.05 < np.isfinite(kitti[..., 0]).mean() < 0.5
    depth = formats.read_depth_png(sorted((shared_data / "7scenes-redkitchen/depth").glob("*.png"))[0], 1000)
    assert depth.shape == (480, 640) and 0.5 < np.nanmedian(depth) < 5
