"""Rays against solids: closed forms, and that what is skipped would have been missed."""

import math

import numpy as np
import pytest

from winwin_hf.data.synthetic.furniture import lean_by, upright
from winwin_hf.data.synthetic.raycast import BALL, BOX, CYLINDER, Pinhole, Solid, World, rotate

KINDS = {BOX: 6, BALL: 1, CYLINDER: 2}
ROWS, COLUMNS = np.arange(48.0)[:, None], np.arange(64.0)


def solid(kind: int, centre=(0.0, 0.0, 4.0), half=(0.5, 0.5, 0.5), turn=None) -> Solid:
    turn = np.eye(3) if turn is None else turn
    return Solid(kind, np.array(centre), np.array(half), turn, tuple(range(KINDS[kind])))


def camera(focal: float = 60.0) -> Pinhole:
    """At the origin, looking along z; its y points down, the world's up."""
    return Pinhole(np.zeros(3), np.diag([1.0, -1.0, 1.0]), focal, (31.5, 23.5))


def room() -> Solid:
    return solid(BOX, (0, 0, 0), (5, 4, 9))


def along(*direction: float):
    return tuple(np.array([v], np.float32) for v in direction)


def test_a_frontal_wall_has_one_depth():
    hits = World(room()).cast(camera(), ROWS, COLUMNS)
    assert hits.depth == pytest.approx(np.full((48, 64), 9.0), rel=1e-5) and (hits.solid == -1).all()


@pytest.mark.parametrize(
    ("kind", "half", "expected"),
    [(BOX, (0.5, 0.5, 0.25), 3.75), (BALL, (1, 1, 1), 3.0), (BALL, (1, 1, 2), 2.0), (CYLINDER, (0.5, 1, 0.5), 3.5)],
)
def test_nearest_point_ahead(kind, half, expected):
    enter, leave = solid(kind, half=half).span((0.0, 0.0, 0.0), along(0, 0, 1))
    assert enter == pytest.approx(expected) and leave == pytest.approx(8 - expected)
    miss = solid(kind, half=half).span((0.0, 3.0, 0.0), along(0, 0, 1))
    assert not miss[0] < miss[1]


def test_a_cylinder_ends_at_its_caps():
    enter, leave = solid(CYLINDER, half=(0.5, 1, 0.5)).span((0.0, 5.0, 4.0), along(0, -1, 0))
    assert enter == pytest.approx(4.0) and leave == pytest.approx(6.0)


def test_a_turned_box_shows_its_edge():
    enter, _ = solid(BOX, half=(0.5, 0.5, 0.5), turn=upright(math.pi / 4)).span((0.0, 0.0, 0.0), along(0, 0, 1))
    assert enter == pytest.approx(4 - 0.5 * math.sqrt(2), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_points_of_entry_lie_on_the_surface(kind):
    rng = np.random.default_rng(kind)
    one = solid(kind, half=(0.7, 0.4, 0.9), turn=lean_by(rng, 1.0))
    hits = World(room(), [one]).cast(camera(), ROWS, COLUMNS)
    mine = hits.solid == 0
    assert 30 < mine.sum() < mine.size / 2
    rays = tuple(v[mine] for v in camera().rays(ROWS, COLUMNS))
    points = tuple(v * hits.depth[mine] for v in rays)
    x, y, z = (np.abs(v) for v in one.at(points))
    on = {
        BOX: np.maximum(np.maximum(x, y), z),
        BALL: np.hypot(np.hypot(x, y), z),
        CYLINDER: np.maximum(np.hypot(x, z), y),
    }
    assert on[kind] == pytest.approx(np.ones(mine.sum()), abs=1e-4)
    normals = one.normal(points)
    assert sum(n * n for n in normals) == pytest.approx(np.ones(mine.sum()), abs=1e-4)
    assert (sum(n * r for n, r in zip(normals, rays, strict=True)) < 1e-3).all()  # towards the camera
    side, u, v = one.surface(points)
    assert side.min() >= 0 and side.max() < KINDS[kind] and np.isfinite(u).all() and np.isfinite(v).all()


def test_sides_are_numbered_as_painted():
    one = solid(BOX, (0, 0, 0), (1, 2, 3))
    for side, normal in enumerate(np.repeat(np.eye(3), 2, axis=0) * np.tile([-1.0, 1.0], 3)[:, None]):
        point = tuple(np.array([v]) for v in normal * (1, 2, 3))
        assert one.surface(point)[0] == side
        assert np.concatenate(one.normal(point)) == pytest.approx(normal)


def test_what_is_skipped_would_have_been_missed():
    rng = np.random.default_rng(0)
    solids = [
        solid(int(rng.integers(3)), rng.uniform((-3, -3, 2), (3, 3, 8)), rng.uniform(0.1, 0.5, 3), lean_by(rng, 1.0))
        for _ in range(40)
    ]
    world, pinhole = World(room(), solids), camera()
    everything = world.cast(pinhole, ROWS, COLUMNS)
    box = (10, 20, 25, 30)
    part = world.cast(pinhole, ROWS[10:35], COLUMNS[20:50], box)
    assert np.array_equal(part.depth, everything.depth[10:35, 20:50])
    assert np.array_equal(part.solid, everything.solid[10:35, 20:50])
    assert len(np.unique(everything.solid)) > 10


def test_bounds_hold_what_is_seen():
    one = solid(BALL, (0.5, 0.3, 3.0), (0.4, 0.4, 0.4))
    seen = np.argwhere(World(room(), [one]).cast(camera(), ROWS, COLUMNS).solid == 0)
    top, left, height, width = camera().bounds(one)
    assert (seen.min(0) >= (top, left)).all() and (seen.max(0) < (top + height, left + width)).all()
    assert camera().bounds(solid(BOX, (0, 0, -3))) is None
    assert camera().bounds(solid(BOX, (0, 0, 0.2)))[2] > 10**6  # around the camera: anywhere


def test_shadows():
    world = World(room(), [solid(BOX, (0, 2, 3), (0.8, 0.05, 0.8))])
    lamp = np.array([0.0, 3.9, 3.0])
    points = tuple(np.array(v) for v in ([0.0, 4.5, 0.0], [-4.0, -4.0, 3.0], [3.0, 3.0, 3.0]))
    assert world.lit(points, lamp).tolist() == [False, True, True]
    above = tuple(np.array([v]) for v in (0.2, 2.05, 3.1))  # on the board itself, its lit side
    below = tuple(np.array([v]) for v in (0.2, 1.95, 3.1))
    assert world.lit(above, lamp).all() and not world.lit(below, lamp).any()


def test_the_cameras_axes_are_its_own():
    axes = upright(0.3)
    pinhole = Pinhole(np.zeros(3), axes, 50.0, (0.0, 0.0))
    ray = pinhole.rays(np.zeros((1, 1)), np.zeros(1))
    assert np.concatenate([v.ravel() for v in ray]) == pytest.approx(axes[2], abs=1e-6)
    assert np.concatenate([v.ravel() for v in rotate(axes, ray)]) == pytest.approx([0, 0, 1], abs=1e-6)
