"""Stereo sets: rows in the real layouts, disparity as flow from the reference view to the other, occlusions, missing files, errors."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from support.flow_cases import COLUMNS, DATA, check_occluded, decoded, difference, wrong

from winwin_hf.data.benchmarks import flow as flow_sets
from winwin_hf.data.benchmarks.stereo import SETS, kitti_2012_stereo, middlebury_stereo, sceneflow_stereo, spring_stereo
from winwin_hf.data.rows import table

ENTRIES = {entry.name: entry for entry in SETS}
SPRING_TRAIN = [
    f"{scene}/disp1_{camera}_000{number}"
    for scene, count in (("0001", 3), ("0002", 2))
    for camera in ("left", "right")
    for number in range(1, count + 1)
]
SPRING_TEST = [f"0003/disp1_{camera}_000{number}" for camera in ("left", "right") for number in (1, 2)]
SCENE_FLOW_TRAIN = [
    "Driving/15mm_focallength/scene_forwards/fast/0001",
    "FlyingThings3D/A/0000/0006",
    "FlyingThings3D/A/0000/0007",
    "Monkaa/eating_x2/0000",
]
# (set, folder, split, the rows' names)
LISTED = [
    ("spring-stereo", "Spring", "test", SPRING_TEST),
    *((f"kitti-{year}-stereo", f"KITTI-{year}", "train", ["000000_10", "000001_10"]) for year in (2012, 2015)),
    *((f"kitti-{year}-stereo", f"KITTI-{year}", "test", ["000000_10"]) for year in (2012, 2015)),
    ("sceneflow-stereo", "SceneFlow", "train", SCENE_FLOW_TRAIN),
    ("sceneflow-stereo", "SceneFlow", "test", ["FlyingThings3D/B/0001/0006", "FlyingThings3D/B/0001/0007"]),
    ("middlebury-stereo", "Middlebury-stereo", "train", ["Adirondack-perfect", "motorcycle"]),
    ("middlebury-stereo", "MiddEval3", "train", ["Piano"]),
    ("middlebury-stereo", "MiddEval3", "test", ["Hoops"]),
]
TRUE = [case for case in LISTED if case[2] == "train" or case[0] == "sceneflow-stereo"]


def ids(cases):
    return ["-".join(case[:3]) for case in cases]


def names(found):
    return [row["name"] for row in found.rows]


@pytest.fixture
def copy(tmp_path):
    """A set's folder that a test may take files from."""
    return lambda folder: shutil.copytree(DATA / folder, tmp_path / folder)


def check_rows(found, expected, truth):
    assert names(found) == expected and found.missing == []
    for row in found.rows:
        assert set(row) == COLUMNS and (row["flow"] is not None) == truth == (row["flow_format"] is not None)
        assert row["image1"]["path"] != row["image2"]["path"]
    assert table(found.rows, "optical-flow")[0]["image2"].mode == "RGB"


@pytest.mark.parametrize(("name", "folder", "split", "expected"), LISTED, ids=ids(LISTED))
def test_the_rows_of_a_split(name, folder, split, expected):
    found = ENTRIES[name].find(DATA / folder, split)
    check_rows(found, expected, truth=split == "train" or name == "sceneflow-stereo")


def check_direction(row):
    image1, image2, flow = decoded(row)
    known = np.isfinite(flow).all(axis=2)
    assert (flow[known][:, 1] == 0).all()
    right = difference(image1, image2, flow)
    assert right < 3, row["name"]
    for what, other in wrong(flow).items():
        assert difference(image1, image2, other) > 2 * right, (row["name"], what)
    assert difference(image2, image1, flow) > 2 * right, row["name"]


@pytest.mark.parametrize(("name", "folder", "split", "expected"), TRUE, ids=ids(TRUE))
def test_disparity_leads_from_the_left_picture_to_the_right(name, folder, split, expected):
    for row in ENTRIES[name].find(DATA / folder, split).rows:
        check_direction(row)
        flow = decoded(row)[2]
        assert (flow[np.isfinite(flow).all(axis=2)][:, 0] < 0).all()  # what the right camera sees lies further left


def test_both_views_of_spring():
    """Disparity is positive in both files; from the right view to the left one, things move right."""
    found = spring_stereo(DATA / "Spring", "train")
    check_rows(found, SPRING_TRAIN, truth=True)
    for row in found.rows:
        check_direction(row)
        assert (decoded(row)[2][..., 0] > 0).all() == ("right" in row["name"])
    assert names(spring_stereo(DATA / "Spring", "train", cameras="right")) == [n for n in SPRING_TRAIN if "right" in n]


