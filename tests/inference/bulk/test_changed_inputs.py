"""Inputs that changed between two runs: a result holds for its own input alone."""

from __future__ import annotations

import datasets
import pytest
from support.bulk import faults, picture, results, run, tar_of, write

pytestmark = pytest.mark.usefixtures("small_units")


def test_another_input_is_refused(models, tmp_path):
    write(tmp_path / "day1", "0.png", "1.png")
    write(tmp_path / "day2", "0.png", "1.png")
    run(tmp_path / "day1", tmp_path / "out", models["depth"])
    before = results(tmp_path / "out")
    with pytest.raises(ValueError, match=r"an earlier run with other settings .*day1, not .*day2"):
        run(tmp_path / "day2", tmp_path / "out", models["depth"])
    assert results(tmp_path / "out") == before
    assert any("other settings" in fault for fault in faults(tmp_path / "day2", tmp_path / "out", models["depth"]))


@pytest.mark.parametrize("parquet", [False, True])
def test_an_input_that_changed_is_predicted_again(models, frames, tmp_path, parquet):
    options = {"parquet": parquet, "suffix": ".png" if parquet else None}
    run(frames, tmp_path / "out", models["depth"], **options)
    (frames / "2.png").write_bytes(picture(99, (40, 60)))
    assert any(fault.startswith("2: ") for fault in faults(frames, tmp_path / "out", models["depth"]))
    done = run(frames, tmp_path / "out", models["depth"], **options)
    assert done.predicted == (2 if parquet else 1)  # its shard is written anew
    run(frames, tmp_path / "whole", models["depth"], **options)
    assert faults(frames, tmp_path / "out", models["depth"]) == []
    if parquet:
        rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "out/data/*.parquet"), split="train")
        assert sorted(rows["name"]) == ["0", "1", "2", "3", "b/4", "b/5", "b/6"]
    else:
        assert results(tmp_path / "out")["2.npy"] == results(tmp_path / "whole")["2.npy"]


def test_a_frame_between_two_makes_two_new_pairs(models, tmp_path):
    folder = write(tmp_path / "in", "1.png", "3.png")
    run(folder, tmp_path / "out", models["flow"])
    (folder / "2.png").write_bytes(picture(7))
    assert run(folder, tmp_path / "out", models["flow"]).predicted == 2


def test_a_list_whose_lines_are_others(models, tmp_path):
    folder = write(tmp_path, "1.png", "2.png", "3.png")
    (folder / "l.txt").write_text("1.png 2.png\n1.png 3.png\n")
    run(folder / "l.txt", tmp_path / "out", models["flow"])
    (folder / "l.txt").write_text("1.png 3.png\n1.png 2.png\n")
    assert len(faults(folder / "l.txt", tmp_path / "out", models["flow"])) == 2
    assert run(folder / "l.txt", tmp_path / "out", models["flow"]).predicted == 2


def test_a_list_of_addresses_whose_pictures_changed(models, tmp_path):
    write(tmp_path, "1.png", "2.png")
    (tmp_path / "l.txt").write_text("".join(f"file://{tmp_path}/{name}.png\n" for name in (1, 2)))
    run(tmp_path / "l.txt", tmp_path / "out", models["depth"])
    assert run(tmp_path / "l.txt", tmp_path / "out", models["depth"]).reused == 2
    (tmp_path / "1.png").write_bytes(picture(9, (48, 64)))
    assert len(faults(tmp_path / "l.txt", tmp_path / "out", models["depth"])) == 1
    assert run(tmp_path / "l.txt", tmp_path / "out", models["depth"]).predicted == 1


def test_a_chained_address(models, tmp_path):
    with pytest.raises(ValueError, match="a chained address; expected one without ::"):
        run("zip://x::a.zip", tmp_path / "out", models["depth"])


def test_a_tar_that_grew(models, tmp_path):
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in" / "s.tar", 1, 2)
    run(tmp_path / "in", tmp_path / "out", models["depth"])
    assert run(tmp_path / "in", tmp_path / "out", models["depth"]).predicted == 0
    tar_of(tmp_path / "in" / "s.tar", 1, 2, 3)
    assert "changed since it was read" in faults(tmp_path / "in", tmp_path / "out", models["depth"])[0]
    assert run(tmp_path / "in", tmp_path / "out", models["depth"]).predicted == 3
    assert faults(tmp_path / "in", tmp_path / "out", models["depth"]) == []
