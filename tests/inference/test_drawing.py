"""Pictures of flow, depth and classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from winwin_hf.inference import drawing as vis
from winwin_hf.inference import sheets
from winwin_hf.model.flow_colours_winwin import PURE, color_wheel, flow_to_image


def flow_of(u: float, v: float) -> np.ndarray:
    return np.array([u, v], np.float32).reshape(2, 1, 1)


def reference_color(u: float, v: float) -> np.ndarray:
    """The benchmark's rule for one vector no longer than 1, in double precision."""
    wheel = color_wheel().astype(np.float64)
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)
    k = int(place)
    colour = (1 - (place - k)) * wheel[k] + (place - k) * wheel[(k + 1) % len(wheel)]
    return 255 - np.hypot(u, v) * (255 - colour)


def test_the_wheel():
    wheel = color_wheel()
    assert wheel.shape == (55, 3)
    starts = {0: "red", 15: "yellow", 21: "green", 25: "cyan", 36: "blue", 49: "magenta"}
    for index, name in starts.items():
        assert tuple(wheel[index]) == PURE[name]
    assert np.array_equal(wheel[1], [255, 17, 0]) and np.array_equal(wheel[16], [255 - 42, 255, 0])


@pytest.mark.parametrize("angle", np.linspace(-179, 179, 37))
@pytest.mark.parametrize("length", [1.0, 0.5])
def test_colour_of_a_direction(angle, length):
    u, v = length * np.cos(np.deg2rad(angle)), length * np.sin(np.deg2rad(angle))
    colour = flow_to_image(flow_of(u, v), max_motion=1.0)[0, 0]
    np.testing.assert_allclose(colour, reference_color(u, v), atol=1.01)  # floored, in single precision


def test_known_directions():
    assert tuple(flow_to_image(flow_of(0, 0))[0, 0]) == (255, 255, 255)
    assert tuple(flow_to_image(flow_of(3, 0))[0, 0]) == (255, 0, 0)  # right is red
    down, left, up = (flow_to_image(flow_of(*d))[0, 0].astype(int) for d in ((0, 1), (-1, 0), (0, -1)))
    assert down[0] == 255 and down[1] > 220 and down[2] == 0  # nearly yellow
    assert left[0] == 0 and left[2] == 255 and left[1] > 180  # between cyan and blue
    assert up[2] == 255 and up[1] == 0 and 50 < up[0] < 150  # between blue and magenta


def test_unknown_is_black_and_does_not_set_the_scale():
    flow = np.zeros((2, 1, 4), np.float32)
    flow[:, 0, 1] = np.nan
    flow[:, 0, 2] = (np.inf, 0)
    flow[:, 0, 3] = (5, 0)
    picture = flow_to_image(flow)
    assert picture[0].tolist() == [[255, 255, 255], [0, 0, 0], [0, 0, 0], [255, 0, 0]]
    assert not flow_to_image(np.full((2, 3, 3), np.nan)).any()


def test_longer_than_the_scale_is_darkened():
    assert tuple(flow_to_image(flow_of(2, 0), max_motion=1)[0, 0]) == (191, 0, 0)
    with pytest.raises(ValueError, match="max_motion"):
        flow_to_image(flow_of(1, 1), max_motion=0)


def test_layouts_of_flow():
    flow = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    picture = flow_to_image(flow)
    assert picture.shape == (5, 7, 3) and picture.dtype == np.uint8
    for same in (flow.transpose(1, 2, 0), torch.from_numpy(flow), torch.from_numpy(flow).double()):
        assert np.array_equal(flow_to_image(same), picture)
    with pytest.raises(ValueError, match="shape"):
        flow_to_image(np.zeros((3, 5, 7)))


def test_bands_do_not_show():
    flow = np.random.default_rng(0).normal(size=(2, 300, 1000)).astype(np.float32)  # several bands of rows
    scale = float(np.hypot(*flow).max())
    picture = flow_to_image(flow)
    assert np.array_equal(picture[137:140], flow_to_image(flow[:, 137:140], max_motion=scale))


def test_wheel_legend():
    picture = vis.color_wheel_legend(101)
    assert picture.shape == (101, 101, 3)
    assert (picture[0, 0] == 255).all() and (picture[50, 50] == 255).all()
    assert picture[50, 99, 0] == 255 and picture[50, 99, 1] < 20  # right is red


