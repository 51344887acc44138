"""Outputs and manifests that no run wrote, or that are gone: nothing is mixed or believed silently."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import fsspec
import pytest
from support.bulk import faults, results, run, write

from winwin_hf.inference.bulk import engines, outputs, work
from winwin_hf.inference.bulk import run as runs
from winwin_hf.inference.bulk.manifest import Manifest
from winwin_hf.inference.bulk.outputs import Place
from winwin_hf.processes import locked

pytestmark = pytest.mark.usefixtures("small_units")


def test_a_run_that_ended_before_its_first_record_goes_on(models, frames, tmp_path):
    (tmp_path / "out" / "manifest").mkdir(parents=True)
    (tmp_path / "out" / "manifest" / ".run.w0000p1-x.json").touch()
    assert run(frames, tmp_path / "out", models["depth"]).predicted == 7
    (tmp_path / "rows" / "data").mkdir(parents=True)
    assert run(frames, tmp_path / "rows", models["depth"], parquet=True).predicted == 7


def test_a_first_result_that_cannot_be_written_leaves_nothing(models, frames, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")

    for parquet in (False, True):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(outputs, "_write", full)
            patch.setattr(outputs, "write_atomic", full)
            run(frames, tmp_path / "out", models["depth"], parquet=parquet)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("again", [True, False])
def test_nothing_is_written_into_a_folder_that_took_the_place(models, frames, tmp_path, monkeypatch, again, workers):
    """Results of one network overwrote those of another one's finished run."""
    out, old, before = tmp_path / "out", tmp_path / "old", tmp_path / "before"
    run(frames, before, models["segmentation"])
    finished = results(before)
    begin = runs.run_local

    def start(*arguments, **options):
        out.rename(old)
        if again:
            before.rename(out)
        yield from begin(*arguments, **options)

    monkeypatch.setattr(runs, "run_local", start)
    with pytest.raises(OSError, match=rf"^{out} was removed, moved or replaced since this process locked it"):
        run(frames, out, models["depth"], workers=workers)
    assert out.exists() == again and (not again or results(out) == finished)


def test_an_output_stays_free_where_nothing_was_done(models, frames, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(models["depth"], broken)
    next(broken.glob("*.safetensors")).write_bytes(b"x")
    with pytest.raises((ValueError, OSError)):
        run(frames, tmp_path / "out", str(broken))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.json"))
    assert run(frames, tmp_path / "out", models["depth"]).predicted == 7


@pytest.mark.slow
def test_workers_say_why_they_cannot_begin(models, frames, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(models["depth"], broken)
    next(broken.glob("*.safetensors")).write_bytes(b"x")
    with pytest.raises((ValueError, OSError), match=r"model\.safetensors"):
        run(frames, tmp_path / "out", str(broken), workers=2)


def test_rows_without_a_record_are_removed(models, frames, tmp_path, monkeypatch):
    """A kill between a shard and its records."""
    out, true = tmp_path / "out", Place.write

    def stops(self, name, content):
        if name.startswith("manifest/part-") and list((out / "data").glob("*")):
            raise KeyboardInterrupt
        true(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "write", stops)
        with pytest.raises(KeyboardInterrupt):
            run(frames, out, models["depth"], parquet=True)
    assert len(list((out / "data").glob("*.parquet"))) == 1
    assert any("rows that belong to no record" in f or "no result" in f for f in faults(frames, out, models["depth"]))
    monkeypatch.setattr(work, "UNIT", 3)
    assert run(frames, out, models["depth"], parquet=True).predicted == 7
    rows = datasets.load_dataset("parquet", data_files=str(out / "data" / "*.parquet"), split="train")
    assert len(rows) == len(set(rows["name"])) == 7 and faults(frames, out, models["depth"]) == []


def test_a_result_that_is_gone_is_made_again(models, frames, tmp_path):
    run(frames, tmp_path / "out", models["depth"])
    before = results(tmp_path / "out")
    (tmp_path / "out" / "1.npy").unlink()
    assert run(frames, tmp_path / "out", models["depth"]).predicted == 1
    assert results(tmp_path / "out")["1.npy"] == before["1.npy"]


def test_other_networks_do_not_mix(models, frames, tmp_path):
    run(frames, tmp_path / "out", models["depth"])
    other = tmp_path / Path(models["depth"]).name
    shutil.copytree(models["depth"], other)
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.1, 0.2, 0.3]}))
    with pytest.raises(ValueError, match=r"other settings .*weights"):
        run(frames, tmp_path / "out", str(other))
    assert "other settings" in faults(frames, tmp_path / "out", str(other))[0]
    shutil.rmtree(tmp_path / "out" / "manifest")
    with pytest.raises(ValueError, match="no manifest of `winwin predict`"):
        faults(frames, tmp_path / "out", models["depth"])


