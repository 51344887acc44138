"""Placements by hand-computed points, and pixels fetched through them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from winwin_hf.data.resampling import Placement, compose, coordinates, flow_between, inverse, nearest, place, render

STORED = (60, 80)


def at(matrix, x, y):
    a, b, c, d, e, f = matrix
    return a * x + b * y + c, d * x + e * y + f


def whole(placement):
    return 0, 0, placement.height, placement.width


def noise(height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_placements_by_hand():
    """Corners of the frame (half a pixel beyond the outermost centres) go to corners."""
    twice = place(STORED, (120, 160))
    assert (twice.height, twice.width) == (120, 160)
    assert at(twice.matrix, -0.5, -0.5) == (-0.5, -0.5) and at(twice.matrix, 159.5, 119.5) == (79.5, 59.5)
    assert at(twice.matrix, 0, 0) == (-0.25, -0.25)
    assert at(place(STORED, STORED, mirror=True).matrix, 0, 7) == (79, 7)
    assert at(place(STORED, STORED, upside_down=True).matrix, 3, 0) == (3, 59)
    assert at(place(STORED, (30, 160), mirror=True).matrix, -0.5, 29.5) == (79.5, 59.5)
    # what stands at (10, 20) is seen 5 to the right and 3 higher
    assert at(place(STORED, STORED, shift=(5.0, -3.0)).matrix, 15, 17) == (10, 20)
    # turned clockwise by a right angle about (39.5, 29.5), the point 10 right of it is seen 10 below it
    assert at(place(STORED, STORED, degrees=90).matrix, 39.5, 39.5) == pytest.approx((49.5, 29.5))
    # turned first, then moved
    assert at(place(STORED, STORED, degrees=90, shift=(4.0, 1.0)).matrix, 43.5, 40.5) == pytest.approx((49.5, 29.5))
    assert place(STORED, STORED) == Placement(*STORED)


def test_inverse_and_composition():
    placement = place(STORED, (97, 55), True, False, 12.0, (3.0, -7.0))
    back = inverse(placement.matrix)
    assert at(back, *at(placement.matrix, 11, 5)) == pytest.approx((11, 5))
    assert compose(back, placement.matrix) == pytest.approx((1, 0, 0, 0, 1, 0), abs=1e-12)
    other = place(STORED, (20, 30), degrees=-40).matrix
    assert at(compose(other, back), 3, 4) == pytest.approx(at(other, *at(back, 3, 4)))


def test_coordinates_belong_to_places_not_to_boxes():
    matrix = place(STORED, (77, 91), degrees=5).matrix
    for times in ((1, 1), (3, 2)):
        all_x, all_y = coordinates(matrix, (0, 0, 77, 91), times)
        part_x, part_y = coordinates(matrix, (10, 20, 30, 40), times)
        cut = (slice(10 * times[0], 40 * times[0]), slice(20 * times[1], 60 * times[1]))
        assert (part_x == all_x[cut]).all() and (part_y == all_y[cut]).all()


def test_whole_pixels_are_copied():
    image = noise()
    cases = {
        (False, False): image,
        (True, False): image[:, ::-1],
        (False, True): image[::-1],
        (True, True): image[::-1, ::-1],
    }
    for (mirror, upside_down), expected in cases.items():
        placement = place(STORED, STORED, mirror, upside_down)
        assert (render(image, placement, whole(placement)) == expected).all()
        assert (nearest(image, placement, (5, 7, 1, 9)) == expected[5:6, 7:16]).all()
        assert np.shares_memory(render(image, placement, (0, 0, 60, 80)), image)
    # moved by whole pixels, and out of the frame: edges repeat, targets are unknown
    moved = place(STORED, STORED, shift=(6.0, -2.0))
    expected = image[np.clip(np.arange(60) + 2, 0, 59)][:, np.clip(np.arange(80) - 6, 0, 79)]
    assert (render(image, moved, whole(moved)) == expected).all()
    depth = image[..., 0].astype(np.float32)
    shown = nearest(depth, moved, whole(moved))
    assert np.isnan(shown[:, :6]).all() and np.isnan(shown[58:]).all() and (shown[:58, 6:] == depth[2:, :74]).all()
    labels, mask = nearest(image[..., 0], moved, whole(moved)), nearest(depth >= 0, moved, whole(moved))
    assert (labels[:, :6] == 255).all() and mask[:, :6].all() and mask.dtype == bool


def test_images_are_interpolated_and_averaged():
    image = noise()
    # enlarged: OpenCV's own resize has the same convention
    twice = place(STORED, (120, 200))
    expected = cv2.resize(image, (200, 120), interpolation=cv2.INTER_LINEAR).astype(int)
    assert np.abs(render(image, twice, whole(twice)).astype(int) - expected).max() <= 4  # 1/32 pixel on old OpenCV
    # shrunk by whole numbers, each side by its own: block means
    for ky, kx in ((2, 2), (3, 4), (1, 2), (5, 1)):
        small = place(STORED, (60 // ky, 80 // kx))
        means = image.reshape(60 // ky, ky, 80 // kx, kx, 3).mean(axis=(1, 3))
        assert np.abs(render(image, small, whole(small)) - means).max() <= 0.51
    # shrunk by any number: noise loses its contrast, as an average does, and keeps its mean
    small = render(image, place(STORED, (25, 33)), (0, 0, 25, 33))
    assert small.std() < 0.6 * image.std() and small.mean() == pytest.approx(image.mean(), abs=1)


def plain():
    return Placement(*STORED)


def test_flow_values_by_hand():
    flow = np.zeros((*STORED, 2), np.float32)
    flow[:] = (6.0, -4.0)
    box = (10, 20, 8, 9)
    for mirror, upside_down, size, expected in (
        (False, False, STORED, (6, -4)),
        (True, False, STORED, (-6, -4)),
        (False, True, STORED, (6, 4)),
        (False, False, (120, 40), (3, -8)),
        (True, True, (30, 120), (-9, 2)),
    ):
        placement = place(STORED, size, mirror, upside_down)
        assert (flow_between(flow, placement, placement, box) == np.float32(expected)).all()
    # only the second frame is moved by (5, 3)
    assert (flow_between(flow, plain(), place(STORED, STORED, shift=(5.0, 3.0)), box) == np.float32((11, -1))).all()
    # only the second frame is turned clockwise by a right angle: (x, y) of the centre's frame goes to (-y, x)
    turned = flow_between(np.zeros_like(flow), plain(), place(STORED, STORED, degrees=90), (29, 39, 1, 1))
    assert turned[0, 0] == pytest.approx((0.5 + 0.5, -0.5 + 0.5), abs=1e-5)  # (-0.5, -0.5) goes to (0.5, -0.5)
    turned = flow_between(flow, plain(), place(STORED, STORED, degrees=90), (29, 39, 1, 1))
    assert turned[0, 0] == pytest.approx((0.5 + 0.5 + 4, -0.5 + 0.5 + 6), abs=1e-5)


def test_flow_is_interpolated_in_one_motion_only():
    x = np.arange(80, dtype=np.float32)
    flow = np.zeros((*STORED, 2), np.float32)
    flow[..., 0] = 0.25 * x
    flow[:, 50:, 1] = 30
    flow[20:40, :20] = np.nan
    twice = place(STORED, (120, 160))
    shown = flow_between(flow, twice, twice, whole(twice))
    stored_x = (np.arange(160) + 0.5) / 2 - 0.5
    inner = np.r_[2:99, 101:158]
    assert shown[0, inner, 0] == pytest.approx(2 * 0.25 * stored_x[inner])  # linear, in the view's pixels
    assert set(np.unique(shown[0, :, 1])) == {0.0, 60.0}
    assert shown[0, 99:101, 0] == pytest.approx(2 * 0.25 * np.array([49, 50]))  # nearest beside the jump
    unknown = np.isnan(shown).all(axis=-1)
    assert unknown[40:80, :40].all() and unknown.sum() == 40 * 40 and (np.isnan(shown).any(-1) == unknown).all()
    # a single row or column has no second neighbour
    line = np.ascontiguousarray(flow[:1])
    placement = place((1, 80), (3, 160))
    assert flow_between(line, placement, placement, (0, 0, 3, 160))[1, inner, 0] == pytest.approx(shown[0, inner, 0])


def test_sparse_flow_stays_what_it_was():
    """No value is invented, none known lost when enlarged: KITTI's case."""
    rng = np.random.default_rng(0)
    flow = np.full((*STORED, 2), np.nan, np.float32)
    known = rng.random(STORED) < 0.2
    flow[known] = rng.normal(0, 40, (int(known.sum()), 2))
    larger = place(STORED, (90, 120))
    shown = flow_between(flow, larger, larger, whole(larger))
    there = ~np.isnan(shown[..., 0])
    values = {tuple(v) for v in shown[there].tolist()}
    assert values == {tuple(v) for v in (flow[known] * np.float32(1.5)).tolist()}
    assert there.mean() == pytest.approx(known.mean(), abs=0.02)
