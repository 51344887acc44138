"""Refinement at finer strides: what is fetched, what is compared, and that it starts from the flow as it is."""

from __future__ import annotations

import pytest
import torch
from support.model_cases import SMALL, distance, frames, make

from winwin_hf import WinWinConfig, WinWinForOpticalFlow
from winwin_hf.model.layers_winwin import Layout
from winwin_hf.model.refinement_winwin import ContextRows, RefinementStep, compare, fetch

RADIUS = 3
WHOLE = Layout(1, 1, 3, 4, torch.zeros(1, 1, 2, dtype=torch.long), False)  # of patches of four positions a side
TWO = Layout(1, 2, 3, 2, torch.tensor([[[0, 2], [0, 0]]]), True)  # the same frame in two halves, the right one first


def maps(channels: int = 5) -> torch.Tensor:
    return torch.randn(1, channels, 12, 16, generator=torch.Generator().manual_seed(0))


def halves(frame: torch.Tensor) -> torch.Tensor:
    return torch.cat([frame[..., 8:], frame[..., :8]])


def test_fetch_returns_features_at_whole_positions_and_between_them():
    frame = maps()
    places = torch.tensor([[[[[2.0, 3.0], [2.0, 3.5], [2.25, 3.0]]]]])
    found = fetch(frame, WHOLE, places, 4)[0, :, 0]
    assert torch.allclose(found[:-1, 0], frame[0, :, 2, 3], atol=1e-6)
    assert torch.allclose(found[:-1, 1], frame[0, :, 2, 3:5].mean(-1), atol=1e-6)
    assert torch.allclose(found[:-1, 2], 0.75 * frame[0, :, 2, 3] + 0.25 * frame[0, :, 3, 3], atol=1e-6)
    assert torch.allclose(found[-1], torch.ones(3))


