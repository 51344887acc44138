"""`winwin predict`: every input has its result once, whatever happens in between."""

from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import datasets
import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.bulk import results, run
from support.places import HANGS_AFTER, ROOT
from typer.testing import CliRunner

from winwin_hf import pools
from winwin_hf.cli.main import app
from winwin_hf.data import formats
from winwin_hf.inference.bulk import engines, plan, work
from winwin_hf.inference.bulk.engines import packed, unpacked
from winwin_hf.inference.bulk.manifest import Manifest
from winwin_hf.inference.bulk.outputs import Place
from winwin_hf.inference.bulk.run import verify
from winwin_hf.inference.predictor import Predictor
from winwin_hf.task import DoesNotFit

pytestmark = pytest.mark.usefixtures("small_units")


@pytest.mark.parametrize("task", ["depth", "segmentation"])
def test_results_are_the_predictors(models, frames, tmp_path, task):
    done = run(frames, tmp_path / "out", models[task])
    assert (done.predicted, done.reused, done.broken) == (7, 0, [])
    predictor = Predictor.load(models[task], device="cpu")
    for file in sorted(frames.rglob("*.png")):
        target = tmp_path / "out" / file.relative_to(frames)
        expected = predictor(file).values
        found = formats.read_npy(target.with_suffix(".npy")) if task == "depth" else formats.read_labels(target)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert verify(str(frames), str(tmp_path / "out"), models[task]) == (7, [])
    records = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [record["name"] for record in records] == ["0", "1", "2", "3", "b/4", "b/5", "b/6"]
    assert all(len(record["sha256"]) == 64 and record["weights"] and record["seconds"] >= 0 for record in records)


@pytest.mark.parametrize("threads", [None, 2])
def test_the_callers_number_of_threads_stays(models, frames, tmp_path, monkeypatch, threads):
    """Later trainings have other last digits with another; forks wait forever for threads that they don't have."""
    seen, before = [], torch.get_num_threads()

    def counts(*_):
        seen.append(torch.get_num_threads())
        raise ValueError("computes nothing, so that no threads start here")

    monkeypatch.setattr(Predictor, "predict_batch", counts)
    run(frames, tmp_path / "out", models["depth"], threads=threads, skip_broken=True)
    assert set(seen) == {threads or before} and torch.get_num_threads() == before


def test_pairs_and_batches(models, frames, tmp_path):
    done = run(frames, tmp_path / "out", models["flow"], batch=3, skip_broken=True)
    assert len(done.broken) == 1 and "frames of 40x56 and 33x70" in done.broken[0]
    predictor = Predictor.load(models["flow"], device="cpu", quality="fast")
    assert sorted(path.stem for path in (tmp_path / "out").rglob("*.flo")) == ["0", "1", "2", "5"]
    expected = predictor(frames / "1.png", frames / "2.png").values.transpose(1, 2, 0)
    np.testing.assert_allclose(formats.read_flo(tmp_path / "out" / "1.flo"), expected, rtol=1e-3, atol=1e-4)


