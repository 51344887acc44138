"""scripts/research/roofline.py: FLOPs and bytes of kernels whose counts are known, and a table of a small training's step."""

from __future__ import annotations

import pytest
import torch
import typer
from accelerate.state import AcceleratorState
from research.roofline import Ceiling, Ledger, extent, main, step_of, table
from torch.nn import functional as F
from typer.testing import CliRunner

from winwin_hf.cli.errors import one_line_errors

SMALL = [
    "data.settings.texture_count=2",
    "model.config.num_hidden_layers=1",
    "model.config.decoder_num_hidden_layers=1",
    "optimization.batch_size=1",
]


def ledger() -> Ledger:
    return Ledger(Ceiling({torch.float32: 1e12, torch.bfloat16: 2e12}, 1e11))


def test_products_of_forward_and_backward_are_counted():
    a = torch.randn(8, 16, requires_grad=True)
    b = torch.randn(16, 4, requires_grad=True)
    query, key = torch.randn(1, 2, 8, 16, requires_grad=True), torch.randn(1, 2, 24, 16, requires_grad=True)
    with ledger() as found:
        (a @ b).sum().backward()
    assert found.entries["matrix products"].flops == 3 * 2 * 8 * 16 * 4
    assert found.entries["matrix products"].calls == 3
    with ledger() as found:
        F.scaled_dot_product_attention(query, key, key).sum().backward()
    assert found.entries["attention"].flops == (2 + 5) * 2 * 2 * 8 * 24 * 16
    with ledger() as found:
        torch.randn(1, 4, 6, 6).mul(2)
    assert found.entries["other element-wise and sums"].moved >= 2 * 4 * 36 * 4
    assert "attention" not in found.entries


def test_an_expanded_tensor_is_as_large_as_what_it_holds():
    assert extent(torch.zeros(3, 4)) == 48
    assert extent(torch.zeros(3, 1).expand(3, 100)) == 12
    assert extent(torch.zeros(0, 4)) == 0


def test_a_step_has_a_roof():
    AcceleratorState._reset_state(reset_partial_state=True)  # of another test's precision
    step = step_of("flow-synthetic", SMALL)
    with ledger() as found:
        loss = step()
    assert torch.isfinite(loss)
    for entry in found.entries.values():
        assert 0 <= entry.roof <= entry.seconds and entry.calls > 0
    assert {"matrix products", "convolutions", "attention", "optimiser"} <= set(found.entries)
    lines = table(found, 1, 1.0).splitlines()
    assert lines[-1].startswith("| a step") and len(lines) == len(found.entries) + 5


def test_a_ceiling_is_what_large_operations_reach():
    found = Ceiling.measure(side=64, megabytes=1)
    assert found.memory > 0 and min(found.products.values()) > 0
    assert set(found.products) == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nope"], "nope: no such file"),
        (["camvid"], "CamVid/train is missing"),
        (["--set", "optimization.steps=x"], "optimization.steps"),
    ],
)
def test_misuse_is_told_before_the_machine_is_measured(tmp_path, monkeypatch, words, told):
    def measure(*_):
        raise AssertionError("measured")

    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(Ceiling, "measure", measure)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(one_line_errors(main))
    result = CliRunner().invoke(app, words)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == 2 and told in result.stderr and len(result.stderr.splitlines()) == 1