def test_fetch_is_the_same_from_windows_that_cover_the_frame():
    """Also between the two halves, where each knows one of the two neighbours."""
    frame = maps()
    places = torch.rand(1, 1, 6, 9, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([11.0, 15.0])
    places[0, 0, 0, 0] = torch.tensor([5.5, 7.5])
    whole = fetch(frame, WHOLE, places, 4)
    assert torch.allclose(fetch(halves(frame), TWO, places, 4), whole, atol=1e-5)
    one = Layout(1, 1, 3, 2, torch.tensor([[[0, 2]]]), True)
    half = fetch(frame[..., 8:], one, places, 4)
    assert not torch.allclose(half, whole, atol=1e-3)  # what lies in the other half isn't found ...
    assert half[0, -1].min() == 0 and half[0, -1].max() == pytest.approx(1)  # ... and says so


def test_fetch_lays_out_several_windows_of_the_first_view():
    frame, places = maps(), torch.rand(1, 2, 4, 3, 2, generator=torch.Generator().manual_seed(2)) * 11
    found = fetch(frame, WHOLE, places, 4)
    assert found.shape == (2, 6, 4, 3)
    for window in range(2):
        assert torch.equal(found[window], fetch(frame, WHOLE, places[:, window : window + 1], 4)[0])


def test_compare_finds_the_shift():
    first = maps(64)
    larger = torch.nn.functional.pad(first, (RADIUS,) * 4)
    for y, x in ((0, 0), (2, -1), (-3, 3)):
        second = torch.roll(larger, (y, x), (-2, -1))
        found = compare(first, second, RADIUS)
        assert found.shape == (1, 49, 12, 16)
        best = found[0, :, 4:8, 4:12].argmax(0)
        assert (best == (RADIUS + y) * (2 * RADIUS + 1) + RADIUS + x).all()


@pytest.mark.parametrize(("height", "width", "radius"), [(8, 16, 3), (19, 33, 2), (5, 3, 1)])
def test_compare_in_blocks_is_the_plain_product(monkeypatch, height, width, radius):
    """Blocks of positions, the last ones sticking out, and their gradients; the plain form is what is exported."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64, requires_grad=True)
    second = torch.randn(2, 3, height + 2 * radius, width + 2 * radius, generator=generator, dtype=torch.float64)
    second.requires_grad_(True)
    blocks = compare(first, second, radius)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    plain = compare(first, second, radius)
    assert torch.allclose(blocks, plain, atol=1e-12)
    towards = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    found, wanted = (torch.autograd.grad(x, (first, second), towards) for x in (blocks, plain))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, wanted, strict=True))


def test_places_follow_the_flow():
    step = RefinementStep(WinWinConfig(**{**SMALL, "patch_size": 8, "patch_embedding": "conv_stem"}), 2, 8, RADIUS)
    layout = Layout(1, 1, 2, 2, torch.tensor([[[3, 5]]]), True)
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0], flow[:, 1] = 4.0, -1.0  # right, down
    places = step.places(flow, layout)
    assert places.shape == (1, 1, 8 + 2 * RADIUS, 8 + 2 * RADIUS, 2)
    assert places[0, 0, RADIUS, RADIUS].tolist() == [3 * 4 - 0.5, 5 * 4 + 2.0]
    assert places[0, 0, 0, 0].tolist() == [3 * 4 - RADIUS - 0.5, 5 * 4 - RADIUS + 2.0]


def test_untrained_refinement_leaves_the_flow_as_it_is():
    torch.manual_seed(0)
    options = {**SMALL, "patch_embedding": "conv_stem", "matching_stride": 4}
    plain = WinWinForOpticalFlow(WinWinConfig(**options)).eval()
    refined = WinWinForOpticalFlow(WinWinConfig(**options, refinement_sizes=[8])).eval()
    missing = refined.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(name.startswith(("fine_features.", "refinement.")) for name in missing)
    views = frames(plain)
    with torch.no_grad():
        assert torch.equal(refined(*views).flow, plain(*views).flow)
        refined.refinement.steps[0].out.weight.normal_()
        assert not torch.allclose(refined(*views).flow, plain(*views).flow)


def test_iterations_share_weights_and_remember():
    torch.manual_seed(0)
    options = {**SMALL, "patch_embedding": "conv_stem", "matching_stride": 4, "refinement_sizes": [8]}
    once, twice = (WinWinForOpticalFlow(WinWinConfig(**options, refinement_iterations=n)).eval() for n in (1, 2))
    extra = set(twice.state_dict()) - set(once.state_dict())
    assert extra == {"refinement.steps.0.memory.weight"}
    step = twice.refinement.steps[0]
    with torch.no_grad():
        step.out.weight.normal_()
        for p in once.parameters():
            p.copy_(twice.get_parameter(next(name for name, q in once.named_parameters() if q is p)))
        views = frames(twice)
        first, second = once.encode(views[0]), once.encode(views[1])
        start = torch.zeros(len(views[0]), 2, *views[0].shape[-2:]), torch.zeros(len(views[0]), *views[0].shape[-2:])
        places = first.fine, second.fine, first.layout, second.layout
        ((flow, scale),) = once.refinement(*start, *places)
        changes = twice.refinement(*start, *places)
        assert len(changes) == 2
        assert torch.allclose(changes[0][0], flow, atol=1e-5) and torch.allclose(changes[0][1], scale, atol=1e-5)
        step.memory.weight.zero_()  # without memory the second time is the first from where that led
        again = once.refinement(flow, scale, *places)[0][0]
        assert torch.allclose(twice.refinement(*start, *places)[1][0], again, atol=1e-4)
        assert not torch.allclose(changes[1][0], again, atol=1e-4)


def test_initial_flow_moves_where_the_matching_looks():
    """With the second view's windows moved by whole patches and the guess by as much, each match is as before, so much further."""
    torch.manual_seed(0)
    options = {**SMALL, "patch_embedding": "conv_stem", "matching_stride": 4}
    model = WinWinForOpticalFlow(WinWinConfig(**options)).eval()
    patch = model.config.patch_size
    one, two = torch.randn(2, 1, 1, 3, 3 * patch, 4 * patch)
    here, there = torch.tensor([[[2, 5]]]), torch.tensor([[[3, 9]]])
    guess = torch.zeros(1, 1, 2, 3 * patch, 4 * patch)
    guess[:, :, 0], guess[:, :, 1] = 4 * patch, patch
    with torch.no_grad():
        first, second, moved = model.encode(one, here), model.encode(two, here), model.encode(two, there)

        def matched(other, *guess):
            return model.matching(first.features, other.features, first.layout, other.layout, *guess)

        plain, with_zeros = matched(second), matched(second, torch.zeros_like(guess))
        further = matched(moved, guess)
    assert torch.allclose(with_zeros.flow, plain.flow, atol=1e-4)
    shift = torch.tensor([4.0 * patch, patch])
    assert torch.allclose(further.flow, plain.flow + shift, atol=1e-3)
    assert torch.allclose(further.coarse, plain.coarse + shift, atol=1e-3)
    assert torch.allclose(further.mass, plain.mass, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [(torch.float32, False, 1e-5), (torch.bfloat16, False, 3e-2), (torch.float32, True, 3e-2)],
)
@pytest.mark.parametrize("size", [(4, 6), (3, 5)])  # whole blocks of positions, and blocks that stick out
def test_rows_without_gradients_are_the_plain_refinement(dtype, autocast, tolerance, size):
    """A CPU that needs no gradients computes a row of blocks at a time, and MLPs in chunks; the plain form is what is trained."""
    model = make("optical-flow", "refinement", refinement_iterations=3, refinement_sizes=[16]).to(dtype)
    generator = torch.Generator().manual_seed(3)
    shape = (2, 1, 16, 2 * size[0] * 2, 2 * size[1] * 2)
    first, second = (torch.randn(shape[0], 16, *shape[3:], generator=generator).to(dtype) for _ in range(2))
    flow = 4 * torch.randn(2, 2, 8 * size[0], 8 * size[1], generator=generator)
    flow[0, :, :16], flow[1, 0, 3, 5] = 100.0, torch.nan  # what leaves the frame, and what nobody knows
    scale = torch.randn(2, 8 * size[0], 8 * size[1], generator=generator)
    layout = Layout(2, 1, *size, torch.tensor([[[2, 3]]]), True)
    second_layout = Layout(2, 1, *size, torch.tensor([[[2, 4]]]), True)
    step = model.refinement.steps[0]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert step.stride == 2 and not ContextRows.suits((first, second, layout, second_layout))
        plain = step(flow, scale, first, second, layout, second_layout)
        with torch.no_grad():
            assert ContextRows.suits((first, second, layout, second_layout))
            rows = step(flow, scale, first, second, layout, second_layout)
    for (found, found_scale), (wanted, wanted_scale) in zip(rows, plain, strict=True):
        assert distance((found - flow).nan_to_num(), (wanted - flow).nan_to_num()) < tolerance
        assert distance(found_scale.nan_to_num(), wanted_scale.nan_to_num()) < tolerance


def test_gradients_reach_every_parameter():
    model = make("optical-flow", "refinement").train()
    views = frames(model)
    labels = torch.randn(views[0].shape[0], 2, *views[0].shape[-2:])
    model(*views, labels=labels).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refinement_sizes": [8]}, "needs matching_stride"),
        ({"matching_stride": 4, "patch_embedding": "conv_stem", "refinement_sizes": [8, 8]}, "down to 2"),
        (
            {"matching_stride": 4, "patch_embedding": "conv_stem", "refinement_sizes": [0]},
            "refinement_sizes=0: expected 1 to 4,096",
        ),
        ({"refinement_iterations": 0}, "1 or more"),
    ],
)
def test_impossible_refinement_is_refused(options, message):
    with pytest.raises(Exception, match=message):
        WinWinConfig(**{**SMALL, **options})