@pytest.mark.parametrize(
    ("name", "folder", "row"),
    [
        ("kitti-2012-stereo", "KITTI-2012", "000000_10"),
        ("kitti-2015-stereo", "KITTI-2015", "000001_10"),
        ("sceneflow-stereo", "SceneFlow", "Monkaa/eating_x2/0000"),
        ("middlebury-stereo", "Middlebury-stereo", "Adirondack-perfect"),
        ("middlebury-stereo", "Middlebury-stereo", "motorcycle"),
        ("middlebury-stereo", "MiddEval3", "Piano"),
    ],
)
def test_values_at_a_pixel(name, folder, row):
    """d = 3 + x/32 + y/16 (make_flow_frames.py); at (10, 10) it is 3.9375."""
    rows = ENTRIES[name].find(DATA / folder, "train").rows
    flow = decoded(next(found for found in rows if found["name"] == row))[2]
    assert flow[10, 10] == pytest.approx((-3.9375, 0), abs=2e-3)


def test_unknown_disparity():
    for row in middlebury_stereo(DATA / "Middlebury-stereo", "train").rows:
        unknown = np.isnan(decoded(row)[2])
        assert unknown[0, :6].all() and not unknown[0, 6:].any() and unknown.sum() == 21 * 2
    unknown = np.isnan(decoded(ENTRIES["kitti-2015-stereo"].find(DATA / "KITTI-2015", "train").rows[0])[2])
    assert unknown[:8].all() and 0.6 < 1 - unknown[8:].mean() < 0.7


def test_occluded_pixels():
    rows = [
        *spring_stereo(DATA / "Spring", "train").rows,
        *ENTRIES["kitti-2012-stereo"].find(DATA / "KITTI-2012", "train").rows,
        *ENTRIES["kitti-2015-stereo"].find(DATA / "KITTI-2015", "train").rows,
        *middlebury_stereo(DATA / "MiddEval3", "train").rows,
    ]
    kinds = ["png"] * 10 + ["kitti-disparity-noc"] * 4 + ["visible-png:128"]
    assert [row["occluded_format"] for row in rows] == kinds
    for row in rows:
        check_occluded(row)
    assert all(row["occluded"] is None for row in middlebury_stereo(DATA / "Middlebury-stereo", "train").rows)


# (set, folder, the file to take away, how many rows are left, what is missing if it isn't that file)
LACKING = [
    ("kitti-2012-stereo", "KITTI-2012", "training/colored_1/000000_10.png", 1, True),
    ("kitti-2012-stereo", "KITTI-2012", "training/colored_1/000000_11.png", 2, False),  # stereo has one time only
    ("kitti-2015-stereo", "KITTI-2015", "training/disp_occ_0/000001_10.png", 1, True),
    ("kitti-2015-stereo", "KITTI-2015", "training/disp_noc_0/000001_10.png", 2, False),
    ("sceneflow-stereo", "SceneFlow", "Monkaa/disparity/eating_x2/left/0000.pfm", 3, True),
    (
        "sceneflow-stereo",
        "SceneFlow",
        "Driving/frames_finalpass/15mm_focallength/scene_forwards/fast/right/0001.png",
        3,
        True,
    ),
    ("sceneflow-stereo", "SceneFlow", "FlyingThings3D/disparity/TEST/B/0001/left/0006.pfm", 4, False),
    ("middlebury-stereo", "Middlebury-stereo", "Adirondack-perfect/im0.png", 1, True),
    ("middlebury-stereo", "Middlebury-stereo", "Adirondack-perfect/disp0.pfm", 1, True),
    ("middlebury-stereo", "Middlebury-stereo", "motorcycle/motorcycle_left.png", 1, True),
    ("middlebury-stereo", "MiddEval3", "trainingH/Piano/mask0nocc.png", 1, False),
]


@pytest.mark.parametrize(("name", "folder", "file", "left", "missing"), LACKING, ids=[case[2] for case in LACKING])
def test_a_missing_file(copy, name, folder, file, left, missing):
    root = copy(folder)
    (root / file).unlink()
    found = ENTRIES[name].find(root, "train")
    assert found.missing == ([str(root / file)] if missing else []) and len(found.rows) == left


def test_a_part_of_spring(copy):
    """A scene without the right frames lacks them; a split without any of them can't be used for stereo at all."""
    root = copy("Spring")
    scenes = [root / "train" / scene for scene in ("0001", "0002")]
    for scene in scenes:
        shutil.rmtree(scene / "disp1_right")
    left = [name for name in SPRING_TRAIN if "left" in name]
    assert names(spring_stereo(root, "train")) == left and spring_stereo(root, "train").missing == []
    with pytest.raises(FileNotFoundError, match=r"train/0001/disp1_right is missing"):
        spring_stereo(root, "train", cameras=("right",))
    shutil.rmtree(scenes[1] / "frame_right")
    found = spring_stereo(root, "train")
    assert names(found) == left[:3]
    assert found.missing == [str(scenes[1] / "frame_right" / f"frame_right_000{number}.png") for number in (1, 2)]
    shutil.rmtree(scenes[0] / "frame_right")
    with pytest.raises(FileNotFoundError, match=r"train/0001/frame_right is missing: .*Spring.*darus-3376"):
        spring_stereo(root, "train")
    with pytest.raises(ValueError, match=r"cameras: 'top' is unknown"):
        spring_stereo(root, "train", cameras="top")


