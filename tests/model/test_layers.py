"""Windows, positions, attention: the parts behind the models' identities."""

from __future__ import annotations

import math

import pytest
import torch
from support.model_cases import SMALL, VARIANTS, frames, make, randomise
from torch import nn

from winwin_hf import WinWinConfig
from winwin_hf.model import layers_winwin
from winwin_hf.model.layers_winwin import (
    Layout,
    WinWinAttention,
    WinWinLayer,
    as_windows,
    block_attention_forward,
    blocks_are_faster,
    eager_attention_forward,
    patchify,
    rotary_of,
    sincos_embedding,
)
from winwin_hf.model.positions_winwin import apply_rotary, rotary_embedding

# ------------------------------------------------------------------ windows


CONFIG = WinWinConfig(patch_size=8)


def test_a_plain_image_is_one_window_at_the_origin():
    image = torch.randn(2, 3, 16, 24)
    pixels, layout = as_windows(image, None, CONFIG)
    assert pixels.shape == (2, 3, 16, 24) and (layout.count, layout.rows, layout.columns) == (1, 2, 3)
    assert layout.positions()[0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert layout.to_output(pixels) is pixels


def test_windows_keep_their_place():
    where = torch.tensor([[[5, 1], [0, 7]]])
    pixels, layout = as_windows(torch.randn(1, 2, 3, 16, 8), where, CONFIG)
    assert pixels.shape == (2, 3, 16, 8)
    assert layout.positions()[0].tolist() == [[5, 1], [6, 1], [0, 7], [1, 7]]
    fine = layout.positions(2)[0]
    assert fine[:4].tolist() == [[10, 2], [10, 3], [11, 2], [11, 3]] and len(fine) == 16
    maps = torch.randn(2, 5, 2, 1)
    torch.testing.assert_close(layout.to_maps(layout.to_tokens(maps)), maps)
    assert layout.to_output(maps).shape == (1, 2, 5, 2, 1)


@pytest.mark.parametrize(
    ("shape", "where", "says"),
    [
        ((3, 16, 16), None, r"pixel_values has shape \(3, 16, 16\): expected \(B, C, H, W\) or \(B, N, C, h, w\)"),
        ((1, 3, 16, 20), None, r"pixel_values is 16 x 20 pixels: expected multiples of 8"),
        ((1, 2, 3, 16, 16), None, r"window_positions is missing"),
        ((1, 3, 16, 16), (1, 1, 2), r"window_positions is given"),
        ((1, 2, 3, 16, 16), (1, 3, 2), r"window_positions has shape \(1, 3, 2\): expected \(1, 2, 2\)"),
        ((2, 2, 3, 16, 16), (1, 2, 2), r"expected \(2, 2, 2\)"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "second_"])
def test_errors_name_the_argument(shape, where, says, prefix):
    positions = None if where is None else torch.zeros(where, dtype=torch.long)
    says = says.replace("pixel_values", f"{prefix}pixel_values").replace(
        "window_positions", f"{prefix}window_positions"
    )
    with pytest.raises(ValueError, match=says):
        as_windows(torch.zeros(shape), positions, CONFIG, f"{prefix}pixel_values")


def test_patchify_is_what_a_strided_convolution_sees():
    image = torch.randn(2, 3, 16, 24)
    conv = nn.Conv2d(3, 7, 8, stride=8)
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # channels last
    expected = conv(image).flatten(2).mT
    torch.testing.assert_close(patchify(image, 8) @ weight.mT + conv.bias, expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ positions


def test_rotary_products_depend_on_the_difference_of_positions():
    query, key = torch.randn(2, 40, 16)
    positions = torch.randint(0, 60, (2, 40, 2))

    def products(shift: int) -> torch.Tensor:
        q, k = (
            apply_rotary(x, *rotary_embedding(p + shift, 16, 100.0))
            for x, p in zip((query, key), positions, strict=True)
        )
        return (q * k).sum(-1)

    torch.testing.assert_close(products(200), products(0), rtol=1e-4, atol=1e-4)
    turned = apply_rotary(query, *rotary_embedding(positions[0], 16, 100.0))
    torch.testing.assert_close(turned.norm(dim=-1), query.norm(dim=-1))
    assert not torch.allclose(turned, query)


def test_rotary_halves_are_row_and_column():
    cos, sin = rotary_embedding(torch.tensor([[3, 0], [0, 3]]), 16, 100.0)
    assert cos.dtype == torch.float32
    assert (cos[0, 8:] == 1).all() and (cos[1, :8] == 1).all() and (sin[0, :8] != 0).all()
    torch.testing.assert_close(cos[0, :8], cos[1, 8:])
    # slowest frequency: theta ** -(1 - 4 / width)
    torch.testing.assert_close(sin[0, 3], torch.tensor(3 * 100.0**-0.75).sin())


def test_rotary_is_made_in_float32_whatever_the_weights():
    model = make("semantic-segmentation", "conv").bfloat16()
    _, layout = as_windows(torch.zeros(1, 3, 8, 2048), None, CONFIG)
    cos, _ = rotary_of(layout, model.config, 16)
    assert cos.dtype == torch.float32 and cos.shape == (1, 1, 256, 16)
    torch.testing.assert_close(cos[0, 0, 255, 8].double(), torch.tensor(255.0).double().cos(), rtol=0, atol=1e-4)


def test_a_decoder_counts_in_patches_whatever_base_the_encoder_has():
    """A base for coordinates in the frame, such as EVA-02's 10,000, is a very slow one for distances in patches."""
    _, layout = as_windows(torch.zeros(1, 3, 8, 64), None, CONFIG)

    def cos(**options):
        return rotary_of(layout, WinWinConfig(**options), 16, decoder=True)[0]

    paper = cos()
    assert torch.equal(cos(position_embedding="rope_frame", rope_theta=10_000.0), paper)
    assert not torch.equal(cos(rope_theta=10_000.0), paper)


def test_sincos_tells_all_positions_apart():
    _, layout = as_windows(torch.zeros(1, 3, 80, 96), None, CONFIG)
    x = sincos_embedding(layout.positions(), 32)[0]
    assert x.shape == (120, 32)
    assert (torch.cdist(x, x) + 100 * torch.eye(120)).min() > 0.05


# ------------------------------------------------------------------ attention in cells


def cell_mask(layout: Layout, size: int) -> torch.Tensor:
    """Which tokens see each other if every window is cut into cells from its own corner, (T, T)."""
    grid = torch.stack(torch.meshgrid(torch.arange(layout.rows), torch.arange(layout.columns), indexing="ij"), -1)
    cell = (grid // size).flatten(0, 1).repeat(layout.count, 1)
    window = torch.arange(layout.count).repeat_interleave(layout.rows * layout.columns)[:, None]
    label = torch.cat([cell, window], dim=1)
    return (label[:, None] == label[None]).all(-1)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3), (1, 9), (3, 1)])
@pytest.mark.parametrize("embedding", ["rope", "sincos"])
@torch.no_grad()
def test_attention_in_cells_is_global_attention_with_a_mask(size, embedding):
    """Also where the window is no multiple of the cell, and where it is smaller than one."""
    config = WinWinConfig(**{**SMALL, **VARIANTS["vitdet"], "attention_cell_size": 3, "position_embedding": embedding})
    config._attn_implementation = "sdpa"
    layer = randomise(WinWinLayer(config, 0)).eval()
    where = torch.tensor([[[0, 0], [9, 2]], [[4, 1], [0, 12]]])
    layout = Layout(2, 2, *size, where, True)
    x = torch.randn(2, 2 * size[0] * size[1], 32)
    rotary = rotary_of(layout, config, 16)
    attention = layer.attention

    def heads(t: torch.Tensor) -> torch.Tensor:
        return t.unflatten(-1, (2, -1)).transpose(1, 2)

    query, key, value = heads(attention.q_proj(x)), heads(attention.k_proj(x)), heads(attention.v_proj(x))
    if rotary is not None:
        query, key = apply_rotary(query, *rotary), apply_rotary(key, *rotary)
    logits = (query @ key.mT / 4).masked_fill(~cell_mask(layout, 3), -torch.inf)
    expected = attention.o_proj((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer.attend_in_cells(x, rotary, layout), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_only_the_chosen_blocks_are_global():
    model = make("semantic-segmentation", "vitdet").winwin
    assert [layer.cell_size for layer in model.layers] == [2, 2, None, 2]
    image = torch.randn(1, 3, 32, 32)
    other = image.clone()
    other[..., 16:, 16:] += 1
    hidden = [model(i, output_hidden_states=True).hidden_states for i in (image, other)]
    moved = [(a - b).abs().unflatten(1, (4, 4))[0, :2, :2].max() for a, b in zip(*hidden, strict=True)]
    assert moved[0] == moved[1] == moved[2] == 0 and moved[3] > 1e-3  # the third block is the first global one


@torch.no_grad()
def test_cross_attention_reads_the_memory():
    config = WinWinConfig(**SMALL)
    config._attn_implementation = "eager"
    attention = randomise(WinWinAttention(config, 32, 2)).eval()
    x, memory = torch.randn(1, 6, 32), torch.randn(1, 9, 32)
    output, weights = attention(x, None, memory, None)
    assert output.shape == (1, 6, 32) and weights.shape == (1, 2, 6, 9)
    order = torch.randperm(9)
    torch.testing.assert_close(attention(x, None, memory[:, order], None)[0], output, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("trained", "sharper"), [(64, 1.0), (24, 1.0), (8, math.log(24) / math.log(8)), (2, math.log2(24))]
)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_among_more_tokens_attention_is_sharper(trained, sharper, implementation):
    """On 24 tokens; as many as in training, or fewer, change nothing."""
    config = WinWinConfig(**SMALL, attn_implementation=implementation)
    plain, counting = (randomise(WinWinAttention(config, 24, 2, tokens)).eval() for tokens in (None, trained))
    x = torch.randn(2, 24, 24, generator=torch.Generator().manual_seed(0))
    found = counting(x, None)[0]
    assert torch.equal(found, plain(x, None)[0]) == (sharper == 1)
    plain.scaling *= sharper
    torch.testing.assert_close(found, plain(x, None)[0])


@torch.no_grad()
def test_only_the_decoders_own_tokens_are_counted():
    """Windows of as many tokens as in training give what they gave; of more, not."""
    plain, counting = (make("optical-flow", "matching", decoder_attention_tokens=tokens) for tokens in (None, 24))
    views = frames(plain)  # of 4x6 patches
    assert torch.equal(counting(*views).flow, plain(*views).flow)
    larger = frames(plain, rows=6)
    assert not torch.allclose(counting(*larger).flow, plain(*larger).flow, rtol=1e-3)
    found = {name: m.trained_tokens for name, m in counting.named_modules() if isinstance(m, WinWinAttention)}
    assert {name for name, tokens in found.items() if tokens} == {f"decoder.layers.{i}.attention" for i in range(2)}


def test_attention_dropout_only_in_training():
    config = WinWinConfig(**{**SMALL, "attention_dropout": 0.5})
    for implementation in ("eager", "sdpa"):
        config._attn_implementation = implementation
        attention = randomise(WinWinAttention(config, 32, 2))
        x = torch.randn(1, 6, 32)
        assert not torch.equal(attention(x, None)[0], attention(x, None)[0])
        attention.eval()
        assert torch.equal(attention(x, None)[0], attention(x, None)[0])


# ------------------------------------------------------------------ attention in blocks


@torch.no_grad()
@pytest.mark.parametrize("block", [(1, 1), (2, 5), (4, 100)])
def test_attention_in_blocks_is_attention(block, monkeypatch):
    monkeypatch.setattr(layers_winwin, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 8, generator=generator) for n in (11, 17, 17))
    module = nn.Module().eval()
    expected, _ = eager_attention_forward(module, query, key, value, None, scaling=0.3)
    found, weights = block_attention_forward(module, query, key, value, None, scaling=0.3)
    torch.testing.assert_close(found, expected)
    assert weights is None


def test_blocks_are_for_many_keys_in_bf16_on_some_processors(monkeypatch):
    monkeypatch.setattr(layers_winwin, "bf16_pays", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    many = torch.empty(1, 1, layers_winwin.MIN_KEYS, 8, dtype=torch.bfloat16)
    assert not blocks_are_faster(many, many)  # a gradient is wanted
    with torch.no_grad():
        assert blocks_are_faster(many, many)
        assert not blocks_are_faster(many, many[:, :, 1:])
        assert not blocks_are_faster(many.float(), many.float())
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
        assert not blocks_are_faster(many, many)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
        monkeypatch.setattr(layers_winwin, "bf16_pays", lambda: False)
        assert not blocks_are_faster(many, many)


@torch.no_grad()
def test_a_model_attends_in_blocks_where_they_are_faster(monkeypatch):
    """In bf16 the result is as far from float32's as SDPA's own."""
    model = make("optical-flow", "dpt").eval()
    model.set_attn_implementation("sdpa")
    views = [torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    exact = model(*views).flow

    def error() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            return float((model(*views).flow.float() - exact).abs().mean())

    monkeypatch.setattr(layers_winwin, "blocks_are_faster", lambda *_: False)
    plain, calls = error(), []
    monkeypatch.setattr(layers_winwin, "blocks_are_faster", lambda query, _: query.dtype == torch.bfloat16)
    forward = layers_winwin.block_attention_forward
    monkeypatch.setattr(layers_winwin, "block_attention_forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    assert error() < 1.5 * plain
    assert len(calls) == 2 * 4 + 2 * 2  # encoder blocks of both views; two attentions a decoder block
    model.set_attn_implementation("eager")
    calls.clear()
    error()
    assert not calls
