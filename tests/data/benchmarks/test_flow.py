"""Flow sets: every set's rows in its real layout, the flow's direction, occlusions, what is missing, and errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.flow_cases import COLUMNS, DATA, check_occluded, decoded, difference, leaves, wrong

from winwin_hf.data.benchmarks import flow as flow_sets
from winwin_hf.data.benchmarks.flow import SETS, flow_folder, kitti_2012
from winwin_hf.data.benchmarks.flow_rendered import flying_chairs, sintel, spring, tartanair, things
from winwin_hf.data.rows import table

ENTRIES = {entry.name: entry for entry in SETS}
THINGS_TRAIN = [
    f"A/0000/{camera}/{pair}" for camera in ("left", "right") for pair in ("into_future/0006", "into_past/0007")
]
# (set, folder, split, the rows' names)
LISTED = [
    *(
        (f"sintel-{render}", "Sintel", split, names)
        for render in ("clean", "final")
        for split, names in (
            ("train", ["alley_1/frame_0001", "alley_1/frame_0002", "market_5/frame_0001"]),
            ("test", ["ambush_1/frame_0001"]),
        )
    ),
    ("flying-chairs", "FlyingChairs", "train", ["00001", "00003"]),
    ("flying-chairs", "FlyingChairs", "val", ["00002"]),
    *((f"things-{render}", "SceneFlow", "train", THINGS_TRAIN) for render in ("clean", "final")),
    ("things-final", "SceneFlow", "test", [name.replace("A/0000", "B/0001") for name in THINGS_TRAIN]),
    (
        "tartanair",
        "TartanAir",
        "train",
        ["abandonedfactory/Easy/P000/000000", "abandonedfactory/Easy/P000/000001", "office/Hard/P001/000000"],
    ),
    *((f"kitti-{year}", f"KITTI-{year}", "train", ["000000_10", "000001_10"]) for year in (2012, 2015)),
    *((f"kitti-{year}", f"KITTI-{year}", "test", ["000000_10"]) for year in (2012, 2015)),
    ("hd1k", "HD1K", "train", ["000000_0010", "000000_0011", "000030_0010"]),
    ("hd1k", "HD1K", "test", ["000000_0010"]),
    ("middlebury", "Middlebury-flow", "train", ["RubberWhale", "Venus"]),
    ("middlebury", "Middlebury-flow", "test", ["Army"]),
    (
        "spring",
        "Spring",
        "train",
        [
            *("0001/flow_FW_left_0001", "0001/flow_FW_left_0002", "0001/flow_BW_left_0002", "0001/flow_BW_left_0003"),
            *("0001/flow_FW_right_0001", "0001/flow_FW_right_0002"),
            *("0001/flow_BW_right_0002", "0001/flow_BW_right_0003"),
            *("0002/flow_FW_left_0001", "0002/flow_BW_left_0002"),
            *("0002/flow_FW_right_0001", "0002/flow_BW_right_0002"),
        ],
    ),
    (
        "spring",
        "Spring",
        "test",
        [
            *("0003/flow_FW_left_0001", "0003/flow_BW_left_0002"),
            *("0003/flow_FW_right_0001", "0003/flow_BW_right_0002"),
        ],
    ),
    (
        "flow-folder",
        "FlowFolder",
        "train",
        ["flo/shot000", "flo/shot004", "flo5/shot000", "npy/shot000", "pfm/shot000", "png/shot000"],
    ),
]
TRUE = [case for case in LISTED if case[2] != "test" or case[0].startswith("things")]


def ids(cases):
    return ["-".join(case[:3:2]) for case in cases]


def names(found):
    return [row["name"] for row in found.rows]


@pytest.fixture
def copy(tmp_path):
    """A set's folder that a test may take files from."""
    return lambda folder: shutil.copytree(DATA / folder, tmp_path / folder)


