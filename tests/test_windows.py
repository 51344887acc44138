"""Windows: legal, uniform, following the flow, and errors that say what does not fit."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from winwin_hf import windows_ablation
from winwin_hf.windows import (
    Strategy,
    crop_windows,
    equal_tiles,
    follow,
    max_windows,
    paste_windows,
    robust_mean,
    sample_size,
    sample_unequal_windows,
    sample_windows,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def legal_placements(grid, sizes):
    """Every ordered placement of windows without overlap, by brute force over sets of patches."""
    places = [list(itertools.product(range(grid[0] - h + 1), range(grid[1] - w + 1))) for h, w in sizes]
    patches = [
        {p: frozenset(itertools.product(range(p[0], p[0] + h), range(p[1], p[1] + w))) for p in ps}
        for ps, (h, w) in zip(places, sizes, strict=True)
    ]
    for choice in itertools.product(*places):
        sets = [patches[i][p] for i, p in enumerate(choice)]
        if len(frozenset().union(*sets)) == sum(map(len, sets)):
            yield choice


def chi_square_is_plausible(counts, expected_keys, draws):
    """Within five standard deviations of the chi-square distribution's mean; a biased sampler is far outside."""
    keys = list(expected_keys)
    assert set(counts) <= set(keys), "an illegal placement was drawn"
    expected = draws / len(keys)
    assert expected >= 5
    statistic = sum((counts[k] - expected) ** 2 / expected for k in keys)
    freedom = len(keys) - 1
    return abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ("grid", "size", "count"),
    [
        ((4, 5), (2, 2), 1),
        ((4, 5), (2, 2), 2),
        ((3, 6), (2, 3), 2),
        ((5, 3), (1, 2), 2),
        ((3, 5), (1, 2), 3),
        ((2, 4), (1, 1), 2),
    ],
)
def test_uniform_over_legal_placements(grid, size, count):
    legal = list(legal_placements(grid, [size] * count))
    draws = max(20 * len(legal), 2000)
    generator = rng(1)
    counts = Counter(tuple(map(tuple, sample_windows(generator, grid, size, count).tolist())) for _ in range(draws))
    assert chi_square_is_plausible(counts, legal, draws)


def test_one_window_after_another_would_be_caught():
    """The check above can fail: drawing the first window without regard to the second is not uniform."""
    grid, size, generator = (4, 5), (2, 2), rng(1)
    legal = list(legal_placements(grid, [size] * 2))
    counts = Counter()
    for _ in range(6000):
        a = tuple(int(x) for x in generator.integers(0, (3, 4)))
        seconds = [q for p, q in legal if p == a]
        if seconds:
            counts[a, seconds[int(generator.integers(len(seconds)))]] += 1
    assert not chi_square_is_plausible(counts, legal, sum(counts.values()))


def test_unequal_windows_are_uniform():
    sizes = [(2, 2), (1, 3)]
    legal = list(legal_placements((3, 5), sizes))
    generator = rng(2)
    counts = Counter(tuple(map(tuple, sample_unequal_windows(generator, (3, 5), sizes).tolist())) for _ in range(4000))
    assert chi_square_is_plausible(counts, legal, 4000)


@pytest.mark.parametrize(("grid", "size"), [((5, 7), (2, 3)), ((4, 4), (3, 1)), ((3, 3), (2, 2)), ((6, 5), (2, 2))])
def test_fit_exactly_when_the_lattice_does(grid, size):
    """The bound is tight: the densest packing is found (by the fallback if need be), one more is an error."""
    most = max_windows(grid, size)
    for seed in range(3):
        positions = sample_windows(rng(seed), grid, size, most)
        assert positions.shape == (most, 2) and positions.dtype == np.int64
        covered = np.zeros(grid, dtype=int)
        for row, col in positions:
            covered[row : row + size[0], col : col + size[1]] += 1
        assert covered.max() == 1 and covered.sum() == most * size[0] * size[1]
    with pytest.raises(ValueError, match=f"{most + 1} windows of {size[0]}x{size[1]} .* at most {most}"):
        sample_windows(rng(), grid, size, most + 1)


def test_dense_fallback_moves_about(monkeypatch):
    """With rejection switched off, three windows are still legal and visit all placements about equally."""
    monkeypatch.setattr(windows_ablation, "REJECTION_BUDGET", 0)
    legal = list(legal_placements((2, 5), [(1, 2)] * 3))
    generator = rng(3)
    seen = Counter(tuple(map(tuple, sample_windows(generator, (2, 5), (1, 2), 3).tolist())) for _ in range(1000))
    assert chi_square_is_plausible(seen, legal, 1000)


