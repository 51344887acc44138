"""Values that are wrong by themselves or don't fit the rest: exit code 2 and one line, before anything is read or made."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from support.command_line import refused, run
from support.places import FRAMES

from winwin_hf.inference import predictor

MISUSED = [
    ("flow", "a.png", "a.png", "--tile", "1x1"),
    ("flow", "a.png", "a.png", "--tile", "12x16"),
    ("evaluate", "winwin-flow", "--data", "kitti-2015=folder", "--tile", "1x1"),
    ("evaluate", "winwin-flow+coarse", "--data", "kitti-2015=folder", "--tile", "1x9"),
    ("evaluate", "zero", "--beside", "winwin-flow", "--data", "kitti-2015=folder", "--tile", "1x1"),
    ("evaluate", "zero", "--data", "shards=a.png"),
    ("evaluate", "zero", "--data", "kitti-2015"),
    ("evaluate", "zero", "--data", "kitti-2051=folder"),
    ("evaluate", "zero", "--data", "synthetic-flow=folder"),
    ("evaluate", "zero", "--data", "kitti-2015=folder", "--option", "camvid.a=1"),
    ("video", "folder", "-o", "x", "--rate", "nan"),
    ("video", "folder", "-o", "x", "--rate", "5"),
    ("video", "folder", "-o", "x", "--side-by-side"),
    ("video", "folder", "-o", "x", "--rate", "0"),
    ("video", "folder", "-o", "x", "--max-motion", "inf"),
    ("video", "folder", "-o", "x", "--start", "3", "--end", "3"),
    ("video", "folder", "-o", "x", "--size", "99999x99999"),
    ("export", "winwin-flow", "-o", "x", "--opset", "17"),
    ("export", "winwin-flow", "-o", "x", "--opset", "1000000000"),
    ("export", "winwin-flow", "-o", "x", "--quantise", "int4"),
    ("data", "check", "folder", "--name", "camvidd"),
    ("data", "shards", "camvidd=folder", "-o", "x"),
    ("data", "shards", "camvid", "-o", "x"),
    ("demo", "--output", "x", "--device", "abacus"),
    ("demo", "--output", "x", "--quality", "x"),
    ("checkpoints", "install", "winwin-flow", "winwin-flwo"),
    ("train", "camvid", "--output", "x", "--set", "a="),
    ("train", "camvid", "--output", "x", "--set", "optimization.steps=-1"),
    ("train", "camvid", "--output", "x", "--set", "optimization.steps.x=1"),
    ("train", "camvid", "--output", "x", "--set", "output={a"),
    ("train", "camvid", "--output", "x", "--set", "windows.size=null", "--set", "windows.sizes=[]"),
    ("train", "flow-synthetic", "--output", "x", "--set", "model.config.patch_size=3"),
    ("evaluate", "winwin-flow", "--recipe", "camvid", "--set", "a="),
    ("push", ".", "a/b", "--pr", "--revision", "x"),
    ("push", ".", "a/b", "--revision", "../x"),
    ("push", ".", "a--b/c..d"),
    ("predict", "", "x"),
    ("predict", "folder", ""),
    ("export", "winwin-flow", "-o", ""),
    ("data", "shards", "synthetic-flow", "--length", "1", "--output="),
    ("train", "flow-synthetic", "--output", ""),
    ("video", "folder", "-o", ""),
    ("depth", "a.png", "--model", ""),
    ("predict", "folder", "a.png"),
    ("predict", "folder", "loop/x"),
    ("predict", "pipe", "x"),
    ("predict", "/dev/zero", "x"),
    ("data", "check", str(FRAMES / "CamVid"), "--name", "camvid", "--split", "train[a:b]"),
    ("data", "check", str(FRAMES / "CamVid"), "--name", "camvid", "--split", "train[:5%"),
]


@pytest.mark.parametrize("command", MISUSED, ids=" ".join)
def test_values_that_are_wrong_by_themselves_are_misuse(here: Path, monkeypatch, command: tuple[str, ...]):
    """Exit code 2, before a network is loaded and before anything is made."""
    monkeypatch.setattr(predictor, "load_network", None)
    before = sorted(path.name for path in here.iterdir())
    refused(run(*command), 2)
    assert sorted(path.name for path in here.iterdir()) == before
    assert not (here.parent / "cache").exists()


MIDDLEBURY = f"middlebury={FRAMES / 'flow/Middlebury-flow'}"
UNFIT = {
    ("depth", "a.png", "--model", "winwin-flow"): "winwin-flow is a checkpoint for optical flow",
    (
        "evaluate",
        "winwin-depth",
        "--data",
        MIDDLEBURY,
    ): "winwin-depth is for depth estimation, middlebury is for optical flow",
    (
        "evaluate",
        "winwin-depth+coarse",
        "--data",
        MIDDLEBURY,
    ): "winwin-depth+coarse: coarse passes are for networks of flow",
    ("evaluate", "winwin-depth+variational", "--data", MIDDLEBURY): "only flow can be refined",
    ("evaluate", "zero", "--data", MIDDLEBURY, "--align", "median"): "--align is for depth estimation",
    (
        "evaluate",
        "winwin-flow",
        "--recipe",
        "flow-synthetic",
        "--set",
        "evaluation={windows: 0}",
    ): "its evaluation scores nothing; expected windows above 0, or sets",
    ("train", "flow-synthetic", "--output", "x", "--set", "model.frozen=[nan]"): "model.frozen: nothing",
    (
        "train",
        "flow-synthetic",
        "--output",
        "x",
        "--set",
        "model.lora={r: 4, lora_alpha: .nan}",
    ): "model.lora: lora_alpha is 'nan'",
    (
        "train",
        "flow-synthetic",
        "--output",
        "x",
        "--set",
        "model.lora={r: 4, bias: x}",
    ): "model.lora: bias is 'x'; expected none, all or lora_only",
    (
        "train",
        "flow-synthetic",
        "--output",
        "x",
        "--set",
        "model.lora={r: 4, bias: null}",
    ): "model.lora: bias is 'None'",
    (
        "train",
        "flow-synthetic",
        "--output",
        "x",
        "--set",
        "model.lora={r: 4, lora_dropout: -1}",
    ): "model.lora: lora_dropout is '-1'; expected a number from 0",
    (
        "train",
        "flow-synthetic",
        "--output",
        "x",
        "--set",
        "model.lora={r: 4, use_dora: x}",
    ): "model.lora: use_dora is 'x'; expected true or false",
    (
        "train",
        "flow-synthetic",
        "--output",
        "x",
        "--set",
        "model.lora={r: 1000000}",
    ): "model.lora: r is '1000000'; expected",
    ("train", "flow-synthetic", "--output", "x", "--set", "model.lora={rank_pattern: {x: 0}}"): "model.lora: r is '0'",
    (
        "train",
        "flow-synthetic",
        "--output",
        "x",
        "--set",
        "model.lora={inference_mode: true}",
    ): "model.lora: inference_mode",
    (
        "train",
        "flow-synthetic",
        "--output",
        "x",
        "--set",
        "model.lora={target_modules: '.*('}",
    ): "model.lora: missing )",
    (
        "train",
        "flow-synthetic",
        "--output",
        "x",
        "--set",
        "windows.size=[99,99]",
    ): "data: windows.size: 2 windows of 99x99",
    (
        "train",
        "flow-synthetic",
        "--output",
        "x",
        "--set",
        "second_windows={size: [99,99]}",
    ): "second_windows.size: 99 x 99",
}


@pytest.mark.parametrize("command", UNFIT, ids=" ".join)
def test_what_is_right_by_itself_and_does_not_fit_is_misuse(here: Path, command: tuple[str, ...]):
    AcceleratorState._reset_state(reset_partial_state=True)  # of another test's precision
    before = sorted(path.name for path in here.iterdir())
    refused(run(*command), 2, UNFIT[command])
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize("command", ["flow", "video", "evaluate"])
def test_a_huge_number_of_pixels_is_misuse(here: Path, command: str):
    arguments = {"flow": ("a.png", "a.png"), "video": ("folder", "-o", "x"), "evaluate": ("zero", "--data", "x=y")}
    result = run(command, *arguments[command], "--min-pixels", str(10**12))
    assert result.exit_code == 2 and "--min-pixels" in result.stderr