@pytest.mark.parametrize(("name", "folder", "split", "expected"), LISTED, ids=ids(LISTED))
def test_the_rows_of_a_split(name, folder, split, expected):
    found = ENTRIES[name].find(DATA / folder, split)
    assert names(found) == expected and found.missing == []
    for row in found.rows:
        assert set(row) == COLUMNS and (row["flow"] is None) == (row["flow_format"] is None)
        assert (row["flow"] is None) == (split == "test" and not name.startswith("things"))
        assert row["image1"]["path"] != row["image2"]["path"] and row["image1"]["bytes"] is None
    dataset = table(found.rows, "optical-flow")
    assert dataset["name"][:] == expected and dataset[0]["image1"].mode == "RGB"


@pytest.mark.parametrize(("name", "folder", "split", "expected"), TRUE, ids=ids(TRUE))
def test_flow_leads_from_the_first_picture_to_the_second(name, folder, split, expected):
    """With any other reading of the ground truth, or in the other order, the pictures differ several times as much."""
    for row in ENTRIES[name].find(DATA / folder, split).rows:
        image1, image2, flow = decoded(row)
        right = difference(image1, image2, flow)
        assert right < 3, row["name"]
        for what, other in wrong(flow).items():
            assert difference(image1, image2, other) > 2 * right, (row["name"], what)
        assert difference(image2, image1, flow) > 2 * right, row["name"]


@pytest.mark.parametrize(
    ("name", "folder", "row", "at", "expected"),
    [
        ("sintel-clean", "Sintel", "alley_1/frame_0002", (10, 4), (3.0625, -1.5)),
        ("sintel-final", "Sintel", "market_5/frame_0001", (0, 0), (-2.0, 2.5)),
        ("flying-chairs", "FlyingChairs", "00001", (47, 31), (2.5 + 47 / 32 + 31 / 16, -2.0 + 47 / 16 - 31 / 32)),
        ("things-clean", "SceneFlow", "A/0000/left/into_future/0006", (0, 15), (2.5 + 15 / 16, -2.0 - 15 / 32)),
        ("kitti-2015", "KITTI-2015", "000000_10", (10, 9), (2.5 + 10 / 32 + 9 / 16, -2.0 + 10 / 16 - 9 / 32)),
        ("hd1k", "HD1K", "000000_0011", (10, 9), (2.5 + 10 / 32 + 9 / 16, -2.0 + 10 / 16 - 9 / 32)),
        ("tartanair", "TartanAir", "abandonedfactory/Easy/P000/000000", (10, 4), (3.0625, -1.5)),
        ("middlebury", "Middlebury-flow", "RubberWhale", (10, 4), (3.0625, -1.5)),
        ("spring", "Spring", "0001/flow_FW_left_0002", (10, 4), (3.0625, -1.5)),
        ("flow-folder", "FlowFolder", "pfm/shot000", (10, 4), (3.0625, -1.5)),
    ],
)
def test_values_at_a_pixel(name, folder, row, at, expected):
    """u = 2.5 + x/32 + y/16 and v = -2 + x/16 - y/32 (make_flow_frames.py)."""
    rows = ENTRIES[name].find(DATA / folder, "train").rows
    flow = decoded(next(found for found in rows if found["name"] == row))[2]
    assert flow[at[1], at[0]] == pytest.approx(expected, abs=2e-3)


def test_unknown_flow():
    unknown = np.isnan(decoded(ENTRIES["middlebury"].find(DATA / "Middlebury-flow", "train").rows[0])[2])
    assert unknown[:2, :5].all() and unknown.sum() == 2 * 5 * 2
    unknown = np.isnan(decoded(ENTRIES["spring"].find(DATA / "Spring", "train").rows[0])[2])
    assert unknown[0, 2].all() and unknown.sum() == 2
    unknown = np.isnan(decoded(ENTRIES["kitti-2015"].find(DATA / "KITTI-2015", "train").rows[0])[2])
    assert unknown[:8].all() and 0.6 < 1 - unknown[8:].mean() < 0.7


