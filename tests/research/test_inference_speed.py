"""scripts/research/inference_speed.py: each way is measured in a process, and the page is filled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from research import inference_speed
from support.model_cases import make
from support.places import ROOT

from winwin_hf import WinWinImageProcessor
from winwin_hf.cli.errors import UsageError

pytest.importorskip("onnxruntime", reason="needs the packages of winwin-hf[export]")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A small random network for depth."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = make("depth-estimation", "linear", num_hidden_layers=2)
    model.save_pretrained(folder)
    WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(folder)
    return folder


def test_the_page_is_filled_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n{}\nold\n{}\n\nThe end.\n".format(*inference_speed.MARKERS))
    figures = {"ready": 1.0, "first": 2.0, "peak_gb": 0.5, "all_seconds": [2.0, 3.0, 4.0], "seconds": 3.0}
    fast = {**figures, "all_seconds": [1.0, 1.5, 2.0], "seconds": 1.5}
    record = {
        "checkpoint": "c",
        "size": [4, 6],
        "threads": 2,
        "load_before": 0.1,
        "machine": "a processor",
        "versions": {"torch": "2"},
        "date": "2026-11-22T00:00:00",
        "results": {"sdpa": {**figures, "difference": None}, "onnxruntime": {**fast, "difference": 0.00123}},
        "not_measured": {"openvino": "openvino is not installed"},
    }
    before, after = inference_speed.split_page(page)
    page.write_text(before + inference_speed.markdown(record) + after)
    text = page.read_text()
    assert text.startswith("# Title\n\n") and text.endswith("\n\nThe end.\n") and "old" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[2] == "| ONNX Runtime | 1.5 | 1 - 2 | 1.00 | 3 | 0.50 | 1.2e-03 |"  # the fastest first
    assert lines[3] == "| PyTorch, SDPA | 3 | 2 - 4 | 2.00 | 3 | 0.50 | - |"
    assert lines[4].startswith("| OpenVINO | openvino is not installed |")
    assert {line.count("|") for line in lines} == {8}
    inference_speed.split_page(page)  # and can be filled again
    (tmp_path / "other.md").write_text("# No markers\n")
    with pytest.raises(UsageError, match="expected a page with the lines"):
        inference_speed.split_page(tmp_path / "other.md")


def test_the_page_in_the_repository_has_its_markers():
    before, after = inference_speed.split_page(ROOT / "docs" / "inference-speed.md")
    assert before.startswith("# Speed of inference") and after.startswith(inference_speed.MARKERS[1])


@pytest.mark.slow
def test_a_way_that_fails_says_why(checkpoint, tmp_path):
    np.savez(tmp_path / "inputs.npz", pixel_values=np.zeros((1, 3, 16, 24), np.float32))
    options = {"way": "onnxruntime", "checkpoint": str(checkpoint), "threads": 1, "warmup": 1, "runs": 1}
    with pytest.raises(RuntimeError, match=r"FileNotFoundError: .*model.onnx: no such file"):
        inference_speed.run_probe(options, tmp_path, 1)


@pytest.mark.slow
def test_the_command_measures(checkpoint, tmp_path):
    command = [sys.executable, inference_speed.__file__, str(checkpoint), "--size", "20x30"]
    command += ["--threads", "1", "--rounds", "2", "--runs", "1", "--output", str(tmp_path / "speed.json")]
    command += ["--way", "sdpa", "--way", "onnxruntime", "--way", "eager"]
    subprocess.run(command, check=True, capture_output=True)
    record = json.loads((tmp_path / "speed.json").read_text())
    assert set(record["results"]) == {"sdpa", "onnxruntime", "eager"} and record["not_measured"] == {}
    for way, figures in record["results"].items():
        assert len(figures["all_seconds"]) == 2 and figures["seconds"] > 0 and figures["peak_gb"] > 0.05
        assert figures["difference"] is None if way == "sdpa" else figures["difference"] < 1e-5
    assert not any(path.name.startswith("speed.json.") for path in tmp_path.iterdir())