def test_depth_colours():
    colours = vis.depth_colors().astype(float)
    assert colours.shape == (256, 3)
    luminance = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > -0.7).all() and luminance[-1] - luminance[0] > 180
    depth = np.array([[1.0, 2.0, 3.0, np.nan, np.inf]], np.float32)
    picture = vis.depth_to_image(depth)
    assert np.array_equal(picture[0, 0], colours[255]) and np.array_equal(picture[0, 2], colours[0])
    assert not picture[0, 3:].any()
    clipped = vis.depth_to_image(depth, minimum=2, maximum=2.5)
    assert np.array_equal(clipped[0, 0], colours[255]) and np.array_equal(clipped[0, 2], colours[0])
    assert not vis.depth_to_image(np.full((2, 2), np.nan)).any()
    assert len(np.unique(vis.depth_to_image(np.ones((3, 3))).reshape(-1, 3), axis=0)) == 1
    with pytest.raises(ValueError, match="range"):
        vis.depth_to_image(depth, 3, 1)


def test_equal_ratios_of_depth_are_equal_steps_of_colour():
    colours = vis.depth_colors()[::-1]
    picture = sheets.depth_picture(np.array([[1.0, 10.0, 100.0, 0.0, -1.0, np.nan]], np.float32), 1.0, 100.0)
    assert np.array_equal(picture[0, :3], colours[[0, 128, 255]])
    assert not picture[0, 3:].any()
    assert not sheets.depth_picture(np.full((2, 2), np.nan)).any()


def test_an_image_and_its_classes_come_out_equally_large():
    image = np.full((30, 40, 3), 7, np.uint8)
    (_, beside), (_, classes) = sheets.segmentation_pair(image, np.ones((30, 40), np.uint8), ("sky", "a long name"))
    assert beside.shape == classes.shape and classes.shape[1] > 40
    assert (beside[:30, :40] == 7).all() and (beside[:, 40:] == 255).all()


def test_segmentation_colours():
    labels = np.array([[0, 1, 255]], np.uint8)
    assert vis.segmentation_to_image(labels, [(1, 2, 3), (4, 5, 6)]).tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0]]]
    assert np.array_equal(vis.segmentation_to_image(torch.tensor([[3]]))[0, 0], vis.default_palette(20)[3])
    with pytest.raises(ValueError, match="palette"):
        vis.segmentation_to_image(labels, [(1, 2, 3)])
    with pytest.raises(ValueError, match="whole"):
        vis.segmentation_to_image(np.zeros((2, 2)))
    assert len(np.unique(vis.default_palette(40), axis=0)) == 40


def test_overlay():
    image, colours = np.full((4, 5, 3), 100, np.uint8), np.full((4, 5, 3), 200, np.uint8)
    assert (vis.overlay(image, Image.fromarray(colours), 0.25) == 125).all()
    with pytest.raises(ValueError, match="same size"):
        vis.overlay(image, colours[:3])


def test_warp_of_a_translated_image():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    second = np.zeros_like(image)
    second[3:, 7:] = image[:-3, :-7]  # everything moves right 7 and down 3
    flow = np.empty((2, 40, 50), np.float32)
    flow[0], flow[1] = 7, 3
    warped = vis.warp(second, flow)
    assert np.array_equal(warped[:-3, :-7], image[:-3, :-7])
    assert not warped[-3:].any() and not warped[:, -7:].any()
    flow[:] = 0.5
    half = vis.warp(image, flow)[:-1, :-1]
    mean = (image[:-1, :-1].astype(float) + image[1:, :-1] + image[:-1, 1:] + image[1:, 1:]) / 4
    assert np.abs(half - mean).max() <= 0.5
    flow[:] = np.nan
    assert not vis.warp(image, flow).any()
    assert np.array_equal(vis.warp(image, np.zeros((40, 50, 2))), image)
    assert np.array_equal(vis.warp(image[:1, :1], np.zeros((2, 1, 1))), image[:1, :1])


def test_legend_and_panel():
    legend = sheets.legend(["road", "sky"], [(255, 0, 0), (0, 0, 255)], height=20)
    assert legend.shape[0] == 40 and tuple(legend[10, 8]) == (255, 0, 0) and tuple(legend[30, 8]) == (0, 0, 255)
    picture = np.full((50, 100, 3), 7, np.uint8)
    sheet = sheets.panel(
        [("one", picture), ("two", Image.fromarray(picture)), ("three", picture[..., 0])], columns=2, width=200
    )
    assert sheet.shape == (2 * (100 + 22) + 3 * 8, 2 * 200 + 3 * 8, 3)
    assert (sheet[8 + 22 : 8 + 122, 8:208] == 7).all() and (sheet[8 + 22 : 8 + 122, 216:416] == 7).all()
    assert (sheet[150:, 216:] == 255).all()  # the empty cell
    assert (sheet[8:30, 8:208] < 128).any()  # the title
    with pytest.raises(ValueError, match="at least one"):
        sheets.panel([])


def test_it_needs_no_package_but_numpy_and_pillow():
    # It travels with the weights, where transformers asks for every package that a copied file imports.
    import ast
    import inspect

    tree = ast.walk(ast.parse(inspect.getsource(vis)))
    modules = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    assert modules == {"numpy"}
