"""Quantised layers: nothing but their own forward knows what their weights are."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from accelerate import cpu_offload
from support.model_cases import CASES, TASKS, TOLERANCE, distance, frames, make, predict
from torch import nn

CHOSEN = [
    ("semantic-segmentation", "linear"),
    ("depth-estimation", "stem"),
    ("optical-flow", "dpt"),
    ("optical-flow", "refinement"),
    ("pre-training", "linear"),
]


def views_for(model, variant: str):
    """Two views; tall ones for a DPT head, which then computes strips of rows."""
    return frames(model, 1, 10, 4) if variant == "dpt" else frames(model)


class Packed(nn.Module):
    """A layer in the form that quantisers put in its place: another class, bytes for weights, at most three axes."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layer.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)
        self.layer = [layer]  # in a list, so that its parameters aren't this one's

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (layer,) = self.layer
        assert x.dtype == layer.weight.dtype
        assert x.ndim <= 3 or not isinstance(layer, nn.Linear)
        return layer(x)


def pack(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            setattr(module, name, Packed(child))
        else:
            pack(child)
    return module


@pytest.mark.parametrize(
    ("task", "variant", "dtype"),
    [*((*case, torch.float32) for case in CASES), *((*case, torch.bfloat16) for case in CHOSEN)],
)
def test_only_a_layer_itself_reads_its_weights(task, variant, dtype):
    model = make(task, variant).to(dtype)
    first, second = views_for(model, variant)
    views = first.to(dtype), second.to(dtype)
    expected = predict(task, model, views)
    assert distance(predict(task, pack(copy.deepcopy(model)), views), expected) < TOLERANCE


@pytest.mark.parametrize(("task", "variant"), CHOSEN)
def test_weights_that_are_loaded_layer_by_layer(task, variant):
    """Accelerate's offloading, and `device_map`s with it: weights are there only while their own layer runs."""
    model = make(task, variant)
    views = views_for(model, variant)
    expected = predict(task, model, views)
    assert distance(predict(task, cpu_offload(model, torch.device("cpu")), views), expected) < TOLERANCE


def rounding(task: str, variant: str, model: nn.Module, quantised: nn.Module) -> float:
    """The quantised model's mean error over the deviation of the values."""
    views = views_for(model, variant)
    expected, found = predict(task, model, views), predict(task, quantised, views)
    return ((found - expected).abs().mean() / expected.std()).item()


@pytest.mark.parametrize(("task", "variant"), CHOSEN)
def test_dynamic_int8(task, variant):
    model = make(task, variant)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch announces torchao in its place
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    kinds = {type(module).__module__ for module in quantised.modules() if type(module).__name__ == "Linear"}
    assert kinds == {"torch.ao.nn.quantized.dynamic.modules.linear"}
    assert 0 < rounding(task, variant, model, quantised) < 0.05


@pytest.mark.parametrize("kind", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
@pytest.mark.parametrize(("task", "variant"), CHOSEN)
def test_torchao(task, variant, kind, tmp_path):
    pytest.importorskip("torchao", reason="torchao isn't installed")
    from torchao import quantization
    from transformers import TorchAoConfig

    model = make(task, variant)
    model.save_pretrained(tmp_path)
    config = TorchAoConfig(getattr(quantization, kind)())
    loaded = TASKS[task].from_pretrained(tmp_path, quantization_config=config, dtype=torch.float32)
    assert 0 < rounding(task, variant, model, loaded) < 0.05


@pytest.mark.parametrize(("task", "variant"), CHOSEN)
def test_bitsandbytes(task, variant, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes isn't installed")
    from transformers import BitsAndBytesConfig

    model = make(task, variant)
    model.save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_8bit=True)
    loaded = TASKS[task].from_pretrained(tmp_path, quantization_config=config, device_map="cpu", dtype=torch.float32)
    assert 0 < rounding(task, variant, model, loaded) < 0.05
