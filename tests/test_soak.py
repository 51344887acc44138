"""The judgement of scripts/soak.py; the long runs themselves are started by hand."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
import soak

FLAT = soak.Sample(0.0, 800_000_000, 40, 10, 1, 3, 0)


def run(**last: float) -> list[soak.Sample]:
    """50 samples of which the values in `last` grow evenly from those of FLAT."""
    return [
        dataclasses.replace(
            FLAT,
            minute=number / 5,
            **{name: getattr(FLAT, name) + (value - getattr(FLAT, name)) * number / 49 for name, value in last.items()},
        )
        for number in range(50)
    ]


def test_a_flat_run_passes() -> None:
    assert soak.grown(run()) == [] and soak.grown(run(memory=830_000_000, handles=50)) == []
    warming = run()
    warming[:8] = run(memory=400_000_000)[-8:]  # before everything is loaded
    assert soak.grown(warming) == []


@pytest.mark.parametrize("last", [{"memory": 1.2e9}, {"handles": 90}, {"threads": 70}, {"shared": 60}])
def test_growth_is_named(last: dict[str, float]) -> None:
    (found,) = soak.grown(run(**last))
    assert next(iter(last)) in found


def test_a_short_run_proves_nothing() -> None:
    assert soak.grown(run()[:9])


def test_samples_are_of_this_process(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(1000))
    before = soak.sample(psutil.Process(), 0, tmp_path)
    handles = [os.open(tmp_path / "folder" / "file", os.O_RDONLY) for _ in range(5)]
    after = soak.sample(psutil.Process(), 0, tmp_path)
    for handle in handles:
        os.close(handle)
    assert after.handles == before.handles + 5 and after.disk == 1000 and after.memory > 1e7
    assert "| 0.0 | 800 | 40 |" in soak.table(run()) and len(soak.table(run()).splitlines()) <= 16


def test_an_interruption_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "WINWIN", [sys.executable, "-c", "import time; time.sleep(600)"])
    with pytest.raises(KeyboardInterrupt), soak.running() as process:
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGTERM
