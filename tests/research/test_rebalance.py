"""scripts/research/rebalance.py: each head's logits move by the classes' weights, and by nothing else."""

from __future__ import annotations

import pytest
import torch
import typer
from research import rebalance
from support.model_cases import make
from transformers import AutoModelForSemanticSegmentation

from winwin_hf import WinWinImageProcessor


@pytest.mark.parametrize("head", ["linear", "conv", "dpt"])
def test_logits_move_by_the_logarithm_of_the_weights(head, tmp_path):
    model = make("semantic-segmentation", head).eval()
    weights = [0.5 + n for n in range(model.config.num_labels)]
    model.config.semantic_loss_weights = weights
    model.save_pretrained(tmp_path / "old")
    WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(tmp_path / "old")
    rebalance.main(str(tmp_path / "old"), tmp_path / "new", 0.6)
    new = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "new")
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        change = new(pixels).logits - model(pixels).logits
    expected = -0.6 * torch.tensor(weights).log()[:, None, None].expand_as(change[0])
    torch.testing.assert_close(change[0], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(typer.BadParameter, match="exists"):
        rebalance.main(str(tmp_path / "old"), tmp_path / "new", 0.6)


def test_what_has_no_weights_is_refused(tmp_path):
    model = make("semantic-segmentation", "linear")
    with pytest.raises(ValueError, match="semantic_loss_weights"):
        rebalance.rebalance(model, 1.0)
    depth = make("depth-estimation", "linear")
    depth.save_pretrained(tmp_path / "depth")
    with pytest.raises(typer.BadParameter, match="WinWinForSemanticSegmentation"):
        rebalance.main(str(tmp_path / "depth"), tmp_path / "new", 1.0)
    assert not (tmp_path / "new").exists()
