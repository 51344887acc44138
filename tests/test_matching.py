"""Matching: it finds what it is told to find, is relative, and its losses know what is visible."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from model_cases import SMALL, VARIANTS, frames, make, randomise

from winwin_hf import WinWinConfig
from winwin_hf.losses import MAX_FLOW
from winwin_hf.matching_winwin import Match, Matching, MatchingFeatures, matching_loss, pool_flow
from winwin_hf.rope_winwin import apply_rotary, rotary_embedding

CONFIG = WinWinConfig(**{**SMALL, **VARIANTS["matching"]})  # stride 4, patches of 8


def grid(rows: int, columns: int) -> torch.Tensor:
    """(x, y) of rows x columns positions, (1, Q, 2)."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)[None].float()


def random_matching(seed: int = 0) -> Matching:
    return randomise(Matching(CONFIG), seed).eval()


def expert() -> Matching:
    """A matching that compares features as they are, sharply: it knows everything a trained one could."""
    matching = Matching(CONFIG)
    with torch.no_grad():
        for layer in (matching.query, matching.key, matching.fine_query, matching.fine_key, matching.value):
            layer.weight.copy_(torch.eye(16))
            layer.bias.zero_()
        matching.no_match.weight.zero_()
        matching.no_match.bias.fill_(90.0)  # a match has up to exp(4.6) = 99
        matching.log_temperature.fill_(4.6)
        matching.log_sigma.fill_(3.0)
    matching.theta = 1e9  # turns almost nothing but the channels of the highest frequency
    return matching


def features(count: int, seed: int = 0) -> torch.Tensor:
    """Random unit vectors (1, Q, 16), silent in the four channels that turn with the highest frequency."""
    x = torch.randn(1, count, 16, generator=torch.Generator().manual_seed(seed))
    x[..., ::4] = 0
    return torch.nn.functional.normalize(x, dim=-1)


@torch.no_grad()
def test_finds_a_translation_and_says_where_there_is_no_match():
    """The second view's positions are the first one's, moved by (3, -2); a new object covers some of them."""
    matching, xy = expert(), grid(6, 8)
    first = features(48)
    second, shift = first.clone(), torch.tensor([3.0, -2.0])
    gone = torch.arange(48) % 11 == 0
    second[:, gone] = features(48, seed=1)[:, gone]
    match = matching(first, second, xy, xy + shift)
    wanted = (shift * 4).expand(int((~gone).sum()), 2)
    mass = match.mass[0]
    assert mass[~gone].min() > 0.9 and mass[gone].max() < 0.1
    assert (match.coarse[0, ~gone] - wanted).abs().max() < 2.0
    assert (match.flow[0, ~gone] - wanted).abs().max() < 0.5
    torch.testing.assert_close(match.retrieved[0, ~gone], first[0, ~gone], atol=0.05, rtol=0)
    assert match.spread[0, ~gone].median() < 0.05


def plainly(matching: Matching, first, second, xy, other) -> dict[str, torch.Tensor]:
    """The same by full matrices, as the formulas are written, in float64."""
    matching = deepcopy(matching).double()
    first, second, xy, other = first.double(), second.double(), xy.double(), other.double()
    temperature = matching.log_temperature.clamp(max=4.6).exp()
    unit = torch.nn.functional.normalize
    query = apply_rotary(unit(matching.query(first), dim=-1), *rotary_embedding(xy.flip(-1), 16, 100.0))
    key = apply_rotary(unit(matching.key(second), dim=-1), *rotary_embedding(other.flip(-1), 16, 100.0))
    sigma = matching.log_sigma.clamp(min=0.0).exp()
    far = torch.cdist(xy, other, compute_mode="donot_use_mm_for_euclid_dist").square()
    logits = temperature[0] * query @ key.mT - far / (2 * sigma[0] ** 2)
    logits = torch.cat([logits, matching.no_match(first)], dim=-1)
    weights = logits.softmax(-1)[..., :-1]
    mass = weights.sum(-1)
    mean = weights @ other / mass[..., None]
    distances = torch.cdist(mean, other, compute_mode="donot_use_mm_for_euclid_dist").square()
    logits = temperature[1] * unit(matching.fine_query(first), dim=-1) @ unit(matching.fine_key(second), dim=-1).mT
    local = (logits - distances / (2 * sigma[1] ** 2)).softmax(-1)
    return {
        "mass": mass,
        "coarse": 4 * (mean - xy),
        "spread": (weights * distances).sum(-1) / mass,
        "flow": 4 * (local @ other - xy),
        "retrieved": local @ matching.value(second),
    }


