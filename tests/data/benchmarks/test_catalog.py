"""The catalogue: every entry is usable, and what is wrong with a folder is said in one line."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from support.places import FRAMES

from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.rows import COLUMNS
from winwin_hf.task import DoesNotFit

CAMVID = FRAMES / "CamVid"


@pytest.mark.parametrize("name", catalog.SETS)
def test_entry_says_what_a_person_needs(name, tmp_path):
    entry = catalog.SETS[name]
    assert entry.name == name and entry.scored in entry.splits
    assert entry.source and entry.layout and entry.terms
    assert "\n" not in entry.layout
    if entry.labels and entry.palette:
        assert len(entry.labels) == len(entry.palette) == len(set(entry.labels))
    with pytest.raises(FileNotFoundError) as error:  # an empty folder
        catalog.load(name, tmp_path)
    assert str(tmp_path) in str(error.value) and entry.source in str(error.value)
    with pytest.raises(ValueError, match=f"{name} has no split 'nonsense': expected"):
        catalog.load(name, tmp_path, "nonsense")


def test_names_are_unique():
    from winwin_hf.data.benchmarks import depth as depth_sets
    from winwin_hf.data.benchmarks import flow as flow_sets
    from winwin_hf.data.benchmarks import segmentation as segmentation_sets
    from winwin_hf.data.benchmarks import stereo as stereo_sets

    entries = [*flow_sets.SETS, *stereo_sets.SETS, *depth_sets.SETS, *segmentation_sets.SETS]
    assert len(entries) == len(catalog.SETS)


def test_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"unknown data set 'sintel': did you mean .*sintel-clean"):
        catalog.entry_of("sintel")
    with pytest.raises(ValueError, match=r"expected one of .*ade20k, .*camvid"):
        catalog.entry_of("qqqq")


def test_load_and_slices():
    dataset = catalog.load("camvid", CAMVID, "train")
    assert len(dataset) == 3 and set(dataset.column_names) == set(COLUMNS["semantic-segmentation"])
    assert dataset["name"][:] == [Path(cell["path"]).stem for cell in dataset["label"][:]]
    assert catalog.load("camvid", CAMVID, "train[1:]")["name"][:] == dataset["name"][1:]
    assert catalog.load("camvid", CAMVID, "train[:34%]")["name"][:] == dataset["name"][:1]
    assert len(catalog.load("camvid", CAMVID)) == 2  # the scored split
    with pytest.raises(DoesNotFit, match=r"split 'train\[x\]': expected a slice such as train\[:80%\]"):
        catalog.load("camvid", CAMVID, "train[x]")


def test_options_reach_the_sets_own_function(tmp_path):
    with pytest.raises(ValueError, match=r"options of camvid: unknown scale; expected none"):
        catalog.load("camvid", CAMVID, "train", scale=3)
    for name, options, said in (
        ("sintel-clean", {"render": "final"}, "unknown render; expected none"),  # the name says it
        ("masks-folder", {"ignored": "12"}, "ignored: .*'str' instances are not allowed"),
        ("masks-folder", {"ignored": -4}, "ignored: .*got -4"),
        ("masks-folder", {"ignored": [300]}, "ignored.0: .*got 300"),
        ("masks-folder", {"ignored": [1, 1]}, "ignored: expected each value once"),
        ("masks-folder", {"ignored": {2: 1}}, "ignored: "),
        ("things-clean", {"cameras": ["left", "left"]}, "cameras: expected each value once"),
        ("things-clean", {"cameras": 3}, "cameras: .*got 3"),
        ("depth-folder", {"steps_per_metre": "abc"}, "steps_per_metre: .*got 'abc'"),
        ("depth-folder", {"steps_per_metre": True}, "steps_per_metre: expected numbers"),
        ("depth-folder", {"steps_per_metre": 0}, "steps_per_metre: .*got 0"),
    ):
        with pytest.raises(ValueError, match=f"options of {name}: {said}"):
            catalog.check_options(name, options)
    assert catalog.check_options("depth-folder", {"steps_per_metre": "1000"}) == {"steps_per_metre": 1000.0}
    for folder in ("images", "masks"):
        shutil.copytree(CAMVID / ("train" if folder == "images" else "trainannot"), tmp_path / folder)
    dataset = catalog.load("masks-folder", tmp_path, "all", ignored=[11])
    assert dataset[0]["label_format"] == "ids:11"
    assert catalog.labels_of("masks-folder", tmp_path) is None
    (tmp_path / "names.txt").write_text("sky\nroad\n")
    assert catalog.labels_of("masks-folder", tmp_path) == ("sky", "road")
    assert catalog.labels_of("camvid", tmp_path)[0] == "sky"


def test_missing_files_stop_or_are_left_out(tmp_path):
    root = shutil.copytree(CAMVID, tmp_path / "CamVid")
    (root / "trainannot" / "0001TP_000060.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"trainannot/0001TP_000060\.png is missing: 2 examples of camvid.*data check"
    ):
        catalog.load("camvid", root, "train")
    assert len(catalog.load("camvid", root, "train", skip_missing=True)) == 2
    assert catalog.find("camvid", root, "train").missing == [str(root / "trainannot" / "0001TP_000060.png")]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_names_that_no_table_holds_are_left_out_or_named(tmp_path):
    for folder in ("images", "masks"):
        shutil.copytree(CAMVID / ("train" if folder == "images" else "trainannot"), tmp_path / folder)
        first = min((tmp_path / folder).iterdir())
        first.rename(Path(os.fsdecode(os.fsencode(tmp_path / folder) + b"/\xff.png")))
    with pytest.raises(
        FileNotFoundError, match=r"masks/\\udcff\.png \(a name that isn't UTF-8\) is missing: 2 examples"
    ):
        catalog.load("masks-folder", tmp_path, "all")
    assert len(catalog.load("masks-folder", tmp_path, "all", skip_missing=True)) == 2
