"""Files of weights: whole or refused, and a network has all of its tensors or isn't loaded for use."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.model_cases import SMALL
from transformers import AutoModel, AutoModelForDepthEstimation, AutoModelForSemanticSegmentation, pipeline

from winwin_hf import (
    WinWinConfig,
    WinWinForDepthEstimation,
    WinWinForOpticalFlow,
    WinWinForSemanticSegmentation,
    WinWinImageProcessor,
)
from winwin_hf.hub.contents import model_contents
from winwin_hf.inference.loading import load_network
from winwin_hf.model import hub_files_winwin
from winwin_hf.model.hub_files_winwin import check_hub_index
from winwin_hf.model.weights_winwin import (
    check_index,
    count_parameters,
    files_of_index,
    reason_of,
    refuse_larger,
    refuse_zero_end,
    tensors_of,
)


@pytest.fixture
def depth(tmp_path: Path) -> Path:
    """A small model's folder."""
    torch.manual_seed(0)
    WinWinForDepthEstimation(WinWinConfig(**SMALL)).save_pretrained(tmp_path / "depth")
    WinWinImageProcessor(patch_size=8).save_pretrained(tmp_path / "depth")
    return tmp_path / "depth"


def change(folder: Path, change) -> None:
    """Rewrites the weights of a folder after `change(tensors)`."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_safetensors_file_says_its_length(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3, 4)}, path)
    whole = path.read_bytes()
    assert tensors_of(path)["a"]["shape"] == [3, 4]
    for content in (whole[:-1], whole[:20], whole + b"x", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            tensors_of(path)


def test_files_without_end_are_refused(tmp_path: Path):
    header = json.dumps(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_001)}
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match=r"model\.safetensors: 100001 tensors; expected at most 100000"):
        tensors_of(tmp_path / "model.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"t{i}": f"model-{i}.safetensors" for i in range(5_001)}}))
    with pytest.raises(ValueError, match=r"index\.json: names 5001 files; expected at most 5000"):
        files_of_index(index)


@pytest.mark.parametrize("content", ["{}", "null", "[]", '{"weight_map": {"a": "../b.safetensors"}}'])
def test_the_index_of_a_repository_is_looked_at(tmp_path: Path, monkeypatch, content: str):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    monkeypatch.setattr(hub_files_winwin, "hf_hub_download", lambda *_, **__: str(index))
    with pytest.raises(ValueError, match=r"index\.json: names .*; expected files such as model-00001"):
        check_hub_index("me/flow")
    check_hub_index(str(tmp_path))  # a folder, which is looked at elsewhere


@pytest.mark.parametrize("metadata", [{}, {"metadata": None}])
def test_an_index_that_transformers_cant_read_is_named(tmp_path: Path, metadata: dict[str, None]):
    (tmp_path / "model-00001-of-00001.safetensors").touch()
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}, **metadata}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json: no \"metadata\"; expected an object"):
        check_index(tmp_path)


@pytest.mark.parametrize("subfolder", ["", "inside"])
@pytest.mark.parametrize("place", ["repository", "folder"])
def test_weights_of_a_repository_or_a_subfolder_are_looked_at_too(
    depth: Path, tmp_path: Path, place: str, subfolder: str
):
    """A disk that lost the end of a file of the Hub's cache; nothing downloads it again, since its size is right."""
    commit, cache = "1" * 40, tmp_path / "models--a--b"
    folder = (cache / "snapshots" / commit if place == "repository" else tmp_path / "here") / subfolder
    shutil.copytree(depth, folder)
    (cache / "refs").mkdir(parents=True, exist_ok=True)
    (cache / "refs/main").write_text(commit)
    source = "a/b" if place == "repository" else str(tmp_path / "here")
    options = {"cache_dir": tmp_path, "local_files_only": True, **({"subfolder": subfolder} if subfolder else {})}
    WinWinForDepthEstimation.from_pretrained(source, **options)
    weights = folder / "model.safetensors"
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.truncate(size // 2)
        file.truncate(size)
    with pytest.raises(ValueError, match=r"model\.safetensors: its last \d+ bytes are zeros"):
        WinWinForDepthEstimation.from_pretrained(source, **options)


def test_a_header_takes_no_memory(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    for length, text in ((10**12, b"{}"), (4, b"[[[["), (6000, b"[" * 6000), (2, b"[]"), (8, b'{"a": 1}')):
        path.write_bytes(struct.pack("<Q", length) + text)
        with pytest.raises(ValueError, match=r"^.*model\.safetensors: no safetensors file"):
            tensors_of(path)
    header = json.dumps({"a": {"dtype": "F32", "data_offsets": [0, 0]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="no safetensors file"):
        count_parameters(path)


def test_a_config_that_describes_a_larger_network_is_refused_before_it_is_built(depth: Path, monkeypatch):
    path = depth / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 16384, "num_attention_heads": 64}))
    monkeypatch.setattr(WinWinForDepthEstimation, "__init__", None)  # nothing may be built
    for load in (AutoModel.from_pretrained, AutoModelForDepthEstimation.from_pretrained):
        with pytest.raises(ValueError, match=r"describes 12\d\d\d M parameters, and its weights are 0 M"):
            load(depth)


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path):
    """Depth with its error has two channels, as a segmentation of two classes: the shapes alone don't tell."""
    WinWinForDepthEstimation(WinWinConfig(**{**SMALL, "num_labels": 2}, depth_error=True)).save_pretrained(tmp_path)
    WinWinImageProcessor(patch_size=8).save_pretrained(tmp_path)
    for load in (WinWinForSemanticSegmentation.from_pretrained, AutoModelForSemanticSegmentation.from_pretrained):
        with pytest.raises(ValueError, match="a checkpoint of WinWinForDepthEstimation, loaded as WinWinForSemantic"):
            load(tmp_path)
    with pytest.raises((ValueError, OSError)):
        pipeline("image-segmentation", str(tmp_path))
    model, report = WinWinForSemanticSegmentation.from_pretrained(
        tmp_path, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert not report["missing_keys"] and model.config.num_labels == 2
    assert isinstance(AutoModel.from_pretrained(tmp_path), WinWinForDepthEstimation)


def test_a_larger_network_may_start_from_a_smaller_one():
    refuse_larger("x", [], 10**12)  # files of the Hub aren't known yet


def test_a_pipeline_has_all_weights_or_none(tmp_path: Path):
    WinWinForOpticalFlow(WinWinConfig(**SMALL)).save_pretrained(tmp_path)
    WinWinImageProcessor(patch_size=8).save_pretrained(tmp_path)
    pipeline("optical-flow", str(tmp_path))
    change(tmp_path, lambda tensors: tensors.pop("winwin.layers.1.norm1.weight"))
    with pytest.raises(ValueError, match=r"1 of \d+ tensors are missing, such as winwin\.layers\.1\.norm1\.weight"):
        pipeline("optical-flow", str(tmp_path))
    AutoModel.from_pretrained(tmp_path)  # transformers' own door reports, and goes on


def test_the_flow_pipeline_refuses_weights_that_are_not_finite(tmp_path: Path):
    model = WinWinForOpticalFlow(WinWinConfig(**SMALL))
    with torch.no_grad():
        model.decoder.norm.weight[3] = torch.nan
    with pytest.raises(ValueError, match=r"decoder\.norm\.weight holds NaN or infinite values"):
        pipeline("optical-flow", model=model, image_processor=WinWinImageProcessor(patch_size=8))


def test_a_reason_is_one_line():
    assert reason_of(ValueError("a\nb")) == "a"
    assert reason_of(ValueError("Errors of x:\n\n  size 3\n  size 4")) == "Errors of x: size 3"
    assert reason_of(KeyError("x")) == "KeyError: 'x'"
    assert reason_of(RuntimeError()) == "RuntimeError"
    with pytest.raises(Exception, match="hidden_act") as error:
        WinWinConfig(hidden_act="nope")
    assert reason_of(error.value).startswith("hidden_act='nope': expected one of")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("door", ["from_pretrained", "network", "push"])
def test_weights_whose_end_is_zeros_are_refused(depth: Path, tmp_path: Path, share: float, door: str):
    """A download that broke off in a file that was made as large as it should become: safetensors has no checksum."""
    folder = tmp_path / "cut"
    shutil.copytree(depth, folder)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)].ljust(len(content), b"\0"))
    doors: dict[str, Any] = {
        "from_pretrained": WinWinForDepthEstimation.from_pretrained,
        "network": load_network,
        "push": lambda place: model_contents(str(place), "a/b", tmp_path, [], picture=False),
    }
    with pytest.raises(ValueError, match=r"model\.safetensors: its last \d+ bytes are zeros"):
        doors[door](folder)


def test_weights_may_end_in_zeros_of_their_own(tmp_path: Path):
    """Biases that no training has moved, and one matrix that starts at zero."""
    file = tmp_path / "model.safetensors"
    ones = {"a": torch.ones(64, 64)}
    save_file({**ones, "b.weight": torch.zeros(64, 64), "b.bias": torch.zeros(9999), "c.bias": torch.zeros(99)}, file)
    refuse_zero_end(file)
    save_file({**ones, "b": torch.cat([torch.ones(999), torch.zeros(99)])}, file)
    refuse_zero_end(file)
    save_file({**ones, "b": torch.cat([torch.ones(99), torch.zeros(9999)])}, file)
    with pytest.raises(ValueError, match="its last 39996 bytes are zeros"):
        refuse_zero_end(file)
    save_file({**ones, "b.bias": torch.zeros(9999), "norm1.weight": torch.zeros(9)}, file)
    with pytest.raises(ValueError, match="its last 40032 bytes are zeros"):
        refuse_zero_end(file)
