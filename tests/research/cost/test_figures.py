"""The cost benchmark's figures and page."""

from __future__ import annotations

import pytest
from research.cost import figures, pages
from research.cost import record as records
from research.cost.cases import FULL, QUICK


def test_medians_are_over_all_turns():
    runs = [
        {"seconds": [1.0, 9.0], "peak_gb": 1.0, "all": {"a": 1}},
        {"seconds": [2.0], "peak_gb": 3.0, "all": {"a": 2}},
    ]
    assert figures.summary(runs) == {"seconds": 2.0, "peak_gb": 2.0, "all": {"a": 2}}


def training(seconds, above, network):
    return {
        "step_seconds": [seconds],
        "step_cpu_seconds": [2 * seconds],
        "loader_gb": 0.5,
        "network_seconds": [network],
        "optimizer_seconds": [0.1],
        "loading_seconds": [0.2],
        "above_gb": above,
        "peak_gb": above + 1,
        "tokens": 100,
    }


def whole(seconds, peak, tokens=8160):
    return {
        "seconds": [seconds],
        "cpu_seconds": [2 * seconds],
        "idle_gb": 1.0,
        "peak_gb": peak,
        "above_gb": peak - 1,
        "tokens": tokens,
    }


@pytest.fixture
def measurements():
    gflop = {
        "1080p": 14_000.0,
        "540p": 2_000.0,
        "tile": 300.0,
        "train_step_720p/full": 6000.0,
        "train_step_720p/windows": 1000.0,
    }
    table = {"fp32": {"products": {"4 x 4 x 4": 200.0}, "attention": 190.0, "convolution": 150.0}}
    table["bf16"] = table["fp32"]
    found = {
        "ceiling": [
            {"fp32_gflops": 200.0, "bf16_gflops": 500.0, "all": table},
            {"fp32_gflops": 210.0, "bf16_gflops": 500.0, "all": table},
        ],
        "counts": [{"gflop": gflop, "gflop_kinds": {"1080p": {"attention": 9000.0}}}],
        "direct/1080p/fp32": [whole(s, 2.5) for s in (100.0, 98.0, 140.0)],
        "direct/1080p/bf16": [whole(50.0, 2.0)],
        "direct/540p/fp32": [whole(12.0, 1.7, 2040)],
        "tiled/fp32": [{"pass_seconds": 2.0, "tiles": 9, "tile_batch": 3}],
        "train_step_720p/full/fp32": [training(40.0, 5.0, 38.0)],
        "train_step_720p/windows/fp32": [training(8.0, 2.0, 7.0)],
        "train_step_720p/full/bf16": [training(20.0, 4.0, 18.0)],
        "train_step_720p/windows/bf16": [training(5.0, 1.6, 4.0)],
        "train_step_flow_1080p/windows/fp32": [training(2.0, 1.0, 1.0)],
        "train_step_flow_1080p/crops/fp32": [training(3.0, 1.5, 2.0)],
        "profile/1080p/fp32": [
            {"seconds": 100.0, "kinds": {"attention": 60.0, "GELU": 30.0}, "operators": {}, "parts": {"x": 99.0}}
        ],
        "small_flow/opencv-dis/540p": [{"seconds": [0.02], "cpu_seconds": [0.03], "peak_gb": 0.5, "above_gb": 0.01}],
        "small_flow/raft-small/540p": [{"not_measured": "torchvision is not there"}],
        "scaling/tokens/512": [training(1.0, 1.0, 0.9)],
        "scaling/processes/2 x 1 threads": [{**training(2.0, 1.0, 1.9), "processes": 2}],
    }
    return {name: {"runs": runs, "key": "k", "code": "c", "date": "2026-11-22"} for name, runs in found.items()}


def test_the_figures_that_were_asked_for(measurements):
    made = figures.figures(measurements, FULL)
    step = made["train_step_720p"]
    assert step["fp32"]["time_ratio"] == 5.0 and step["bf16"]["time_ratio"] == 4.0
    assert step["time_ratio"] == 4.0 and step["memory_ratio"] == 0.4  # the worse precision's
    assert step["fp32"]["network_ratio"] == pytest.approx(38 / 7) and step["fp32"]["arithmetic_ratio"] == 6.0
    flow = made["flow_1080p"]
    assert flow["direct_seconds_fp32"] == 100.0 and flow["peak_memory_gb"] == 2.5
    assert flow["tiled_0.9_over_direct"] == 1050 * 2 / 100 and flow["tiled_0.7_over_direct"] == 135 * 2 / 100
    assert flow["ceiling_gflops_fp32"] == 210.0
    assert flow["ceiling_share_fp32"] == pytest.approx(14_000 / 100 / 210)
    assert flow["ceiling_share_bf16"] == pytest.approx(14_000 / 50 / 500)
    assert "9 passes" in flow["tiled_extrapolated"]
    assert (
        flow["croco_flow"]["over_direct"] == 2.79 and "this command doesn't measure it" in flow["croco_flow"]["source"]
    )
    # a matrix of 8160 x 8160 weights of 12 heads, 4 bytes each
    assert [line["size"] for line in made["memory_curve"]["fp32"]] == ["540p", "1080p"]
    assert made["memory_curve"]["fp32"][1]["tokens_x_tokens_gb"] == pytest.approx(3.196, abs=1e-3)
    assert made["train_step_flow_1080p"]["fp32"]["crops_over_windows"]["time_ratio"] == 1.5
    assert made["scaling"]["processes"]["2 x 1 threads"]["images_per_second"] == 4.0


def test_what_is_not_measured_is_left_out(measurements):
    assert figures.figures({}, FULL) == {}
    del measurements["train_step_720p/full/bf16"], measurements["counts"], measurements["tiled/fp32"]
    made = figures.figures(measurements, FULL)
    assert made["train_step_720p"]["time_ratio"] == 5.0 and "time_ratio" not in made["train_step_720p"]["bf16"]
    assert "ceiling_share_fp32" not in made["flow_1080p"] and "tiled_0.9_over_direct" not in made["flow_1080p"]


def test_the_page(measurements, tmp_path):
    about = records.describe(["--threads", "2"], 2, False)
    made = figures.figures(measurements, FULL)
    pages.write(about, made, measurements, {"small_flow/raft-small/540p": "torchvision is not there"}, tmp_path, FULL)
    text = (tmp_path / "cost.md").read_text()
    assert "python scripts/benchmark.py cost --threads 2" in text
    assert "| 1080p pair: share of the fp32 ceiling | 0.667 |" in text
    assert "| 1080p pair: time of tiles at overlap 0.9 over one pass | 21x |" in text
    assert "- `small_flow/raft-small/540p`: torchvision is not there" in text
    assert "| attention | 60.0 | 60 % | 150 |" in text and "| GELU | 30.0 | 30 % | - |" in text
    assert "versions of the code" not in text and "None" not in text and "nan" not in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    for name in ("cost-ratios.png", "cost-curve.png"):
        assert f"({name})" in text and (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    measurements["counts"]["code"] = "other"
    pages.write(about, made, measurements, {}, tmp_path, FULL)
    assert "Measured with 2 versions of the code" in (tmp_path / "cost.md").read_text()


def test_a_page_of_nothing(tmp_path):
    pages.write(records.describe([], 2, True), {}, {}, {}, tmp_path, QUICK)
    assert "these figures mean nothing" in (tmp_path / "cost.md").read_text()
    assert not list(tmp_path.glob("*.png"))
