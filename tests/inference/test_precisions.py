"""The bundled checkpoints computed in other ways give the same picture, within the bounds of docs/reliability.md."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from winwin_hf import bundled
from winwin_hf.data.formats import read_image
from winwin_hf.inference.predictor import Predictor

# Mean difference from float32: of flow vectors in pixels, of depth in metres, and the share of pixels with another label.
BOUNDS = {  # twice what was seen, in the order of NAMES
    "compiled": (1e-3, 1e-5, 1e-4),
    "onnxruntime": (1e-3, 1e-5, 1e-4),
    "fp16": (0.06, 2e-3, 5e-4),
    "bf16": (0.25, 0.025, 5e-3),
    "bf16 autocast": (0.25, 0.025, 5e-3),
    "int8": (0.5, 0.03, 0.01),
}
NAMES = {
    "winwin-flow": ("bedroom_1.jpg", "bedroom_2.jpg"),
    "winwin-depth": ("room.jpg",),
    "winwin-seg": ("street.jpg",),
}


def load(name: str, way: str, folder: Path) -> Predictor:
    """A bundled checkpoint that computes in another way."""
    options: dict[str, Any] = {"device": "cpu", "min_pixels": 0}
    if way in ("fp16", "bf16"):
        return Predictor.load(name, dtype={"fp16": torch.float16, "bf16": torch.bfloat16}[way], **options)
    if way == "onnxruntime":
        from winwin_hf.convert.onnx import export

        return Predictor.load(export(name, folder, check=False).files["fp32"], min_pixels=0)
    autocast = partial(torch.autocast, "cpu", torch.bfloat16) if way == "bf16 autocast" else nullcontext
    predictor = Predictor.load(name, autocast=autocast, **options)
    if way == "compiled":
        predictor.model.forward = torch.compile(predictor.model.forward, dynamic=False)
    if way == "int8":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch announces torchao in its place
            predictor.model = torch.ao.quantization.quantize_dynamic(predictor.model, {nn.Linear}, torch.qint8)
    return predictor


def difference(predictor: Predictor, found: np.ndarray, expected: np.ndarray) -> float:
    if predictor.task == "semantic-segmentation":
        return float((found != expected).mean())
    apart = np.abs(found - expected) if found.ndim == 2 else np.linalg.norm(found - expected, axis=0)
    return float(apart.mean())


@pytest.mark.slow
@pytest.mark.parametrize("way", BOUNDS)
@pytest.mark.parametrize("name", NAMES)
def test_other_ways_give_the_same_picture(name, way, tmp_path, examples, record_property):
    if way == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="needs the packages of winwin-hf[export]")
    images = [read_image(examples / file)[:256, :320] for file in NAMES[name]]
    plain = Predictor.load(name, device="cpu", min_pixels=0)
    expected = plain(*images).values
    found = difference(plain, load(name, way, tmp_path)(*images).values, expected)
    record_property("difference", found)
    print(f"{name}, {way}: {found:.2g}")
    assert found <= BOUNDS[way][list(NAMES).index(name)]
    dark = [image // 2 for image in images]  # another picture is further away than rounding
    assert difference(plain, plain(*dark).values, expected) > found


def test_the_bundled_are_all_here():
    assert set(NAMES) == set(bundled.folders())
