"""`winwin evaluate`: the files it writes, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from support.places import FRAMES

from winwin_hf import bundled
from winwin_hf.evaluation import run as running
from winwin_hf.evaluation.report import folder_name
from winwin_hf.evaluation.run import Settings, evaluate_data, parse_data, told_apart

MIDDLEBURY = f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"


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


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_interrupted_evaluation_leaves_the_old_one(tmp_path, monkeypatch):
    data, out = [f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"], tmp_path / "results" / "out"
    evaluate_data(["zero"], data, out, Settings(worst=2))
    (out / "notes.txt").write_text("mine")
    before = files(out)

    def stopped(*_):
        raise KeyboardInterrupt

    for place in ("write_pictures", "write_page"):
        with monkeypatch.context() as patch:
            patch.setattr(running.worst, place, stopped)
            with pytest.raises(KeyboardInterrupt):
                evaluate_data(["zero", "opencv-dis"], data, out, Settings(worst=1, overwrite=True))
        assert files(out) == before
    evaluate_data(["zero"], data, out, Settings(worst=1, overwrite=True))
    after = files(out)
    assert set(after) < set(before) and after["notes.txt"] == b"mine"  # one picture less
    assert len(list(out.rglob("worst/*.png"))) == 1 and not list(out.glob(".*"))


def test_files_of_others_are_not_replaced(tmp_path):
    data = [f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"]
    for name, content in (("results.json", '{"mine": 1}'), ("worst.html", "<p>mine")):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text(content)
        with pytest.raises(FileExistsError, match=f"{name} is of another program, and would be replaced"):
            evaluate_data(["zero"], data, out, Settings())
        assert files(out) == {name: content.encode()}
    out = tmp_path / "out"
    evaluate_data(["zero"], data, out, Settings(worst=2))
    mine = next(out.rglob("worst")) / "mine.png"
    mine.touch()
    evaluate_data(["zero"], data, out, Settings(worst=1, overwrite=True))
    assert mine.exists() and len(list(out.rglob("worst/*.png"))) == 2


def test_an_earlier_evaluation_is_replaced_where_asked_and_leaves_nothing(tmp_path):
    data, out = [f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"], tmp_path / "out"
    evaluate_data(["zero", "opencv-dis"], data, out, Settings(worst=1))
    before = files(out)
    with pytest.raises(FileExistsError, match=r"results.json is of an earlier evaluation; expected .* --overwrite"):
        evaluate_data(["zero"], data, out, Settings())
    assert files(out) == before
    evaluate_data(["zero"], data, out, Settings(worst=1, overwrite=True))
    assert set(files(out)) == {name for name in before if not name.startswith("opencv-dis/")}
    assert not (out / "opencv-dis").exists()


@pytest.mark.parametrize("link", ["zero", "zero/middlebury-train", "zero/middlebury-train/worst"])
def test_what_a_link_in_the_output_folder_leads_to_stays(tmp_path, link):
    data, out, elsewhere = (
        [f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"],
        tmp_path / "out",
        tmp_path / "elsewhere",
    )
    evaluate_data(["zero"], data, out, Settings(worst=1))
    (out / link).rename(elsewhere)
    (out / link).symlink_to(elsewhere, target_is_directory=True)
    before = files(elsewhere)
    evaluate_data(["zero"], data, out, Settings(worst=1, overwrite=True))
    assert files(elsewhere) == before
    assert not (out / link).is_symlink() and len(list(out.rglob("worst/*.png"))) == 1


def test_a_submission_is_not_mixed_with_an_earlier_one(tmp_path):
    data, out = [f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"], tmp_path / "out"
    evaluate_data(["zero"], data, out, Settings(worst=0, submission=True))
    before = files(out)
    with pytest.raises(FileExistsError, match=r"zero/submission/middlebury has an earlier submission"):
        evaluate_data(["zero"], data, out, Settings(worst=0, submission=True, overwrite=True))
    assert files(out) == before


def test_an_evaluation_that_ended_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    data, out = [f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"], tmp_path / "out"
    write_page = running.worst.write_page

    def meanwhile(*arguments):
        monkeypatch.setattr(running.worst, "write_page", write_page)
        evaluate_data(["opencv-dis"], data, out, Settings(worst=0))
        write_page(*arguments)

    monkeypatch.setattr(running.worst, "write_page", meanwhile)
    with pytest.raises(FileExistsError, match="of an earlier evaluation"):
        evaluate_data(["zero"], data, out, Settings(worst=0))
    assert (out / "opencv-dis").is_dir() and not (out / "zero").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "called ''"), ("..", r"called '?\.\."), ("é" * 150, "called é"), ("same", "would be same.flo as another")],
)
def test_names_that_a_submission_cannot_have(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(running.Frame, "name", property(lambda _: name, lambda *_: None), raising=False)
    data = [f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"]
    with pytest.raises(ValueError, match=message):
        evaluate_data(["zero"], data, tmp_path / "out", Settings(submission=True))
    assert not (tmp_path / "out").exists()


def test_a_long_name_is_shortened():
    assert len(folder_name("é" * 400).encode()) <= 120 and folder_name("..") == "_"


def test_a_failed_evaluation_leaves_no_folder(tmp_path):
    data = [f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"]
    with pytest.raises(OSError, match=r"^no model could be loaded"):
        evaluate_data(["winwin-nothing"], data, tmp_path / "results" / "out", Settings())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("methods", "data", "message"),
    [
        (["zero"], ["sintel-clean"], "--data sintel-clean: expected NAME=PATH"),
        (["zero"], ["sintel=x"], "unknown data set 'sintel': did you mean"),
        (["zero"], [f"camvid={FRAMES / 'CamVid'}"], "zero is for optical flow, camvid is for semantic segmentation"),
        (
            ["winwin-seg"],
            [f"cityscapes={FRAMES / 'segmentation' / 'cityscapes'}"],
            "know sidewalk, wall.* and 4 more of cityscapes.s 19 classes.* names.txt",
        ),
        (["winwin-nothing"], [f"camvid={FRAMES / 'CamVid'}"], "no model could be loaded from 'winwin-nothing'"),
    ],
)
def test_what_cannot_be_evaluated(methods, data, message):
    with pytest.raises((ValueError, OSError), match=message):
        evaluate_data(methods, data, None, Settings())


def test_nothing_runs_before_all_methods_are_known_to_fit(monkeypatch):
    """Hours of the first method would be lost with the error of the last."""

    def ran(*_, **__):
        raise AssertionError("a method was scored")

    monkeypatch.setattr(running, "score", ran)
    middlebury, camvid = f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}", f"camvid={FRAMES / 'CamVid'}"
    with pytest.raises(ValueError, match="zero is for optical flow, camvid"):
        evaluate_data(["zero"], [middlebury, camvid], None, Settings())
    with pytest.raises(ValueError, match="winwin-depth is for depth"):
        evaluate_data(["zero", "winwin-depth"], [middlebury], None, Settings())


def test_parse_data():
    assert parse_data("a=b=c") == ("a", None, "b=c")
    assert parse_data("a:train[:80%]=/x:y") == ("a", "train[:80%]", "/x:y")
    for text in ("=x", "a=", "a:=x", "a"):
        with pytest.raises(ValueError, match="expected NAME=PATH"):
            parse_data(text)


def test_methods_and_sets_are_told_apart(tmp_path):
    names = {"a/model": "model", "b/model": "model", "b/model:coarse": "model:coarse", "zero": "zero"}
    assert told_apart(list(names), list(names.values())) == ["a/model", "b/model", "model:coarse", "zero"]
    assert told_apart(["x/1/m", "x/2/m", "y/2/m"], ["m"] * 3) == ["x/1/m", "x/2/m", "y/2/m"]
    with pytest.raises(ValueError, match="a/model: given twice"):
        told_apart(["a/model", "b/../a/model"], ["model", "model"])
    assert (
        told_apart(["zero", "./zero"], ["zero"] * 2)[0] == "zero"
    )  # the method keeps its name, the folder has another
    with pytest.raises(ValueError, match="once each"):
        evaluate_data(["zero+variational+variational"], [MIDDLEBURY], None, Settings())
    bundled_folder = bundled.resolve("winwin-flow")
    with pytest.raises(ValueError, match="winwin-flow: given twice"):
        told_apart(["winwin-flow", bundled_folder], ["winwin-flow"] * 2)
    with pytest.raises(ValueError, match="zero: given twice"):
        evaluate_data(["zero", "zero"], [MIDDLEBURY], None, Settings())
    with pytest.raises(ValueError, match="middlebury:train: given twice"):
        evaluate_data(["zero"], [MIDDLEBURY, MIDDLEBURY.replace("=", ":train=")], None, Settings())
    other = f"middlebury={shutil.copytree(FRAMES / 'flow' / 'Middlebury-flow', tmp_path / 'other')}"
    assert len(evaluate_data(["zero"], [MIDDLEBURY, other], None, Settings())) == 2
    slices = [MIDDLEBURY.replace("=", f":train[:{end}]=") for end in ("100", "100%")]
    for sets in ([MIDDLEBURY, other], slices):
        with pytest.raises(ValueError, match="the same folder in the output"):
            evaluate_data(["zero"], sets, tmp_path / "out", Settings())
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"methods a_b and a/b: the same folder"):
        running._check_folders("methods", ["a_b", "zero", "a/b"])
