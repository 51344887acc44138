"""`winwin evaluate`: the files it writes, and what it refuses."""

from __future__ import annotations

import pytest
from PIL import Image
from support.places import FRAMES

from winwin_hf.evaluation.run import Settings, evaluate_data, parse_data


def test_evaluation_leaves_its_files(tmp_path, capsys):
    data = [f"sintel-clean:train[:2]={FRAMES / 'flow' / 'Sintel'}", f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"]
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
        (["zero"], [f"camvid={FRAMES / 'CamVid'}"], "zero is for optical flow, camvid is for semantic segmentation"),
        (
            ["winwin-seg"],
            [f"cityscapes={FRAMES / 'segmentation' / 'cityscapes'}"],
            "knows 11 classes .* cityscapes has 19 .* id2label in the order",
        ),
        (["winwin-nothing"], [f"camvid={FRAMES / 'CamVid'}"], "no model could be loaded from 'winwin-nothing'"),
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
