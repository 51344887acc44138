"""Heads and stem: shapes, what they may see, how they start."""

from __future__ import annotations

import pytest
import torch
from support.model_cases import SMALL, make, randomise

from winwin_hf import WinWinConfig, WinWinForOpticalFlow
from winwin_hf.model import heads_winwin
from winwin_hf.model.heads_winwin import (
    ConvHead,
    ConvStem,
    DPTHead,
    LayerNorm2d,
    LinearHead,
    convolved_rows,
    double,
    doubled_rows,
    in_strips,
)


def config(**overrides) -> WinWinConfig:
    return WinWinConfig(**{**SMALL, **overrides})


def tokens(rows: int = 3, columns: int = 5, width: int = 32, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, width, rows, columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("patch_size", [4, 8, 16, 32])
@pytest.mark.parametrize("size", [(3, 5), (1, 1), (4, 2)])
@torch.no_grad()
def test_every_head_answers_every_pixel(patch_size, size):
    c, (rows, columns) = config(patch_size=patch_size), size
    wanted = (2, 3, rows * patch_size, columns * patch_size)
    assert LinearHead(c, 32, 3)(tokens(*size)).shape == wanted
    assert ConvHead(c, 32, 3)(tokens(*size)).shape == wanted
    levels = [tokens(*size, width=w) for w in (32, 32, 24, 24)]
    assert DPTHead(c, [32, 32, 24, 24], 3)(levels).shape == wanted


@torch.no_grad()
def test_linear_head_sees_only_its_patch():
    head = randomise(LinearHead(config(), 32, 3))
    x = tokens()
    before = head(x)
    x[:, :, 1, 2] += 1
    changed = (head(x) != before).any(dim=(0, 1))
    assert changed[8:16, 16:24].all() and changed.sum() == 64


@torch.no_grad()
def test_heads_take_no_statistics_over_space():
    """A convolution's reach apart, a prediction doesn't depend on how large the window is."""
    head = randomise(ConvHead(config(head_num_layers=1), 32, 3))
    x = tokens(16, 16)
    whole, part = head(x), head(x[..., :12, :12])
    torch.testing.assert_close(part[..., : 6 * 8, : 6 * 8], whole[..., : 6 * 8, : 6 * 8], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(part[..., -8:, -8:], whole[..., 88:96, 88:96])  # at the border it does see less
    norm = randomise(LayerNorm2d(32))
    torch.testing.assert_close(norm(x)[..., 3:5, 3:5], norm(x[..., 3:5, 3:5]))


@pytest.mark.parametrize("channels", [24, 32])
def test_layer_norm_in_bf16_is_the_one_in_float32_rounded(channels):
    """Narrow rows take a way of their own on a CPU; values and gradients stay those of a layer norm."""
    norm = randomise(LayerNorm2d(channels))
    x = torch.randn(2, channels, 5, 6, generator=torch.Generator().manual_seed(1)).bfloat16()
    one, other = x.clone().requires_grad_(), x.float().requires_grad_()
    rounded, exact = norm(one), norm(other)
    assert rounded.dtype == torch.bfloat16
    assert torch.allclose(rounded.float(), exact, atol=0.03)
    rounded.float().square().sum().backward()
    exact.square().sum().backward()
    assert torch.allclose(one.grad.float(), other.grad, atol=0.05 * other.grad.abs().max().item())
    assert norm.to(torch.bfloat16)(x).dtype == torch.bfloat16  # weights in half precision


@pytest.mark.parametrize("patch_size", [4, 8, 16])
def test_stem_has_a_map_for_each_stride(patch_size):
    c = config(patch_size=patch_size, patch_embedding="conv_stem")
    maps = ConvStem(c)(torch.randn(2, 3, 2 * patch_size, 3 * patch_size))
    strides = [patch_size * 3 // m.shape[-1] for m in maps]
    assert strides == [2 ** (i + 1) for i in range(len(strides))] and strides[-1] == patch_size
    assert [m.shape[1] for m in maps] == c.stem_sizes


@torch.no_grad()
def test_stem_and_extra_features_join_on_the_way_up():
    c = config(patch_embedding="conv_stem")  # strides 2, 4, 8
    head = randomise(ConvHead(c, 32, 3, extra={4: 6}))
    features = {2: [torch.randn(1, 8, 8, 12)], 4: [torch.randn(1, 16, 4, 6), torch.randn(1, 6, 4, 6)]}
    x = tokens(2, 3, batch=1)
    before = head(x, features)
    for stride, i in ((2, 0), (4, 0), (4, 1)):
        other = {s: [m + (s == stride and j == i) for j, m in enumerate(maps)] for s, maps in features.items()}
        assert (head(x, other) - before).abs().max() > 1e-3


@torch.no_grad()
def test_each_dpt_level_reaches_the_prediction():
    head = randomise(DPTHead(config(patch_size=16), [32] * 4, 3))
    levels = [tokens(3, 5) for _ in range(4)]
    before = head(levels)
    for i in range(4):
        other = [t + 0.5 * (j == i) * torch.randn(t.shape) for j, t in enumerate(levels)]
        assert (head(other) - before).abs().max() > 1e-3


def test_what_a_fresh_network_starts_from():
    """transformers initialises foreign code layer by layer; the exceptions must reach their layers all the same."""
    model = WinWinForOpticalFlow(config(patch_embedding="conv_stem", matching_stride=4, hidden_size=64))
    stem = model.winwin.embeddings.projection
    for conv in stem.convs:
        assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.in_channels)) ** 0.5, rel=0.25)
    assert not model.head.layers.out.weight.any()
    assert model.winwin.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert all(not p.any() for n, p in model.named_parameters() if n.endswith("bias"))
    assert all((p == 1).all() for n, p in model.named_parameters() if "norm" in n and n.endswith("weight"))
    # The image is still there after the stem.
    image = torch.randn(2, 3, 32, 32)
    assert 0.1 < stem(image)[-1].std() < 10


