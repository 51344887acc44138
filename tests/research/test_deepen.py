"""scripts/research/deepen.py: more layers, the same answers, and gradients that wake the new ones."""

from __future__ import annotations

import pytest
import torch
import typer
from research import deepen
from support.model_cases import make
from transformers import AutoModel
from typer.testing import CliRunner

from winwin_hf import WinWinBackbone, WinWinImageProcessor, WinWinModel
from winwin_hf.cli.errors import UsageError, one_line_errors


def test_copies_are_spread_evenly():
    assert deepen.origins(2, 4) == [(0, False), (0, True), (1, False), (1, True)]
    assert deepen.origins(4, 6) == [(0, False), (0, True), (1, False), (2, False), (2, True), (3, False)]


def test_a_deeper_network_gives_the_same_answers_and_learns(tmp_path):
    model = make("depth-estimation", "linear", num_hidden_layers=2).eval()
    model.save_pretrained(tmp_path / "old")
    WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(tmp_path / "old")
    deepen.main(str(tmp_path / "old"), tmp_path / "new", 3)
    deeper = AutoModel.from_pretrained(tmp_path / "new")
    assert type(deeper) is type(model) and len(deeper.winwin.layers) == 3
    assert deeper.config.out_features == ["stage3"]
    pixels = torch.randn(1, 3, 32, 48)
    expected, found = model(pixels).predicted_depth, deeper(pixels).predicted_depth
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    (copy,) = [n for n, (_, copied) in enumerate(deepen.origins(2, 3)) if copied]
    assert deeper.winwin.layers[copy].mlp.down_proj.weight.grad.abs().max() > 0
    with pytest.raises(UsageError, match="exists"):
        deepen.main(str(tmp_path / "old"), tmp_path / "new", 4)
    with pytest.raises(UsageError, match="more than 2"):
        deepen.main(str(tmp_path / "old"), tmp_path / "other", 2)


def test_a_run_that_fails_leaves_nothing(tmp_path, monkeypatch):
    model = make("depth-estimation", "linear", num_hidden_layers=2)
    model.save_pretrained(tmp_path / "old")
    WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(tmp_path / "old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WinWinImageProcessor, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        deepen.main(str(tmp_path / "old"), tmp_path / "new", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    result = CliRunner().invoke(
        as_app(deepen.main), [str(tmp_path / "nothing"), str(tmp_path / "new"), "--layers", "4"]
    )
    assert result.exit_code in (1, 2) and result.stderr.startswith("winwin: ") and len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("kind", [WinWinBackbone, WinWinModel])
def test_an_encoder_alone_is_refused(tmp_path, kind):
    kind(make("depth-estimation", "linear").config).save_pretrained(tmp_path / "encoder")
    words = [str(tmp_path / "encoder"), str(tmp_path / "new"), "--layers", "5"]
    result = CliRunner().invoke(as_app(deepen.main), words)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert f"{tmp_path / 'encoder'}: a WinWinModel; expected a network for a task" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def as_app(main):
    app = typer.Typer()
    app.command()(one_line_errors(main))
    return app