@pytest.mark.parametrize(("shape", "log_sigma", "tolerance"), [((4, 6), 0.3, 1e-4), ((2, 480), -0.7, 1e-2)])
@torch.no_grad()
def test_is_what_its_formulas_say(shape, log_sigma, tolerance):
    """In the wide one coordinates reach 240 and the prior is at its narrowest: still exact to a hundredth of a pixel."""
    matching, xy = random_matching(), grid(*shape)
    matching.log_sigma.copy_(torch.tensor([3.0, log_sigma]))
    other = xy[:, :-3] + 2
    first, second = features(xy.shape[1]), features(other.shape[1], seed=1)
    match = matching(first, second, xy, other)
    for name, expected in plainly(matching, first, second, xy, other).items():
        atol = 0.1 if name == "spread" and shape[1] > 6 else tolerance  # a variance of thousands, less its square
        torch.testing.assert_close(
            getattr(match, name).double(), expected, rtol=1e-3, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


@torch.no_grad()
def test_is_relative_and_exact_far_from_the_origin():
    matching, xy, other = random_matching(), grid(4, 6), grid(4, 6) + 3
    first, second = features(24), features(24, seed=1)
    near, far = (matching(first, second, xy + d, other + d) for d in (0, torch.tensor([4096.0, 2160.0])))
    for name in Match.__dataclass_fields__:
        torch.testing.assert_close(getattr(far, name), getattr(near, name), rtol=1e-4, atol=1e-4)
    moved = matching(first, second, xy, other + 1)
    assert (moved.flow - near.flow).abs().max() > 0.1


@torch.no_grad()
def test_runs_in_float32_under_autocast():
    matching, xy = random_matching(), grid(4, 6)
    first, second = features(24), features(24, seed=1)
    plain = matching(first, second, xy, xy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        match = matching(first, second, xy, xy)
    assert torch.equal(match.flow, plain.flow) and match.flow.dtype == torch.float32


def test_the_local_answer_does_not_teach_the_global_one():
    matching, xy = random_matching(), grid(4, 6)
    matching(features(24), features(24, seed=1), xy, xy).flow.sum().backward()
    assert matching.query.weight.grad is None and matching.fine_query.weight.grad.abs().max() > 0
    assert matching.log_sigma.grad is not None


@pytest.mark.parametrize("stride", [4, 8])
def test_features_have_the_stride(stride):
    config = WinWinConfig(**{**SMALL, "patch_size": 16, "patch_embedding": "conv_stem", "matching_stride": stride})
    module, factor = MatchingFeatures(config), 16 // stride
    stem = torch.randn(2, config.stem_sizes[stride.bit_length() - 2], 3 * factor, 5 * factor)
    assert module(torch.randn(2, 32, 3, 5), stem).shape == (2, 16, 3 * factor, 5 * factor)


# ------------------------------------------------------------------ losses


def match_of(flow: torch.Tensor, mass: float = 0.5) -> Match:
    zeros = torch.zeros(flow.shape[:2])
    return Match(flow=flow, coarse=flow, mass=zeros + mass, spread=zeros, retrieved=flow, query=flow)


def test_matching_loss_counts_only_what_is_known_and_visible():
    target = torch.full((1, 6, 2), 4.0)
    target[0, 4:] = torch.nan
    inside = torch.tensor([[True, True, False, False, False, True]])
    flow = target.nan_to_num(50.0)
    exact = matching_loss(match_of(flow), target, inside, 4)
    hidden = flow.clone()
    hidden[0, 2:] += 100  # not visible, or unknown
    assert matching_loss(match_of(hidden), target, inside, 4).item() == pytest.approx(exact.item())
    wrong = flow.clone()
    wrong[0, 0] += 8
    assert matching_loss(match_of(wrong), target, inside, 4).item() > exact.item() + 8
    # the match mass is taught where the target is known: high inside, low outside
    good = match_of(flow)
    good.mass = torch.tensor([[0.99, 0.99, 0.01, 0.01, 0.5, 0.5]])
    bad = match_of(flow)
    bad.mass = torch.tensor([[0.01, 0.99, 0.01, 0.01, 0.5, 0.5]])
    assert matching_loss(good, target, inside, 4) < exact < matching_loss(bad, target, inside, 4)


def test_pooling_leaves_out_what_is_unknown():
    flow = torch.full((2, 8, 8), 3.0)
    flow[:, :4, :4] = torch.nan
    flow[0, 4, 0] = torch.inf
    flow[1, 5, 1] = 1.67e9
    flow[:, 6, 2] = MAX_FLOW
    pooled = pool_flow(flow, 4)
    assert pooled[:, 0, 0].isnan().all()
    assert (pooled[:, 0, 1] == 3).all() and (pooled[:, 1] == 3).all()


def test_the_model_knows_which_matches_lie_inside_the_second_windows():
    """A flow of one patch to the right: of two first windows only one is followed by a second one."""
    model = make("flow", "matching").train()
    image = torch.randn(1, 2, 3, 16, 16)
    first = torch.tensor([[[0, 0], [0, 6]]])
    seen = []
    from winwin_hf import modeling_winwin

    def spy(match, target, inside, stride):
        seen.append(inside)
        return matching_loss(match, target, inside, stride)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_winwin, "matching_loss", spy)
        labels = torch.tensor([8.0, 0.0]).view(1, 1, 2, 1, 1).expand(1, 2, 2, 16, 16)
        model(image, image[:, :1], first, torch.tensor([[[0, 1]]]), labels=labels)
        model(image, image[:, :1], first, torch.tensor([[[0, 2]]]), labels=labels)
        model(image, image[:, :1], first, torch.tensor([[[0, 1]]]), labels=torch.full_like(labels, torch.nan))
    full, half, none = (s.view(2, 4, 4) for s in seen)  # 4x4 positions of 4 pixels in each window
    assert full[0].all() and not full[1].any()
    assert half[0, :, 2:].all() and not half[0, :, :2].any()
    assert not none.any()


@torch.no_grad()
def test_a_fresh_network_answers_the_match_itself():
    """The head starts at zero, so the first prediction is the base flow, with the scale's raw channel at zero."""
    from winwin_hf import WinWinForOpticalFlow

    model = WinWinForOpticalFlow(CONFIG).eval()
    out = model(*frames(model))
    assert out.base_flow.shape == (2, 2, 8, 12)
    up = torch.nn.functional.interpolate(out.base_flow, scale_factor=4, mode="bilinear")
    torch.testing.assert_close(out.flow, up)
    assert not out.log_scale.any()