MASKED = {
    "sintel-clean": ("Sintel", 3, "png"),
    "tartanair": ("TartanAir", 2, "npy"),
    "kitti-2012": ("KITTI-2012", 2, "kitti-noc"),
    "kitti-2015": ("KITTI-2015", 2, "kitti-noc"),
    "spring": ("Spring", 12, "png"),
    "flow-folder": ("FlowFolder", 2, "png"),
}


@pytest.mark.parametrize("name", MASKED)
def test_occluded_pixels(name):
    folder, count, kind = MASKED[name]
    rows = [row for row in ENTRIES[name].find(DATA / folder, "train").rows if row["occluded"]]
    assert len(rows) == count and {row["occluded_format"] for row in rows} == {kind}
    for row in rows:
        check_occluded(row)


def test_masks_are_optional(copy):
    root = copy("KITTI-2015")
    shutil.rmtree(root / "training" / "flow_noc")
    found = ENTRIES["kitti-2015"].find(root, "train")
    assert len(found.rows) == 2 and found.missing == [] and found.rows[0]["occluded_format"] is None
    assert tartanair(DATA / "TartanAir", "train").rows[2]["occluded"] is None


# (set, folder, the file to take away, the names that are left, what is missing if it isn't that file)
LACKING = [
    ("sintel-clean", "Sintel", "training/flow/alley_1/frame_0001.flo", 2, True),
    ("sintel-clean", "Sintel", "training/clean/market_5/frame_0002.png", 2, True),
    ("sintel-clean", "Sintel", "training/clean/alley_1/frame_0002.png", 1, True),
    ("flying-chairs", "FlyingChairs", "FlyingChairs_release/data/00001_img1.ppm", 1, True),
    ("flying-chairs", "FlyingChairs", "FlyingChairs_release/data/00003_img2.ppm", 1, True),
    ("flying-chairs", "FlyingChairs", "FlyingChairs_release/data/00003_flow.flo", 1, True),
    (
        "things-clean",
        "SceneFlow",
        "FlyingThings3D/optical_flow/TRAIN/A/0000/into_past/right/OpticalFlowIntoPast_0007_R.pfm",
        3,
        True,
    ),
    ("tartanair", "TartanAir", "abandonedfactory/Easy/P000/flow/000001_000002_flow.npy", 2, True),
    ("tartanair", "TartanAir", "office/office/Hard/P001/image_left/000001_left.png", 2, True),
    ("kitti-2012", "KITTI-2012", "training/colored_0/000001_11.png", 1, True),
    ("kitti-2012", "KITTI-2012", "testing/colored_0/000000_11.png", 2, False),  # of the other split
    ("kitti-2015", "KITTI-2015", "training/flow_occ/000000_10.png", 1, True),
    ("hd1k", "HD1K", "hd1k_flow_gt/flow_occ/000000_0010.png", 2, True),
    ("hd1k", "HD1K", "hd1k_input/image_2/000000_0011.png", 1, True),
    ("hd1k", "HD1K", "hd1k_flow_gt/flow_occ/000030_0011.png", 3, False),  # of a sequence's last frame: nobody needs it
    ("middlebury", "Middlebury-flow", "other-data/Venus/frame11.png", 1, True),
    ("middlebury", "Middlebury-flow", "other-gt-flow/RubberWhale/flow10.flo", 1, True),
    ("spring", "Spring", "train/0001/flow_BW_left/flow_BW_left_0002.flo5", 11, True),
    ("spring", "Spring", "train/0002/frame_left/frame_left_0002.png", 10, True),
    ("spring", "Spring", "train/0001/maps/matchmap_flow_FW_left/matchmap_flow_FW_left_0001.png", 12, False),
    ("flow-folder", "FlowFolder", "flow/png/shot000.png", 5, "flow/png/shot000.flo"),
    # The next frame isn't the next file: shot000's flow leads to shot004, not to shot008.
    ("flow-folder", "FlowFolder", "frames/flo/shot004.png", 4, True),
    ("flow-folder", "FlowFolder", "frames/flo/shot000.png", 5, True),
    ("flow-folder", "FlowFolder", "frames/flo/shot008.png", 5, True),
]


