"""A CPU that only emulates bf16 and fp16 is told of once, with the remedy, and takes no part in a graph."""

import logging

import pytest
import torch
from support.model_cases import make
from transformers.utils import logging as transformers_logging

from winwin_hf.model import half_products_winwin
from winwin_hf.model.half_products_winwin import bf16_pays, fast_products, has_half_products, product_seconds

IMAGE = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
CPU = {"mkldnn_bf16": True, "mkldnn_fp16": True, "avx512": True, "avx512_bf16": True}


@pytest.fixture
def cpu(monkeypatch):
    """A function that makes this processor another one."""

    def become(capability="AVX512", **features):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        for name, value in (CPU | features).items():
            place = torch.ops.mkldnn if name.startswith("mkldnn") else torch.cpu
            monkeypatch.setattr(place, f"_is_{name}_supported", lambda value=value: value, raising=False)

    transformers_logging.warning_once.cache_clear()
    bf16_pays.cache_clear()
    yield become
    bf16_pays.cache_clear()
    transformers_logging.warning_once.cache_clear()


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == half_products_winwin.__name__]


@pytest.mark.parametrize(
    ("features", "bf16", "fp16"),
    [
        ({}, True, True),
        ({"mkldnn_fp16": False}, True, False),  # Zen 4
        ({"mkldnn_fp16": False, "avx512_bf16": False}, False, False),  # Skylake: AVX-512 that converts bf16
        (dict.fromkeys(CPU, False), False, False),  # AVX2
        ({"avx512": False, "avx512_bf16": False}, True, True),  # ARM
        ({"capability": "AVX2"}, False, False),  # ATEN_CPU_CAPABILITY
    ],
)
def test_which_processors_have_products(cpu, features, bf16, fp16):
    cpu(**features)
    assert has_half_products(torch.bfloat16) is bf16
    assert has_half_products(torch.float16) is fp16
    assert has_half_products(torch.float32)


@pytest.mark.parametrize(
    ("bf16", "features", "pays"),
    [
        (0.14, {}, True),  # AMX
        (0.5, {"mkldnn_fp16": False}, True),  # Zen 4
        (2.0, {}, False),  # AVX-512's products, of a Xeon without its AMX
        (0.5, dict.fromkeys(CPU, False), False),  # has none, so nothing is measured
    ],
)
def test_fast_products_are_those_that_are_faster(cpu, monkeypatch, bf16, features, pays):
    cpu(**features)
    measured = []
    times = {torch.float32: 1.0, torch.bfloat16: bf16}
    monkeypatch.setattr(half_products_winwin, "product_seconds", lambda dtype: measured.append(dtype) or times[dtype])
    model = make("depth-estimation")
    for _ in range(2):
        assert isinstance(fast_products(model), torch.autocast) is pays
    assert len(measured) == (2 if has_half_products(torch.bfloat16) else 0)  # once
    assert not isinstance(fast_products(model.bfloat16()), torch.autocast)


def test_a_product_takes_time():
    assert 0 < product_seconds(torch.float32) < 10


def test_a_build_that_does_not_tell_is_believed(monkeypatch):
    monkeypatch.setattr(half_products_winwin, "NAMES", {torch.bfloat16: "bf17"})  # no such question
    assert has_half_products(torch.bfloat16)


@pytest.mark.parametrize("how", ["weights", "autocast"])
@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")])
def test_an_emulated_precision_is_told_of_once(cpu, caplog, how, dtype, name):
    cpu(mkldnn_bf16=False, mkldnn_fp16=False)
    model = make("depth-estimation")
    with caplog.at_level(logging.WARNING), torch.no_grad():
        model(IMAGE)
        assert not messages(caplog), "float32 is right here"
        for _ in range(2):
            if how == "weights":
                model.to(dtype)(IMAGE)
            else:
                with torch.autocast("cpu", dtype):
                    model(IMAGE)
    (message,) = messages(caplog)
    assert name in message and "dtype=torch.float32" in message


def test_no_word_where_the_processor_has_products(cpu, caplog):
    cpu()
    with caplog.at_level(logging.WARNING), torch.no_grad():
        make("depth-estimation").bfloat16()(IMAGE)
    assert not messages(caplog)


def test_the_warning_does_not_break_a_graph(cpu, caplog):
    cpu(mkldnn_bf16=False)
    model = make("depth-estimation", "linear", num_hidden_layers=1).bfloat16()
    with caplog.at_level(logging.WARNING), torch.no_grad():
        expected = model(IMAGE).predicted_depth
        transformers_logging.warning_once.cache_clear()
        caplog.clear()
        compiled = torch.compile(model, fullgraph=True, backend="eager")(IMAGE).predicted_depth
        assert len(messages(caplog)) == 1 and torch.equal(compiled, expected)


@pytest.mark.filterwarnings("ignore")  # what a trace compares in Python, and that export is newer
def test_a_model_in_half_precision_can_be_traced():
    model = make("depth-estimation", "linear").to(torch.bfloat16).requires_grad_(False)
    traced = torch.jit.trace(lambda pixels: model(pixels).predicted_depth, IMAGE.bfloat16(), check_trace=False)
    assert torch.equal(traced(IMAGE.bfloat16()), model(IMAGE.bfloat16()).predicted_depth)
