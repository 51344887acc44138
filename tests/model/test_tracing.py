"""Recorded graphs: what they predict at sizes other than the recorded one."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from support.model_cases import BINOCULAR, distance, frames, make
from torch import nn

SIZES = [(1, 6, 4), (3, 5, 11)]  # batch, rows and columns in patches; recorded at (2, 4, 6)
SHALLOW = {"num_hidden_layers": 2, "decoder_num_hidden_layers": 1, "global_attention_indices": [1]}
MAPS = {"optical-flow": "flow", "depth-estimation": "predicted_depth", "semantic-segmentation": "logits"}
NAMES = ("pixel_values", "second_pixel_values")


class Plain(nn.Module):
    """Tensors in, one map out."""

    def __init__(self, model: nn.Module, task: str):
        super().__init__()
        self.model, self.name = model, MAPS.get(task, "logits")

    def forward(self, *views: torch.Tensor) -> torch.Tensor:
        return self.model(*views)[self.name]


def views_of(model, task: str, batch: int, rows: int, columns: int) -> tuple[torch.Tensor, ...]:
    return frames(model, batch, rows, columns)[: 2 if task in BINOCULAR else 1]


def trace(model, task: str, size: tuple[int, int, int]):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # what is compared in Python, and that export is newer
        return torch.jit.trace(Plain(model, task), views_of(model, task, *size), check_trace=False)


@pytest.mark.parametrize(
    ("task", "variant"),
    [
        ("semantic-segmentation", "linear"),
        ("semantic-segmentation", "stem"),
        ("depth-estimation", "dpt"),
        ("optical-flow", "linear"),
        ("optical-flow", "dpt"),
        ("optical-flow", "refinement"),
    ],
)
def test_a_traced_model_takes_any_size(task, variant):
    """A tall frame is traced: at its size the DPT head computes strips, and matching leaves out keys, if nothing is recorded."""
    model = make(task, variant, decoder_attention_tokens=20, **SHALLOW)
    traced = trace(model, task, (2, 12, 3))
    for size in SIZES:
        views = views_of(model, task, *size)
        with torch.no_grad():
            assert distance(traced(*views), Plain(model, task)(*views)) < 1e-4, size


def export(model, task: str, size: tuple[int, int, int]):
    """A program for any batch, height and width."""
    names = NAMES[: 2 if task in BINOCULAR else 1]
    dim, patch = torch.export.Dim, model.config.patch_size
    axes = {0: dim("batch"), 2: patch * dim("rows"), 3: patch * dim("columns")}
    inputs = dict(zip(names, views_of(model, task, *size), strict=True))
    with torch.no_grad():
        return torch.export.export(model, (), inputs, dynamic_shapes=dict.fromkeys(names, axes))


@pytest.mark.parametrize("record", [trace, export])
@pytest.mark.parametrize(("task", "variant"), [("semantic-segmentation", "vitdet"), ("pre-training", "linear")])
def test_what_a_graph_would_freeze_is_refused(task, variant, record):
    with pytest.raises(ValueError, match="no recorded graph fits inputs of other sizes"):
        record(make(task, variant, **SHALLOW), task, (2, 4, 6))


@pytest.mark.parametrize(
    ("task", "variant"),
    [
        ("semantic-segmentation", "linear"),
        pytest.param("depth-estimation", "linear", marks=pytest.mark.slow),
        pytest.param("optical-flow", "linear", marks=pytest.mark.slow),
        pytest.param("depth-estimation", "dpt", marks=pytest.mark.slow),
        pytest.param("optical-flow", "refinement", marks=pytest.mark.slow),  # a graph of thousands of operations
    ],
)
def test_an_exported_program_takes_any_size(task, variant, tmp_path):
    model = make(task, variant, **SHALLOW)
    names = NAMES[: 2 if task in BINOCULAR else 1]
    program = export(model, task, (2, 4, 6))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2")
    guarded = "check_guards" in inspect.signature(loaded.module).parameters  # since torch 2.9
    loaded = loaded.module(check_guards=False) if guarded else loaded.module()
    for size in SIZES:
        inputs = dict(zip(names, views_of(model, task, *size), strict=True))
        with torch.no_grad():
            found, expected = loaded(**inputs), model(**inputs)
        assert type(found) is type(expected)
        assert distance(found[MAPS[task]], expected[MAPS[task]]) < 1e-4, size
