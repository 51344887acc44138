"""What a training's folder says."""

import json
import math

import pytest
from research.experiments import logs
from support.experiment_cases import write_metrics

LINES = [
    {"step": 1, "loss": 2.0, "gb": 0.9, "cpu_seconds": 10.0, "seconds": 11.0},
    {"step": 2, "loss": 1.5, "gb": 1.1, "cpu_seconds": 20.0, "seconds": 22.0},
    {"step": 2, "frames": {"miou": 12.5}, "tiles": {"miou": 14.0}, "cpu_seconds": 20.0, "seconds": 22.0},
    {"step": 4, "loss": 1.0, "gb": 3.0, "cpu_seconds": 40.0, "seconds": 44.0},
    {"step": 4, "frames": {"miou": 25.0}, "cpu_seconds": 40.0, "seconds": 44.0},
]


def test_curve_time_and_memory_of_a_log(tmp_path):
    folder = write_metrics(tmp_path, LINES, end='{"step": 5, "loss":')  # the last line is being written
    assert logs.steps_done(folder) == 4
    assert logs.curve(folder, "frames", "miou") == [
        {"step": 2, "cpu_seconds": 20.0, "seconds": 22.0, "value": 12.5},
        {"step": 4, "cpu_seconds": 40.0, "seconds": 44.0, "value": 25.0},
    ]
    assert [point["value"] for point in logs.curve(folder, "tiles", "miou")] == [14.0]
    assert logs.training_seconds(folder) == 40.0
    assert logs.memory_gb(folder) == 1.1  # not that of the evaluations
    (folder / "machine.json").write_text(json.dumps({"accelerator": "a GPU"}))
    assert logs.training_seconds(folder) == 44.0


def test_memory_is_beyond_the_idle_process_where_that_is_known(tmp_path):
    folder = write_metrics(tmp_path, [{**LINES[0], "idle_gb": 0.5}, *LINES[1:]])
    assert logs.memory_gb(folder) == pytest.approx(0.6)
    (folder / "machine.json").write_text(json.dumps({"accelerator": "a GPU"}))
    assert logs.memory_gb(folder) == 1.1  # there the weights would be subtracted too


def test_a_training_that_said_nothing_yet(tmp_path):
    assert logs.curve(tmp_path, "frames", "miou") == []
    assert math.isnan(logs.memory_gb(tmp_path)) and math.isnan(logs.training_seconds(tmp_path))


def test_minutes_are_of_the_clock_that_counts(tmp_path):
    write_metrics(tmp_path, [{"step": 1, "frames": {"epe": 5.0}, "seconds": 60.0, "cpu_seconds": 30.0}])
    assert logs.minutes_curve(tmp_path, "frames", "epe") == [(0.5, 5.0)]
    (tmp_path / "machine.json").write_text('{"accelerator": "some"}')
    assert logs.minutes_curve(tmp_path, "frames", "epe") == [(1.0, 5.0)]
