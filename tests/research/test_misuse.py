"""Scripts: what is wrong by itself ends in one line with exit code 2, before anything is computed or written."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import typer
from support.places import HANGS_AFTER, ROOT
from typer.testing import CliRunner

from winwin_hf.cli.errors import one_line_errors

OUTSIDE = ("benchmark", "reproduce", "soak")  # in scripts/ itself
DATA = ["--data", "camvid=nowhere"]
TRIAL = ["--quick", "--output", "out"]  # a test that fails must not measure for hours, into docs/results
MISUSE = {
    "a picture without a folder": ("draw_idea", ["gone/idea.jpg"], "gone"),
    "a picture of another format": ("draw_idea", ["idea.gif"], ".jpg"),
    "an edge below zero": ("input_size", ["winwin-depth", *DATA, "--edge", "-5"], "--edge"),
    "a side of a million": ("input_size", ["winwin-depth", *DATA, "--saved", "1000000"], "--saved"),
    "figures into a folder that isn't": ("input_size", ["winwin-depth", *DATA, "-o", "gone/a.json"], "gone"),
    "frames smaller than their windows": ("worlds_speed", ["--size", "32x48"], "at least 256"),
    "half a size": ("worlds_speed", ["--size", "32"], "HEIGHTxWIDTH"),
    "packages of nowhere": ("meshes", ["out", "--debs", "gone"], "gone"),
    "no regular expression": ("meshes", ["out", "--only", "("], "--only"),
    "threads below one": ("fingerprint", ["a.json", "--threads", "0"], "--threads"),
    "an earlier file that isn't there": ("fingerprint", ["a.json", "--compare", "gone.json"], "gone.json"),
    "an output that is no file": ("fingerprint", ["."], "folder"),
    "an unknown kind of layers": ("quantisation", ["--flow", "camvid=x", "--way", "nope"], "--way nope"),
    "an unknown way to run": ("inference_speed", ["--way", "nope"], "--way nope"),
    "measurements into a folder that isn't": ("inference_speed", ["-o", "gone/a.json"], "gone"),
    "no data to measure on": ("quantisation", [], "--flow"),
    "a share above one": ("plan", ["--share", "2"], "--share 2.0"),
    "a speed that is no number": ("plan", ["--tflops", "nan"], "--tflops nan"),
    "no memory": ("plan", ["--memory", "0"], "--memory"),
    "no GPU": ("plan", ["--gpus", "0"], "--gpus 0"),
    "fewer GPUs than none": ("plan", ["--gpus=-1"], "--gpus -1"),
    "a side of a million pixels": ("plan", ["--frame", "1000000x1000000"], "--frame"),
    "a page of another kind": ("plan", ["--page", "page.txt"], ".md"),
    "no checkout": ("flow_speed", ["gone"], "checkout"),
    "no frames": ("predict_throughput", ["--count", "0"], "--count"),
    "fewer frames than none": ("predict_throughput", ["--count", "-1"], "--count"),
    "no rounds": ("predict_throughput", ["--rounds", "0"], "--rounds"),
    "no size": ("predict_throughput", ["--size", "x"], "--size x"),
    "digits that are no number": ("predict_throughput", ["--size", "²x²"], "--size ²x²"),
    "frames larger than their picture": ("predict_throughput", ["--size", "4000x4000"], "--size 4000x4000"),
    "frames without a recipe": ("plan", ["--frame", "540x960"], "--frame"),
    "two GPUs": ("plan", ["--gpu", "h100", "--tflops", "5", "--memory", "3"], "--tflops, --memory"),
    "half a GPU": ("plan", ["--tflops", "5"], "--memory"),
    "a number of GPUs twice": ("plan", ["--gpus", "1,1"], "--gpus 1,1"),
    "frames smaller than a patch": ("plan", ["flow-synthetic", "--frame", "10x10"], "--frame 10x10"),
    "planned frames smaller than their windows": ("plan", ["flow-synthetic", "--frame", "32x32"], "--frame 32x32"),
    "a page of a recipe": ("plan", ["flow-synthetic", "--page", "a.md"], "--page"),
    "counts of a recipe": ("plan", ["flow-synthetic", "--count"], "--count"),
    "a page for a GPU": ("plan", ["--page", "a.md", "--gpu", "a100"], "--gpu"),
    "one recipe of two": ("benchmark", ["flow-synthetic", "--set", "optimization.steps=x"], "optimization.steps"),
    "a room without photographs": ("fingerprint", ["a.json", "--room", "."], "--textures"),
    "turns of nothing": ("pretrained_cost", ["--rounds", "2"], "--rounds"),
    "threads of nothing": ("pretrained_cost", ["--threads", "2"], "--threads"),
    "a profile's size without one": ("cost.command:cost", [*TRIAL, "--size", "540p"], "--size"),
    "a profile's unknown precision": (
        "cost.command:cost",
        [*TRIAL, "--profile", "--precision", "fp8"],
        "--precision fp8",
    ),
    "measured anew and not at all": ("cost.command:cost", [*TRIAL, "--draw", "--again"], "--again"),
    "the second of two sets": ("quantisation", ["--flow", "camvid=x", "--depth", "nope"], "--data nope"),
    "another second of two sets": ("input_size", ["winwin-depth", *DATA, "--data", "nope"], "--data nope"),
    "names with options": ("reproduce", ["list", *DATA, "--draw-only", "--seeds", "5"], "--data, --seeds, --draw-only"),
    "names in a folder": ("reproduce", ["list", "--output", "out"], "--output"),
    "a demo's checkpoint without its task": ("soak:space", ["--checkpoint", "x"], "--checkpoint x"),
    "a long training by no recipe": ("soak:train", ["--recipe", "nope"], "nope"),
    "pages with seeds": ("reproduce", ["pages", "--seeds", "5"], "--seeds"),
}


@pytest.mark.parametrize("what", MISUSE)
def test_misuse_is_told_first(tmp_path, monkeypatch, what):
    name, words, told = MISUSE[what]
    monkeypatch.chdir(tmp_path)
    app = typer.Typer(rich_markup_mode=None)
    module_name, _, function = name.partition(":")
    place = "" if module_name in OUTSIDE else "research."
    command = getattr(importlib.import_module(place + module_name), function or "main")
    # of fast-simplification, which meshes.py needs; libraries ask for others while they are imported
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    app.command()(one_line_errors(command))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and told in result.stderr, result.stderr
    assert not list(tmp_path.iterdir())


PLAIN = {
    "environments in a file": ("test_floors", ["--folder", "file", "pinned"], "--folder"),
    "environments below a file": ("test_floors", ["--folder", "file/below", "pinned"], "--folder"),
    "the second of two sets of versions": ("test_floors", ["oldest", "nope"], "SET nope"),
    "an open quote": ("test_floors", ["--pytest-args", "'a"], "--pytest-args"),
    "results in a file": ("gpu_check", ["file"], "OUT"),
    "no time": ("gpu_check", ["out", "--deadline", "0"], "--deadline"),
    "a time that is no number": ("gpu_check", ["out", "--deadline", "nan"], "--deadline"),
    "wheels of nowhere": ("gpu_check", ["out", "--wheels", "gone"], "--wheels"),
}


@pytest.mark.parametrize("what", PLAIN)
def test_misuse_of_scripts_without_packages_is_one_line(tmp_path, what):
    name, words, told = PLAIN[what]
    (tmp_path / "file").touch()
    # -E: no packages by PYTHONPATH; -S: none that are installed
    command = [sys.executable, "-E", "-S", str(ROOT / "scripts" / f"{name}.py"), *words]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANGS_AFTER)
    assert result.returncode == 2 and told in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
