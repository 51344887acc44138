"""From a row's format string to an array: every kind of flow, depth, labels and masks, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from winwin_hf.data import formats
from winwin_hf.data.formats import Blob, decode_depth, decode_flow, decode_image, decode_label, decode_mask
from winwin_hf.data.formats.decode import DISPARITIES, FLOWS
from winwin_hf.model.losses_winwin import IGNORE_LABEL

NAN = np.nan
FLOW = np.float32([[[1.5, -2], [0, 0.25], [NAN, NAN]], [[3, 4], [NAN, NAN], [-7, 0.5]]])  # fits KITTI's 64ths
DISPARITY = np.float32([[1.5, 20, NAN], [0.25, NAN, 200]])
DEPTH = np.float32([[1.5, 2, NAN], [0.25, NAN, 9]])


@pytest.fixture
def folder(tmp_path):
    """A file of each kind that holds the arrays above."""
    formats.write_flo(tmp_path / "flow.flo", FLOW)
    formats.write_flo5(tmp_path / "flow.flo5", FLOW)
    formats.write_kitti_flow(tmp_path / "flow.png", FLOW)
    formats.write_npy(tmp_path / "flow.npy", FLOW.astype(np.float64))
    formats.write_pfm(tmp_path / "flow.pfm", np.dstack([FLOW, np.ones((2, 3))]))
    formats.write_pfm(tmp_path / "disparity.pfm", np.where(np.isnan(DISPARITY), np.inf, DISPARITY))
    formats.write_npz(tmp_path / "disparity.npz", np.where(np.isnan(DISPARITY), np.inf, DISPARITY))
    formats.write_dsp5(tmp_path / "disparity.dsp5", DISPARITY)
    formats.write_kitti_disparity(tmp_path / "disparity.png", DISPARITY)
    formats.write_depth_png(tmp_path / "depth.png", DEPTH, 1000)
    formats.write_npy(tmp_path / "depth.npy", DEPTH[..., None])
    formats.write_npy(tmp_path / "millimetres.npy", np.nan_to_num(DEPTH * 1000).astype(np.uint16))
    formats.write_pfm(tmp_path / "depth.pfm", DEPTH * 100)
    formats.write_hypersim(tmp_path / "hypersim.hdf5", DEPTH)
    formats.write_hdf5(tmp_path / "depth.h5", {"a/depth": np.where(np.isnan(DEPTH), -1, DEPTH)})
    formats.write_nyu_mat(tmp_path / "nyu.mat", np.full((2, 2, 3, 3), 7, np.uint8), np.stack([DEPTH * 2, DEPTH]))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [("flow.flo", "flo"), ("flow.flo5", "flo5"), ("flow.png", "kitti"), ("flow.npy", "npy"), ("flow.pfm", "pfm")],
)
def test_flow(folder, name, kind):
    for source in (folder / name, str(folder / name), Blob((folder / name).read_bytes(), name)):
        flow = decode_flow(source, kind)
        assert flow.dtype == np.float32 and flow.flags.c_contiguous and flow.flags.writeable
        np.testing.assert_array_equal(flow, FLOW)


@pytest.mark.parametrize("suffix", ["pfm", "npz", "dsp5", "png"])
def test_disparity_as_flow_and_as_depth(folder, suffix):
    kind = f"disparity-{suffix}".replace("png", "kitti")
    left, right = (decode_flow(folder / f"disparity.{suffix}", f"{kind}{view}") for view in ("", ":right"))
    np.testing.assert_array_equal(left[..., 0], -DISPARITY)
    np.testing.assert_array_equal(right[..., 0], DISPARITY)
    for flow in (left, right):
        assert flow.dtype == np.float32
        assert (flow[..., 1][np.isfinite(DISPARITY)] == 0).all() and np.isnan(flow[np.isnan(DISPARITY)]).all()
    np.testing.assert_array_equal(
        decode_depth(folder / f"disparity.{suffix}", f"{kind}:12"), np.float32(12 / DISPARITY)
    )
    depth = decode_depth(folder / f"disparity.{suffix}", f"{kind}:12.5,-1.5")
    expected = np.float32([[NAN, 12.5 / 18.5, NAN], [NAN, NAN, 12.5 / 198.5]])  # 1.5 is at infinity, 0.25 behind it
    np.testing.assert_array_equal(depth, expected)


def test_one_unknown_component_makes_a_vector_unknown():
    flow = np.float64([[[NAN, 1], [1, np.inf], [2e9, 1], [1e300, 1], [1e9, -1e9]]])
    decoded = decode_flow(Blob(npy(flow), "flow.npy"), "npy")
    assert np.isnan(decoded[0, :4]).all() and np.array_equal(decoded[0, 4], [1e9, -1e9])


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("depth.png", "png:1000"),
        ("depth.npy", "npy"),
        ("millimetres.npy", "npy:1000"),
        ("depth.pfm", "pfm:100"),
        ("hypersim.hdf5", "hypersim"),
        ("depth.h5", "hdf5:a/depth"),
        ("nyu.mat::1", "nyu-mat"),
    ],
)
def test_depth(folder, name, kind):
    path = name.removesuffix("::1")
    for source in (f"{folder / name}", Blob((folder / path).read_bytes(), name)):
        depth = decode_depth(source, kind)
        assert depth.dtype == np.float32 and depth.flags.c_contiguous
        np.testing.assert_array_equal(depth, DEPTH)


def test_depth_that_is_unknown(folder):
    depth = decode_depth(folder / "depth.png", "png:1000,1500,9000")
    np.testing.assert_array_equal(depth, np.float32([[NAN, 2, NAN], [0.25, NAN, NAN]]))
    values = np.float64([[0, -1, np.inf, NAN, 1e300, 1e-3]])
    np.testing.assert_array_equal(decode_depth(Blob(npy(values), "a"), "npy"), np.float32([[NAN] * 5 + [1e-3]]))


def test_image(folder):
    assert np.array_equal(decode_image(f"{folder / 'nyu.mat'}::1"), np.full((2, 3, 3), 7))
    formats.save_image(folder / "odd::1.png", np.full((2, 3, 3), 9, np.uint8))
    assert np.array_equal(decode_image(folder / "odd::1.png"), np.full((2, 3, 3), 9))


# ---- labels ----


def labels(folder, ids) -> str:
    formats.write_labels(folder / "labels.png", np.array([ids]))
    return str(folder / "labels.png")


def test_labels(tmp_path):
    path = labels(tmp_path, [0, 1, 11, 34, 254, 255])
    for kind, expected in (
        ("ids", [0, 1, 11, 34, 254, 255]),
        ("ids:11", [0, 1, 255, 34, 254, 255]),
        ("ids:0,34", [255, 1, 11, 255, 254, 255]),
        ("minus-one", [255, 0, 10, 33, 253, 255]),
    ):
        ids = decode_label(path, kind)
        assert ids.dtype == np.uint8 and ids.tolist() == [expected]
        assert np.array_equal(decode_label(Blob((tmp_path / "labels.png").read_bytes(), "a"), kind), ids)
    assert decode_label(labels(tmp_path, [300, 7]), "ids:300").tolist() == [[255, 7]]
    for kind in ("ids", "minus-one"):
        with pytest.raises(ValueError, match=r"labels\.png: an id of 300"):
            decode_label(path := labels(tmp_path, [300, 7]), kind)


def test_cityscapes_labels(tmp_path):
    """Every raw id; the order of the 19 is that of the benchmark's table: road, sidewalk, building, wall, fence, pole, traffic
    light, traffic sign, vegetation, terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle."""
    ids = decode_label(labels(tmp_path, [*range(34), 255]), "cityscapes")[0]
    scored = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12}
    scored |= {26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    assert ids.tolist() == [scored.get(raw, 255) for raw in range(34)] + [255]
    with pytest.raises(ValueError, match=r"an id of 34; 'cityscapes' has none above 33"):
        decode_label(labels(tmp_path, [7, 34]), "cityscapes")


CAMVID = (  # sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist
    *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0)),
    *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
)


def test_camvid_colours(tmp_path):
    """The usual palette gives the classes in order; lane markings are road; what no annotator painted is ignored."""
    colours = [*CAMVID, (128, 0, 192), (64, 128, 192), (0, 0, 0), (129, 128, 128), (192, 192, 192)]
    formats.save_image(tmp_path / "a.png", np.array([colours], np.uint8))
    assert decode_label(tmp_path / "a.png", "camvid-colours").tolist() == [[*range(11), 3, 8, 255, 255, 255]]
    image = Image.fromarray(np.array([colours], np.uint8)).quantize(256)
    image.save(tmp_path / "palette.png")
    assert np.array_equal(
        decode_label(tmp_path / "palette.png", "camvid-colours"), decode_label(tmp_path / "a.png", "camvid-colours")
    )


def test_masks(folder):
    formats.write_labels(folder / "mask.png", [[0, 1, 128, 255]])
    assert decode_mask(folder / "mask.png", "png").tolist() == [[False, True, True, True]]
    assert decode_mask(folder / "mask.png", "visible-png:128").tolist() == [[False, False, True, False]]
    assert np.array_equal(decode_mask(folder / "flow.png", "kitti-noc"), np.isnan(FLOW[..., 0]))
    assert np.array_equal(decode_mask(folder / "disparity.png", "kitti-disparity-noc"), np.isnan(DISPARITY))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("decode", "kind", "known"),
    [
        *(
            (decode_flow, kind, "flo, flo5")
            for kind in ("", "flow", "flo:1", "disparity-pfm:left", "disparity-png", "kitti:right")
        ),
        *(
            (decode_depth, kind, "png:STEPS")
            for kind in ("png", "png:", "png:0", "png:-1", "png:x", "png:1,", "png:nan")
        ),
        *(
            (decode_depth, kind, "hypersim")
            for kind in ("npy:0", "npy:1,2", "hdf5", "hdf5:", "nyu-mat:1", "hypersim:2")
        ),
        *(
            (decode_depth, kind, "FB")
            for kind in ("disparity-pfm", "disparity-pfm:0", "disparity-kitti:1,2,3", "disparity:5")
        ),
        *(
            (decode_label, kind, "minus-one")
            for kind in ("", "id", "ids:x", "ids:1,", "minus-one:1", "camvid-colours:1")
        ),
        *((decode_mask, kind, "visible-png") for kind in ("", "png:1", "visible-png", "visible-png:-1", "kitti")),
    ],
)
def test_unknown_formats_are_named_beside_the_known(folder, decode, kind, known):
    with pytest.raises(ValueError, match=known) as caught:
        decode(folder / "depth.png", kind)
    assert repr(kind) in str(caught.value) and "depth.png" in str(caught.value)


@pytest.mark.parametrize(
    ("decode", "name", "kind"),
    [
        (decode_flow, "depth.npy", "npy"),
        (decode_flow, "millimetres.npy", "npy"),
        (decode_flow, "disparity.pfm", "pfm"),
        (decode_flow, "flow.pfm", "disparity-pfm"),
        (decode_flow, "flow.png", "disparity-kitti"),
        (decode_flow, "disparity.png", "kitti"),
        (decode_flow, "disparity.dsp5", "flo5"),
        (decode_depth, "flow.npy", "npy"),
        (decode_depth, "flow.pfm", "pfm"),
        (decode_depth, "flow.flo5", "hdf5:flow"),
        (decode_depth, "flow.flo5", "hypersim"),
        (decode_depth, "nyu.mat", "nyu-mat"),
        (decode_depth, "nyu.mat::2", "nyu-mat"),
        (decode_label, "flow.png", "ids"),
        (decode_mask, "depth.png", "kitti-noc"),
        (decode_image, "flow.flo", None),
    ],
)
def test_a_file_of_another_kind_is_one_error_that_names_it(folder, decode, name, kind):
    with pytest.raises(ValueError) as caught:
        decode(folder / name, *([kind] if kind else []))
    assert str(caught.value).count(str(folder / name.split("::")[0])) == 1


@pytest.mark.parametrize(
    ("decode", "kind"),
    [
        *((decode_flow, kind) for kind in (*FLOWS, *DISPARITIES)),
        *((decode_depth, kind) for kind in ("png:1", "npy", "pfm", "hdf5:a", "hypersim", "disparity-npz:1")),
        *((decode_label, kind) for kind in ("ids", "camvid-colours")),
        *((decode_mask, kind) for kind in ("png", "visible-png:1", "kitti-noc", "kitti-disparity-noc")),
        (decode_image, None),
    ],
)
def test_a_missing_file_is_not_found(tmp_path, decode, kind):
    with pytest.raises(FileNotFoundError, match=r"none\.x"):
        decode(tmp_path / "none.x", *([kind] if kind else []))


def test_real_disparity(real_data):
    """Z = 193.001 mm * 994.978 / (disparity + 31.086), as scikit-image documents its motorcycle."""
    path = real_data("middlebury-stereo/motorcycle/motorcycle_disp.npz")
    depth = decode_depth(path, f"disparity-npz:{0.193001 * 994.978},31.086")
    assert depth.shape == (500, 741) and 1.5 < np.nanmin(depth) < np.nanmax(depth) < 6
    flow = decode_flow(path, "disparity-npz")
    assert np.isnan(flow[..., 0]).sum() == 27226 and np.nanmax(flow[..., 0]) < -7 and np.nanmax(flow[..., 1]) == 0


def test_real_flow(real_data):
    path = next(real_data("KITTI/training/flow_occ").glob("*_10.png"))
    assert np.array_equal(decode_mask(path, "kitti-noc"), np.isnan(decode_flow(path, "kitti")[..., 0]))
    annotation = sorted(real_data("CamVid/trainannot").glob("*.png"))[0]
    ids = decode_label(annotation, "ids:11")
    assert 11 not in ids and 255 in ids and ids[ids != 255].max() <= 10


def test_ignored_labels_are_those_of_the_losses():
    assert formats.IGNORE == IGNORE_LABEL