@pytest.mark.parametrize(("name", "folder", "file", "left", "missing"), LACKING, ids=[case[2] for case in LACKING])
def test_a_missing_file(copy, name, folder, file, left, missing):
    root = copy(folder)
    (root / file).unlink()
    found = ENTRIES[name].find(root, "train")
    expected = [str(root / (file if missing is True else missing))] if missing else []
    assert found.missing == expected and len(found.rows) == left


@pytest.mark.parametrize(
    ("frames", "flows", "rows", "missing"),
    [
        (["0", "1", "2", "3"], ["0", "1", "2"], ["0-1", "1-2", "2-3"], []),
        (["0", "2", "3"], ["0", "1", "2"], ["2-3"], ["1.png"]),
        (["9", "10", "11"], ["9", "10"], ["9-10", "10-11"], []),
        (["f0", "f5", "f10", "f40", "f45"], ["f0", "f5", "f40"], ["f0-f5", "f5-f10", "f40-f45"], []),  # two parts
        (["0_10", "0_11", "1_10", "1_11"], ["0_10", "1_10"], ["0_10-0_11", "1_10-1_11"], []),
        (["1_c2", "2_c2", "4_c2", "5_c2"], ["1_c2", "2_c2", "4_c2"], ["1_c2-2_c2", "4_c2-5_c2"], ["3_c2.png"]),
        (["1.03", "1.17", "2.41"], ["1.03", "1.17"], ["1.03-1.17", "1.17-2.41"], []),  # times
        (["a", "b", "d"], ["a", "b", "c"], ["a-b"], ["c.png"]),
    ],
)
def test_frames_follow_by_their_numbers(tmp_path, frames, flows, rows, missing):
    for folder, names_, suffix in (("frames", frames, ".png"), ("flow", flows, ".flo")):
        (tmp_path / folder / "clip").mkdir(parents=True)
        for name in names_:
            (tmp_path / folder / "clip" / f"{name}{suffix}").touch()
    found = flow_folder(tmp_path, "train")
    pairs = ["-".join(Path(row[image]["path"]).stem for image in ("image1", "image2")) for row in found.rows]
    assert pairs == rows and all(Path(row["flow"]["path"]).stem in row["name"] for row in found.rows)
    assert found.missing == [str(tmp_path / "frames" / "clip" / name) for name in missing]


def test_two_frames_of_one_name(copy):
    root = copy("FlowFolder")
    shutil.copy(root / "frames" / "flo" / "shot000.png", root / "frames" / "flo" / "shot000.jpg")
    with pytest.raises(ValueError, match=r"shot000\.png and shot000\.jpg have one name"):
        flow_folder(root, "train")


def test_frames_of_which_there_is_nothing_more_are_no_examples(copy):
    """A person took three of a hundred frames: no successor and no ground truth, so nothing is missing."""
    root = copy("Sintel")
    first = root / "training" / "clean" / "alley_1" / "frame_0001.png"
    shutil.copy(first, first.with_name("frame_0047.png"))
    shutil.copy(first, first.with_name("thumbnail.png"))
    shutil.copy(first, first.with_name("._frame_0048.png"))
    found = sintel(root, "train")
    assert len(found.rows) == 3 and found.missing == []
    first.with_name("frame_0002.png").unlink()
    found = sintel(root, "test")
    assert len(found.rows) == 1 and found.missing == []


def test_a_part_of_sintel(copy):
    root = copy("Sintel")
    shutil.rmtree(root / "training" / "final")
    shutil.rmtree(root / "training" / "clean" / "alley_1")
    shutil.rmtree(root / "test")
    assert names(sintel(root, "train")) == ["market_5/frame_0001"]
    with pytest.raises(FileNotFoundError, match=r"training/final is missing"):
        sintel(root, "train", render="final")
    with pytest.raises(FileNotFoundError, match=r"test/clean is missing"):
        sintel(root, "test")
    shutil.rmtree(root / "training" / "flow")
    assert sintel(root, "train").missing == [str(root / "training" / "flow" / "market_5" / "frame_0001.flo")]


