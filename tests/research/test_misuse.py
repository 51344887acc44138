"""Scripts of research: what is wrong by itself ends in one line with exit code 2, before anything is computed or written."""

from __future__ import annotations

import importlib

import pytest
import typer
from typer.testing import CliRunner

from winwin_hf.cli.errors import one_line_errors

DATA = ["--data", "camvid=nowhere"]
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
}


@pytest.mark.parametrize("what", MISUSE)
def test_misuse_is_told_first(tmp_path, monkeypatch, what):
    name, words, told = MISUSE[what]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)  # of fast-simplification, which meshes.py needs
    app = typer.Typer(rich_markup_mode=None)
    app.command()(one_line_errors(importlib.import_module(f"research.{name}").main))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and told in result.stderr, result.stderr
    assert not list(tmp_path.iterdir())