def test_an_interrupted_run_goes_on(models, frames, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(frames, whole, models["depth"])
    true, seen = Predictor.predict_batch, []

    def stops(self, images, seconds=None):
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return true(self, images, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict_batch", stops)
        with pytest.raises(KeyboardInterrupt):
            run(frames, out, models["depth"])
    assert 0 < len(Manifest.load(Place(str(out))).records) < 7
    count, faults = verify(str(frames), str(out), models["depth"])
    assert count < 7 and len(faults) == 7 - count and all("no result" in fault for fault in faults)
    done = run(frames, out, models["depth"])
    assert done.reused == count and done.predicted == 7 - count
    assert {name: data for name, data in results(out).items() if name.endswith(".npy")} == {
        name: data for name, data in results(whole).items() if name.endswith(".npy")
    }
    again = run(frames, out, models["depth"])
    assert (again.predicted, again.reused) == (0, 7)
    assert not list((out / "manifest").glob("part-*"))


def test_broken_inputs(models, frames, tmp_path):
    (frames / "2.png").write_bytes(b"no picture")
    with pytest.raises(work.BrokenInput, match=r"2\.png: not a readable image"):
        run(frames, tmp_path / "out", models["depth"])
    done = run(frames, tmp_path / "out", models["depth"], skip_broken=True)
    assert len(done.broken) == 1 and "2.png" in done.broken[0] and done.reused + done.predicted == 6
    count, faults = verify(str(frames), str(tmp_path / "out"), models["depth"])
    assert count == 6 and len(faults) == 1 and "not a readable image" in faults[0]
    shutil.copy(frames / "1.png", frames / "2.png")  # mended: the same command goes on
    assert run(frames, tmp_path / "out", models["depth"]).predicted == 1
    assert verify(str(frames), str(tmp_path / "out"), models["depth"]) == (7, [])


@pytest.mark.parametrize("suffix", [".mp4", ".parquet", ".tar"])
def test_a_file_of_many_that_cannot_be_read(models, frames, tmp_path, suffix):
    (frames / f"many{suffix}").write_bytes(b"damaged" * 99)
    with pytest.raises(work.BrokenInput, match=rf"many\{suffix}: not a readable"):
        run(frames, tmp_path / "out", models["depth"])
    done = run(frames, tmp_path / "out", models["depth"], skip_broken=True)
    assert len(done.broken) == 1 and done.predicted + done.reused == 7
    assert len(run(frames, tmp_path / "out", models["depth"], skip_broken=True).broken) == 1  # is tried again
    assert verify(str(frames), str(tmp_path / "out"), models["depth"])[0] == 7


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("kind", [ValueError, FloatingPointError])
def test_a_picture_that_the_network_refuses_is_a_broken_input(models, frames, tmp_path, monkeypatch, batch, kind):
    true, bad = Predictor.predict_batch, formats.read_image(frames / "2.png")

    def refuses(self, images, seconds=None):
        if any(np.array_equal(image, bad) for image in images):
            raise kind("too much for this network")
        return true(self, images, seconds)

    monkeypatch.setattr(Predictor, "predict_batch", refuses)
    with pytest.raises(work.BrokenInput, match=r"2\.png: too much for this network"):
        run(frames, tmp_path / "out", models["depth"], batch=batch)
    done = run(frames, tmp_path / "out", models["depth"], batch=batch, skip_broken=True)
    assert len(done.broken) == 1 and done.predicted + done.reused == 6


@pytest.mark.parametrize("parquet", [False, True])
def test_what_a_png_cannot_hold_is_told(models, frames, tmp_path, monkeypatch, parquet):
    true = Predictor.predict_batch

    def far(self, images, seconds=None):
        found = true(self, images, seconds)
        for one in found:
            one.values = np.full_like(one.values, 3)
            one.values[:10] = 70
        return found

    monkeypatch.setattr(Predictor, "predict_batch", far)
    done = run(frames, tmp_path / "out", models["depth"], suffix=".png", parquet=parquet)
    shares = [json.loads(line)["beyond"] for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert done.beyond == 7 and shares[:5] == [10 / 40] * 5
    assert run(frames, tmp_path / "npy", models["depth"], parquet=parquet).beyond == 0


def test_a_cluster_that_is_not_there_is_told():
    """Ray itself would ask for it without end."""
    with socket.socket() as taken:  # nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for place in (address, f"ray://{address}"):
            with pytest.raises(ConnectionError, match=f"address {place}: nothing answers there .*refused"):
                engines._check_answers(place)
        taken.listen()
        engines._check_answers(address)
    engines._check_answers("auto")
    for place in ("nowhere", "127.0.0.1:x", ":6379", "127.0.0.1:99999"):
        with pytest.raises(DoesNotFit, match="expected HOST:PORT"):
            engines._check_answers(place)


def test_what_changed_is_told(models, frames, tmp_path):
    out = tmp_path / "out"
    run(frames, out, models["depth"])
    (out / "0.npy").unlink()
    (out / "1.npy").write_bytes(b"other")
    shutil.copy(frames / "1.png", frames / "9.png")
    faults = verify(str(frames), str(out), models["depth"])[1]
    assert sorted(faults) == ["0: 0.npy is missing", "1: 1.npy is not what was written", "9: no result"]


def test_shards_of_results(models, frames, tmp_path):
    out = tmp_path / "out"
    run(frames, out, models["depth"], parquet=True, suffix=".png")
    assert verify(str(frames), str(out), models["depth"]) == (7, [])
    rows = datasets.load_dataset("parquet", data_files=str(out / "data" / "*.parquet"), split="train").sort("name")
    assert rows["name"][:2] == ["0", "1"] and set(rows["depth_format"]) == {"png:1000"}
    depth = formats.decode_depth(formats.Blob(rows[0]["depth"]["bytes"], "x"), rows[0]["depth_format"])
    expected = Predictor.load(models["depth"], device="cpu")(frames / "0.png").values
    np.testing.assert_allclose(depth, np.maximum(expected, 0), atol=6e-4)
    shard = next((out / "data").iterdir())
    shard.write_bytes(shard.read_bytes()[:-9])
    assert all("can't be read" in fault for fault in verify(str(frames), str(out), models["depth"])[1])


def test_inputs_and_outputs_behind_addresses(models, frames, tmp_path):
    system = fsspec.filesystem("memory")
    for file in sorted(frames.rglob("*.png")):
        system.pipe_file(f"/in/{file.relative_to(frames)}", file.read_bytes())
    try:
        run("memory://in", "memory://out", models["depth"])
        run(frames, tmp_path / "out", models["depth"])
        for name, data in results(tmp_path / "out").items():
            if name.endswith(".npy"):
                assert system.cat_file(f"/out/{name}") == data
        assert verify("memory://in", "memory://out", models["depth"]) == (7, [])
        assert run("memory://in", "memory://out", models["depth"]).reused == 7
    finally:
        system.rm("/in", recursive=True)
        system.rm("/out", recursive=True)


def test_files_of_others_are_not_replaced(models, frames, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "0.npy").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"0\.npy is there, and no manifest"):
        run(frames, out, models["depth"])
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="file is there, and no manifest"):
        run(frames, tmp_path / "file", models["depth"])
    assert results(out) == {"0.npy": b"mine"}


def test_results_of_other_settings_do_not_mix(models, frames, tmp_path):
    run(frames, tmp_path / "out", models["depth"])
    before = results(tmp_path / "out")
    for options, message in (
        ({"suffix": ".png"}, "suffix .npy, not .png"),
        ({"parquet": True}, "parquet False, not True"),
    ):
        with pytest.raises(ValueError, match=message):
            run(frames, tmp_path / "out", models["depth"], **options)
    with pytest.raises(ValueError, match="task depth-estimation, not semantic-segmentation"):
        run(frames, tmp_path / "out", models["segmentation"])
    assert results(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suffix": ".flo"}, r"format \.flo: expected \.npy or \.png for depth estimation"),
        ({"workers": 0}, "workers 0: expected 1 or more"),
        ({"batch": -1}, "--batch-size -1: expected 1 or more"),
        ({"quality": "good"}, "quality 'good': expected fast or best"),
        ({"quality": "fast"}, "quality 'fast' is for networks of flow"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
    ],
)
def test_wrong_arguments(models, frames, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(frames, tmp_path / "out", models["depth"], **options)
    assert not (tmp_path / "out").exists()


def test_workers_are_processes(models, frames, tmp_path):
    run(frames, tmp_path / "one", models["depth"])
    done = run(frames, tmp_path / "two", models["depth"], workers=2)
    assert done.predicted == 7
    one, two = (results(tmp_path / name) for name in ("one", "two"))
    for name in (name for name in one if name.endswith(".npy")):
        np.testing.assert_allclose(np.load(io.BytesIO(two[name])), np.load(io.BytesIO(one[name])), rtol=1e-5)


def test_a_worker_that_ends_is_told(models, frames, tmp_path, monkeypatch):
    class Broken:
        def __init__(self, *_): ...
        def submit(self, *_):
            raise engines.BrokenProcessPool

        def shutdown(self, **_): ...

    monkeypatch.setattr(pools, "ProcessPoolExecutor", Broken)
    with pytest.raises(RuntimeError, match="a worker process ended"):
        run(frames, tmp_path / "out", models["depth"], workers=2)


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_command_goes_on(models, tmp_path, number):
    """Its workers end with it, and the same command ends the work."""
    rng, given = np.random.default_rng(0), tmp_path / "in"
    given.mkdir()
    for i in range(120):
        Image.fromarray(rng.integers(0, 255, (96, 128, 3), np.uint8)).save(given / f"{i}.png")
    options = ["--model", models["depth"], "--workers", "2", "--threads", "1"]
    command = [sys.executable, "-m", "winwin_command", "predict", str(given), str(tmp_path / "out"), *options]
    for seen in (3, 40):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
        end = time.monotonic() + HANGS_AFTER
        while len(list((tmp_path / "out").glob("*.npy"))) < seen:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.communicate(timeout=HANGS_AFTER)
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert process.returncode in (-number, 128 + number) and not alive
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=HANGS_AFTER)
    assert verify(str(given), str(tmp_path / "out"), models["depth"]) == (120, [])
    run(given, tmp_path / "whole", models["depth"], threads=1)
    names = [f"{i}.npy" for i in range(120)]
    assert all((tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*names, "manifest", "manifest.jsonl"])


def test_units_travel_as_texts():
    for unit in (
        plan.Unit("files", "", (plan.Item("a", ("x.png", "y.png"), "1-2 3-4"), plan.Item("b", ("z.png",)))),
        plan.Unit("video", "v.mp4", None, "v", expected=7, stamp="5-6"),
        plan.Unit("parquet", "p.parquet", (plan.Item("p/row_000001", (0, 1)),), stamp="7-8"),
        plan.Unit("tar", "s3://b/x.tar", None, "x", frozenset({"x/row_000000"})),
    ):
        assert unpacked(packed(unit)) == unit


def test_a_damaged_manifest_is_named(models, frames, tmp_path):
    run(frames, tmp_path / "out", models["depth"])
    for content in (b"{", b"[1]", b'{"name": 3}', b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "out" / "manifest.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=r"manifest\.jsonl: line 1 is no record"):
            run(frames, tmp_path / "out", models["depth"])
    (tmp_path / "out" / "manifest.jsonl").unlink()
    (tmp_path / "out" / "manifest" / "run.json").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"run\.json: not readable"):
        run(frames, tmp_path / "out", models["depth"])


def test_the_command(models, frames, tmp_path):
    (frames / "bad.png").write_bytes(b"x")
    words = ["predict", str(frames), str(tmp_path / "out"), "--model", models["segmentation"], "--workers", "1"]
    runner = CliRunner()
    failed = runner.invoke(app, words, env={"COLUMNS": "300"})
    assert failed.exit_code == 1 and "bad.png: not a readable image" in failed.output
    done = runner.invoke(app, [*words, "--skip-broken"], env={"COLUMNS": "300"})
    assert done.exit_code == 0 and "1 inputs skipped" in done.output, done.output
    (frames / "bad.png").unlink()
    checked = runner.invoke(app, [*words, "--verify"], env={"COLUMNS": "300"})
    assert checked.exit_code == 0 and "7 results, all as they were written" in checked.output, checked.output
    (tmp_path / "out" / "0.png").unlink()
    checked = runner.invoke(app, [*words, "--verify"], env={"COLUMNS": "300"})
    assert checked.exit_code == 1 and "0: 0.png is missing" in checked.output
    for extra, code in ((["--engine", "spark"], 2), (["--quality", "good"], 2), (["--format", "gif"], 2)):
        assert runner.invoke(app, [*words, *extra]).exit_code == code
    assert runner.invoke(app, ["predict", str(tmp_path / "none"), str(tmp_path / "o")]).exit_code == 2


def test_rows_of_parquet_go_through(models, tmp_path, frames):
    cells = [{"bytes": file.read_bytes(), "path": None} for file in sorted(frames.glob("*.png"))]
    pq.write_table(pa.table({"image": cells}), tmp_path / "part.parquet", row_group_size=3)
    assert run(tmp_path / "part.parquet", tmp_path / "out", models["depth"]).predicted == 4
    one = formats.read_npy(tmp_path / "out" / "part" / "row_000001.npy")
    run(frames, tmp_path / "files", models["depth"])
    np.testing.assert_array_equal(one, formats.read_npy(tmp_path / "files" / "1.npy"))
