"""scripts/research/blend.py: the mean of two networks, in the configuration of the first."""

from __future__ import annotations

import pytest
import torch
from research import blend
from safetensors.torch import load_file
from support.model_cases import make, randomise
from transformers import AutoModel

from winwin_hf import WinWinImageProcessor
from winwin_hf.cli.errors import UsageError


def saved(path, seed, **fields):
    model = randomise(make("depth-estimation", "linear", **fields), seed)
    model.save_pretrained(path)
    WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(path)
    return str(path)


def test_each_tensor_is_between_both(tmp_path):
    before, after = saved(tmp_path / "before", 1, depth_edge_weight=0.3), saved(tmp_path / "after", 2)
    blend.main(before, after, tmp_path / "new", 0.25)
    old, new, found = (load_file(tmp_path / name / "model.safetensors") for name in ("before", "after", "new"))
    assert any(not torch.equal(old[name], new[name]) for name in old)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, 0.75 * old[name] + 0.25 * new[name])
    assert AutoModel.from_pretrained(tmp_path / "new").config.depth_edge_weight == 0.3
    with pytest.raises(UsageError, match="exists"):
        blend.main(before, after, tmp_path / "new", 0.25)


def test_networks_that_differ_are_refused(tmp_path):
    before, after = saved(tmp_path / "before", 1), saved(tmp_path / "deeper", 2, num_hidden_layers=5)
    with pytest.raises(UsageError, match=r"winwin\.layers\.4\."):
        blend.main(before, after, tmp_path / "new", 0.5)
    farther = saved(tmp_path / "farther", 3, max_depth=77.0)
    with pytest.raises(UsageError, match=r"max_depth is .* in one and 77\.0 in the other"):
        blend.main(before, farther, tmp_path / "new", 0.5)
    make("semantic-segmentation", "linear").save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match="expected a WinWinForDepthEstimation"):
        blend.main(before, str(tmp_path / "other"), tmp_path / "new", 0.5)
    assert not (tmp_path / "new").exists()
