"""What an input becomes: which images, in which order, under which names."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.bulk import picture, write

from winwin_hf.inference.bulk.plan import UNIT, plan
from winwin_hf.inference.bulk.reading import images_of
from winwin_hf.inference.clips import write_video
from winwin_hf.task import TASKS

DEPTH, FLOW = TASKS["depth-estimation"], TASKS["optical-flow"]


def names(given: Path | str, task=DEPTH) -> list[str]:
    return [item.name for unit in plan(str(given), task) for item in unit.items or ()]


def read(given: Path | str, task=DEPTH) -> dict[str, list[int]]:
    """Name -> the values of its images."""
    found = {}
    for unit in plan(str(given), task):
        for wanted in images_of(unit, task):
            found[wanted.name] = [int(image.mean().round()) for image in wanted.read()]
    return found


def test_a_folder_in_the_order_of_its_numbers(tmp_path):
    write(tmp_path, "b/10.png", "b/2.jpg", "a.png", "b/2.png", ".hidden/x.png", "b/.y.png")
    (tmp_path / "notes.txt").write_text("mine")
    assert names(tmp_path) == ["a", "b/2.jpg", "b/2.png", "b/10"]  # two of one stem keep their suffixes


def test_pairs_are_neighbours_of_one_folder(tmp_path):
    write(tmp_path, "a/1.png", "a/2.png", "a/10.png", "b/1.png", "c/7.png", "c/8.png")
    found = read(tmp_path, FLOW)
    assert found == {"a/1": [0, 1], "a/2": [1, 2], "c/7": [4, 5]}
    with pytest.raises(ValueError, match="expected pairs of neighbouring pictures"):
        names(tmp_path / "b", FLOW)


def test_patterns_lists_and_single_files(tmp_path):
    write(tmp_path, "a/1.png", "b/2.png", "b/3.png")
    assert names(tmp_path / "*" / "[12].png") == ["a/1", "b/2"]
    assert names(tmp_path / "a" / "1.png") == ["1"]
    listed = tmp_path / "list.txt"
    listed.write_text("\ufeffb/3.png\n\n  a/1.png  \n")
    assert read(listed) == {"b/3": [2], "a/1": [0]}
    listed.write_text(f"b/2.png b/3.png\n{tmp_path}/a/1.png\tb/2.png\n")
    assert [*read(listed, FLOW).values()] == [[1, 2], [0, 1]]
    for text, message in (
        ("a/1.png b\tc\td\n", "line 1 has 3 names; expected 2"),
        ("\n", "an empty list"),
        ("a/1.png a/1.png\na/\0.png b", r"list\.txt: line 2 has a byte of 0"),
    ):
        listed.write_text(text)
        with pytest.raises(ValueError, match=message):
            names(listed, FLOW)
    listed.write_text("b/2.png b/3.png\nb/2.png a/1.png\n")  # a frame may be the first of several pairs
    assert read(listed, FLOW) == {"2.line1": [1, 2], "2.line2": [1, 0]}
    write(tmp_path, "b/2.line1.png")
    listed.write_text("b/2.png\nb/2.png\nb/2.line1.png\n")
    with pytest.raises(ValueError, match=r"both would be called 2\.line1"):
        names(listed)


def test_a_list_cannot_name_a_place_outside_of_the_output(tmp_path):
    write(tmp_path, "a/1.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "list.txt").write_text("../a/1.png\n../in/../a/1.png\n")
    for name in names(tmp_path / "in" / "list.txt"):
        assert ".." not in name.split("/") and not name.startswith("/")


def test_a_list_of_another_machine_names_no_file_of_this_one():
    system = fsspec.filesystem("memory")
    for line in ("/etc/1.png", "file:///etc/1.png", "local:///etc/1.png"):
        system.pipe_file("/set/list.txt", f"2.png\n{line}\n".encode())
        with pytest.raises(ValueError, match="line 2 names a file of this machine"):
            names("memory://set/list.txt")
    system.rm("/set", recursive=True)


def test_videos(tmp_path):
    write_video(tmp_path / "clip.mp4", [np.full((48, 64, 3), 40 * i, np.uint8) for i in range(4)], 10)
    found = read(tmp_path)
    assert [*found] == [f"clip/frame_{i:04d}" for i in (1, 2, 3, 4)]
    assert np.abs(np.array([*found.values()])[:, 0] - [0, 40, 80, 120]).max() < 5
    assert [*read(tmp_path, FLOW)] == [f"clip/frame_{i:04d}" for i in (1, 2, 3)]


def test_parquet(tmp_path):
    cells = [{"bytes": picture(i), "path": "../../x.png"} for i in range(5)]
    pq.write_table(pa.table({"image": cells, "other": range(5)}), tmp_path / "part.parquet", row_group_size=2)
    assert read(tmp_path) == {f"part/row_{i:06d}": [i] for i in range(5)}
    pq.write_table(pa.table({"image1": cells, "image2": cells[::-1]}), tmp_path / "part.parquet", row_group_size=9)
    assert read(tmp_path, FLOW)["part/row_000001"] == [1, 3]
    with pytest.raises(ValueError, match="its columns are image1, image2; expected image"):
        read(tmp_path)
    pq.write_table(
        pa.table({"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}]}), tmp_path / "part.parquet"
    )
    with pytest.raises(ValueError, match="column image holds no file"):  # a path would be one of this machine's
        read(tmp_path)


def test_webdataset(tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, value in (
            ("x/a.jpg", 1),
            ("x/a.json", None),
            ("../b.png", 2),
            ("c.image1.png", 3),
            ("c.image2.png", 4),
        ):
            content = b"{}" if value is None else picture(value)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    unit = next(plan(str(tmp_path), DEPTH))
    found = list(images_of(unit, DEPTH))
    assert [wanted.name for wanted in found] == [f"shard/row_{i:06d}" for i in range(3)]
    assert [int(image.mean()) for wanted in found[:2] for image in wanted.read()] == [1, 2]
    pair = list(images_of(unit, FLOW))[2].read()
    assert [int(image.mean()) for image in pair] == [3, 4]


def test_addresses(tmp_path):
    system = fsspec.filesystem("memory")
    for value, name in enumerate(("a/1.png", "a/2.png", "b/3.png")):
        system.pipe_file(f"/set/{name}", picture(value))
    assert read("memory://set") == {"a/1": [0], "a/2": [1], "b/3": [2]}
    assert read("memory://set/a/*.png", FLOW) == {"1": [0, 1]}
    system.rm("/set", recursive=True)
    with pytest.raises(ValueError, match="expected a path, or an address of a protocol that fsspec has"):
        names("nothing://x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "none", "nothing there"),
        (lambda p: p / "*.gif", "nothing there"),
        (lambda p: (p / "a.doc").touch() or p, "nothing to predict in it"),
    ],
)
def test_nothing_to_do(tmp_path, make, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        names(make(tmp_path))


def test_units_are_small(tmp_path):
    write(tmp_path, *(f"{i}.png" for i in range(UNIT + 3)))
    assert [len(unit.items or ()) for unit in plan(str(tmp_path), DEPTH)] == [UNIT, 3]


@pytest.mark.parametrize(
    ("error", "says"), [(OSError("500 Server Error"), "500 Server Error"), (FileNotFoundError("x"), "x")]
)
def test_a_server_that_fails_is_not_an_empty_folder(monkeypatch, error, says):
    """File systems call what they can't reach absent: `isfile` and `isdir` hide every error."""

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", fails)
    with pytest.raises(OSError, match=f"memory://none: could not be reached .{says}") as caught:
        plan("memory://none", TASKS["depth-estimation"], "")
    assert isinstance(caught.value, FileNotFoundError) is isinstance(error, FileNotFoundError)
