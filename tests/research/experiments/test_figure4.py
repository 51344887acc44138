"""Figure 4: tiles against one pass, with the same network."""

import dataclasses
import math

import pytest
from research.experiments import figure4
from support.experiment_cases import context_of, network_of, result, scenes


def test_a_tile_that_covers_the_frame_is_one_pass():
    result = figure4.compare(network_of(), scenes(), (48, 64), (0.0, 0.5))
    assert {way["passes"] for way in result["ways"].values()} == {1}
    assert len({way["epe"] for way in result["ways"].values()}) == 1
    assert result["held"]["tiled-0"]["beyond"]["share"] == 0 and result["held"]["tiled-0"]["gone"]["share"] > 0
    assert math.isnan(result["seams"]["tiled-0.5"]["tiled"]["jump_seam"])


def test_tiles_are_compared_with_one_pass_at_the_same_places():
    result = figure4.compare(network_of(), scenes(), (24, 32), (0.0, 0.5))
    assert [way["passes"] for way in result["ways"].values()] == [1, 4, 9]
    seams = result["seams"]["tiled-0"]
    assert seams["tiled"]["true_jump_seam"] == seams["direct"]["true_jump_seam"]
    assert (
        seams["tiled"]["jump_ratio"] > seams["direct"]["jump_ratio"]
    )  # a random network's tiles know nothing of one another
    shares = [group["share"] for group in result["held"]["tiled-0"].values()]
    assert sum(shares) == pytest.approx(1) and shares[1] > result["held"]["tiled-0.5"]["beyond"]["share"]
    assert sum(band["share"] for band in result["ways"]["direct"]["bands"]) == pytest.approx(1)


def test_figure_4(tmp_path, monkeypatch):
    context = context_of(tmp_path)
    monkeypatch.setattr(figure4, "SIZE", (160, 192))
    monkeypatch.setattr(figure4, "TILES", ((64, 96), (96, 96)))
    monkeypatch.setattr(figure4, "PICTURED", ((25.0, (64, 96)),))
    monkeypatch.setattr(figure4, "FIGURE4_PAIRS", 1)
    figure4.figure4(context)
    found, text = result(context, "figure4")
    assert list(found["results"]) == [f"synthetic-{m}-{t}" for m in (25, 30) for t in ("64x96", "96x96")]
    seams = found["results"]["synthetic-25-64x96"]["seams"]["tiled-0"]
    assert seams["tiled"]["excess_seam"] > seams["direct"]["excess_seam"]
    assert "match in no tile" in text
    figure4.figure4(dataclasses.replace(context, draw_only=True))
