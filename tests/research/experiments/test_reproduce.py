"""scripts/reproduce.py."""

import math
import shutil

import pytest
import reproduce
import typer
from research.experiments.context import Experiment
from research.experiments.results import write_result
from support.places import ROOT

from winwin_hf.cli.errors import UsageError


def test_names(capsys):
    assert len(reproduce.choose(["all"])) == 15
    assert reproduce.choose(["table-heads", "table-heads"]) == ["table-heads"]
    with pytest.raises(UsageError, match="did you mean figure1-segmentation"):
        reproduce.choose(["figure1-segmentaton"])
    reproduce.main(["list"])
    assert "figure5-segmentation" in capsys.readouterr().out


def test_the_command_asks_for_its_data(tmp_path, capsys):
    with pytest.raises(typer.Exit):
        reproduce.main(["table-heads"])
    assert "table-heads needs --data camvid=FOLDER" in capsys.readouterr().err
    assert reproduce.parse_data([f"camvid={tmp_path}"]) == {"camvid": str(tmp_path)}
    for wrong in ("camvid", f"camvid={tmp_path / 'nothing'}"):
        with pytest.raises(UsageError, match="--data camvid"):
            reproduce.parse_data([wrong])


def test_the_command_goes_on_after_a_failure(tmp_path, monkeypatch, capsys):
    done = []

    def fail(_):
        raise RuntimeError("2 of 2 trainings failed\nlast lines")

    experiments = {"bad": Experiment(fail, "bad"), "good": Experiment(lambda c: done.append(c.seeds), "good")}
    monkeypatch.setattr(reproduce, "EXPERIMENTS", experiments)
    with pytest.raises(SystemExit):
        reproduce.main(["all"], work=tmp_path, output=tmp_path, seeds=2, jobs=1, threads=1)
    assert done == [2]
    assert "last lines" in capsys.readouterr().err


def test_pages_anew(tmp_path):
    shutil.copy(ROOT / "docs" / "results" / "table-heads.json", tmp_path)
    reproduce.main(["pages"], output=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".md"] == ["table-heads.md"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(typer.Exit):
        reproduce.main(["pages"], output=tmp_path / "empty")


def test_drawing_without_trainings_leaves_the_results(tmp_path, monkeypatch, capsys):
    def write(scores):
        def function(context):
            (context.output / "thing.png").write_text(str(scores))
            rows = [[f"row {k}", score] for k, score in enumerate(scores)]
            write_result(context, "thing", {"title": "A thing", "tables": [{"columns": ["a", "b"], "rows": rows}]})

        monkeypatch.setattr(reproduce, "EXPERIMENTS", {"thing": Experiment(function, "thing")})
        reproduce.main(["thing"], work=tmp_path / "work", output=tmp_path / "out", draw_only=True)

    def files():
        return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    write([1.0, 2.0])
    before = files()
    assert before.keys() == {"thing.json", "thing.md", "thing.png"} and b"thing.png" in before["thing.md"]
    with pytest.raises(typer.Exit):
        write([3.0, math.nan])
    assert "thing.json has 4 values, the trainings in" in capsys.readouterr().err and files() == before
    write([4.0, 5.0])
    assert files()["thing.png"] == b"[4.0, 5.0]"
