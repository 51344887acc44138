"""Direct and tiled prediction."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from winwin_hf.inference import DensePrediction, predict_flow, predict_tiled, tile_positions


class FakeFlow(torch.nn.Module):
    """flow is the first frame's channels 0 and 1, log_scale its channel 2: what comes out says what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(patch_size=16)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, pixel_values, second_pixel_values=None):
        assert not self.training and torch.is_inference_mode_enabled()
        self.sizes.append(tuple(pixel_values.shape))
        shift = 0 if second_pixel_values is None else (second_pixel_values - pixel_values)[:, :2]
        return {"flow": pixel_values[:, :2] + shift, "log_scale": pixel_values[:, 2]}


class PositionFlow(FakeFlow):
    """Each tile answers with a number of its own and a given c, so blending can be computed by hand."""

    def __init__(self, answers: list[tuple[float, float]]) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, pixel_values, second_pixel_values=None):
        flow, c = self.answers[len(self.sizes)]
        super().forward(pixel_values)
        return SimpleNamespace(
            flow=torch.full_like(pixel_values[:, :2], flow), log_scale=torch.full_like(pixel_values[:, 0], c)
        )


def frames(batch: int = 1, height: int = 64, width: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, 3, height, width, generator=generator) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize(("overlap", "passes"), [(0.5, 54), (0.7, 135), (0.9, 1050)])
def test_number_of_tiles_of_croco_flow_on_full_hd(overlap, passes):
    assert len(tile_positions(1080, 320, overlap)) * len(tile_positions(1920, 384, overlap)) == passes


@pytest.mark.parametrize("length", [10, 11, 31, 100, 101, 1080])
@pytest.mark.parametrize("overlap", [0, 0.3, 0.5, 0.9])
def test_tile_positions(length, overlap):
    tile = 10
    starts = tile_positions(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] + tile == length
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    if gaps:
        assert max(gaps) - min(gaps) <= 1 and 0 < sum(gaps) / len(gaps) <= (1 - overlap) * tile + 1e-6
        # One tile fewer would overlap less than asked.
        assert len(gaps) == 1 or (length - tile) / (len(gaps) - 1) > (1 - overlap) * tile - 1e-6


def test_positions_that_make_no_sense():
    for overlap in (-0.1, 1.0):
        with pytest.raises(ValueError, match="overlap"):
            tile_positions(100, 10, overlap)
    with pytest.raises(ValueError, match="tile"):
        tile_positions(100, 0, 0.5)


def test_direct_is_one_pass_and_restores_the_mode():
    model = FakeFlow().train()
    first, second = frames(2)
    result = predict_flow(model, first, second)
    assert isinstance(result, DensePrediction) and result.passes == 1 and len(model.sizes) == 1 and model.training
    assert torch.equal(result.flow, first[:, :2] + (second - first)[:, :2])
    assert torch.equal(result.log_scale, first[:, 2])


@pytest.mark.parametrize("tile", [(64, 96), (1000, 1000)])
def test_one_tile_is_the_direct_prediction(tile):
    first, second = frames()
    direct, tiled = predict_flow(FakeFlow(), first, second), predict_flow(FakeFlow(), first, second, tile=tile)
    assert torch.equal(direct.flow, tiled.flow) and torch.equal(direct.log_scale, tiled.log_scale)


@pytest.mark.parametrize("tile_batch", [1, 4])
def test_tiles_of_a_pixelwise_model_give_the_direct_prediction(tile_batch):
    # Every tile says the same of a pixel, so any weights must give that back: positions, sums and weights are consistent.
    first, second = frames(2)
    model = FakeFlow()
    tiled = predict_flow(model, first, second, tile=(32, 48), overlap=0.6, tile_batch=tile_batch)
    direct = predict_flow(FakeFlow(), first, second)
    torch.testing.assert_close(tiled.flow, direct.flow)
    torch.testing.assert_close(tiled.log_scale, direct.log_scale)
    assert tiled.passes == len(model.sizes) and model.sizes[0] == (2 * tile_batch, 3, 32, 48)


