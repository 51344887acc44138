"""Summaries over seeds, and the pages of results."""

import json
import math
import os

import pytest
from research.experiments import results, summaries
from research.experiments.catalog import EXPERIMENTS
from research.experiments.results import write_page, write_result
from support.experiment_cases import context_of
from support.places import ROOT


def test_plus_minus_and_seeds():
    assert summaries.plus_minus([30.0, None, 32.0, 30.4]) == "30.8 ± 1.0"
    assert (summaries.plus_minus([30.0]), summaries.plus_minus([None])) == ("30.0", "-")
    assert [summaries.seeds_text(c) for c in ([3, 3], [1, 1], [1, 2], [0])] == [
        "3 seeds",
        "1 seed",
        "1 to 2 seeds",
        "0 seeds",
    ]


def test_medians_leave_out_what_is_unknown():
    assert (
        summaries.median_text([60.0, None, 120.0, math.nan], 1, 1 / 60) == "1.5"
        and summaries.median_text([3.0], 2) == "3.00"
    )
    assert (
        summaries.median_text([None], 1) == "-"
        and math.isnan(summaries.median([]))
        and math.isnan(summaries.mean([None]))
    )
    assert summaries.mean([1.0, None, 2.0]) == 1.5


def test_a_result_says_where_it_comes_from(tmp_path, monkeypatch):
    findings = tmp_path / "findings.yaml"
    findings.write_text("thing: Windows are as good as full frames.\n")
    monkeypatch.setattr(results, "FINDINGS", findings)
    shown = {"columns": ["training", "mIoU"], "rows": [["a | b", 31.26], ["c", math.nan]], "note": "In percent."}
    here = context_of(tmp_path, data={"camvid": "/secret/place/CamVid"}, seeds=2)
    path = write_result(here, "thing", {"title": "A thing", "about": "About it.", "tables": [shown], "value": math.inf})
    record = json.loads(path.read_text())
    assert record["command"] == "python scripts/reproduce.py thing --data camvid=CamVid --seeds 2"
    assert record["value"] is None and record["machine"]["cores"] == os.cpu_count() and record["version"]
    text = path.with_suffix(".md").read_text()
    assert "secret" not in text + path.read_text()
    assert text.startswith("# A thing\n\n```bash\npython scripts/reproduce.py thing")
    assert "| a \\| b | 31.3 |\n| c | - |\n\nIn percent." in text
    assert text.endswith("doesn't\n\nWindows are as good as full frames.\n")
    assert "thing.png" not in text
    (here.output / "thing.png").touch()
    write_result(here, "thing", {"title": "A thing"})
    assert "![A thing](thing.png)" in path.with_suffix(".md").read_text()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_pages_are_made_from_their_json(name, tmp_path):
    """If one isn't: python scripts/reproduce.py pages"""
    folder = ROOT / "docs" / "results"
    for suffix in (".json", ".png"):
        (tmp_path / f"{name}{suffix}").write_bytes((folder / f"{name}{suffix}").read_bytes())
    write_page(tmp_path / f"{name}.json")
    assert (tmp_path / f"{name}.md").read_text() == (folder / f"{name}.md").read_text()
