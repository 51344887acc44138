"""The cost benchmark: measurements, figures, pages, and interrupted runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from research.cost import cases, command, figures, frames, pages, probes
from research.cost import record as records
from research.cost.cases import FULL, QUICK, Measurement
from research.cost.meter import Meter
from research.cost.profiling import kind_of
from research.cost.training import train_step
from research.machine import resident
from support.places import RECIPES, ROOT

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


def test_a_profile_accounts_for_the_time():
    found = probes.profile(Path(), MODEL, (128, 192), "fp32", warmup=(64, 64))
    for title in ("kinds", "parts"):
        shares = list(found[title].values())
        assert 0.5 * found["seconds"] < sum(shares) < 1.01 * found["seconds"]
        assert shares == sorted(shares, reverse=True)
    assert {"matrix products", "attention", "convolution", "layer norm", "GELU"} <= set(found["kinds"])
    parts = set(found["parts"])
    assert {"winwin.layers.mlp.up_proj", "decoder.layers.cross_attention", "head.head.levels.0"} <= parts


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


# ------------------------------------------------------------------ figures


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


# ------------------------------------------------------------------ a run


@pytest.fixture
def processes(monkeypatch):
    """Measurements answer at once; their names as they were asked for. `stop`: names at which to stop or to fail."""
    asked, trouble = [], {}

    def answer(measurement, folder, threads, **more):
        if measurement.name in trouble:
            raise trouble[measurement.name]
        asked.append(measurement.name)
        return {"seconds": [1.0], "cpu_seconds": [1.0], "peak_gb": 2.0, "idle_gb": 1.0, "above_gb": 1.0, "tokens": 24}

    monkeypatch.setattr(command, "run_probe", answer)
    return asked, trouble


def run(tmp_path, *words):
    try:
        command.main(["--quick", "--output", str(tmp_path), "--case", "memory_curve", *words])
    except SystemExit as end:
        return end.code
    return 0


CURVE = ["direct/1080p/fp32", "direct/1080p/bf16", "direct/540p/fp32", "direct/540p/bf16", "direct/1440p/fp32"]
CURVE += ["direct/4K/fp32"]
LONG = ["direct/1440p/bf16", "direct/4K/bf16"]


def test_an_interrupted_run_goes_on(processes, tmp_path):
    asked, trouble = processes
    trouble["direct/1440p/fp32"] = KeyboardInterrupt()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        command.main(["--quick", "--output", str(tmp_path), "--case", "memory_curve"])
    assert asked == CURVE[:4]
    stored = json.loads((tmp_path / "cost.json").read_text())
    assert list(stored["measurements"]) == CURVE[:4] and len(stored["memory_curve"]["fp32"]) == 2
    trouble.clear()
    assert run(tmp_path) == 0
    assert asked == CURVE  # nothing twice
    assert run(tmp_path) == 0 and len(asked) == len(CURVE)
    assert run(tmp_path, "--again") == 0 and len(asked) == 2 * len(CURVE)
    assert (tmp_path / "cost.md").is_file() and not list(tmp_path.glob("*.tmp*"))
    assert run(tmp_path, "--long") == 0 and asked[2 * len(CURVE) :] == LONG


def test_other_code_is_measured_anew(processes, tmp_path, monkeypatch):
    asked, _ = processes
    assert run(tmp_path) == 0
    monkeypatch.setattr(records, "code_version", lambda: "another")
    assert run(tmp_path, "--keep") == 0 and len(asked) == len(CURVE)
    assert run(tmp_path, "--draw") == 0 and len(asked) == len(CURVE)
    assert run(tmp_path) == 0 and len(asked) == 2 * len(CURVE)
    stored = json.loads((tmp_path / "cost.json").read_text())
    assert {entry["code"] for entry in stored["measurements"].values()} == {"another"}
    assert all(len(entry["runs"]) == 1 for entry in stored["measurements"].values())
    assert run(tmp_path, "--threads", "1") == 0 and len(asked) == 3 * len(CURVE)


def test_a_failure_is_told_and_the_rest_goes_on(processes, tmp_path, capsys):
    asked, trouble = processes
    trouble["direct/540p/fp32"] = RuntimeError("exit code 1\nMemoryError: no more")
    assert run(tmp_path) == 1
    assert asked == [name for name in CURVE if name not in trouble]
    assert json.loads((tmp_path / "cost.json").read_text())["not_measured"] == {
        "direct/540p/fp32": "MemoryError: no more"
    }
    assert "MemoryError: no more" in capsys.readouterr().err
    trouble.clear()
    assert run(tmp_path) == 0
    assert json.loads((tmp_path / "cost.json").read_text())["not_measured"] == {}


def test_a_rival_that_was_not_there_is_asked_again(monkeypatch, tmp_path):
    asked = []

    def answer(measurement, folder, threads, **more):
        asked.append(more)
        return {"seconds": [1.0], "cpu_seconds": [1.0]} if more else {"not_measured": "not there"}

    monkeypatch.setattr(command, "run_probe", answer)
    record = records.Record(tmp_path / "cost.json", FULL, records.describe([], 2, False))
    rival = Measurement("small_flow/raft-small/540p", "small-flow", {"method": "raft-small"})
    for rivals in (None, None, tmp_path):
        command.measure(record, [[rival]], command.Console(quiet=True), False, False, rivals)
    assert asked == [{}, {"packages": str(tmp_path)}] and record.not_measured == {}
    assert len(record.measurements[rival.name]["runs"]) == 1


def test_turns_alternate(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(command, "run_probe", lambda m, *_, **__: asked.append(m.name) or {"seconds": [1.0]})
    record = records.Record(tmp_path / "cost.json", FULL, records.describe([], 2, False))
    two, one = Measurement("a", "count", {}, turns=2), Measurement("b", "count", {}, turns=1)
    command.measure(record, [[two, one], [one]], command.Console(quiet=True), False, False, None)
    assert asked == ["a", "b", "a"]


def test_mistakes_on_the_command_line(tmp_path, processes):
    assert "expected one of arithmetic" in str(run(tmp_path, "--case", "unknown"))
    assert "--size 8K" in str(run(tmp_path, "--size", "8K"))
    assert "nothing is measured yet" in str(run(tmp_path, "--draw"))
    assert run(tmp_path) == 0
    with pytest.raises(SystemExit, match="was written with --quick"):
        command.main(["--output", str(tmp_path)])


def test_a_process_measures(tmp_path):
    sizes = {"square": 64, "tokens": 32, "width": 64, "conv": [8, 8]}
    found = command.run_probe(Measurement("ceiling", "ceiling", sizes), tmp_path, 1, repeat=1)
    assert found["fp32_gflops"] > 0 and found["device"]


def test_a_broken_process_says_why(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('ok')\nsys.exit('a reason')\n")
    monkeypatch.setattr(command, "PROBE", script)
    with pytest.raises(RuntimeError, match="exit code 1\na reason"):
        command.run_probe(Measurement("ceiling", "ceiling", {}), tmp_path, 1)
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(RuntimeError, match="killed, probably for memory"):
        command.run_probe(Measurement("ceiling", "ceiling", {}), tmp_path, 1)


def test_two_processes_work_together(tmp_path):
    [two] = [m for m in cases.scaling(QUICK) if m.processes == 2]
    found = command.run_probe(two, tmp_path, 2)
    assert found["processes"] == 2 and min(found["step_seconds"]) > 0


def test_processes_that_work_apart_are_no_measurement(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text("print('{\"processes\": 1}')")
    monkeypatch.setattr(command, "PROBE", script)
    with pytest.raises(RuntimeError, match="asked for 2 processes, 1 worked together"):
        command.run_probe(Measurement("ceiling", "ceiling", {}, processes=2), tmp_path, 1)


# ------------------------------------------------------------------ the commands as they are typed


@pytest.mark.slow
def test_everything_in_small(tmp_path):
    script = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "cost", "--quick", "--long", "-o", str(tmp_path)]
    subprocess.run([*script, "--threads", "1"], check=True, capture_output=True)
    subprocess.run([*script, "--threads", "1", "--profile", "--size", "540p"], check=True, capture_output=True)
    stored = json.loads((tmp_path / "cost.json").read_text())
    assert {
        "train_step_720p",
        "train_step_flow_1080p",
        "flow_1080p",
        "memory_curve",
        "arithmetic",
        "small_flow",
        "scaling",
        "profile",
    } <= set(stored)
    assert {"time_ratio", "memory_ratio"} <= set(stored["train_step_720p"])
    assert {
        "tiled_0.9_over_direct",
        "tiled_0.7_over_direct",
        "direct_seconds_fp32",
        "peak_memory_gb",
        "ceiling_gflops_fp32",
        "ceiling_share_fp32",
        "ceiling_share_bf16",
    } <= set(stored["flow_1080p"])
    assert stored["scaling"]["processes"]["2 x 1 threads"]["images_per_second"] > 0
    assert set(stored["not_measured"]) <= {
        f"small_flow/{m}/{s}" for m in ("opencv-tvl1", "raft-small", "raft-large") for s in QUICK.small_frames
    }


@pytest.mark.slow
def test_recipes_side_by_side(tmp_path):
    """The script's other form, as README has it."""
    values = yaml.safe_load((RECIPES / "flow-synthetic.yaml").read_text())
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    script = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), str(recipe), "--rounds", "1", "--steps", "1"]
    small = ["--set", "optimization.batch_size=1", "--set", "data.settings.sizes=[[192,256]]"]
    found = subprocess.run([*script, *small], check=True, capture_output=True, text=True)
    assert "s / step" in found.stdout and "1.00" in found.stdout