def test_a_part_of_spring(copy):
    """Each camera and direction is a download of its own: what nobody took isn't missing, unless it is asked for."""
    root = copy("Spring")
    scenes = [root / "train" / scene for scene in ("0001", "0002")]
    everything = names(spring(root, "train"))
    right_backward = ["0001/flow_BW_right_0002", "0001/flow_BW_right_0003", "0002/flow_BW_right_0002"]
    assert names(spring(root, "train", cameras="right", directions="BW")) == right_backward
    for scene in scenes:
        shutil.rmtree(scene / "frame_right")
    found = spring(root, "train")
    assert names(found) == [name for name in everything if "left" in name] and found.missing == []
    with pytest.raises(FileNotFoundError, match=r"train/0001/frame_right is missing"):
        spring(root, "train", cameras=("left", "right"))
    for scene in scenes:
        shutil.rmtree(scene / "flow_BW_left")
    forward = ["0001/flow_FW_left_0001", "0001/flow_FW_left_0002", "0002/flow_FW_left_0001"]
    assert names(spring(root, "train")) == forward and spring(root, "train").missing == []
    with pytest.raises(FileNotFoundError, match=r"train/0001/flow_BW_left is missing"):
        spring(root, "train", directions=["BW"])
    shutil.rmtree(scenes[1] / "flow_FW_left")  # but what other scenes have is missing here
    found = spring(root, "train")
    assert names(found) == forward[:2]
    assert found.missing == [str(scenes[1] / "flow_FW_left" / "flow_FW_left_0001.flo5")]
    shutil.rmtree(scenes[0] / "flow_FW_left")
    with pytest.raises(FileNotFoundError, match=r"train/0001/flow_FW_left is missing"):
        spring(root, "train")


def test_a_part_of_things(copy):
    root = copy("SceneFlow") / "FlyingThings3D"
    assert names(things(root, "train", cameras="left", directions=("into_past",))) == ["A/0000/left/into_past/0007"]
    shutil.rmtree(root / "frames_cleanpass" / "TRAIN" / "A" / "0000" / "right")
    found = things(root, "train")
    assert names(found) == THINGS_TRAIN[:2] and found.missing == []
    with pytest.raises(FileNotFoundError, match=r"frames_finalpass/TRAIN is missing"):
        shutil.rmtree(root / "frames_finalpass" / "TRAIN")
        things(root, "train", render="final")


def test_things_as_webp(copy):
    root = copy("SceneFlow") / "FlyingThings3D"
    for path in (root / "frames_cleanpass" / "TRAIN").rglob("*.png"):
        with Image.open(path) as image:
            image.save(path.with_suffix(".webp"), lossless=True)
        path.unlink()
    found = things(root, "train")
    assert names(found) == THINGS_TRAIN and found.rows[0]["image2"]["path"].endswith("0007.webp")
    image1, image2, flow = decoded(found.rows[0])
    assert difference(image1, image2, flow) < 3


def test_grey_frames_of_kitti_2012(copy):
    root = copy("KITTI-2012")
    (root / "training" / "colored_0").rename(root / "training" / "image_0")
    found = kitti_2012(root, "train")
    assert names(found) == ["000000_10", "000001_10"] and "/image_0/" in found.rows[0]["image1"]["path"]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("sintel-clean", "Sintel"),
        ("sintel-clean", "Sintel/training"),
        ("flying-chairs", "FlyingChairs/FlyingChairs_release"),
        ("flying-chairs", "FlyingChairs/FlyingChairs_release/data"),
        ("things-clean", "SceneFlow/FlyingThings3D"),
        ("things-clean", "SceneFlow/FlyingThings3D/frames_cleanpass"),
        ("tartanair", "TartanAir/abandonedfactory"),
        ("kitti-2015", "KITTI-2015/training"),
        ("hd1k", "HD1K/hd1k_input"),
        ("middlebury", "Middlebury-flow/other-data"),
        ("spring", "Spring/train"),
    ],
)
def test_a_root_one_folder_off(name, folder):
    base, entry = folder.split("/")[0], ENTRIES[name]
    found = entry.find(DATA / folder, "train")
    assert found.rows and set(names(found)) <= set(names(entry.find(DATA / base, "train")))


def test_an_archive_in_its_folder(copy, tmp_path):
    copy("Sintel").rename(tmp_path / "MPI-Sintel-complete")
    copy("Spring").rename(tmp_path / "spring")
    copy("KITTI-2012").rename(tmp_path / "data_stereo_flow")
    copy("HD1K").rename(tmp_path / "hd1k_full_package")
    counts = {"sintel-final": 3, "spring": 12, "kitti-2012": 2, "hd1k": 3}
    assert {name: len(ENTRIES[name].find(tmp_path, "train").rows) for name in counts} == counts


@pytest.mark.parametrize("name", ENTRIES)
def test_a_wrong_root(name, tmp_path):
    """The message says where it looked, what it expected and from where."""
    entry = ENTRIES[name]
    (tmp_path / "pictures").mkdir()
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError) as error:
            entry.find(root, entry.splits[0])
        text = str(error.value)
        assert text.startswith(str(root)) and entry.layout in text and entry.source in text


@pytest.mark.parametrize("name", ENTRIES)
def test_an_unknown_split(name):
    entry = ENTRIES[name]
    assert entry.scored in entry.splits and entry.task == "optical-flow" and entry.terms
    with pytest.raises(ValueError, match=rf"no split 'validation': expected .*{entry.splits[-1]}"):
        entry.find(DATA, "validation")


def test_unknown_arguments():
    with pytest.raises(ValueError, match=r"render: 'albedo' is unknown, expected clean or final"):
        sintel(DATA / "Sintel", "train", render="albedo")
    with pytest.raises(ValueError, match=r"cameras: 'middle' is unknown, expected left or right"):
        spring(DATA / "Spring", "train", cameras=["left", "middle"])
    with pytest.raises(ValueError, match=r"directions: 'FW' is unknown, expected into_future or into_past"):
        things(DATA / "SceneFlow", "train", directions="FW")
    with pytest.raises(ValueError, match=r"levels: 'Medium' is unknown, expected Easy or Hard"):
        tartanair(DATA / "TartanAir", "train", levels=("Medium",))
    assert names(tartanair(DATA / "TartanAir", "train", levels="Hard")) == ["office/Hard/P001/000000"]


def test_the_split_of_flying_chairs(copy):
    root = copy("FlyingChairs")
    listed = root / "FlyingChairs_release" / "FlyingChairs_train_val.txt"
    for pair in (1, 2):  # a part of the set: lines belong to numbers, not to places in the folder
        for path in (root / "FlyingChairs_release" / "data").glob(f"0000{pair}_*"):
            path.unlink()
    assert names(flying_chairs(root, "train")) == ["00003"] and names(flying_chairs(root, "val")) == []
    listed.write_text("1\r\n1\r\n2\r\n")
    assert names(flying_chairs(root, "val")) == ["00003"]
    listed.write_text("1\n2\n")
    with pytest.raises(
        ValueError, match=r"train_val\.txt has 2 lines and .*data a pair 00003; expected a line for each"
    ):
        flying_chairs(root, "train")
    listed.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"train_val\.txt: expected one line a pair, 1 \(train\) or 2 \(val\)"):
        flying_chairs(root, "train")
    listed.unlink()
    with pytest.raises(FileNotFoundError, match=r"FlyingChairs_train_val\.txt is missing.*lmb\.informatik"):
        flying_chairs(root, "train")


