"""Depth that says how wrong it may be, and whose edges are sharp."""

import pytest
import torch

from winwin_hf import WinWinConfig, WinWinForDepthEstimation, WinWinImageProcessor
from winwin_hf.model.losses_winwin import depth_edge_loss, depth_error_loss, laplacian_scale, scale_invariant_log_loss

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_hidden_size": 32}


def test_a_constant_factor_has_no_edges():
    target = torch.rand(2, 12, 16) + 0.5
    assert depth_edge_loss(3 * target, target).item() == pytest.approx(0, abs=1e-6)
    assert depth_edge_loss(torch.ones(2, 12, 16), target).item() > 0.1


def test_edges_by_hand_and_unknown_pixels():
    depth, target = torch.ones(1, 1, 3), torch.ones(1, 1, 3)
    depth[0, 0, 2] = torch.e  # 1 apart: 0, 1; 2 apart: 1
    assert depth_edge_loss(depth, target).item() == pytest.approx(2 / 3, rel=1e-5)
    target[0, 0, 2] = torch.nan
    assert depth_edge_loss(depth, target).item() == 0
    assert depth_edge_loss(depth, torch.full_like(target, torch.nan)).item() == 0


def test_the_error_term_is_least_at_the_true_scale_and_leaves_the_depth_alone():
    target = torch.ones(1, 4, 4)
    depth = torch.full((1, 4, 4), 1.2, requires_grad=True)
    raws = torch.linspace(-4, 4, 81)
    losses = [depth_error_loss(torch.full((1, 4, 4), float(raw)), depth, target).item() for raw in raws]
    best = laplacian_scale(raws[losses.index(min(losses))], 0.01, 1.0).item()
    assert best == pytest.approx(torch.tensor(1.2).log().item(), rel=0.1)
    raw = torch.zeros(1, 4, 4, requires_grad=True)
    depth_error_loss(raw, depth, target).backward()
    assert depth.grad is None
    assert raw.grad.abs().sum() > 0


def test_the_model_has_a_second_channel_only_if_asked():
    pixels, labels = torch.rand(1, 3, 32, 48), torch.rand(1, 32, 48) + 0.5
    plain = WinWinForDepthEstimation(WinWinConfig(**SMALL))(pixels, labels=labels)
    assert plain.log_scale is None
    torch.testing.assert_close(plain.loss, scale_invariant_log_loss(plain.predicted_depth, labels))
    model = WinWinForDepthEstimation(WinWinConfig(**SMALL, depth_error=True, depth_edge_weight=0.5))
    out = model(pixels, labels=labels)
    assert out.log_scale.shape == out.predicted_depth.shape == (1, 32, 48)
    parts = scale_invariant_log_loss(out.predicted_depth, labels) + 0.5 * depth_edge_loss(out.predicted_depth, labels)
    torch.testing.assert_close(out.loss, parts + 0.1 * depth_error_loss(out.log_scale, out.predicted_depth, labels))


def test_a_saved_model_keeps_it_and_the_processor_gives_metres(tmp_path):
    model = WinWinForDepthEstimation(WinWinConfig(**SMALL, depth_error=True)).eval()
    model.save_pretrained(tmp_path)
    again = WinWinForDepthEstimation.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        out = again(torch.rand(2, 3, 32, 48))
    found = WinWinImageProcessor().post_process_depth_estimation(out, target_sizes=[(20, 40), (32, 48)])
    assert found[0]["expected_error"].shape == found[0]["confidence"].shape == (20, 40)
    error = found[1]["expected_error"] / found[1]["predicted_depth"]
    assert ((error > 0.01) & (error < 1)).all()
    assert ((found[1]["confidence"] >= 0) & (found[1]["confidence"] <= 1)).all()
    with pytest.raises(ValueError, match="log_scale"):
        depth_error_loss(torch.zeros(1, 2, 2), torch.ones(1, 4, 4), torch.ones(1, 4, 4))
