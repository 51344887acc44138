"""scripts/gpu_check.sh: parts that end, fail, hang and lack a package; what gpu.md says; the whole with the CPU in the GPU's place."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_check
import pytest
from research.gpu import parts
from support.places import HANGS_AFTER, ROOT

FAKE = """
import json, sys, time
from pathlib import Path
name, request = sys.argv[1], json.loads(sys.argv[2])
if name != "tests":
    Path(request["file"]).write_text(json.dumps({"first": 1, "markdown": f"## Of {name}"}))
if name == "cost":
    raise ValueError("no such kernel")
if name == "tests":
    import a_package_that_is_not_there
if name == "throughput":
    time.sleep(600)
"""


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    monkeypatch.setattr(sys, "argv", ["gpu_check.sh", str(out), *words])
    with pytest.raises(SystemExit) as end:
        gpu_check.main()
    return end.value.code, json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


def test_a_part_that_fails_or_hangs_is_reported_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(gpu_check, "PARTS", tmp_path / "fake.py")
    monkeypatch.setattr(gpu_check, "UNTIL", dict.fromkeys(gpu_check.UNTIL, 1.0))
    code, found, page = run(monkeypatch, tmp_path / "out", "--deadline", "5")
    states = {name: (part["state"], part["error"]) for name, part in found["parts"].items()}
    assert code == 1 and list(states) == ["machine", "cost", "tests", "throughput"]
    assert states["machine"] == ("done", None)
    assert states["cost"][0] == "failed" and states["cost"][1].endswith("ValueError: no such kernel")
    assert states["tests"] == ("skipped", "No module named 'a_package_that_is_not_there'")
    assert states["throughput"][0] == "out of time"
    assert all(part["results"].get("first") == 1 for name, part in found["parts"].items() if name != "tests")
    assert "| cost | failed | ValueError: no such kernel |" in page and "## cost failed" in page
    assert page.index("## Of machine") < page.index("## Of cost") < page.index("## Of throughput")
    assert "CPU stands in" not in page and "Tiny sizes" not in page
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check.sh", str(tmp_path / "out"), "--device", "cpu"])

    def full(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SystemExit, match=r"^gpu_check\.sh: .*out: No space left on device$"):
        gpu_check.main()
    with pytest.raises(OSError):
        gpu_check.replace_text(tmp_path / "x", "text")
    assert not list(tmp_path.glob(".x*"))


def test_nothing_is_measured_without_a_gpu(tmp_path, monkeypatch):
    (tmp_path / "fake.py").write_text(FAKE.replace('"first": 1', '"gpu": "none: torch finds no CUDA GPU"'))
    monkeypatch.setattr(gpu_check, "PARTS", tmp_path / "fake.py")
    code, found, page = run(monkeypatch, tmp_path / "out")
    states = {name: part["state"] for name, part in found["parts"].items()}
    assert code == 1 and states == {"machine": "done", **dict.fromkeys(["cost", "tests", "throughput"], "skipped")}
    assert "| cost | skipped | torch finds no CUDA GPU | - |" in page


def test_the_state_of_each_test_is_read_while_others_run(tmp_path):
    part = parts.Part(tmp_path / "tests.json", small=True, end=1e12)
    text = (
        "tests/model/test_a.py::test_b[gpu-linear] PASSED [ 10%]\n"
        "tests/model/test_a.py::test_b[gpu-conv] FAILED [ 20%]\n"
        "tests/model/test_a.py::test_c[x] SKIPPED (the package flash_attn isn't installed) [ 30%]\n"
        "tests/model/test_a.py::test_d "
    )
    parts.told_of(part, text, ended=False)
    found = json.loads((tmp_path / "tests.json").read_text())
    assert found["states"]["tests/model/test_a.py::test_b[gpu-conv]"] == "failed" and not found["ended"]
    assert (
        "3 tests ran so far" in found["markdown"]
        and "Skipped: the package flash_attn isn't installed." in found["markdown"]
    )
    assert "| `tests/model/test_a.py::test_b` | 1 | 1 | 0 |" in found["markdown"]
    text += "PASSED [100%]\n=== short test summary info ===\nFAILED tests/model/test_a.py::test_b[gpu-conv] - assert 1 < 0\n"
    parts.told_of(part, text, ended=True)
    page = json.loads((tmp_path / "tests.json").read_text())["markdown"]
    assert "4 tests ran.\n" in page and "- `tests/model/test_a.py::test_b[gpu-conv]`: failed; assert 1 < 0" in page


def test_what_the_gpu_waits_is_what_the_training_lacks():
    rows = [
        {
            "recipe": "a",
            "batch": 8,
            "network_rate": 100.0,
            "workers": 3,
            "loader_rate": 40.0,
            "training_rate": 39.0,
            "training_wait": 0.5,
        },
        {"recipe": "b", "error": "OutOfMemoryError: no"},
    ]
    variants = [
        {"recipe": "a", "variant": "network: as it is", "network_rate": 100.0, "first_seconds": 1.0, "peak_gb": 2.0},
        {"recipe": "a", "variant": "network: compiled", "network_rate": 150.0, "first_seconds": 30.0, "peak_gb": 2.0},
        {"recipe": "a", "variant": "loader: 3", "loader_rate": 40.0, "workers": 3},
        {"recipe": "a", "variant": "loader: 1", "loader_rate": 20.0, "workers": 1},
    ]
    page = parts.throughput_page(rows, variants)
    assert "| a | 8 | 100 | - | 3 | 40.0 | 39.0 | 61 % | 50 % | - |" in page and "OutOfMemoryError: no" in page
    assert "| network: compiled | 150 | 1.5 |" in page and "| loader: 1 | 20.0 | 0.5 |" in page


def test_each_file_with_tests_for_a_gpu_is_run():
    """The part names them, since others need packages that a machine with a GPU may lack."""
    words = ("pytest.mark.cuda", 'usefixtures("device")')
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if any(word in path.read_text() for word in words)]
    found = [path.relative_to(ROOT).as_posix() for path in found if path.name != Path(__file__).name]
    assert sorted(found) == sorted(parts.TESTS)


@pytest.mark.slow
def test_the_cpu_in_the_gpus_place(tmp_path):
    """Each part measures and draws its section."""
    words = [str(ROOT / "scripts" / "gpu_check.sh"), str(tmp_path / "out"), "--device", "cpu", "--small"]
    done = subprocess.run(
        [*words, "--deadline", str(HANGS_AFTER - 50)],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER,
    )
    page = (tmp_path / "out" / "gpu.md").read_text()
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]
    assert done.returncode == 0, done.stdout + done.stderr + page
    assert {name: part["state"] for name, part in found.items()} == dict.fromkeys(gpu_check.UNTIL, "done")
    cost, throughput = found["cost"]["results"], found["throughput"]["results"]
    assert cost["errors"] == {} and {"tiled/fp32", "direct/4K/fp32"} <= cost["measurements"].keys()
    assert {
        f"train_step_{case}/{kind}/fp32" for case in ("720p", "flow_1080p") for kind in ("windows", "crops", "full")
    } <= (cost["measurements"].keys())
    for row in throughput["recipes"]:
        assert row["training_rate"] > 0 and row["network_rate"] > 0 and row["loader_rate"] > 0 and "error" not in row
    assert [row["variant"] for row in throughput["variants"] if "error" in row] == []
    assert set(found["tests"]["results"]["states"].values()) == {"passed", "skipped"}
    for words in (
        "The CPU stands in the GPU's place",
        "Tiny sizes",
        "times two windows",
        "the GPU waits",
        "What raises it",
    ):
        assert words in page