def test_ones_own_folder_with_splits(copy, tmp_path):
    copy("FlowFolder").rename(tmp_path / "whole")
    for split in ("train", "val", "test"):
        shutil.copytree(tmp_path / "whole", tmp_path / "own" / split)
    shutil.rmtree(tmp_path / "own" / "train" / "frames" / "flo")
    shutil.rmtree(tmp_path / "own" / "test" / "flow")
    for path in (tmp_path / "own" / "val" / "frames" / "npy").iterdir():
        with Image.open(path) as image:
            image.save(path.with_suffix(".JPG"), quality=95)
        path.unlink()
    train, val, test = (flow_folder(tmp_path / "own", split) for split in ("train", "val", "test"))
    assert (len(train.rows), len(val.rows), len(test.rows)) == (4, 6, 6)
    assert val.rows[3]["image1"]["path"].endswith("shot000.JPG") and val.rows[3]["flow_format"] == "npy"
    assert all(row["flow"] is None for row in test.rows) and not (train.missing or val.missing or test.missing)
    with pytest.raises(FileNotFoundError, match=r"val/frames/<clip> is missing"):
        flow_folder(tmp_path / "whole", "val")


def test_each_folder_is_read_once(monkeypatch):
    seen = []
    real = flow_sets.Path.iterdir
    monkeypatch.setattr(flow_sets.Path, "iterdir", lambda path: seen.append(path) or real(path))
    assert len(spring(DATA / "Spring", "train").rows) == 12
    assert len(seen) == len(set(seen)) > 0


# ---- real samples ----


def real(real_data, name, folder):
    return ENTRIES[name].find(real_data(folder), "train")


@pytest.mark.parametrize("render", ["clean", "final"])
def test_real_sintel(real_data, render):
    """Ground truth is there for some pairs only: those are the rows, the others are named."""
    found = real(real_data, f"sintel-{render}", "Sintel")
    assert names(found) == ["alley_1/frame_0001", "alley_1/frame_0002", "alley_1/frame_0003", "market_5/frame_0002"]
    gone = [path.split("flow/")[1] for path in found.missing]
    assert gone == ["market_5/frame_0001.flo", "market_5/frame_0003.flo"]
    for row in found.rows[3:]:
        image1, image2, flow = decoded(row)
        assert flow.shape == (436, 1024, 2)
        check_better_than_wrong(image1, image2, flow, 1.2)


def check_better_than_wrong(image1, image2, flow, times):
    right = difference(image1, image2, flow)
    others = wrong(flow)
    for what in ("none", "sign", "u for v", "upside down"):
        assert difference(image1, image2, others[what]) > times * right, what


def test_real_kitti_2015(real_data):
    found = real(real_data, "kitti-2015", "KITTI")
    assert names(found) == ["000000_10"] and found.missing == []
    flow = decoded(found.rows[0])[2]
    assert flow.shape == (375, 1242, 2) and 0.1 < np.isfinite(flow).all(axis=2).mean() < 0.5
    assert found.rows[0]["flow_format"] == "kitti" and found.rows[0]["occluded"] is None


def test_real_kitti_2015_leads_to_the_second_picture(real_data):
    found = real(real_data, "kitti-2015", "KITTI")
    image1, image2, flow = decoded(found.rows[0])
    y, x = np.indices(flow.shape[:2])
    known = np.isfinite(flow).all(axis=2) & ~leaves(flow)
    at = np.rint(np.stack([x, y], -1) + np.nan_to_num(flow)).astype(int)[known]
    right = np.abs(image2[at[:, 1], at[:, 0]].astype(int) - image1[known]).mean()
    still = np.abs(image2[known].astype(int) - image1[known]).mean()
    assert right < 0.7 * still


def test_real_middlebury(real_data):
    found = real(real_data, "middlebury", "middlebury-flow")
    assert names(found) == ["Grove2", "RubberWhale", "Urban2", "Venus"] and found.missing == []
    for row in found.rows[1:3]:
        image1, image2, flow = decoded(row)
        check_better_than_wrong(image1, image2, flow, 1.2)
