"""Trainings are started, resumed and never started twice."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from research.experiments import trainings
from research.experiments.logs import read_metrics, steps_done
from research.experiments.trainings import Job, Run, train_all
from support.experiment_cases import CAMVID, context_of, printed, recipe_file

# Stands for scripts/train.py: a step sleeps 0.02 s. A folder with "broken" in its name fails.
FAKE = """
import json, os, signal, sys, time, yaml
from pathlib import Path

out = Path(sys.argv[sys.argv.index("--output") + 1])
recipe = yaml.safe_load(Path(sys.argv[1]).read_text())
for word, value in zip(sys.argv, sys.argv[1:]):
    if word == "--set":
        key, _, text = value.partition("=")
        *sections, name = key.split(".")
        target = recipe
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = yaml.safe_load(text)
(out / "recipe.yaml").write_text(yaml.safe_dump(recipe))
with (out.parent / "began.txt").open("a") as file:
    file.write(f"{out.name} {time.time()} {os.environ['OMP_NUM_THREADS']}\\n")
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
if "broken" in out.name:
    print("step 1\\rstep 2\\rsomething is wrong")
    sys.exit(3)
states = sorted(out.glob("state-*"))
step = int(states[-1].name[6:]) if states else 0
steps = recipe["optimization"]["steps"]
with (out / "metrics.jsonl").open("a") as log:
    while step < steps and not stopping:
        time.sleep(0.02)
        step += 1
        log.write(json.dumps({"step": step, "loss": 1 / step, "gb": 1.0, "seconds": step, "cpu_seconds": 2 * step}) + "\\n")
        log.flush()
        if step == steps:
            line = {"step": step, "frames": {"miou": 30.0}, "seconds": step, "cpu_seconds": 2 * step}
            log.write(json.dumps(line) + "\\n")
(out / f"state-{step:08d}").mkdir(exist_ok=True)
if step == steps:
    (out / "model").mkdir()
    (out / "model" / "config.json").write_text("{}")
with (out.parent / "ended.txt").open("a") as file:
    file.write(f"{out.name} {time.time()} {step}\\n")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """A recipe; its trainings run FAKE, and are polled often."""
    script = tmp_path / "fake_train.py"
    script.write_text(FAKE)
    monkeypatch.setattr(trainings, "TRAIN", script)
    monkeypatch.setattr(trainings, "POLL_SECONDS", 0.02)
    return recipe_file(tmp_path)


def notes(folder: Path, name: str) -> list[list[str]]:
    """What the fake trainings noted: [folder, time, something]."""
    path = folder / "work" / "t" / name
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


# ------------------------------------------------------------------ trainings


def test_trains_as_many_at_a_time_as_told_and_each_once(fake, tmp_path):
    wanted = [Run(f"t/{name}", fake, ("optimization.steps=20",)) for name in "abcd"]
    here = context_of(tmp_path, jobs=2, threads=3)
    folders = train_all([*wanted, wanted[0]], here)
    assert folders == {f"t/{name}": tmp_path / "work" / "t" / name for name in "abcd"}
    assert all((folder / "model" / "config.json").is_file() for folder in folders.values())
    began, ended = notes(tmp_path, "began.txt"), notes(tmp_path, "ended.txt")
    assert [{line[0] for line in part} for part in (began[:2], began[2:])] == [{"a", "b"}, {"c", "d"}]
    assert {line[2] for line in began} == {"3"}  # threads
    events = sorted([(float(t), 1) for _, t, _ in began] + [(float(t), -1) for _, t, _ in ended])
    at_a_time = [sum(change for _, change in events[: i + 1]) for i in range(len(events))]
    assert max(at_a_time) == 2
    assert train_all(wanted, here) == folders
    assert len(notes(tmp_path, "began.txt")) == 4  # nothing was begun again


def test_sigterm_ends_the_trainings_and_the_next_call_goes_on(fake, tmp_path):
    run = Run("t/a", fake, ("optimization.steps=80",))
    here = context_of(tmp_path)

    def ask_once_it_trains():
        while steps_done(tmp_path / "work" / "t" / "a") < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask_once_it_trains).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        train_all([run], here)
    assert signal.getsignal(signal.SIGTERM) == before
    [[_, _, stopped_at]] = notes(
        tmp_path, "ended.txt"
    )  # it ended by itself, with a state, and before this call returned
    assert 3 <= int(stopped_at) < 80
    folder = train_all([run], here)["t/a"]
    steps = [line["step"] for line in read_metrics(folder) if "loss" in line]
    assert steps == list(range(1, 81))  # no step twice
    assert f"from step {stopped_at}" in printed(tmp_path)


def test_an_orphan_is_waited_for_not_doubled(fake, tmp_path):
    run = Run("t/a", fake, ("optimization.steps=40",))
    folder = tmp_path / "work" / "t" / "a"
    orphan = Job(run, folder, 40, 1)
    orphan.start()  # started by a program that was killed
    folders = train_all([run], context_of(tmp_path))
    assert folders == {"t/a": folder}
    assert len(notes(tmp_path, "began.txt")) == 1
    orphan.wait()


def test_an_orphan_that_dies_is_taken_over(fake, tmp_path):
    run = Run("t/a", fake, ("optimization.steps=60",))
    folder = tmp_path / "work" / "t" / "a"
    orphan = Job(run, folder, 60, 1)
    orphan.start()

    def kill_once_it_trains():
        while steps_done(folder) < 3:
            time.sleep(0.01)
        orphan.process.kill()
        orphan.wait()

    threading.Thread(target=kill_once_it_trains).start()
    assert train_all([run], context_of(tmp_path)) == {"t/a": folder}
    assert len(notes(tmp_path, "began.txt")) == 2


def test_a_failure_ends_with_its_last_lines_after_the_others(fake, tmp_path):
    wanted = [Run("t/broken", fake), Run("t/a", fake)]
    with pytest.raises(
        RuntimeError, match=r"1 of 2 trainings failed\nt/broken: exit code 3; (.|\n)*something is wrong"
    ):
        train_all(wanted, context_of(tmp_path))
    assert list(train_all(wanted, context_of(tmp_path, draw_only=True))) == ["t/a"]


def test_a_folder_of_another_recipe_is_no_result(fake, tmp_path):
    train_all([Run("t/a", fake)], context_of(tmp_path))
    with pytest.raises(ValueError, match=r"a: trained by another recipe .*\(optimization differ\)"):
        train_all([Run("t/a", fake, ("optimization.learning_rate=0.5",))], context_of(tmp_path))
    moved = Run("t/a", fake, ("data.path=elsewhere", "evaluation.every=1", "log_every=7"))
    assert train_all([moved], context_of(tmp_path))  # the same training


def test_one_name_means_one_run(fake, tmp_path):
    with pytest.raises(ValueError, match="two runs are called t/a"):
        train_all([Run("t/a", fake), Run("t/a", fake, ("optimization.seed=1",))], context_of(tmp_path))


def test_seeds_come_in_turns(tmp_path):
    here = context_of(tmp_path, seeds=2)
    kinds = [trainings.seeds(here, f"t/{key}", "seg-full.yaml", "camvid", ("save_every=1",)) for key in "ab"]
    ordered = trainings.seed_by_seed(kinds)
    assert [run.name for run in ordered] == ["t/a-0", "t/b-0", "t/a-1", "t/b-1"]
    assert ordered[2].overrides == (f"data.path={CAMVID}", "save_every=1", "optimization.seed=1")
    assert ordered[0].recipe.is_file()
