"""A data set on disk is whole, or what it lacks is named: missing, broken and crashing files, figures, discovery."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.places import FRAMES

from winwin_hf.data import formats
from winwin_hf.data.benchmarks import catalog, check, decoding
from winwin_hf.data.benchmarks.check_report import Report, SplitReport
from winwin_hf.data.benchmarks.entry import DataSet
from winwin_hf.data.benchmarks.folders import Origin
from winwin_hf.data.formats.files import bytes_text
from winwin_hf.data.readers import DepthReader, FlowReader
from winwin_hf.data.rows import Found, cell
from winwin_hf.data.sources import open_source

TESTS = FRAMES


def write_flow_folder(root: Path, flows: list[np.ndarray]) -> list[dict]:
    """Frames and their flow, one row each."""
    rows = []
    root.mkdir(exist_ok=True)
    for k, flow in enumerate(flows):
        for column in ("image1", "image2"):
            formats.save_image(root / f"{k}_{column}.png", np.full((*flow.shape[:2], 3), 40 * k, np.uint8))
        formats.write_flo(root / f"{k}.flo", flow)
        images = {column: cell(root / f"{k}_{column}.png") for column in ("image1", "image2")}
        rows.append({"name": f"pair {k}", **images, "flow": cell(root / f"{k}.flo"), "flow_format": "flo"})
    return rows


def entry(task, rows=(), missing=(), name="mine", **more) -> DataSet:
    found = Found(list(rows), list(missing))
    return DataSet(
        name,
        task,
        lambda root, split: found,
        ("train",),
        "train",
        Origin("a set", "somewhere", "files"),
        "none",
        **more,
    )


def checked(task, rows, missing=(), workers=0, **more) -> SplitReport:
    this = entry(task, rows, missing, **more)
    return check.check_split(this, "train", this.find(Path(), "train"), workers=workers)


# ---------------------------------------------------------------------------------------------------------------- figures


def test_flow_figures_are_those_of_the_files(tmp_path):
    one, two = np.zeros((6, 8, 2), np.float32), np.zeros((4, 10, 2), np.float32)
    one[..., :] = (3, -4)  # 48 pixels that move by 5
    two[0] = (0, 2)  # 10 by 2, 30 not at all, of which 20 are unknown
    two[2:] = np.nan
    report = checked("optical-flow", write_flow_folder(tmp_path, [one, two]))
    assert report.ok and report.broken == [] and report.truth == 2
    assert report.sizes == {"4x10": 1, "6x8": 1}
    assert report.known == pytest.approx((48 + 20) / 88)
    assert report.figures == pytest.approx({"mean_motion": (48 * 5 + 10 * 2) / 68, "largest_motion": 5})
    assert report.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert report.hints == []


def test_depth_and_class_figures(tmp_path):
    depth = np.full((4, 4), np.nan, np.float32)
    depth[0] = (1, 2, 3, 6)
    formats.save_image(tmp_path / "i.png", np.zeros((4, 4, 3), np.uint8))
    formats.write_depth_png(tmp_path / "d.png", depth)
    row = {
        "name": "a",
        "image": cell(tmp_path / "i.png"),
        "depth": cell(tmp_path / "d.png"),
        "depth_format": "png:1000",
    }
    report = checked("depth-estimation", [row])
    assert report.known == 0.25
    assert report.figures == pytest.approx({"smallest_depth": 1, "mean_depth": 3, "largest_depth": 6})

    ids = np.repeat(np.array([[0, 1, 1, 255]], np.uint8), 4, axis=0)
    formats.write_labels(tmp_path / "l.png", ids)
    row = {"name": "a", "image": cell(tmp_path / "i.png"), "label": cell(tmp_path / "l.png"), "label_format": "ids"}
    report = checked("semantic-segmentation", [row], labels=("road", "car", "sky"))
    assert report.known == 0.75 and report.figures == {}
    assert report.classes == pytest.approx({"road": 1 / 3, "car": 2 / 3, "sky": 0})
    assert checked("semantic-segmentation", [row]).broken == []  # unknown classes: any id is one


def test_wrong_units_are_pointed_out(tmp_path):
    formats.save_image(tmp_path / "i.png", np.zeros((4, 4, 3), np.uint8))
    formats.write_depth_png(tmp_path / "d.png", np.full((4, 4), 2.5))  # millimetres
    row = {"name": "a", "image": cell(tmp_path / "i.png"), "depth": cell(tmp_path / "d.png")}
    assert checked("depth-estimation", [row | {"depth_format": "png:1000"}]).hints == []
    (hint,) = checked("depth-estimation", [row | {"depth_format": "png:1"}]).hints
    assert "2.5e+03 m" in hint and "metres" in hint
    rows = write_flow_folder(tmp_path, [np.full((4, 4, 2), 5.0, np.float32)])
    (hint,) = checked("optical-flow", rows).hints
    assert "longer than the frame's diagonal of 6 px" in hint
    (hint,) = checked("optical-flow", write_flow_folder(tmp_path, [np.full((4, 4, 2), np.nan, np.float32)])).hints
    assert "unknown everywhere" in hint
    twice = checked("optical-flow", rows + rows).hints
    assert any("pair 0" in hint and "unique" in hint for hint in twice)


def test_a_split_without_ground_truth(tmp_path):
    (row,) = write_flow_folder(tmp_path, [np.zeros((4, 4, 2), np.float32)])
    report = checked("optical-flow", [row | {"flow": None, "flow_format": None}])
    assert report.ok and report.truth == 0 and report.known is None and report.figures == {}
    assert "none" in Report("", [report]).lines()[0]


# ------------------------------------------------------------------------------------------------- missing, broken, crashing


@pytest.mark.parametrize("workers", [0, 2])
def test_every_broken_file_is_named(tmp_path, workers):
    rows = write_flow_folder(tmp_path, [np.zeros((4, 4, 2), np.float32)] * 6)
    (tmp_path / "1.flo").write_bytes((tmp_path / "1.flo").read_bytes()[:-5])
    content = (tmp_path / "4_image2.png").read_bytes()
    (tmp_path / "4_image2.png").write_bytes(content[:40])
    report = checked("optical-flow", rows, missing=["/gone.png"], workers=workers)
    assert [message.split(":")[0] for message in report.broken] == ["pair 1", "pair 4"]
    assert str(tmp_path / "1.flo") in report.broken[0] and str(tmp_path / "4_image2.png") in report.broken[1]
    assert report.examples == 6 and report.truth == 4 and report.sizes == {"4x4": 4}
    assert not report.ok and report.missing == ["/gone.png"]


@dataclass
class Crashing(FlowReader):
    """Does to its process what a C library does at a bad file."""

    def decode(self, example):
        if example["name"] in ("pair 1", "pair 3"):
            os.abort()
        if example["name"] == "pair 2":
            raise KeyError("a decoder's own")
        return super().decode(example)


def test_a_file_that_ends_its_process_is_named(tmp_path):
    rows = write_flow_folder(tmp_path, [np.zeros((4, 4, 2), np.float32)] * 5)
    results = dict(decoding._in_processes(Crashing(), rows, "optical-flow", 2))
    assert sorted(results) == [0, 1, 2, 3, 4]
    assert [isinstance(results[k], decoding.Measured) for k in range(5)] == [True, False, False, False, True]
    assert "pair 1" in results[1] and "SIGABRT" in results[1] and str(tmp_path / "1.flo") in results[1]
    assert "pair 2" in results[2] and "KeyError" in results[2]
    assert "pair 3" in results[3]


@dataclass
class Unborn(DepthReader):
    def __setstate__(self, state):
        os._exit(3)


def test_processes_that_cannot_start_are_an_error():
    with pytest.raises(RuntimeError, match=r"exit code 3.*__main__"):
        list(decoding._in_processes(Unborn(), [{"name": "a"}], "depth-estimation", 1))


def test_a_link_that_leads_nowhere_is_missing(tmp_path):
    rows = write_flow_folder(tmp_path, [np.zeros((4, 4, 2), np.float32)])
    (tmp_path / "0.flo").unlink()
    (tmp_path / "0.flo").symlink_to(tmp_path / "elsewhere.flo")
    this = entry("optical-flow", rows)
    report = check.check_split(this, "train", this.find(Path(), "train"), decode=False)
    assert not report.ok and report.broken is None
    assert report.missing == [f"{tmp_path / '0.flo'} (No such file or directory)"]


def test_entries_of_one_file_count_it_once(tmp_path):
    images, depths = np.zeros((3, 4, 6, 3), np.uint8), np.ones((3, 4, 6), np.float32)
    formats.write_nyu_mat(tmp_path / "many.mat", images, depths)
    cells = [cell(f"{tmp_path / 'many.mat'}::{k}") for k in range(3)]
    rows = [{"name": str(k), "image": c, "depth": c, "depth_format": "nyu-mat"} for k, c in enumerate(cells)]
    report = checked("depth-estimation", rows)
    assert report.ok and report.truth == 3 and report.bytes == (tmp_path / "many.mat").stat().st_size


# --------------------------------------------------------------------------------------------------------- whole folders


def test_a_set_is_found_by_its_layout():
    report = check.check(TESTS / "CamVid")
    assert report.ok and [(split.name, split.split, split.examples) for split in report.splits] == [
        ("camvid", "train", 3),
        ("camvid", "val", 2),
    ]
    assert list(report.absent) == ["camvid:test"]
    assert report.splits[0].classes is not None and report.splits[0].classes["road"] > 0.1


def test_damage_to_a_real_layout(tmp_path):
    root = tmp_path / "CamVid"
    shutil.copytree(TESTS / "CamVid", root)
    label, image = root / "trainannot" / "0001TP_000060.png", root / "train" / "0001TP_000090.png"
    label.unlink()
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 255
    image.write_bytes(content)
    report = check.check(root, "camvid", splits=["train"])
    (split,) = report.splits
    assert not report.ok and split.examples == 2 and split.missing == [str(label)]
    assert len(split.broken) == 1 and str(image) in split.broken[0]
    quick = check.check(root, "camvid", decode=False)
    assert [s.broken for s in quick.splits] == [None, None] and quick.splits[0].missing == [str(label)]
    assert quick.splits[0].sizes == {}


def test_several_sets_in_one_folder_and_all_their_splits():
    report = check.check(TESTS / "flow" / "Sintel")
    assert [(split.name, split.split) for split in report.splits] == [
        ("sintel-clean", "train"),
        ("sintel-clean", "test"),
        ("sintel-final", "train"),
        ("sintel-final", "test"),
    ]
    only = check.check(TESTS / "flow" / "Sintel", splits=["test"])
    assert {split.split for split in only.splits} == {"test"} and all(split.truth == 0 for split in only.splits)


def sets(monkeypatch, *entries: DataSet) -> None:
    monkeypatch.setattr(catalog, "SETS", {entry.name: entry for entry in entries})


def test_any_folder_of_images_counts_only_where_no_set_is_known(tmp_path, monkeypatch):
    rows = write_flow_folder(tmp_path, [np.zeros((4, 4, 2), np.float32)])

    def names(*entries: DataSet) -> list[str]:
        sets(monkeypatch, *entries)
        return [split.name for split in check.check(tmp_path, decode=False).splits]

    generic, known = entry("optical-flow", rows, name="flow-folder"), entry("optical-flow", rows, name="known")
    incomplete = entry("optical-flow", [], ["/gone.png"], name="incomplete")
    assert names(generic, known, incomplete) == ["known"]
    assert names(generic, incomplete) == ["flow-folder"]
    assert names(incomplete) == ["incomplete"]
    assert not check.check(tmp_path).ok


@pytest.mark.parametrize(
    ("name", "kinds"), [("masks-folder", ("images", "masks")), ("depth-folder", ("images", "depth"))]
)
@pytest.mark.parametrize("named", [False, True])
def test_half_a_split_is_missing_and_none_is_no_fault(tmp_path, name, kinds, named):
    """A mistyped masks/vall; "test" isn't there at all."""
    for kind in kinds:
        for split in ("train", "val"):
            folder = tmp_path / kind / (f"{split}l" if (kind, split) == (kinds[1], "val") else split)
            folder.mkdir(parents=True)
            formats.save_image(folder / "1.png", np.eye(32, dtype=np.uint8))
    (tmp_path / "names.txt").write_text("a\nb\n")
    report = check.check(tmp_path, name if named else None, workers=0)
    assert {f"{split.name}:{split.split}": len(split.missing) for split in report.splits}[f"{name}:val"] == 1
    assert not report.ok and f"{name}:test" in report.absent
    with pytest.raises(FileNotFoundError, match="val"):
        open_source(name, tmp_path, "val")


