"""Numbers: gradients against differences in float64, the same twice, and pictures without content."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.model_cases import APART, CASES, TASKS, arguments, frames, labels_for, make, predict
from transformers import set_seed

from winwin_hf import bundled
from winwin_hf.data.formats import read_image
from winwin_hf.inference.predictor import Predictor


@pytest.mark.parametrize(("task", "variant"), CASES)
def test_gradients_in_float64(task, variant, monkeypatch):
    """
    The slope of the loss along a random direction of all weights is what backward says, to 1e-6.

    What the models compute in float32 on purpose is computed in float64 here, or its rounding would hide small faults.
    """
    model = make(task, variant).double().train()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    # Matching and refinement stop gradients on purpose; without that the slope is the whole one.
    monkeypatch.setattr(torch.Tensor, "detach", lambda tensor: tensor)
    monkeypatch.setattr(torch, "no_grad", torch.enable_grad)
    views = [view.double() for view in frames(model)]
    inputs = arguments(task, model, views, APART)
    if task != "pre-training":
        inputs["labels"] = labels_for(task, model, "nan")[0]
    loss = model(**inputs).loss
    assert loss.dtype == torch.float64
    loss.backward()
    generator = torch.Generator().manual_seed(3)
    parameters = [p for p in model.parameters() if p.grad is not None]
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.abs().mean() for p in parameters]
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, directions, strict=True)).item()

    def moved(step: float) -> float:
        for p, d in zip(parameters, directions, strict=True):
            p.data.add_(d, alpha=step)
        value = model(**inputs).loss.item()
        for p, d in zip(parameters, directions, strict=True):
            p.data.sub_(d, alpha=step)
        return value

    step = 1e-6
    difference = (moved(step) - moved(-step)) / (2 * step)
    assert abs(slope) > 1e-3, "a flat loss proves nothing"
    assert difference == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(("task", "variant"), CASES)
def test_the_same_twice(task, variant):
    """Bit for bit: two models of one seed, and two passes of one model."""
    models = []
    for _ in range(2):
        set_seed(5)
        models.append(TASKS[task](make(task, variant).config).eval())
    weights = [model.state_dict() for model in models]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    model = make(task, variant)
    views = frames(model)
    assert torch.equal(predict(task, model, views, APART), predict(task, model, views, APART))


# ------------------------------------------------------------------ pictures without content, bundled weights


def pictures(height: int = 96, width: int = 128) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return {"black": np.zeros_like(noise), "white": np.full_like(noise, 255), "noise": noise}


@pytest.fixture(scope="module")
def networks() -> dict[str, Predictor]:
    return {name: Predictor.load(name, device="cpu", min_pixels=0) for name in bundled.folders()}


@pytest.mark.parametrize("kind", pictures())
@pytest.mark.parametrize("name", sorted(bundled.folders()))
def test_pictures_without_content_give_finite_values_in_range(name, kind, networks):
    network, image = networks[name], pictures()[kind]
    values = network(image, image if name == "winwin-flow" else None).values
    assert np.isfinite(values).all()
    if name == "winwin-depth":
        config = network.model.config
        assert values.min() >= config.min_depth * (1 - 1e-6) and values.max() <= config.max_depth * (1 + 1e-6)


@pytest.fixture(scope="module")
def street(examples) -> np.ndarray:
    return read_image(examples / "street.jpg")


def test_identical_frames_do_not_move(networks, street):
    black, white, noise = pictures(192, 256).values()
    bounds = [(street[100:292, 100:356], 0.1), (noise, 0.1)]
    bounds += [(black, 2), (white, 2)]  # nothing to match: they drift down by a pixel
    for frame, bound in bounds:
        assert np.abs(networks["winwin-flow"](frame, frame).values).mean() < bound


@pytest.mark.parametrize("motion", [(1, 0), (0, 1), (-1, 0), (0, -1)], ids=str)
def test_frames_a_pixel_apart(networks, street, motion):
    """A window of a photograph, moved by a pixel: what is inside moves the other way."""
    right, down = motion
    first = street[100:292, 100:356]
    second = street[100 + down : 292 + down, 100 + right : 356 + right]
    inside = networks["winwin-flow"](first, second).values[:, 16:-16, 16:-16]
    expected = -np.array(motion)[:, None, None]
    assert np.abs(inside - expected).mean() < 0.25
    assert np.abs(np.median(inside, axis=(1, 2)) - expected[:, 0, 0]).max() < 0.25
