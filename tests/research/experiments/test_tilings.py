"""One network in one pass and in CroCo-Flow's tiles."""

from research.experiments import tilings
from support.experiment_cases import context_of, result


def test_tiling_with_one_backbone(tmp_path, monkeypatch):
    context = context_of(tmp_path)
    monkeypatch.setattr(tilings, "SIZE", (160, 192))
    monkeypatch.setattr(tilings, "CROCO_TILE", (96, 128))
    monkeypatch.setattr(tilings, "CROCO_OVERLAPS", (0.5, 0.7))
    monkeypatch.setattr(tilings, "TILING_PAIRS", 1)
    tilings.tiling_backbone(context)
    found, _ = result(context, "tiling-backbone")
    ways = found["results"]["synthetic"]["ways"]
    assert [way["passes"] for way in ways.values()] == [1, 6, 12]
    assert all(way["cpu_seconds"] > 0 for way in ways.values())