class CountingGenerator(np.random.Generator):
    """Counts the tuples of windows that it was asked for."""

    tuples = 0

    def integers(self, low, high=None, size=None, **more):
        if isinstance(size, tuple):
            self.tuples += size[0]
        return super().integers(low, high, size=size, **more)


def test_large_dense_packing_is_legal_and_its_tries_are_bounded():
    generator = CountingGenerator(np.random.PCG64(0))
    positions = sample_windows(generator, (45, 80), (7, 7), 40)
    assert 0 < generator.tuples * (40 * 39 // 2) <= windows_ablation.REJECTION_BUDGET
    apart = np.abs(positions[:, None] - positions[None]).max(axis=-1) + np.eye(40, dtype=int) * 99
    assert apart.min() >= 7


def test_seeded():
    for count in (1, 2, 4):
        a, b, c = (sample_windows(rng(s), (30, 40), (5, 6), count) for s in (5, 5, 6))
        assert (a == b).all() and (a != c).any()


def test_sample_size():
    seen = {sample_size(rng(s), 968, (45, 80), 2, min_side=8) for s in range(60)}
    assert len(seen) > 10  # tall and wide ones
    assert any(h > w for h, w in seen) and any(h < w for h, w in seen)
    for h, w in seen:
        assert min(h, w) >= 8 and max_windows((45, 80), (h, w)) >= 2
        assert 0.9 * 968 <= 2 * h * w <= 968
    assert sample_size(rng(), 968, (45, 80), 2, square=True) == (22, 22)
    assert sample_size(rng(), 1000, (45, 80), 2, square=True) == (22, 22)
    assert sample_size(rng(), 10_000, (12, 50), 2, square=True) == (12, 12)
    assert sample_size(rng(), 4, (10, 10), 4) == (1, 1)
    with pytest.raises(ValueError, match="sides of at least 8 patches and 100 tokens"):
        sample_size(rng(), 100, (45, 80), 2, min_side=8)


def test_robust_mean():
    flow = np.full((10, 10, 2), np.nan, np.float32)
    assert np.isnan(robust_mean(flow)).all()
    flow[0, 0] = (3, -4)
    assert robust_mean(flow).tolist() == [3, -4]
    assert np.isnan(robust_mean(flow, min_known=0.02)).all()
    flow[:, :6], flow[:, 6:] = (10, 1), (-50, 9)  # an edge: the larger part wins, no mixture
    flow[0], flow[1, 0] = 1.6e9, (np.inf, 0)
    assert robust_mean(flow).tolist() == [10, 1]


def test_follow_by_hand():
    positions = np.array([[4, 5], [0, 0], [10, 10]])
    shift = np.array([[2.4, -1.6], [np.nan, 3.0], [100.0, -100.0]])
    second = follow(rng(), positions, (4, 4), shift, (4, 4), (20, 30))
    assert second.tolist() == [[6, 3], [0, 0], [16, 0]]  # rounded; unknown stays; clipped
    assert second.dtype == np.int64
    larger = follow(rng(), positions, (4, 4), np.zeros((3, 2)), (8, 6), (20, 30))
    assert larger.tolist() == [[2, 4], [0, 0], [8, 9]]  # same centres, clipped at the top left
    with pytest.raises(ValueError, match="21x4 patches does not fit into 20x30"):
        follow(rng(), positions, (4, 4), shift, (21, 4), (20, 30))


def test_follow_jitter_and_probability():
    positions = np.full((20_000, 2), 50)
    still = np.zeros((20_000, 2))
    moved = follow(rng(), positions, (6, 6), still, (6, 6), (106, 106), jitter=2.5) - 50
    assert moved.min() == -2 and moved.max() in (2, 3)
    share = np.bincount(moved[:, 0] + 3)[1:6] / 20_000
    assert share == pytest.approx([0.2] * 5, abs=0.02)
    lost = follow(rng(), positions, (6, 6), still, (6, 6), (106, 106), follow_probability=0.25)
    followed = (lost == 50).all(axis=1)
    assert followed.mean() == pytest.approx(0.25, abs=0.02)
    assert lost[~followed].min() == 0 and lost[~followed].max() == 100
    assert lost[~followed].mean() == pytest.approx(50, abs=1)


def test_equal_tiles():
    sizes = [(4, 6), (2, 9)]
    positions, tile = equal_tiles(np.array([[0, 1], [10, 20]]), sizes)
    assert tile == (2, 3) and len(positions) == 4 + 3
    covered = np.zeros((12, 30), dtype=int)
    for row, col in positions:
        covered[row : row + 2, col : col + 3] += 1
    expected = np.zeros_like(covered)
    expected[0:4, 1:7] = expected[10:12, 20:29] = 1
    assert (covered == expected).all()
    positions, tile = equal_tiles(np.array([[1, 2], [3, 4]]), [(5, 5), (5, 5)])
    assert tile == (5, 5) and positions.tolist() == [[1, 2], [3, 4]]


def test_unequal_errors():
    with pytest.raises(ValueError, match="9x2, 1x1 patches do not fit into 8x8"):
        sample_unequal_windows(rng(), (8, 8), [(9, 2), (1, 1)])
    with pytest.raises(ValueError, match="no placement"):
        sample_unequal_windows(rng(), (8, 8), [(5, 5), (5, 5)])


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_crop_and_paste(kind):
    frame = np.arange(2 * 12 * 16, dtype=np.float32).reshape(2, 12, 16)
    frame = torch.from_numpy(frame) if kind == "torch" else frame
    positions = np.array([[1, 2], [0, 0]])
    cut = crop_windows(frame, positions, (2, 1), 4)
    assert tuple(cut.shape) == (2, 2, 8, 4)
    assert (cut[0] == frame[:, 4:12, 8:12]).all() and (cut[1] == frame[:, 0:8, 0:4]).all()
    back = paste_windows(cut, positions, (12, 16), 4, fill=-1)
    kept = np.zeros((12, 16), dtype=bool)
    kept[4:12, 8:12] = kept[0:8, 0:4] = True
    assert (back[:, kept] == frame[:, kept]).all() and (back[:, ~kept] == -1).all()
    lattice = np.array([[r, c] for r in (0, 1, 2) for c in (0, 2)])
    assert (paste_windows(crop_windows(frame, lattice, (1, 2), 4), lattice, (12, 16), 4) == frame).all()
    assert (paste_windows(cut, positions, (10, 11), 4, fill=-1) == back[:, :10, :11]).all()  # sticks out: dropped
    with pytest.raises(ValueError, match="leaves the frame of 12x16"):
        crop_windows(frame, np.array([[2, 0]]), (2, 1), 4)
    with pytest.raises(ValueError, match="leaves the frame"):
        crop_windows(frame, np.array([[-1, 0]]), (2, 1), 4)


def test_strategies():
    grid = (12, 16)
    positions, size = Strategy("windows", size=(3, 4)).sample(rng(), grid)
    assert positions.shape == (2, 2) and size == (3, 4)
    positions, size = Strategy("windows", count=4, tokens=64, min_side=2).sample(rng(), grid)
    assert positions.shape == (4, 2) and 0.9 * 64 <= 4 * size[0] * size[1] <= 64
    positions, size = Strategy("tokens", tokens=50).sample(rng(), grid)
    assert size == (1, 1) and len({tuple(p) for p in positions.tolist()}) == 50
    positions, size = Strategy("crop", size=(5, 5)).sample(rng(), grid)
    assert positions.shape == (1, 2) and size == (5, 5)
    positions, size = Strategy("full").sample(rng(), grid)
    assert positions.tolist() == [[0, 0]] and size == grid
    positions, size = Strategy("windows", sizes=[[4, 4], [2, 6]]).sample(rng(), grid)
    assert size == (2, 2) and len(positions) == 4 + 3
    assert Strategy("windows", sizes=((4, 4), (2, 6), (2, 2))).count == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of: size, tokens, sizes; got none"),
        ({"kind": "window", "size": (2, 2)}, "kind: Input should be 'windows', 'tokens', 'crop' or 'full'"),
        ({"size": (2, 2), "tokens": 8}, "got size, tokens"),
        ({"kind": "full", "size": (2, 2)}, "none of size"),
        ({"kind": "tokens", "size": (2, 2)}, "exactly one of: tokens; got size"),
        ({"kind": "crop", "size": (2, 2), "count": 2}, "count 2: expected 1"),
        ({"size": (0, 2)}, "size.0: .*got 0"),
        ({"size": (2, 2), "count": -1}, "Strategy: count: .*got -1"),
        ({"sizes": ((2, 2), (2, 0))}, "sizes.1.1: .*got 0"),
        ({"kind": "tokens", "tokens": 0}, "tokens: .*got 0"),
        ({"size": (4,)}, "size.1: Field required"),
        ({"size": (4.5, 4)}, "size.0: .*valid integer.*got 4.5"),
    ],
)
def test_strategy_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Strategy(**options)


def test_strategy_in_a_recipe():
    """Pydantic fills it from what YAML gives, and refuses a key it does not know."""
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(Strategy)
    assert adapter.validate_python({"kind": "windows", "size": [6, 6]}) == Strategy("windows", 2, (6, 6))
    assert adapter.validate_python({"sizes": [[6, 6], [3, 3]]}).sizes == ((6, 6), (3, 3))
    with pytest.raises(ValidationError, match="sise"):
        adapter.validate_python({"sise": [6, 6]})
    with pytest.raises(ValidationError, match="kind"):
        adapter.validate_python({"kind": "wimdows", "size": [6, 6]})
