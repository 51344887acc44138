"""The cost benchmark's measurements."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from research.cost import cases, command, figures, frames, probes, profiling
from research.cost.cases import FULL, QUICK, Measurement
from research.cost.meter import Meter
from research.cost.profiling import kind_of
from research.cost.training import train_step
from research.machine import resident

from winwin_hf.data.sources import open_source

MODEL = QUICK.model


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    frames.write_bdd(folder, *QUICK.segmentation_frame, count=2)
    frames.write_spring(folder, *QUICK.flow_frame, count=2)
    return folder


# ------------------------------------------------------------------ what is measured


def test_the_geometry_is_the_papers():
    assert [figures.passes(FULL, overlap) for overlap in (0.5, 0.7, 0.9)] == [54, 135, 1050]
    assert FULL.crop == (20, 24)
    every = {m.name: m for case in cases.cases(FULL).values() for m in case}
    passes = every["counts"].arguments["passes"]

    def tokens(name: str) -> int:
        shape = passes[name]["views"][0]
        return int(np.prod(shape)) // 3 // 256

    assert tokens("train_step_720p/full") == 2 * 3600
    assert tokens("train_step_720p/windows") == 2 * 968
    assert [tokens(f"train_step_flow_1080p/{kind}") for kind in ("full", "windows", "crops")] == [8160, 200, 480]
    assert [tokens(size) for size in ("540p", "1080p", "1440p", "4K")] == [2040, 8160, 14400, 32400]
    assert {m.arguments["model"]["preset"] for m in every.values() if "direct" in m.name} == {"base"}


@pytest.mark.parametrize("geometry", [FULL, QUICK], ids=["full", "quick"])
def test_a_name_means_one_measurement(geometry):
    found: dict[str, Measurement] = {}
    for case in cases.cases(geometry).values():
        for m in case:
            assert found.setdefault(m.name, m) == m
            assert m.probe in probes.PROBES and m.turns >= 1
            json.dumps(m.arguments)
    long = {m.name for m in found.values() if m.long}
    assert {"direct/1440p/bf16", "direct/4K/bf16", "train_step_flow_1080p/full/fp32"} <= long
    minutes = sum(m.turns * (m.seconds + command.STARTING) for m in found.values() if not m.long) / 60
    assert minutes < 80  # "about 70" in the help


def test_flops_are_those_of_the_formula():
    """Patches, 4 projections and an MLP of 4 widths in each block, two products of attention, one projection a token."""
    tokens, width, depth, classes = 2 * 24, 192, 4, 19
    model = {"preset": "tiny", "config": {"head_type": "linear"}}
    views = [[1, 2, 3, 64, 96]]
    patches = 2 * tokens * 3 * 256 * width
    blocks = depth * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)
    head = 2 * tokens * width * classes * 256
    forward = patches + blocks + head
    kinds = probes.count_one("semantic-segmentation", model, views)
    assert sum(kinds.values()) * 1e9 == pytest.approx(forward)
    assert kinds["attention"] * 1e9 == pytest.approx(depth * 4 * tokens**2 * width)
    assert kinds["convolution"] * 1e9 == pytest.approx(patches)
    # backward takes two products for one, but none for the gradient of the pixels
    trained = sum(probes.count_one("semantic-segmentation", model, views, backward=True).values()) * 1e9
    assert trained == pytest.approx(3 * forward - patches)


def test_a_1080p_pair_costs_what_the_arithmetic_says():
    """14.5 TFLOP direct by hand: 8160 tokens a view, 12 + 12 blocks; the DPT head adds its convolutions."""
    found = sum(probes.count_one("optical-flow", {"preset": "base"}, [[1, 3, 1088, 1920]] * 2).values())
    tokens, width = 8160, 768
    encoder = 2 * 12 * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)
    decoder = 12 * (2 * tokens * 16 * width**2 + 8 * tokens**2 * width)
    assert 14.3e12 < encoder + decoder < 14.7e12
    assert encoder + decoder < found * 1e9 < 1.15 * (encoder + decoder)


# ------------------------------------------------------------------ measuring


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from /proc")
def test_memory_is_what_was_held_since_idle():
    large = np.ones(30_000_000)  # 240 MB, before
    del large
    meter = Meter()
    meter.start_memory()
    before = meter.memory()["above_gb"]
    held = np.ones(20_000_000)  # 160 MB
    del held
    found = meter.memory()
    assert before < 0.05
    assert 0.15 < found["above_gb"] < 0.21
    assert found["peak_gb"] == pytest.approx(found["idle_gb"] + found["above_gb"])
    assert resident("VmRSS") / 1e9 < found["process_gb"]


def test_times_by_name():
    meter = Meter()
    for name in ("", "part", ""):
        with meter.timed(name):
            sum(range(100_000))
    found = meter.times()
    assert {key: len(values) for key, values in found.items()} == {
        "seconds": 2,
        "cpu_seconds": 2,
        "part_seconds": 1,
        "part_cpu_seconds": 1,
    }
    assert all(value > 0 for values in found.values() for value in values)


def test_frames_have_the_layout_of_the_sets(drawn):
    height, width = QUICK.segmentation_frame
    street = open_source("bdd100k", str(drawn / "bdd100k"))
    image, label = street.reader.decode(street.dataset[0])
    assert image.shape == (height, width, 3) and label.shape == (height, width) and label.max() < 19
    height, width = QUICK.flow_frame
    spring = open_source("spring", str(drawn / "spring"))
    sample = spring.reader(spring.dataset[0], np.random.default_rng(0))
    assert len(spring) == 1 and (sample.height, sample.width) == (height, width)
    assert np.isfinite(sample.first((0, 0, 32, 32))[1]).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-weights"])
def test_a_direct_pass(precision):
    found = probes.direct(Path(), MODEL, (64, 96), precision, warmup=(64, 64), runs=2)
    assert len(found["seconds"]) == len(found["cpu_seconds"]) == 2 and found["tokens"] == 24
    assert found["peak_gb"] >= found["idle_gb"] > 0


def test_tiles_of_a_strip():
    found = probes.tiled(Path(), MODEL, (64, 192), (64, 64), "fp32", [1, 3])
    assert found["tiles"] == 5 and found["tile_batch"] in (1, 3)
    best = min(found["batch_1_seconds"][0], found["batch_3_seconds"][0])
    assert found["pass_seconds"] == pytest.approx(best / 5)


def test_the_ceiling_is_the_best_product():
    found = probes.ceiling(Path(), square=64, tokens=32, width=64, conv=(8, 8), repeat=2)
    for precision in ("fp32", "bf16"):
        products = found["all"][precision]["products"]
        assert list(products) == ["64 x 64 x 64", "32 x 64 x 64", "32 x 64 x 256", "32 x 256 x 64"]
        assert found[f"{precision}_gflops"] == max(products.values()) > 0


def test_a_profile_accounts_for_the_time(monkeypatch):
    """By a clock that ticks when it is read: once before and once after the modules' own hooks."""
    ticks = itertools.count()
    monkeypatch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    found = probes.profile(Path(), MODEL, (64, 96), "fp32", warmup=(64, 64))
    assert sum(found["parts"].values()) == found["seconds"] - 2
    for title in ("kinds", "parts"):
        shares = list(found[title].values())
        assert shares == sorted(shares, reverse=True) and min(shares) > 0
    assert {"matrix products", "attention", "convolution", "layer norm", "GELU"} <= set(found["kinds"])
    parts = set(found["parts"])
    assert {"winwin.layers.mlp.up_proj", "decoder.layers.cross_attention", "head.layers.levels.0"} <= parts


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::bmm", "attention"),
        ("aten.mm", "matrix products"),
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::copy_", "copies"),
        ("aten::sort", "aten::sort"),
    ],
)
def test_kinds_of_operators(operator, kind):
    assert kind_of(operator) == kind


