"""Tables, results.json and CSV: figures with units, and files that other programs read."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from accelerate import Accelerator
from rich.console import Console
from support.places import FRAMES

from winwin_hf.data.sources import open_source
from winwin_hf.evaluation import report
from winwin_hf.evaluation.methods import Baseline
from winwin_hf.evaluation.scoring import new_metric, score


def line(**changes) -> report.Line:
    values = {
        "data": "sintel-clean",
        "split": "train",
        "path": "/data/Sintel",
        "task": "optical-flow",
        "method": "zero",
        "inference": "one pass",
        "images": 3,
        "scored": 3,
        "missing": ["a.flo"],
        "broken": [("x", "x: torn")],
        "seconds": 0.5,
        "figures": {"epe": 1.25, "fl": float("nan"), "epe_s40": float("nan")},
    }
    return report.Line(**{**values, **changes})


def test_table_names_units_and_what_was_left_out():
    console = Console(record=True, width=160)
    report.show(
        [line(), line(task="depth-estimation", data="nyuv2", figures={"abs_rel": 0.125}, missing=[], broken=[])],
        console,
    )
    text = console.export_text()
    assert "EPE px" in text and "1.25" in text and "3 (-2)" in text
    assert "AbsRel" in text and "0.125" in text and "without truth" not in text
    report.show([line(scored=2)], console)
    assert "3 (-2), 1 without truth" in console.export_text()
    assert "left out 1 missing files and 1 broken examples" in text


def test_json_says_where_the_figures_come_from(tmp_path):
    report.write_json(tmp_path / "results.json", [line()], {"tile": None})
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["results"][0]["figures"] == {"epe": 1.25, "fl": None, "epe_s40": None}  # NaN is no JSON
    assert record["results"][0]["broken"] == [["x", "x: torn"]]
    assert record["versions"]["torch"] and record["machine"]["cores"] and record["command"]


def test_json_holds_no_password(tmp_path, monkeypatch):
    monkeypatch.setattr(report.sys, "argv", ["winwin", "evaluate", "--data", "a=https://me:canary@host/a?token=canary"])
    report.write_json(
        tmp_path / "results.json", [line(path="https://me:canary@host/a")], {"proxy": "http://u:canary@p"}
    )
    text = (tmp_path / "results.json").read_text()
    assert "canary" not in text and json.loads(text)["results"][0]["path"] == "https://***@host/a"


def test_csv_has_each_image_by_itself(tmp_path):
    source = open_source("sintel-clean", str(FRAMES / "flow" / "Sintel"))
    result = score(Baseline("zero"), source, new_metric(source), Accelerator())
    report.write_csv(tmp_path / "deep" / "images.csv", result)
    rows = list(csv.DictReader((tmp_path / "deep" / "images.csv").open()))
    assert [row["name"] for row in rows] == [image.name for image in result.images]
    mean = np.mean([float(row["epe"]) for row in rows])  # all of one size and fully known
    assert mean == pytest.approx(result.figures["epe"], rel=1e-5)


def test_classes_become_columns():
    assert report.flatten({"miou": 1, "iou": {"car": 2, "sky": 3}}) == {"miou": 1, "iou/car": 2, "iou/sky": 3}
