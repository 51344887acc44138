"""Folders that other versions saved: older ones load and predict the same, newer ones load with a word about what is ignored."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.model_cases import TOLERANCE, distance
from support.saved_models import FOLDER, KINDS, make, predictions
from transformers import AutoImageProcessor

import winwin_hf
from winwin_hf import WinWinConfig
from winwin_hf.model.configuration_winwin import VERSION

SAVED = sorted(folder for version in FOLDER.iterdir() for folder in version.iterdir())
EARLIER = FOLDER / "0.1.0" / "flow"


def test_the_version_is_written_once():
    assert winwin_hf.__version__ == VERSION


def test_each_kind_is_kept():
    assert {folder.name for folder in FOLDER.joinpath("0.1.0").iterdir()} == set(KINDS)


@pytest.mark.parametrize("folder", SAVED, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_saved_folders_keep_loading(folder):
    """Everything they predict, within rounding; another network of the kind is far away."""
    model_class, _ = KINDS[folder.name]
    model, report = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert AutoImageProcessor.from_pretrained(folder).patch_size == model.config.patch_size
    expected, found = load_file(folder / "expected.safetensors"), predictions(model)
    assert expected.keys() <= found.keys()  # a later version may return more
    for name, tensor in expected.items():
        assert distance(found[name], tensor) < 3 * TOLERANCE, name
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    changed = predictions(model)
    assert any(distance(changed[name], tensor) > 1e-3 for name, tensor in expected.items())


def newer(tmp_path, **fields):
    folder = tmp_path / "newer"
    shutil.copytree(EARLIER, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "winwin_version": "9.1.0", **fields}))
    return folder


def test_a_newer_version_loads_with_a_word_on_what_is_ignored(tmp_path, caplog):
    folder = newer(tmp_path, sharper_edges=True)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        logging.getLogger("transformers").propagate = True
        model = KINDS["flow"][0].from_pretrained(folder)
    (line,) = {record.message for record in caplog.records if "winwin-hf" in record.message}
    assert (
        line
        == f"saved by winwin-hf 9.1.0, read by {VERSION}; sharper_edges: this version doesn't know and ignores that."
    )
    torch.testing.assert_close(model(**pair()).flow, make("flow")(**pair()).flow)


def test_a_value_that_only_a_newer_version_knows_is_refused(tmp_path):
    with pytest.raises(Exception, match="position_embedding='rope_volume': expected one of"):
        WinWinConfig.from_pretrained(newer(tmp_path, position_embedding="rope_volume"))


@pytest.mark.parametrize("version", [None, "0.0.9", VERSION, f"{VERSION}rc1", "", "nonsense"])
def test_no_word_about_versions_that_are_not_newer(version, caplog):
    saved = {**WinWinConfig().to_dict(), "winwin_version": version, "my_note": 1}
    with caplog.at_level(logging.WARNING, logger="transformers"):
        logging.getLogger("transformers").propagate = True
        config = WinWinConfig.from_dict(saved)
    assert not [record for record in caplog.records if "winwin-hf" in record.message]
    assert config.to_dict()["winwin_version"] == VERSION and not hasattr(config, "winwin_version")


def pair() -> dict[str, torch.Tensor]:
    views = torch.rand(2, 1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": views[0], "second_pixel_values": views[1]}
