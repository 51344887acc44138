"""Scoring: exact sums in any number of processes, broken frames named or counted, the worst frames kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from support.places import FRAMES, ROOT

from winwin_hf import WinWinConfig, WinWinForOpticalFlow, WinWinImageProcessor
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.sources import open_source
from winwin_hf.evaluation.methods import Baseline
from winwin_hf.evaluation.metrics import FlowMetric
from winwin_hf.evaluation.scoring import new_metric, read_frame, score

FLOW = FRAMES / "flow"
DEPTH = FRAMES / "depth"


@pytest.fixture
def sintel(tmp_path):
    return shutil.copytree(FLOW / "Sintel", tmp_path / "Sintel")


def zero(image, second):
    return np.zeros((2, *image.shape[:2]), np.float32)


def test_the_whole_is_the_sum_of_its_images():
    source = open_source("sintel-clean", str(FLOW / "Sintel"))
    result = score(zero, source, new_metric(source), Accelerator())
    metric = FlowMetric()
    for example in source.examples():
        frame = read_frame(source, example)
        metric.update(zero(frame.image, None), frame.target, frame.occluded)
    assert result.figures["epe"] == pytest.approx(metric.compute()["epe"], rel=1e-12)
    assert [image.name for image in result.images] == [e["name"] for e in source.examples()]
    assert result.figures["epe_unmatched"] > 0  # the masks arrived
    assert len(result.images) == len(source) and not result.broken


def test_first_examples_only():
    source = open_source("sintel-clean", str(FLOW / "Sintel"))
    assert len(score(zero, source, new_metric(source), Accelerator(), length=2).images) == 2


def test_the_worst_are_kept_in_order():
    source = open_source("sintel-clean", str(FLOW / "Sintel"))
    result = score(zero, source, new_metric(source), Accelerator(), keep_worst=2)
    by_error = sorted(result.images, key=lambda image: -result.figures_of(image)["epe"])
    assert [frame.index for frame, _ in result.worst] == [image.index for image in by_error[:2]]


def test_broken_frame_stops_with_its_name_or_is_counted(sintel):
    path = sorted((sintel / "training" / "flow").rglob("*.flo"))[1]
    path.write_bytes(path.read_bytes()[:-5])
    source = open_source("sintel-clean", str(sintel))
    with pytest.raises(BrokenExample, match=path.name):
        score(zero, source, new_metric(source), Accelerator())
    result = score(zero, source, new_metric(source), Accelerator(), skip_broken=True)
    assert len(result.images) == len(source) - 1
    ((name, reason),) = result.broken
    assert name.split("/")[0] == path.parent.name and str(path) in reason


def test_nothing_readable_is_an_error(sintel):
    for path in (sintel / "training" / "flow").rglob("*.flo"):
        path.write_bytes(b"")
    source = open_source("sintel-clean", str(sintel))
    with pytest.raises(ValueError, match=r"no frame could be predicted; .*frame"):
        score(zero, source, new_metric(source), Accelerator(), skip_broken=True)


def test_frames_without_truth_are_predicted_only():
    source = open_source("sintel-clean", str(FLOW / "Sintel"), "test")
    seen = []
    result = score(
        zero, source, new_metric(source), Accelerator(), on_prediction=lambda frame, flow: seen.append(frame.name)
    )
    assert seen and [image.row for image in result.images] == [None] * len(seen) and result.figures == {}


def test_spring_is_scored_at_its_own_resolution():
    """The truth has twice the size; a perfect prediction of the image's size has no error in the best of four."""
    source = open_source("spring", str(FLOW / "Spring"))
    frame = read_frame(source, next(source.examples()))
    assert frame.target.shape[1] == 2 * frame.image.shape[0] and frame.occluded.shape == frame.target.shape[1:]
    varies = not np.array_equal(frame.target[:, ::2, ::2], frame.target[:, 1::2, 1::2])
    for double in ("mean", "best"):
        result = score(
            lambda a, b: frame.target[:, ::2, ::2], source, new_metric(source, double), Accelerator(), length=1
        )
        assert (result.figures["epe"] == 0) == (double == "best" or not varies)


def test_depth_has_its_benchmarks_range_and_crop():
    source = open_source("kitti-depth", str(DEPTH / "kitti"), "val")
    metric = new_metric(source, align="median")
    assert (metric.max_depth, metric.crop, metric.align) == (80, "garg", "median")


@pytest.mark.parametrize("name", ["opencv-dis", "opencv-farneback"])
def test_baselines_beat_standing_still(name):
    source = open_source("middlebury", str(FLOW / "Middlebury-flow"))
    still, moving = (score(m, source, new_metric(source), Accelerator()).figures["epe"] for m in (zero, Baseline(name)))
    assert moving < still
    with pytest.raises(ValueError, match="unknown method 'dis': expected one of opencv-dis"):
        Baseline("dis")


def test_two_processes_give_the_same_figures_to_the_last_digit(tmp_path):
    """The command itself, on frames of several sizes, with a network: one process, and two."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    decoder = {f"decoder_{key}": value for key, value in sizes.items()}
    WinWinForOpticalFlow(WinWinConfig(**sizes, **decoder, head_hidden_size=16)).save_pretrained(tmp_path / "model")
    WinWinImageProcessor().save_pretrained(tmp_path / "model")
    data = [
        f"--data={name}={FLOW / folder}" for name, folder in (("sintel-final", "Sintel"), ("kitti-2015", "KITTI-2015"))
    ]
    records = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29633"] if processes == 2 else []
        command = [sys.executable, *launch, str(ROOT / "scripts" / "evaluate.py"), str(tmp_path / "model"), *data]
        command += ["--output", str(output), "--cpu", "--worst", "2"]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "sintel-final" in done.stdout
        records.append(json.loads((output / "results.json").read_text()))
        assert len(list(output.rglob("*.png"))) == 4 and "<img" in (output / "worst.html").read_text()
    one, two = ([{k: v for k, v in line.items() if k != "seconds"} for line in r["results"]] for r in records)
    assert one == two
    assert [r["settings"]["processes"] for r in records] == [1, 2]
    first, second = (sorted((tmp_path / n).rglob("worst/*.png")) for n in ("1", "2"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    csvs = [(tmp_path / n / "model" / "sintel-final-train" / "images.csv").read_text() for n in ("1", "2")]
    without_time = [[line.split(",")[:4] + line.split(",")[5:] for line in text.splitlines()] for text in csvs]
    assert without_time[0] == without_time[1]