def step(folder, task, kept, **more):
    frame = QUICK.segmentation_frame if task == "semantic-segmentation" else QUICK.flow_frame
    model = cases.segmentation_model(QUICK) if task == "semantic-segmentation" else MODEL
    arguments = {"frame": frame, "windows": kept, "precision": "fp32", "batch": 1, "model": model}
    return train_step(folder, task, **{**arguments, **more})


def test_a_training_step_with_its_loader(drawn):
    found = step(drawn, "semantic-segmentation", cases.windows((2, 2)), batch=2, steps=2, loading=1)
    assert {
        part: len(found[f"{part}_seconds"]) for part in ("step", "warmup_step", "network", "optimizer", "loading")
    } == {
        "step": 2,
        "warmup_step": 1,
        "network": 2,
        "optimizer": 2,
        "loading": 1,
    }
    assert all(sum(found[f"{part}_seconds"]) < sum(found["step_seconds"]) for part in ("network", "optimizer"))
    assert found["tokens"] == 2 * 8 and found["processes"] == 1 and found["loader_gb"] > 0.05
    assert found["above_gb"] > 3 * 4 * found["parameters"] / 1e9  # gradients and AdamW's two moments


@pytest.mark.parametrize("kind", ["windows", "crops", "full"])
def test_a_flow_step_keeps_what_it_says(drawn, kind):
    kept, tokens = {
        "windows": (cases.windows((2, 2)), 2 * 8),
        "crops": ({"kind": "crop", "size": [4, 4]}, 2 * 16),
        "full": ({"kind": "full"}, 2 * 8 * 12),
    }[kind]
    once = {"second_windows": {"size": [2, 2], "jitter": 1.0}, "steps": 1, "warmup": 0, "loading": 0}
    found = step(drawn, "optical-flow", kept, loader=kind == "full", checkpointing=kind == "full", **once)
    assert found["tokens"] == tokens  # both views
    assert len(found["step_seconds"]) == 1 and ("loading_seconds" in found) is False


def test_rivals_on_the_same_frames():
    for method in ("opencv-dis", "opencv-farneback", "winwin-flow"):
        found = probes.small_flow(Path(), method, (128, 160), 2)
        assert len(found["seconds"]) == 2
    assert "see --rivals" in probes.small_flow(Path(), "raft-small", (128, 160), 1).get("not_measured", "see --rivals")
    with pytest.raises(OSError, match="no model could be loaded"):
        probes.small_flow(Path(), "unknown", (128, 160), 1)
