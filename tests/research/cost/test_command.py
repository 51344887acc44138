"""`benchmark.py cost`: interrupted runs go on, failures are reported, and processes measure."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from research.cost import cases, command
from research.cost import record as records
from research.cost.cases import FULL, QUICK, Measurement
from support.places import RECIPES, ROOT


@pytest.fixture
def processes(monkeypatch):
    """Replaces measurements: the names of those that ran, and name -> exception to raise."""
    started, trouble = [], {}

    def answer(measurement, folder, threads, **more):
        if measurement.name in trouble:
            raise trouble[measurement.name]
        started.append(measurement.name)
        return {"seconds": [1.0], "cpu_seconds": [1.0], "peak_gb": 2.0, "idle_gb": 1.0, "above_gb": 1.0, "tokens": 24}

    monkeypatch.setattr(command, "run_probe", answer)
    return started, trouble


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
    started, trouble = processes
    trouble["direct/1440p/fp32"] = KeyboardInterrupt()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        command.main(["--quick", "--output", str(tmp_path), "--case", "memory_curve"])
    assert started == CURVE[:4]
    stored = json.loads((tmp_path / "cost.json").read_text())
    assert list(stored["measurements"]) == CURVE[:4] and len(stored["memory_curve"]["fp32"]) == 2
    trouble.clear()
    assert run(tmp_path) == 0
    assert started == CURVE  # nothing twice
    assert run(tmp_path) == 0 and len(started) == len(CURVE)
    assert run(tmp_path, "--again") == 0 and len(started) == 2 * len(CURVE)
    assert (tmp_path / "cost.md").is_file() and not list(tmp_path.glob("*.tmp*"))
    assert run(tmp_path, "--long") == 0 and started[2 * len(CURVE) :] == LONG


def test_other_code_is_measured_anew(processes, tmp_path, monkeypatch):
    started, _ = processes
    assert run(tmp_path) == 0
    monkeypatch.setattr(records, "code_version", lambda: "another")
    assert run(tmp_path, "--keep") == 0 and len(started) == len(CURVE)
    assert run(tmp_path, "--draw") == 0 and len(started) == len(CURVE)
    assert run(tmp_path) == 0 and len(started) == 2 * len(CURVE)
    stored = json.loads((tmp_path / "cost.json").read_text())
    assert {entry["code"] for entry in stored["measurements"].values()} == {"another"}
    assert all(len(entry["runs"]) == 1 for entry in stored["measurements"].values())
    assert run(tmp_path, "--threads", "1") == 0 and len(started) == 3 * len(CURVE)


def test_a_failure_is_reported_and_the_rest_goes_on(processes, tmp_path, capsys):
    started, trouble = processes
    trouble["direct/540p/fp32"] = RuntimeError("exit code 1\nMemoryError: no more")
    assert run(tmp_path) == 1
    assert started == [name for name in CURVE if name not in trouble]
    assert json.loads((tmp_path / "cost.json").read_text())["not_measured"] == {
        "direct/540p/fp32": "MemoryError: no more"
    }
    assert "MemoryError: no more" in capsys.readouterr().err
    trouble.clear()
    assert run(tmp_path) == 0
    assert json.loads((tmp_path / "cost.json").read_text())["not_measured"] == {}


def test_a_missing_package_is_tried_again(monkeypatch, tmp_path):
    started = []

    def answer(measurement, folder, threads, **more):
        started.append(more)
        return {"seconds": [1.0], "cpu_seconds": [1.0]} if more else {"not_measured": "not there"}

    monkeypatch.setattr(command, "run_probe", answer)
    record = records.Record(tmp_path / "cost.json", FULL, records.describe([], 2, False))
    rival = Measurement("small_flow/raft-small/540p", "small-flow", {"method": "raft-small"})
    for rivals in (None, None, tmp_path):
        command.measure(record, [[rival]], command.Console(quiet=True), False, False, rivals)
    assert started == [{}, {"packages": str(tmp_path)}] and record.not_measured == {}
    assert len(record.measurements[rival.name]["runs"]) == 1


def test_turns_alternate(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(command, "run_probe", lambda m, *_, **__: started.append(m.name) or {"seconds": [1.0]})
    record = records.Record(tmp_path / "cost.json", FULL, records.describe([], 2, False))
    two, one = Measurement("a", "count", {}, turns=2), Measurement("b", "count", {}, turns=1)
    command.measure(record, [[two, one], [one]], command.Console(quiet=True), False, False, None)
    assert started == ["a", "b", "a"]


def test_mistakes_on_the_command_line(tmp_path, processes, capsys):
    words = {
        ("--case", "unknown"): "expected one of arithmetic",
        ("--size", "8K"): "--size 8K",
        ("--draw",): "nothing is measured yet",
    }
    for wrong, told in words.items():
        assert run(tmp_path, *wrong) == 2 and told in capsys.readouterr().err
    assert run(tmp_path) == 0
    with pytest.raises(SystemExit):
        command.main(["--output", str(tmp_path)])
    assert "was written with --quick" in capsys.readouterr().err


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
