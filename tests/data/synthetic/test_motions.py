"""Motions of synthetic layers: exact forward and back, the same bits in every window, nothing that folds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from winwin_hf.data.synthetic import motions
from winwin_hf.data.synthetic.motions import MARGIN, Bending, Motion, draw_bending, in_perspective
from winwin_hf.data.synthetic.textures import about, compose, grid, project, rotation

SIZE = (192, 256)
WHOLE = (0, 0, *SIZE)
KINDS = ("affine", "perspective", "bending", "both", "limb")


def motion(kind: str, seed: int, unit: float = 10.0) -> Motion:
    rng = np.random.default_rng(seed)
    centre = float(rng.uniform(40, 200)), float(rng.uniform(40, 150))
    x, y = rng.normal(0, unit, 2)
    made = about(rotation(rng.normal(0, 0.05)) * math.exp(rng.normal(0, 0.05)), centre, (centre[0] + x, centre[1] + y))
    if kind in ("perspective", "both", "limb"):
        made = in_perspective(rng, made, centre, unit, 160.0, SIZE)
    bend = draw_bending(rng, unit) if kind in ("bending", "both", "limb") else None
    found = Motion(made, bend)
    return found.after(about(rotation(0.4), (100.0, 80.0), (100.0, 80.0))) if kind == "limb" else found


def pixels(box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    top, left, height, width = box
    x, y = np.meshgrid(np.arange(left, left + width, dtype=float), np.arange(top, top + height, dtype=float))
    return x, y


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [1.0, 10.0, 50.0])
def test_back_and_forth_is_where_it_began(kind: str, unit: float) -> None:
    for seed in range(6):
        m = motion(kind, seed, unit)
        x, y = m.seen(np.eye(2, 3), m.back, WHOLE)
        u, v = m.points(x, y)
        there = pixels(WHOLE)
        assert np.hypot(u - there[0], v - there[1]).max() < 0.02
        exact = m.sources(*there)
        assert np.hypot(x - exact[0], y - exact[1]).max() < 0.02
        forth = m.forward(WHOLE)
        back = m.sources(*forth)
        assert np.hypot(back[0] - there[0], back[1] - there[1]).max() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_flow_is_exact_on_a_grid_and_at_points(kind: str) -> None:
    m, (x, y) = motion(kind, 3), pixels(WHOLE)
    u, v = m.points(x, y)
    for found in (m.forward(WHOLE), tuple(np.add(m.flow(WHOLE), (x, y)))):
        np.testing.assert_allclose(found[0], u, atol=1e-9)
        np.testing.assert_allclose(found[1], v, atol=1e-9)
    one = m.point(30.5, 70.25)
    np.testing.assert_allclose(one, np.ravel(m.points(np.array([30.5]), np.array([70.25]))))
    step = np.array(m.point(31.5, 70.25)) - m.point(29.5, 70.25)
    np.testing.assert_allclose(m.jacobian(30.5, 70.25)[:, 0], step / 2, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_has_the_bits_of_the_frame(kind: str) -> None:
    m, first = motion(kind, 1), about(rotation(1.0) * 0.7, (10.0, 10.0), (50.0, 60.0))
    second = compose(first, m.back)
    frame = (-40, -40, SIZE[0] + 80, SIZE[1] + 80)
    rng = np.random.default_rng(0)
    whole = *motion(kind, 1).seen(first, second, frame), *m.flow(frame)
    for _ in range(30):
        h, w = rng.integers(1, 80, 2).tolist()
        top, left = rng.integers(-40, (SIZE[0] + 40 - h, SIZE[1] + 40 - w)).tolist()
        at = np.s_[top + 40 : top + 40 + h, left + 40 : left + 40 + w]
        box = (top, left, h, w)
        for part, full in zip((*m.seen(first, second, box), *m.flow(box)), whole, strict=True):
            np.testing.assert_array_equal(part, full[at])
        inner = (top + h // 3, left + w // 3, h - h // 3, w - w // 3)  # which is taken from the last box
        at = np.s_[inner[0] + 40 : top + 40 + h, inner[1] + 40 : left + 40 + w]
        np.testing.assert_array_equal(m.seen(first, second, inner)[0], whole[0][at])


def test_an_affine_motion_is_its_map() -> None:
    a = about(rotation(0.1), (3.0, 4.0), (10.0, 2.0))
    m = Motion(a)
    assert m.affine is a
    for found, expected in zip(m.forward(WHOLE), grid(a, WHOLE), strict=True):
        np.testing.assert_array_equal(found, expected)
    turned = m.after(about(rotation(0.3), (5.0, 5.0), (5.0, 5.0)))
    assert turned.affine is not None
    np.testing.assert_allclose(turned.point(5.0, 5.0), m.point(5.0, 5.0))  # the joint stays where the body has it


def test_perspective_agrees_at_the_centre_and_never_folds() -> None:
    bent = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        centre, unit = (60.0, 150.0), (0.5, 10.0, 80.0)[seed % 3]
        affine = about(rotation(0.1), centre, (centre[0] + 30, centre[1] - 60))
        h = in_perspective(rng, affine, centre, unit, 160.0, SIZE)
        np.testing.assert_allclose(project(h, *map(np.array, centre)), (90.0, 90.0))
        x, y = pixels((-MARGIN, -MARGIN, SIZE[0] + 2 * MARGIN, SIZE[1] + 2 * MARGIN))
        for plane in (h, np.linalg.inv(h)):
            depth = plane[2, 0] * x + plane[2, 1] * y + plane[2, 2]
            assert depth.min() > 0.5 and depth.max() < 1.6
        m = Motion(h)
        np.testing.assert_allclose(m.depth(x, y), h[2, 0] * x + h[2, 1] * y + h[2, 2])
        bent += abs(h[2, :2] @ (100, 100)) > 0.01
    assert bent > 15


def test_strength_grows_with_the_unit() -> None:
    for make in (lambda u: motion("perspective", 2, u), lambda u: motion("bending", 2, u)):
        spread = [np.std(make(unit).flow(WHOLE)[0] - make(unit).flow(WHOLE)[0].mean()) for unit in (0.1, 1.0, 10.0)]
        assert spread[0] < spread[1] < spread[2]
    still = Motion(np.eye(2, 3), draw_bending(np.random.default_rng(0), 0.0))
    assert np.abs(still.flow(WHOLE)).max() == 0 and np.isfinite(still.seen(np.eye(2, 3), still.back, WHOLE)).all()


def test_bending_is_bounded_and_smooth() -> None:
    for seed in range(100):
        bend = draw_bending(np.random.default_rng(seed), (1.0, 10.0, 100.0)[seed % 3])
        length, steepness = np.hypot(*bend.shifts.T), np.hypot(*bend.waves[:, :2].T)
        assert len(length) in (2, 3) and (2 * math.pi / steepness > 79).all() and (2 * math.pi / steepness < 501).all()
        assert length @ steepness < 0.3 and length @ steepness**2 < 0.011
        assert bend.gradient == pytest.approx(length @ steepness) and 1 <= bend.rounds <= 8


def test_the_interpolation_holds_at_the_bounds() -> None:
    """The shortest wave at the largest curvature, and the longest at the largest gradient."""
    for wavelength, height in ((80.0, motions._CURVATURE), (500.0, None)):
        k = 2 * math.pi / wavelength
        amplitude = motions._GRADIENT / k if height is None else height / k**2
        waves = np.array([[k * 0.8, k * 0.6, 0.3], [k * 0.6, -k * 0.8, 1.3]])
        m = Motion(np.eye(2, 3), Bending(waves, amplitude / 2 * np.array([[0.8, 0.6], [1.0, 0.0]])))
        exact = m.sources(*pixels(WHOLE))
        found = m.seen(np.eye(2, 3), m.back, WHOLE)
        assert np.abs(np.subtract(found, exact)).max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_the_hull_holds_the_ellipse(kind: str) -> None:
    angles = np.linspace(0, 2 * math.pi, 100)
    axes, centre = np.array([[50.0, -10.0], [20.0, 30.0]]), (120.0, 90.0)
    for seed in range(10):
        m = motion(kind, seed)
        rim = axes @ np.stack([np.cos(angles), np.sin(angles)]) + np.array(centre)[:, None]
        for hull, points in zip(m.hull(axes, centre), (rim, np.stack(m.points(*rim))), strict=True):
            assert (hull.min(1) <= points.min(1)).all() and (hull.max(1) >= points.max(1)).all()
