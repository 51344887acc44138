"""Scoring: exact sums in any number of processes, broken frames named or counted, the worst frames kept."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from support.places import FRAMES, HANGS_AFTER, ROOT
from support.two_processes import in_two_processes

from winwin_hf import WinWinConfig, WinWinForOpticalFlow, WinWinImageProcessor
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.sources import open_source
from winwin_hf.evaluation.methods import Baseline
from winwin_hf.evaluation.metrics import FlowMetric
from winwin_hf.evaluation.run import Settings, evaluate_data
from winwin_hf.evaluation.scoring import new_metric, read_frame, score
from winwin_hf.inference.predictor import Prediction

FLOW = FRAMES / "flow"
DEPTH = FRAMES / "depth"


@pytest.fixture
def sintel(tmp_path):
    return shutil.copytree(FLOW / "Sintel", tmp_path / "Sintel")


def zero(image, second):
    return Prediction(np.zeros((2, *image.shape[:2]), np.float32))


def test_the_whole_is_the_sum_of_its_images():
    source = open_source("sintel-clean", str(FLOW / "Sintel"))
    result = score(zero, source, new_metric(source), Accelerator())
    metric = FlowMetric()
    for example in source.examples():
        frame = read_frame(source, example)
        metric.update(zero(frame.image, None).values, frame.target, frame.occluded)
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
            lambda a, b: Prediction(frame.target[:, ::2, ::2]),
            source,
            new_metric(source, double),
            Accelerator(),
            length=1,
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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    decoder = {f"decoder_{key}": value for key, value in sizes.items()}
    folder = tmp_path_factory.mktemp("two") / "model"
    WinWinForOpticalFlow(WinWinConfig(**sizes, **decoder, head_hidden_size=16)).save_pretrained(folder)
    WinWinImageProcessor().save_pretrained(folder)
    return folder


DATA = [f"sintel-final={FLOW / 'Sintel'}", f"kitti-2015={FLOW / 'KITTI-2015'}"]  # frames of several sizes


def evaluate_there(model, output):
    evaluate_data([str(model)], DATA, output, Settings(cpu=True, worst=2))


def check_same_files(one, two):
    """Everything but the times is the same."""
    records = [json.loads((output / "results.json").read_text()) for output in (one, two)]
    assert [record["settings"]["processes"] for record in records] == [1, 2]
    first, second = ([{**line, "seconds": 0} for line in record["results"]] for record in records)
    assert first == second and len(first) == 2
    pictures = [sorted(output.rglob("worst/*.png")) for output in (one, two)]
    assert [p.relative_to(one) for p in pictures[0]] == [p.relative_to(two) for p in pictures[1]]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]] and len(pictures[0]) == 4
    assert "<img" in (two / "worst.html").read_text()
    tables = [
        [{**row, "seconds": 0} for row in csv.DictReader(path.read_text().splitlines())]
        for path in (output / "model" / "sintel-final-train" / "images.csv" for output in (one, two))
    ]
    assert tables[0] == tables[1] and len(tables[0]) > 1


def test_two_processes_give_the_same_figures_to_the_last_digit(model, tmp_path):
    evaluate_there(model, tmp_path / "1")
    in_two_processes(evaluate_there, model, tmp_path / "2")
    check_same_files(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_the_script_in_two_processes_gives_the_same_figures(model, tmp_path):
    """scripts/evaluate.py, started by a launcher."""
    evaluate_there(model, tmp_path / "1")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29633"]
    command += [str(ROOT / "scripts" / "evaluate.py"), str(model), *(f"--data={place}" for place in DATA)]
    command += ["--output", str(tmp_path / "2"), "--cpu", "--worst", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HANGS_AFTER)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sintel-final" in done.stdout
    check_same_files(tmp_path / "1", tmp_path / "2")