def test_without_matching_the_output_layer_is_not_silent():
    model = make("optical-flow", "conv")
    fresh = WinWinForOpticalFlow(model.config)
    assert fresh.head.layers.out.weight.any()


# ------------------------------------------------------------------ maps in strips


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 4), (136, 5)])
def test_rows_of_a_doubled_map(height, width):
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    whole = double(x)
    for start, stop in ((0, 1), (0, 2 * height), (height, 2 * height), (2 * height - 1, 2 * height), (1, height + 1)):
        torch.testing.assert_close(doubled_rows(x, start, stop), whole[..., start:stop, :], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("strip", [1, 3, 10, 64])
def test_a_convolution_in_strips_is_the_convolution(strip, monkeypatch):
    monkeypatch.setattr(heads_winwin, "STRIP_ROWS", strip)
    x, conv = torch.randn(2, 3, 10, 4), torch.nn.Conv2d(3, 5, 3, padding=1)
    asked = []

    def rows(start: int, stop: int) -> torch.Tensor:
        asked.append(stop - start)
        return x[..., start:stop, :]

    y = in_strips(lambda start, stop: convolved_rows(conv, rows, 10, start, stop), 10)
    torch.testing.assert_close(y, conv(x), rtol=1e-5, atol=1e-6)
    assert max(asked) <= strip + 2


@pytest.mark.parametrize("size", [(3, 5), (1, 1), (4, 2)])
def test_the_dpt_head_is_the_same_in_strips(size, monkeypatch):
    head = randomise(DPTHead(config(patch_size=16), [32, 32, 24, 24], 3))
    levels = [tokens(*size, width=w) for w in (32, 32, 24, 24)]
    whole = head(levels)
    assert whole.requires_grad  # in one piece
    calls = []
    monkeypatch.setattr(heads_winwin, "in_strips", lambda *a, plain=in_strips: calls.append(a[1]) or plain(*a))
    with torch.no_grad():
        assert torch.equal(head(levels), whole) and not calls  # too small for strips
        monkeypatch.setattr(heads_winwin, "STRIP_ROWS", 5)
        torch.testing.assert_close(head(levels), whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
    assert calls == [size[0] * 8, size[0] * 16]