def test_a_part_of_kitti(copy):
    root = copy("KITTI-2012")
    shutil.rmtree(root / "training" / "colored_1")
    with pytest.raises(FileNotFoundError, match=r"training/colored_1/000000_10\.png is missing"):
        kitti_2012_stereo(root, "train")
    (root / "training" / "colored_0").rename(root / "training" / "image_0")
    shutil.copytree(root / "training" / "image_0", root / "training" / "image_1")
    found = kitti_2012_stereo(root, "train")
    assert len(found.rows) == 2 and "/image_1/" in found.rows[0]["image2"]["path"]


def test_parts_of_scene_flow(copy):
    root = copy("SceneFlow")
    for folder, expected in (
        ("Driving", ["15mm_focallength/scene_forwards/fast/0001"]),
        ("FlyingThings3D", ["A/0000/0006", "A/0000/0007"]),
        ("Monkaa", ["eating_x2/0000"]),
    ):
        assert names(sceneflow_stereo(root / folder, "train")) == expected
    clean = sceneflow_stereo(root, "train", render="clean")
    assert names(clean) == SCENE_FLOW_TRAIN and "frames_cleanpass" in clean.rows[0]["image1"]["path"]
    for path in (root / "Monkaa").rglob("*.png"):
        with Image.open(path) as image:
            image.save(path.with_suffix(".webp"), lossless=True)
        path.unlink()
    check_direction(sceneflow_stereo(root / "Monkaa", "train").rows[0])
    (root / "Monkaa").rename(root / "monkaa")
    shutil.rmtree(root / "Driving" / "frames_finalpass")
    shutil.rmtree(root / "FlyingThings3D" / "frames_finalpass" / "TEST")
    assert names(sceneflow_stereo(root, "train")) == [*SCENE_FLOW_TRAIN[1:3], "monkaa/eating_x2/0000"]
    with pytest.raises(FileNotFoundError, match=r"frames_finalpass/TEST is missing"):
        sceneflow_stereo(root, "test")
    with pytest.raises(ValueError, match=r"render: 'albedo' is unknown"):
        sceneflow_stereo(root, "train", render="albedo")


def test_the_finest_of_middleburys_sizes(copy, tmp_path):
    root = copy("MiddEval3")
    shutil.copytree(root / "trainingH", root / "trainingF")
    shutil.copytree(root / "trainingH", root / "trainingQ")
    found = middlebury_stereo(tmp_path, "train")  # the folder that MiddEval3 was unpacked in
    assert names(found) == ["Piano"] and "/trainingF/" in found.rows[0]["image1"]["path"]
    assert names(middlebury_stereo(root / "trainingQ", "train")) == ["Piano"]
    with pytest.raises(FileNotFoundError, match=r"testH/<scene>/im0\.png is missing"):
        middlebury_stereo(DATA / "Middlebury-stereo", "test")


def test_one_scene_of_middlebury():
    assert names(middlebury_stereo(DATA / "Middlebury-stereo" / "motorcycle", "train")) == ["motorcycle"]


def test_an_archive_in_its_folder(copy, tmp_path):
    copy("Spring").rename(tmp_path / "spring")
    copy("KITTI-2015").rename(tmp_path / "data_scene_flow")
    assert len(ENTRIES["kitti-2015-stereo"].find(tmp_path, "train").rows) == 2
    assert len(spring_stereo(tmp_path, "test").rows) == 4


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
    with pytest.raises(ValueError, match=r"no split 'validation': expected .*test"):
        entry.find(DATA, "validation")


def test_names_are_unique():
    every = [entry.name for entry in (*flow_sets.SETS, *SETS)]
    assert len(every) == len(set(every)) == 17


# ---- real samples ----


def test_real_motorcycle(real_data):
    found = middlebury_stereo(real_data("middlebury-stereo"), "train")
    assert names(found) == ["motorcycle"] and found.missing == []
    image1, image2, flow = decoded(found.rows[0])
    assert flow.shape == (500, 741, 2) and found.rows[0]["occluded"] is None
    known = np.isfinite(flow).all(axis=2)
    assert 0.5 < known.mean() < 1 and (flow[known][:, 0] < 0).all() and (flow[known][:, 1] == 0).all()
    right = difference(image1, image2, flow)
    for what in ("none", "sign", "u for v", "upside down"):
        assert difference(image1, image2, wrong(flow)[what]) > 1.5 * right, what