def test_what_a_training_will_ask_for_is_said(tmp_path):
    """Names of classes; metres, where depths are small or have 8 bits."""
    for kind in ("images", "masks", "depth"):
        for name in ("m", "d"):
            if (name, kind) not in (("m", "depth"), ("d", "masks")):
                (tmp_path / name / kind).mkdir(parents=True)
                formats.save_image(tmp_path / name / kind / "1.png", np.full((32, 32), 200, dtype=np.uint8))
    (masks,) = check.check(tmp_path / "m", workers=0).splits
    assert any(hint.startswith("no names.txt: a training needs the names") for hint in masks.hints)
    (tmp_path / "m" / "names.txt").write_text("a = 200\n")
    (masks,) = check.check(tmp_path / "m", workers=0).splits
    assert not any("names.txt" in hint for hint in masks.hints)
    (depth,) = check.check(tmp_path / "d", workers=0).splits
    assert depth.broken and "of 1000 steps per unit has 16 bits, this one has 8" in str(depth.broken)
    formats.write_depth_png(tmp_path / "d" / "depth" / "1.png", np.full((32, 32), 0.2))
    (depth,) = check.check(tmp_path / "d", workers=0).splits
    assert depth.hints == ["a mean depth of 0.2 m: are these metres?"]


@pytest.mark.parametrize("names", ["a\na\n", "a\n\nb\n", "a\x1b[31m\n"])
def test_a_wrong_list_of_names_is_named(tmp_path, names):
    """Rather than the maps that would lack for another task."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        formats.save_image(tmp_path / kind / "1.png", np.zeros((32, 32), np.uint8))
    (tmp_path / "names.txt").write_text(names)
    with pytest.raises(ValueError, match=r"names\.txt: ") as caught:
        check.check(tmp_path, workers=0)
    assert "\x1b" not in str(caught.value)


def test_two_files_of_one_name_are_named(tmp_path):
    """Whether or not another split can be read, and for each kind of folder of one's own."""

    def picture(*parts: str) -> Path:
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        formats.save_image(path, np.eye(32, dtype=np.uint8))
        return path

    for split, kind in itertools.product(("train", "val"), ("images", "masks")):
        picture("m", kind, split, "1.png")
    (tmp_path / "m" / "names.txt").write_text("a\nb\n")
    assert check.check(tmp_path / "m", workers=0).ok
    picture("m", "images", "train", "1.jpg")
    with pytest.raises(ValueError, match=r"1\.(jpg|png) have one name"):
        check.check(tmp_path / "m", workers=0)
    for name in ("1.png", "1.jpg"):
        picture("d", "images", name)
    picture("d", "depth", "1.png")
    with pytest.raises(ValueError, match=r"1\.(jpg|png) have one name"):
        check.check(tmp_path / "d", workers=0)
    for number in (1, 2):
        picture("f", "frames", "a", f"{number}.png")
    for suffix, write in ((".flo", formats.write_flo), (".npy", formats.write_npy)):
        (tmp_path / "f" / "flow" / "a").mkdir(parents=True, exist_ok=True)
        write(tmp_path / "f" / "flow" / "a" / f"1{suffix}", np.zeros((32, 32, 2), np.float32))
    with pytest.raises(ValueError, match=r"1\.(flo|npy) have one name"):
        check.check(tmp_path / "f", workers=0)


