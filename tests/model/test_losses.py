"""Losses against values worked out by hand, and what unknown targets must not do."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from winwin_hf.model.losses_winwin import (
    bounded_laplacian_loss,
    laplacian_scale,
    normalised_pixel_loss,
    scale_invariant_log_loss,
    semantic_loss,
)

NAN, INF = float("nan"), float("inf")


def finite_gradient(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    gradients = torch.autograd.grad(loss, inputs)
    assert all(g.isfinite().all() for g in gradients)
    return list(gradients)


def test_file_stands_alone():
    """The Hub copies losses_winwin.py beside the weights: it may need nothing but torch."""
    import winwin_hf.model.losses_winwin as module

    spec = importlib.util.spec_from_file_location("losses_alone", Path(module.__file__))
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert alone.UNKNOWN_FLOW == module.UNKNOWN_FLOW


def test_laplacian_scale_bounds():
    assert laplacian_scale(torch.tensor([-100.0, 0.0, 100.0])).tolist() == pytest.approx([0.25, 2.125, 4.0])


def test_laplacian_by_hand():
    flow = torch.tensor([[1.0, 5.0], [2.0, 0.0]]).reshape(2, 1, 2)  # two pixels: (1, 2) and (5, 0)
    target = torch.tensor([[0.0, 5.0], [4.0, 1.0]]).reshape(2, 1, 2)  # errors 1+2 and 0+1
    loss = bounded_laplacian_loss(flow, torch.zeros(1, 2), target)
    assert loss.item() == pytest.approx((3 + 1) / 2 / 2.125 + math.log(2.125))


def test_laplacian_penalty_brings_a_saturated_scale_back():
    """At the bound the likelihood has no gradient however small the error is; within the free range nothing changes."""
    flow = torch.zeros(1, 2, 1, 3)
    c = torch.tensor([[[30.0, 0.0, -30.0]]], requires_grad=True)
    plain = bounded_laplacian_loss(flow, c, flow)
    assert torch.autograd.grad(plain, c)[0][0, 0, 0].abs() < 1e-9
    penalised = bounded_laplacian_loss(flow, c, flow, penalty=1e-3)
    gradient = torch.autograd.grad(penalised, c)[0][0, 0]
    assert gradient[0] > 1e-3 and gradient[2] < -1e-3
    assert gradient[1] == pytest.approx(
        torch.autograd.grad(bounded_laplacian_loss(flow, c, flow), c)[0][0, 0, 1].item()
    )
    assert (penalised - plain).item() == pytest.approx(1e-3 * (26**2 + 26**2) / 3, rel=1e-4)


@pytest.mark.parametrize("unknown", [NAN, INF, -INF, 1e4, 1.6e9])
def test_laplacian_unknown_pixels_do_not_count(unknown):
    torch.manual_seed(0)
    flow = torch.randn(3, 4, 2, 8, 8, requires_grad=True)
    log_scale = torch.randn(3, 4, 8, 8, requires_grad=True)
    target = torch.randn(3, 4, 2, 8, 8)
    target[:, :, 1, :, 4:] = unknown  # one channel is enough to make a pixel unknown
    loss = bounded_laplacian_loss(flow, log_scale, target)
    half = bounded_laplacian_loss(flow[..., :4], log_scale[..., :4], target[..., :4])
    torch.testing.assert_close(loss, half)
    for gradient in finite_gradient(loss, flow, log_scale):
        assert (gradient[..., 4:] == 0).all() and (gradient[..., :4] != 0).any()


def test_nothing_known_is_zero_with_a_graph():
    flow = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = bounded_laplacian_loss(flow, flow[:, 0], torch.full((1, 2, 4, 4), NAN))
    assert loss.item() == 0 and (finite_gradient(loss, flow)[0] == 0).all()
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = semantic_loss(logits, torch.full((1, 4, 4), 255), ignore_index=255)
    assert loss.item() == 0 and (finite_gradient(loss, logits)[0] == 0).all()
    depth = torch.rand(2, 4, 4, requires_grad=True)
    loss = scale_invariant_log_loss(depth, torch.zeros(2, 4, 4))
    assert loss.item() == 0 and (finite_gradient(loss, depth)[0] == 0).all()
    pixels = torch.randn(1, 3, 4, requires_grad=True)
    loss = normalised_pixel_loss(pixels, torch.randn(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool))
    assert loss.item() == 0 and (finite_gradient(loss, pixels)[0] == 0).all()


def test_windows_give_what_an_image_gives():
    """(B, N, ...) and the same windows as (B * N, ...) are one number: no loss knows of windows."""
    torch.manual_seed(0)
    flow, target, c = torch.randn(2, 3, 2, 8, 8), torch.randn(2, 3, 2, 8, 8), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(
        bounded_laplacian_loss(flow, c, target),
        bounded_laplacian_loss(flow.flatten(0, 1), c.flatten(0, 1), target.flatten(0, 1)),
    )
    logits, labels = torch.randn(2, 3, 5, 8, 8), torch.randint(0, 5, (2, 3, 8, 8))
    torch.testing.assert_close(semantic_loss(logits, labels), semantic_loss(logits.flatten(0, 1), labels.flatten(0, 1)))


def test_semantic_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).reshape(1, 2, 1, 2)  # pixel 0: (2, 0), pixel 1: (0, 0)
    expected = math.log(1 + math.exp(-2.0))
    assert semantic_loss(logits, torch.tensor([[[0, 255]]])).item() == pytest.approx(expected)
    assert semantic_loss(logits, torch.tensor([[[0, 1]]])).item() == pytest.approx((expected + math.log(2)) / 2)
    assert semantic_loss(logits, torch.tensor([[[0, -1]]]), ignore_index=-1).item() == pytest.approx(expected)


def test_semantic_with_weights_is_a_weighted_average():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]]).reshape(1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, 255]]])
    one, two = math.log(1 + math.exp(-2.0)), math.log(2)
    expected = (3 * one + 0.5 * two) / 3.5
    assert semantic_loss(logits, labels, weights=[3.0, 0.5]).item() == pytest.approx(expected)
    assert semantic_loss(logits, labels, weights=[3e-6, 5e-7]).item() == pytest.approx(expected), (
        "their scale is nothing"
    )
    nothing = torch.full_like(labels, 255)
    assert semantic_loss(logits, nothing, weights=[3.0, 0.5]).item() == 0


def test_complex_labels_are_refused():
    with pytest.raises(ValueError, match=r"is of torch\.complex64: expected real numbers"):
        scale_invariant_log_loss(torch.ones(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.complex64))


def test_a_class_that_the_network_lacks_is_named():
    logits, labels = torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 4], [255, -1]]])
    for weights in (None, [1.0, 1.0, 1.0]):
        with pytest.raises(
            ValueError, match=r"hold the class ids -1, 4, and there are 3 labels: expected 0 to 2, or 255"
        ):
            semantic_loss(logits, labels, weights=weights)
    compiled = torch.compile(semantic_loss, backend="eager", fullgraph=True)
    right = labels.where(labels == 0, 255)
    assert torch.equal(compiled(logits, right), semantic_loss(logits, right))


def test_scale_invariant_by_hand():
    depth, target = torch.tensor([[[2.0, 8.0, 3.0]]]), torch.tensor([[[1.0, 1.0, NAN]]])
    g = [math.log(2), math.log(8)]
    mean = sum(g) / 2
    expected = math.sqrt((g[0] ** 2 + g[1] ** 2) / 2 - 0.85 * mean**2)
    assert scale_invariant_log_loss(depth, target).item() == pytest.approx(expected, abs=2e-3)
    assert scale_invariant_log_loss(depth, target, eps=1e-12).item() == pytest.approx(expected, abs=1e-5)
    known = torch.tensor([[[1.0, 1.0, 50.0]]])
    assert scale_invariant_log_loss(depth, known, max_depth=10).item() == pytest.approx(expected, abs=2e-3)


def test_scale_invariant_properties():
    torch.manual_seed(0)
    target = torch.rand(2, 3, 8, 8) + 0.5
    target[:, :, 0] = 0
    target[:, :, 1] = INF
    depth = target.nan_to_num(posinf=1.0).clamp(min=0.1).requires_grad_()
    loss = scale_invariant_log_loss(depth, target)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    finite_gradient(loss, depth)  # a bare square root has an infinite gradient at a perfect fit
    assert scale_invariant_log_loss(depth * 3, target, variance_focus=1.0).item() == pytest.approx(0, abs=1e-4)
    assert scale_invariant_log_loss(depth * 3, target, variance_focus=0.0).item() == pytest.approx(math.log(3), 2e-3)
    # an image with nothing known does not pull the mean down
    more = torch.cat([target, torch.zeros(1, 3, 8, 8)])
    tripled = scale_invariant_log_loss(depth * 3, target)
    torch.testing.assert_close(scale_invariant_log_loss(torch.cat([depth * 3, torch.ones(1, 3, 8, 8)]), more), tripled)


def test_normalised_pixels_by_hand():
    patches = torch.tensor([[[1.0, 3.0], [10.0, 10.0], [0.0, 7.0]]])  # unbiased variance of (1, 3) is 2
    prediction = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [99.0, 99.0]]])
    mask = torch.tensor([[True, True, False]])
    first = (1 / math.sqrt(2)) ** 2  # target (-0.7071, 0.7071)
    assert normalised_pixel_loss(prediction, patches, mask).item() == pytest.approx((first + 1) / 2, abs=1e-5)


def test_float32_under_autocast():
    torch.manual_seed(0)
    flow, c, target = torch.randn(1, 2, 8, 8), torch.randn(1, 8, 8), torch.randn(1, 2, 8, 8)
    depth = torch.rand(1, 8, 8) + 1
    plain = [bounded_laplacian_loss(flow, c, target), scale_invariant_log_loss(depth, depth.flip(1))]
    plain += [semantic_loss(flow, c > 0), normalised_pixel_loss(c, c.flip(1), c[..., 0] > 0)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = [bounded_laplacian_loss(flow, c, target), scale_invariant_log_loss(depth, depth.flip(1))]
        cast += [semantic_loss(flow, c > 0), normalised_pixel_loss(c, c.flip(1), c[..., 0] > 0)]
    for a, b in zip(plain, cast, strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b)
    assert bounded_laplacian_loss(flow.bfloat16(), c.bfloat16(), target.bfloat16()).dtype == torch.float32
