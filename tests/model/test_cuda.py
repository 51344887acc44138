"""On a GPU: the numbers of the CPU, each attention against the one written out, compiled graphs, memory that is too small."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.accelerator import ACCELERATOR, IS_CUDA, on_accelerator
from support.model_cases import (
    APART,
    CASES,
    TASKS,
    arguments,
    distance,
    frames,
    labels_for,
    make,
    predict,
    small_device,
)
from torch.nn.attention import SDPBackend, sdpa_kernel

from winwin_hf.inference.predictor import Predictor

pytestmark = pytest.mark.cuda
# Root mean square of the difference, in standard deviations of the prediction; halves as in test_modeling.py.
PRECISIONS = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.1}
WIDE = {"hidden_size": 64, "decoder_hidden_size": 64, "num_attention_heads": 2, "decoder_num_attention_heads": 2}
BACKEND = "inductor" if IS_CUDA else "aot_eager"  # a CPU compiles for minutes
ONLY_CUDA = pytest.mark.skipif(not IS_CUDA, reason="a CPU has no such kernel")


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    return on_accelerator(monkeypatch)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().cpu().float(), expected.detach().cpu()
    assert found.isfinite().all() and expected.std() > 1e-3
    return ((found - expected).square().mean().sqrt() / expected.std()).item()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("task", "variant"), CASES)
def test_a_gpu_gives_what_the_cpu_gives(task, variant, precision):
    model = make(task, variant)
    expected = predict(task, model.cpu(), frames(model), APART)
    model = model.to(ACCELERATOR, getattr(torch, precision))
    assert model.device.type == ACCELERATOR
    assert error(predict(task, model, frames(model), APART), expected) < PRECISIONS[precision]


@pytest.mark.parametrize("precision", ["no", "bfloat16"])
@pytest.mark.parametrize("task", TASKS)
def test_gradients_are_the_cpus(task, precision):
    gradients = []
    for device in ("cpu", ACCELERATOR):
        model = make(task, "linear").to(device).train()
        inputs = arguments(task, model, frames(model), APART)
        labels = {} if task == "pre-training" else {"labels": labels_for(task, model, "nan")[0]}
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16" and device != "cpu"):
            loss = model(**inputs, **labels).loss
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]))
    assert error(gradients[1], gradients[0]) < (1e-3 if precision == "no" else 0.2)


# ------------------------------------------------------------------ attention

KERNELS = [SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_each_kernel_of_sdpa_is_eager(kernel):
    """Flash attention takes half precision alone. A kernel that can't be used is an error of torch's."""
    half = kernel == SDPBackend.FLASH_ATTENTION and IS_CUDA
    model = make("optical-flow", "linear", **WIDE).to(torch.float16 if half else torch.float32)
    views = frames(model, 1, rows=12, columns=12)
    model.set_attn_implementation("eager")
    expected = predict("optical-flow", model, views)
    model.set_attn_implementation("sdpa")
    if kernel == SDPBackend.EFFICIENT_ATTENTION and not IS_CUDA:
        pytest.skip("a CPU has no such kernel")
    with sdpa_kernel(kernel):
        found = predict("optical-flow", model, views)
    assert error(found, expected) < (0.01 if half else 1e-4)


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_an_implementation_of_transformers_is_eager(name):
    if name != "flex_attention":
        package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}[name]
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} isn't installed")
    dtype = torch.float16 if IS_CUDA else torch.float32
    model = make("optical-flow", "linear", **WIDE).to(dtype)
    views = frames(model, 1, rows=12, columns=12)
    model.set_attn_implementation("eager")
    expected = predict("optical-flow", model, views)
    model.set_attn_implementation(name)
    assert error(predict("optical-flow", model, views), expected) < 0.01


# ------------------------------------------------------------------ compiled


@pytest.mark.parametrize("mode", ["default", pytest.param("reduce-overhead", marks=ONLY_CUDA)])
@torch.no_grad()
def test_a_compiled_network_without_graph_breaks(mode):
    """ "reduce-overhead" takes CUDA graphs: from the second call on it replays, with other values."""
    model = make("optical-flow", "refinement", num_hidden_layers=2, decoder_num_hidden_layers=2)
    options = {"mode": mode} if IS_CUDA else {}
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=BACKEND, **options)
    for seed in range(3):
        views = frames(model, batch=1, rows=4, columns=4, seed=seed)
        assert distance(compiled(*views).flow.clone(), model(*views).flow) < 1e-4


@pytest.mark.parametrize("task", ["optical-flow", "semantic-segmentation"])
def test_a_compiled_training_step_without_graph_breaks(task):
    """Not of pre-training: how many tokens it hides is known only from the mask's values."""
    model = make(task, "linear", num_hidden_layers=2, decoder_num_hidden_layers=1).train()
    inputs = arguments(task, model, frames(model), APART)
    labels = {"labels": labels_for(task, model, "nan")[0]}
    losses = []
    for forward in (model, torch.compile(model, fullgraph=True, dynamic=False, backend=BACKEND)):
        model.zero_grad()
        loss = forward(**inputs, **labels).loss
        loss.backward()
        losses.append([loss.item(), *[p.grad.norm().item() for p in model.parameters() if p.grad is not None]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-6)


# ------------------------------------------------------------------ memory


def test_a_picture_that_does_not_fit_names_a_size_that_does(monkeypatch):
    """With a gigabyte of a GPU, torch's own error is turned into the sentence, and its size is right."""
    predictor = Predictor.load("winwin-flow", device=ACCELERATOR, dtype=torch.float32, min_pixels=0)
    side = 3072 if IS_CUDA else 256
    frame = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    if IS_CUDA:
        torch.cuda.empty_cache()
        share = 1e9 / torch.cuda.get_device_properties(ACCELERATOR).total_memory
        torch.cuda.set_per_process_memory_fraction(share)
    else:
        small_device(monkeypatch, type(predictor.model), side * side // 3)
    try:
        with pytest.raises(torch.OutOfMemoryError, match=rf"^{side} x {side} pixels .* \d+ x \d+ would fit") as found:
            predictor(frame, frame)
        size = tuple(map(int, str(found.value).partition("--tile ")[2].partition(")")[0].split("x")))
        tile = np.ascontiguousarray(frame[: size[0], : size[1]])
        assert np.isfinite(replace(predictor, tile=None)(tile, tile).values).all()
    finally:
        if IS_CUDA:
            torch.cuda.set_per_process_memory_fraction(1.0)
