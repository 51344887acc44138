"""What an evaluation leaves behind: numbers that repeat, files that other programs read, pictures."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image
from rich.console import Console
from support.places import FRAMES

from winwin_hf.data.sources import open_source
from winwin_hf.evaluation import report, worst
from winwin_hf.evaluation.run import Settings, evaluate_data, parse_data
from winwin_hf.evaluation.scoring import Frame, new_metric, score

DATA = FRAMES


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
    assert "AbsRel" in text and "0.125" in text
    assert "left out 1 missing files and 1 broken examples" in text


def test_json_says_where_the_figures_come_from(tmp_path):
    report.write_json(tmp_path / "results.json", [line()], {"tile": None})
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["results"][0]["figures"] == {"epe": 1.25, "fl": None, "epe_s40": None}  # NaN is no JSON
    assert record["results"][0]["broken"] == [["x", "x: torn"]]
    assert record["versions"]["torch"] and record["machine"]["cores"] and record["command"]


def test_csv_has_each_image_by_itself(tmp_path):
    source = open_source("sintel-clean", str(DATA / "flow" / "Sintel"))
    result = score(lambda a, b: np.zeros((2, *a.shape[:2])), source, new_metric(source), Accelerator())
    report.write_csv(tmp_path / "deep" / "images.csv", result)
    rows = list(csv.DictReader((tmp_path / "deep" / "images.csv").open()))
    assert [row["name"] for row in rows] == [image.name for image in result.images]
    mean = np.mean([float(row["epe"]) for row in rows])  # all of one size and fully known
    assert mean == pytest.approx(result.figures["epe"], rel=1e-5)


def test_classes_become_columns():
    assert report.flatten({"miou": 1, "iou": {"car": 2, "sky": 3}}) == {"miou": 1, "iou/car": 2, "iou/sky": 3}


@pytest.mark.parametrize("task", ["optical-flow", "depth-estimation", "semantic-segmentation"])
def test_picture_of_a_frame(task):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    target = {
        "optical-flow": rng.normal(size=(2, 80, 120)),
        "depth-estimation": rng.uniform(1, 5, (40, 60)),
        "semantic-segmentation": rng.integers(0, 11, (40, 60)),
    }[task]
    if task != "semantic-segmentation":
        target[..., :5] = np.nan
    prediction = {
        "optical-flow": np.zeros((2, 40, 60)),
        "depth-estimation": np.ones((40, 60)),
        "semantic-segmentation": np.zeros((40, 60), int),
    }[task]
    picture = worst.draw(Frame(0, "x", image, None, target), prediction, task, {"epe": 1.0})
    assert picture.dtype == np.uint8 and picture.shape[1] > 4 * 400


def test_evaluation_leaves_its_files(tmp_path, capsys):
    data = [f"sintel-clean:train[:2]={DATA / 'flow' / 'Sintel'}", f"middlebury={DATA / 'flow' / 'Middlebury-flow'}"]
    lines = evaluate_data(["zero", "opencv-dis"], data, tmp_path / "out", Settings(worst=1, submission=True))
    assert [(item.method, item.data) for item in lines] == [
        (m, d) for m in ("zero", "opencv-dis") for d in ("sintel-clean", "middlebury")
    ]
    assert lines[0].images == 2
    out = tmp_path / "out"
    assert len(list(out.rglob("images.csv"))) == 4 and len(list(out.rglob("worst/*.png"))) == 4
    page = (out / "worst.html").read_text()
    sources = [part.split("'")[0] for part in page.split("src='")[1:]]
    assert len(sources) == 4
    for source in sources:
        Image.open(out / source).verify()
    assert len(list((out / "zero" / "submission" / "sintel-clean" / "clean").rglob("*.flo"))) == 2
    assert "opencv-dis" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("methods", "data", "message"),
    [
        (["zero"], ["sintel-clean"], "--data sintel-clean: expected NAME=PATH"),
        (["zero"], ["sintel=x"], "unknown data set 'sintel': did you mean"),
        (["zero"], [f"camvid={DATA / 'CamVid'}"], "zero is for optical flow, camvid is for semantic segmentation"),
        (
            ["winwin-seg"],
            [f"cityscapes={DATA / 'segmentation' / 'cityscapes'}"],
            "knows 11 classes .* cityscapes has 19",
        ),
        (["winwin-nothing"], [f"camvid={DATA / 'CamVid'}"], "no model could be loaded from 'winwin-nothing'"),
    ],
)
def test_what_cannot_be_evaluated(methods, data, message):
    with pytest.raises((ValueError, OSError), match=message):
        evaluate_data(methods, data, None, Settings())


def test_parse_data():
    assert parse_data("a=b=c") == ("a", None, "b=c")
    assert parse_data("a:train[:80%]=/x:y") == ("a", "train[:80%]", "/x:y")
    for text in ("=x", "a=", "a:=x", "a"):
        with pytest.raises(ValueError, match="expected NAME=PATH"):
            parse_data(text)