GOOD = {"name": "0", "input": "x", "stamp": "", "output": "0.npy", "sha256": "0" * 64}


@pytest.mark.parametrize(
    "record",
    [
        {},
        {key: value for key, value in GOOD.items() if key != "sha256"},
        {key: value for key, value in GOOD.items() if key != "output"},
        {**GOOD, "output": "/dev/zero"},
        {**GOOD, "output": "../x"},
        {**GOOD, "source": 3},
        {"ended": "x"},
    ],
)
def test_records_that_no_run_wrote(models, frames, tmp_path, record):
    run(frames, tmp_path / "out", models["depth"])
    with (tmp_path / "out" / "manifest.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    for act in (run, faults):
        with pytest.raises(ValueError, match=r"manifest\.jsonl: line 8 is no record"):
            act(frames, tmp_path / "out", models["depth"])


@pytest.mark.parametrize("content", [b"[]", b'"x"', b"{", b"[" * 100_000])
def test_settings_that_no_run_wrote(models, frames, tmp_path, content):
    run(frames, tmp_path / "out", models["depth"])
    (tmp_path / "out" / "manifest" / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json: not readable"):
        run(frames, tmp_path / "out", models["depth"])


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest/run.json", "manifest/part-x.jsonl", "0.npy"])
def test_pipes_in_the_output(models, frames, tmp_path, name):
    out = tmp_path / "out"
    run(frames, out, models["depth"])
    (out / name).unlink(missing_ok=True)
    os.mkfifo(out / name)
    if name == "manifest/part-x.jsonl":  # no file, so none of its records
        assert faults(frames, out, models["depth"]) == []
    elif name == "0.npy":
        assert "a pipe" in faults(frames, out, models["depth"])[0]
    else:
        with pytest.raises(OSError, match="a pipe; expected a file"):
            faults(frames, out, models["depth"])


def test_a_run_that_came_while_the_input_was_listed(models, tmp_path, monkeypatch):
    one, two = write(tmp_path / "one", "1.png"), write(tmp_path / "two", "1.png")
    true = runs.plan

    def slow(given, *others):
        found = [*true(given, *others)]
        if given == str(two):
            run(one, tmp_path / "out", models["depth"])
        return iter(found)

    monkeypatch.setattr(runs, "plan", slow)
    with pytest.raises(ValueError, match="an earlier run with other settings"):
        run(two, tmp_path / "out", models["depth"])
    assert faults(one, tmp_path / "out", models["depth"]) == []


@pytest.mark.slow
def test_a_second_run_into_one_output_is_refused(models, frames, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    held = "import sys, time, pathlib; sys.path.insert(0, sys.argv[2])\nfrom winwin_hf.processes import locked\n"
    held += "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    root = str(Path(engines.__file__).parents[3])
    other = subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path / "out" / "manifest"), root], stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(FileExistsError, match=r"process \d+ on .* is predicting into it"):
            run(frames, tmp_path / "out", models["depth"])
    finally:
        other.kill()
        other.wait()
    with locked(tmp_path / "out" / "manifest"):
        pass
    assert run(frames, tmp_path / "out", models["depth"]).predicted == 7


def test_a_file_of_another_machine_appears_when_it_is_whole(monkeypatch):
    monkeypatch.setattr(outputs, "FILES", {"memory"})
    system, seen = fsspec.filesystem("memory"), []
    true = type(system).pipe_file
    monkeypatch.setattr(
        type(system), "pipe_file", lambda self, path, *given: seen.append(path) or true(self, path, *given)
    )
    try:
        Place("memory://whole").write("a/1.npy", b"x")
        assert seen == ["/whole/a/.1.npy.part"] and system.find("/whole") == ["/whole/a/1.npy"]
    finally:
        system.rm("/whole", recursive=True)


def test_too_many_threads(models, frames, tmp_path):
    with pytest.raises(ValueError, match="threads 100000: expected 1 or more, and at most 1024"):
        run(frames, tmp_path / "out", models["depth"], threads=100_000)


def test_the_records_of_a_run_are_of_their_inputs(models, frames, tmp_path):
    run(frames, tmp_path / "out", models["flow"], skip_broken=True)
    record = Manifest.load(Place(str(tmp_path / "out"))).records["0"]
    assert record["input"].endswith("0.png") and record["input2"].endswith("1.png") and record["stamp"]