def test_blending_by_hand():
    first, second = frames(width=96)
    model = PositionFlow([(1.0, -0.5), (5.0, 1.0)])
    result = predict_flow(model, first, second, tile=(64, 64), overlap=0.5)
    c = torch.tensor([-0.5, 1.0])
    weight = torch.exp(-2 * 15 * (torch.sigmoid(c / 3) - 0.5))
    middle = (1.0 * weight[0] + 5.0 * weight[1]) / weight.sum()
    torch.testing.assert_close(
        result.flow[0, 0, 0, [0, 40, 90]], torch.stack([torch.tensor(1.0), middle, torch.tensor(5.0)])
    )
    c_middle = (c * weight).sum() / weight.sum()
    torch.testing.assert_close(result.log_scale[0, 0, [0, 40, 90]], torch.stack([c[0], c_middle, c[1]]))
    plain = predict_flow(PositionFlow([(1.0, -0.5), (5.0, 1.0)]), first, second, tile=(64, 64), beta=0.0)
    assert plain.flow[0, 0, 0, 40].item() == pytest.approx(3.0)


def test_a_certain_tile_beats_an_uncertain_one_without_overflow():
    first, second = frames(width=96)
    result = predict_flow(PositionFlow([(1.0, -500.0), (5.0, 500.0)]), first, second, tile=(64, 64))
    assert result.flow[0, 0, 0, 40].item() == pytest.approx(1.0, abs=1e-5) and result.flow.isfinite().all()


def test_depth_and_logits_are_averaged():
    class Dense(torch.nn.Module):
        def forward(self, pixel_values):
            return {"predicted_depth": pixel_values[:, 0], "logits": pixel_values.repeat(1, 2, 1, 1)}

    first, _ = frames()
    result = predict_tiled(Dense(), first, tile=(32, 32))
    torch.testing.assert_close(result.predicted_depth, first[:, 0])
    torch.testing.assert_close(result.logits, first.repeat(1, 2, 1, 1))
    assert result.flow is None
    with pytest.raises(ValueError, match="no flow"):
        predict_flow(FakeDepthPair(), first, first)


class FakeDepthPair(torch.nn.Module):
    def forward(self, pixel_values, second_pixel_values):
        return {"predicted_depth": pixel_values[:, 0]}


def test_errors():
    first, second = frames()
    with pytest.raises(ValueError, match="same size"):
        predict_flow(FakeFlow(), first, second[..., :64])
    with pytest.raises(ValueError, match="whole patches of 16"):
        predict_flow(FakeFlow(), first, second, tile=(30, 48))
    with pytest.raises(ValueError, match="batch, channels"):
        predict_flow(FakeFlow(), first[0], second[0])
    with pytest.raises(ValueError, match="tile_batch"):
        predict_flow(FakeFlow(), first, second, tile=(32, 32), tile_batch=0)
    with pytest.raises(ValueError, match="no map"):
        predict_tiled(Nothing(), first, tile=(64, 96))


class Nothing(torch.nn.Module):
    def forward(self, pixel_values):
        return {}


def test_a_real_model():
    modeling = pytest.importorskip("winwin_hf.modeling_winwin")
    from winwin_hf.configuration_winwin import WinWinConfig

    torch.manual_seed(0)
    model = modeling.WinWinForOpticalFlow(
        WinWinConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, decoder_hidden_size=32,
            decoder_num_hidden_layers=2, decoder_num_attention_heads=2, head_hidden_size=16, head_num_layers=1,
        )
    )  # fmt: skip
    first, second = frames()
    direct = predict_flow(model, first, second)
    with torch.inference_mode():
        expected = model.eval()(pixel_values=first, second_pixel_values=second)
    assert torch.equal(direct.flow, expected.flow) and direct.log_scale.shape == (1, 64, 96)
    tiled = predict_flow(model, first, second, tile=(32, 48), tile_batch=3)
    assert tiled.flow.shape == direct.flow.shape and tiled.flow.isfinite().all() and tiled.passes > 1
