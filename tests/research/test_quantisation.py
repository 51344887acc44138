"""scripts/research/quantisation.py: one row a way, with its difference from float32."""

from __future__ import annotations

import numpy as np
import pytest
from research import quantisation
from support.places import FRAMES


def test_a_row_for_each_way(capsys: pytest.CaptureFixture[str]):
    quantisation.main(segmentation=f"camvid:val={FRAMES / 'CamVid'}", length=1, way=["dynamic"])
    header, _, plain, dynamic = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    assert header == ["layers", "`winwin-seg`: MB", "miou", "difference"]
    assert plain[0] == "PyTorch, float32" and plain[3] == "0"
    assert 0 < float(dynamic[3]) < 0.1 and float(dynamic[1]) < 0.5 * float(plain[1])


def test_what_does_not_run_says_why(monkeypatch: pytest.MonkeyPatch):
    def fails(name: str, way: str):
        raise ImportError("no module of that name\nand more")

    monkeypatch.setattr(quantisation, "load", fails)
    table = quantisation.measure("semantic-segmentation", f"camvid:val={FRAMES / 'CamVid'}", 1, ["dynamic"])
    assert table == {"dynamic": {"error": "no module of that name"}}


def test_differences():
    flow = np.zeros((2, 3, 4))
    assert quantisation.difference("optical-flow", flow + np.array([3, 4])[:, None, None], flow) == 5
    labels = np.arange(4)
    assert quantisation.difference("semantic-segmentation", labels, np.array([0, 1, 2, 9])) == 0.25
    assert quantisation.difference("depth-estimation", labels - 2.0, labels.astype(float)) == 2