def test_a_split_of_everything_is_not_decoded_again(monkeypatch, tmp_path):
    rows = write_flow_folder(tmp_path, [np.zeros((4, 4, 2), np.float32)])
    splits = {"train": Found(rows), "all": Found(rows)}
    this = DataSet(
        "mine", "optical-flow", lambda root, split: splits[split], ("train", "all"), "all", Origin("", "", ""), ""
    )
    sets(monkeypatch, this)
    assert [split.split for split in check.check(tmp_path, decode=False).splits] == ["train"]
    assert [split.split for split in check.check(tmp_path, "mine", decode=False).splits] == ["train"]
    assert [split.split for split in check.check(tmp_path, "mine", ["all"], decode=False).splits] == ["all"]
    splits["train"] = Found()
    assert [split.split for split in check.check(tmp_path, decode=False).splits] == ["all"]


def test_wrong_folders_names_and_splits(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check.check(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds none of the"):
        check.check(tmp_path)
    with pytest.raises(ValueError, match="did you mean camvid"):
        check.check(tmp_path, "camvit")
    with pytest.raises(FileNotFoundError, match="laid out as"):
        check.check(tmp_path, "camvid")
    with pytest.raises(ValueError, match="no split 'trian'"):
        check.check(TESTS / "CamVid", "camvid", ["trian"])
    with pytest.raises(FileNotFoundError):  # asked for, but not there
        check.check(TESTS / "CamVid", "camvid", ["test"])
    with pytest.raises(ValueError, match="belong to one data set"):
        check.check(TESTS / "CamVid", scale=3)


# ----------------------------------------------------------------------------------------------------------- the report


def test_the_rarest_class_is_named():
    def line(count: int) -> str:
        classes = {f"class {index}": 0.2 - index / 100 for index in range(count)}
        return Report("/data", [SplitReport("a", "semantic-segmentation", "train", 2, classes=classes)]).lines()[-1]

    assert "more" not in line(12) and "class 11 9.0%" in line(12)
    assert line(13).endswith("class 9 11.0%, 2 more, the rarest class 12 8.0%")


def test_a_report_in_its_three_forms(capsys):
    good = SplitReport("a", "optical-flow", "train", 2, [], [], {"4x6": 2}, 2, 0.5, {"mean_motion": 1.25}, bytes=1_500)
    bad = SplitReport("b", "depth-estimation", "val", 5, [f"/m{k}" for k in range(12)], ["x: y"], hints=["odd"])
    report = Report("/data", [good, bad], {"a:test": "/data/test is missing: expected so and so"})
    lines = report.lines()
    assert lines[0].startswith("a:train: 2 examples, all decoded, 4x6, 50.0% known, mean motion 1.25 px, 1.5 kB")
    assert lines[1].startswith("b:val: 5 examples, 12 missing, 1 broken")
    assert "missing: /m9" in lines and "missing: /m10" not in lines and "missing: 2 more in b:val" in lines
    assert "broken: x: y" in lines and "look at b:val: odd" in lines
    assert lines[-1] == "not here: a:test (/data/test is missing)"
    assert "missing: /m11" in report.lines(shown=100)
    file = io.StringIO()
    Console(file=file, width=200).print(report)
    text = file.getvalue()
    assert all(line in text for line in lines[2:]) and "12 missing, 1 broken" in text
    assert not report.ok and Report("/data", [good]).ok and not Report("/data", []).ok
    whole = json.loads(report.json())
    assert whole["ok"] is False and [split["ok"] for split in whole["splits"]] == [True, False]
    assert len(whole["splits"][1]["missing"]) == 12 and whole["splits"][0]["sizes"] == {"4x6": 2}
    check.check(TESTS / "CamVid")
    assert capsys.readouterr() == ("", "")  # nothing printed, no bar


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_340_000, "2.34 MB"), (5e12, "5 TB")],
)
def test_sizes_as_a_person_reads_them(count, text):
    assert bytes_text(count) == text


def test_real_sets(real_data):
    report = check.check(real_data("middlebury-flow"), "middlebury")
    (split,) = report.splits
    assert split.ok and split.examples == 4 and len(split.sizes) == 3
    assert split.known == pytest.approx(0.996, abs=0.001) and split.figures["largest_motion"] == pytest.approx(
        22.19, abs=0.01
    )
    (split,) = check.check(real_data("KITTI")).splits
    assert split.name == "kitti-2015" and split.ok and split.known == pytest.approx(0.16, abs=0.01)  # sparse
