"""Benchmark submissions: the official names, and files that our own readers read back."""

from __future__ import annotations

import numpy as np
import pytest
from support.places import FRAMES

from winwin_hf.data import formats
from winwin_hf.data.benchmarks import catalog
from winwin_hf.evaluation import submission

DATA = FRAMES
FLOW = np.random.default_rng(0).normal(scale=5, size=(2, 12, 20)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "example", "path"),
    [
        ("spring", "0003/flow_FW_left_0001", "spring/test/0003/flow_FW_left/flow_FW_left_0001.flo5"),
        ("spring", "0003/flow_BW_right_0010", "spring/test/0003/flow_BW_right/flow_BW_right_0010.flo5"),
        ("spring-stereo", "0003/disp1_left_0001", "spring-stereo/test/0003/disp1_left/disp1_left_0001.dsp5"),
        ("sintel-clean", "ambush_1/frame_0001", "sintel-clean/clean/ambush_1/frame_0001.flo"),
        ("sintel-final", "ambush_1/frame_0001", "sintel-final/final/ambush_1/frame_0001.flo"),
        ("kitti-2015", "000000_10", "kitti-2015/flow/000000_10.png"),
        ("kitti-2015-stereo", "000000_10", "kitti-2015-stereo/disp_0/000000_10.png"),
        ("middlebury", "Army", "middlebury/Army.flo"),
        ("flow-folder", "../../escape", "flow-folder/escape.flo"),
    ],
)
def test_paths(tmp_path, name, example, path):
    assert submission.path_of(tmp_path, name, "optical-flow", example) == tmp_path / path


@pytest.mark.parametrize(
    "name", ["sintel-clean", "sintel-final", "spring", "spring-stereo", "kitti-2015", "kitti-2012"]
)
def test_every_test_example_of_a_benchmark_has_a_place_of_its_own(tmp_path, name):
    folders = {"sintel": "Sintel", "spring": "Spring", "kitti-2015": "KITTI-2015", "kitti-2012": "KITTI-2012"}
    folder = next(value for key, value in folders.items() if name.startswith(key))
    rows = catalog.load(name, DATA / "flow" / folder, "test")
    paths = [submission.write(tmp_path, name, "optical-flow", example, FLOW) for example in rows["name"][:]]
    assert len(set(paths)) == len(rows) and all(path.is_file() for path in paths)


def test_flow_is_read_back(tmp_path):
    flow = FLOW.transpose(1, 2, 0)
    path = submission.write(tmp_path, "sintel-clean", "optical-flow", "a/frame_0001", FLOW)
    np.testing.assert_array_equal(formats.read_flo(path), flow)
    path = submission.write(tmp_path, "spring", "optical-flow", "0001/flow_FW_left_0001", FLOW)
    np.testing.assert_array_equal(formats.read_flo5(path), flow)
    path = submission.write(tmp_path, "kitti-2015", "optical-flow", "000000_10", FLOW)
    np.testing.assert_allclose(formats.read_kitti_flow(path), flow, atol=1 / 128 + 1e-6)


def test_stereo_is_the_flow_to_the_left(tmp_path):
    disparity = np.maximum(-FLOW[0], 0)
    path = submission.write(tmp_path, "spring-stereo", "optical-flow", "0001/disp1_left_0001", FLOW)
    np.testing.assert_array_equal(formats.read_dsp5(path), disparity)
    path = submission.write(tmp_path, "spring-stereo", "optical-flow", "0001/disp1_right_0001", FLOW)
    np.testing.assert_array_equal(formats.read_dsp5(path), np.maximum(FLOW[0], 0))
    path = submission.write(tmp_path, "kitti-2015-stereo", "optical-flow", "000000_10", FLOW)
    known = disparity > 1 / 256
    np.testing.assert_allclose(formats.read_kitti_disparity(path)[known], disparity[known], atol=1 / 512 + 1e-6)


def test_depth_and_labels(tmp_path):
    depth = np.linspace(1, 80, 240).reshape(12, 20)
    path = submission.write(tmp_path, "kitti-depth-selection", "depth-estimation", "a", depth)
    np.testing.assert_allclose(formats.read_depth_png(path, 256), depth, atol=1 / 512 + 1e-6)
    labels = np.arange(19).reshape(1, 19)
    path = submission.write(tmp_path, "cityscapes", "semantic-segmentation", "frankfurt/x", labels)
    assert formats.read_labels(path).ravel()[:4].tolist() == [7, 8, 11, 12]
    np.testing.assert_array_equal(formats.decode_label(path, "cityscapes"), labels)  # the reader undoes it
    path = submission.write(tmp_path, "ade20k", "semantic-segmentation", "ADE_val_1", labels)
    np.testing.assert_array_equal(formats.decode_label(path, "minus-one"), labels)
    path = submission.write(tmp_path, "ade20k", "semantic-segmentation", "ADE_val_2", np.full((4, 5), 255))
    assert (formats.read_labels(path) == 256).all()
    path = submission.write(tmp_path, "camvid", "semantic-segmentation", "x", labels)
    np.testing.assert_array_equal(formats.read_labels(path), labels)
