"""`winwin data` and `winwin evaluate --data`, as a person types them."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from support.places import FRAMES
from typer.testing import CliRunner, Result

from winwin_hf.cli.arguments import parse_options
from winwin_hf.cli.main import app
from winwin_hf.data.shards import shards_info

DATA = FRAMES


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, code: int, *words: str) -> None:
    """Ended with `code` and one line on standard error that has all `words`."""
    assert result.exit_code == code, result.output
    lines = [line for line in re.split(r"[\r\n]+", result.stderr) if line.strip() and "%|" not in line]  # bars apart
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("WINWIN_TRACEBACK", raising=False)


@pytest.fixture
def camvid(tmp_path):
    return shutil.copytree(DATA / "CamVid", tmp_path / "CamVid")


def test_list():
    result = run("data", "list")
    assert result.exit_code == 0
    for name in ("sintel-clean", "spring", "nyuv2", "cityscapes", "(val)"):
        assert name in result.output
    flow = run("data", "list", "--task", "optical-flow").output
    assert "kitti-2015" in flow and "nyuv2" not in flow
    assert "training/flow" in run("data", "list", "--task", "optical-flow", "--layout").output
    refused(
        run("data", "list", "--task", "flwo"), 2, "--task flwo", "optical-flow, semantic-segmentation, depth-estimation"
    )


def test_check_finds_what_a_folder_is(camvid, tmp_path):
    result = run("data", "check", camvid, "--workers", "0", "--output", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "camvid" in result.output and "all decoded" in result.output
    assert json.loads((tmp_path / "report.json").read_text())["ok"] is True


def test_check_names_what_is_missing_and_broken(camvid):
    (camvid / "trainannot" / "0001TP_000030.png").unlink()
    path = camvid / "val" / "0016E5_000030.png"
    path.write_bytes(path.read_bytes()[:100])
    result = run("data", "check", camvid, "--workers", "0")
    assert result.exit_code == 1
    assert "trainannot/0001TP_000030.png" in result.output and "0016E5_000030" in result.output
    quick = run("data", "check", camvid, "--quick", "--split", "val")
    assert quick.exit_code == 0 and "broken" not in quick.output
    refused(run("data", "check", camvid, "--option", "ignored=[11]"), 2, "--option ignored=[11]", "--name")
    refused(run("data", "check", camvid / "nowhere"), 2, "nowhere", "no such folder")


def test_check_with_a_sets_options(camvid, tmp_path):
    for ours, theirs in (("images", "train"), ("masks", "trainannot")):
        shutil.copytree(camvid / theirs, tmp_path / "own" / ours)
    (tmp_path / "own" / "names.txt").write_text("\n".join(f"class {i}" for i in range(11)))
    plain = run("data", "check", tmp_path / "own", "--name", "masks-folder", "--split", "all", "--workers", "0")
    assert plain.exit_code == 1 and "ids [11]" in plain.output
    options = ["--option", "ignored=[11]", "--workers", "0"]
    assert run("data", "check", tmp_path / "own", "--name", "masks-folder", "--split", "all", *options).exit_code == 0


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_shards(camvid, tmp_path, format):
    result = run(
        "data",
        "shards",
        f"camvid:train={camvid}",
        "--output",
        tmp_path / "s",
        "--format",
        format,
        "--shard-size",
        "1kb",
        "--multiple-of",
        1000,
    )
    assert result.exit_code == 0, result.output
    assert "warning: 3 shards, no multiple of 1000: there are too few examples\n" in result.stderr
    assert len(result.stdout.split()) == len(list((tmp_path / "s").glob("camvid-train-*"))) > 1
    info = shards_info(tmp_path / "s")
    assert (info["name"], info["task"], info["rows"], len(info["labels"])) == ("camvid", "semantic-segmentation", 3, 11)
    assert info["terms"] and info["source"]


def test_shards_of_wrong_arguments(camvid, tmp_path):
    output = ["--output", tmp_path / "s"]
    refused(run("data", "shards", f"camvid={camvid}", *output, "--shard-size", "many"), 2, "--shard-size many", "500MB")
    refused(
        run("data", "shards", f"camvid={camvid}", *output, "--format", "zip"),
        2,
        "--format zip",
        "parquet or webdataset",
    )
    refused(run("data", "shards", "camvid", *output), 2, "expected NAME=PATH")
    refused(run("data", "shards", f"camvidd={camvid}", *output), 2, "camvidd", "did you mean camvid")
    path = camvid / "train" / "0001TP_000030.png"
    path.write_bytes(b"torn")
    refused(run("data", "shards", f"camvid={camvid}", *output), 1, "0001TP_000030")
    assert not list(tmp_path.glob("s/*.parquet"))
    assert run("data", "shards", f"camvid={camvid}", *output, "--skip-broken").exit_code == 0


def test_evaluate(tmp_path):
    data = f"middlebury={DATA / 'flow' / 'Middlebury-flow'}"
    result = run(
        "evaluate", "zero", "--data", data, "--beside", "opencv-dis", "--output", tmp_path / "out", "--worst", "1"
    )
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [line["method"] for line in record["results"]] == ["zero", "opencv-dis"]
    assert record["results"][0]["figures"]["epe"] > record["results"][1]["figures"]["epe"] > 0
    assert record["settings"]["double"] == "best" and record["settings"]["tile"] is None


def test_evaluate_stops_at_a_torn_file_or_counts_it(tmp_path):
    root = shutil.copytree(DATA / "flow" / "Middlebury-flow", tmp_path / "m")
    path = sorted((root / "other-gt-flow").rglob("*.flo"))[0]
    path.write_bytes(path.read_bytes()[:-1])
    refused(run("evaluate", "zero", "--data", f"middlebury={root}"), 1, path.parent.name, "flow10.flo")
    result = run("evaluate", "zero", "--data", f"middlebury={root}", "--skip-broken", "--output", tmp_path / "out")
    assert result.exit_code == 0 and "1 broken examples" in result.output
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["results"][0]["broken"][0][0] == path.parent.name


def test_evaluate_of_wrong_arguments(camvid):
    refused(run("evaluate", "zero"), 2, "--data NAME=PATH", "--recipe NAME")
    refused(run("evaluate", "zero", "--data", "x=y", "--recipe", "r.yaml"), 2, "either")
    refused(run("evaluate", "zero", "--data", "x=y", "--set", "a=b"), 2, "--recipe")
    refused(run("evaluate", "zero", "--data", "x=y", "--double", "worst"), 2, "--double worst", "mean or best")
    refused(run("evaluate", "zero", "--data", "x=y", "--overlap", "1"), 2, "--overlap 1")
    refused(run("evaluate", "zero", "--data", "x=y", "--submission"), 2, "--submission needs --output")
    refused(run("evaluate", "zero", "--data", "x=y", "--worst", "0"), 2, "--worst needs --output")
    refused(run("evaluate", "zero", "--data", "x=y", "--overwrite"), 2, "--overwrite needs --output")
    refused(run("evaluate", "zero", "--beside", "zero", "--data", f"camvid={camvid}"), 2, "zero: given twice")
    refused(run("evaluate", "zero", "--data", f"camvid={camvid}", "--data", f"camvid={camvid}"), 2, "given twice")
    refused(run("evaluate", "zero", "--data", "x=y", "--overlap", "0.25"), 2, "--overlap", "expected --tile")
    refused(run("evaluate", "zero", "--recipe", "camvid", "--worst", "0", "--double", "best"), 2, "--worst, --double")
    flow = f"middlebury={DATA / 'flow' / 'Middlebury-flow'}"
    refused(run("evaluate", "zero", "--data", flow, "--align", "median"), 2, "--align", "depth")
    for double in ("mean", "best"):
        done = run("evaluate", "mean-depth@camvid=x", "--data", f"camvid={camvid}", "--double", double)
        refused(done, 2, "double", "flow")
    refused(run("evaluate", "zero", "--data", "x=y", "--option", "scale=3"), 2, "--option scale=3", "SET.KEY=VALUE")
    refused(run("evaluate", "zero", "--data", "sintel=y"), 2, "sintel", "did you mean")
    refused(run("evaluate", "zero", "--data", f"sintel-clean={camvid}"), 2, str(camvid), "sintel.is.tue.mpg.de")
    refused(run("evaluate", "zero", "--data", f"camvid={camvid}", "--option", "kitti-2015.a=1"), 2, "no such set")
    told = "--tile, --quality: for networks; expected a checkpoint among the methods"
    refused(run("evaluate", "zero", "--data", f"camvid={camvid}", "--tile", "64x64", "--quality", "fast"), 2, told)
    refused(
        run("evaluate", "zero", "--data", f"camvid={camvid}", "--precision", "bf16"), 2, "--precision: for networks"
    )


def test_options_are_yaml():
    assert parse_options(["a.b=1", "a.c=[x, y]", "d-e.f="]) == {"a": {"b": 1, "c": ["x", "y"]}, "d-e": {"f": None}}
