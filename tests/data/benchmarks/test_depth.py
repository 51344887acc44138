"""Data sets with depth, on tiny frames in each benchmark's layout whose colours say what the depth must be (see
data/make_depth_frames.py), and on real samples where there are some."""

from __future__ import annotations

import importlib.util
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from support.places import FRAMES

from winwin_hf.data import formats
from winwin_hf.data.benchmarks.depth import (
    SETS,
    depth_folder,
    kitti_depth,
    kitti_depth_selection,
    middlebury_depth,
    tartanair_depth,
)
from winwin_hf.data.benchmarks.depth_indoor import hypersim, nyuv2, seven_scenes, seven_scenes_sequences
from winwin_hf.data.rows import table

DATA = FRAMES
ROOT = DATA / "depth"
ENTRIES = {entry.name: entry for entry in SETS}
DRIVES = ("2011_09_26_drive_0001_sync", "2011_09_26_drive_0002_sync")
PNG, JPEG, COARSE = 1, 8, 2  # tolerance in steps of red: rounding; JPEG; depth of 8 or 16 bits' steps beside a rounding


@pytest.fixture(scope="module")
def frames():
    spec = importlib.util.spec_from_file_location("make_depth_frames", DATA / "make_depth_frames.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path):
    """copy(name) -> a copy of a folder of tests/frames/depth that a test may damage."""
    return lambda name: Path(shutil.copytree(ROOT / name, tmp_path / name))


def names(found):
    return [row["name"] for row in found.rows]


# set, folder, split, names of the rows, LEVELS, tolerance
CASES = [
    (nyuv2, "nyu_depth_v2", "train", ["00000", "00002", "00003"], "nyu", PNG),
    (nyuv2, "nyu_depth_v2", "test", ["00001", "00004"], "nyu", PNG),
    (nyuv2, "nyu_depth_v2", "all", [f"{n:05d}" for n in range(5)], "nyu", PNG),
    (nyuv2, "nyu_png", "train", ["bathroom/00000", "bathroom/00002", "kitchen/00003"], "nyu", JPEG),
    (nyuv2, "nyu_png", "test", ["bathroom/00001", "bathroom/00045"], "nyu", JPEG),
    (nyuv2, "nyu_png", "sync", [f"bathroom_0001/0000{n}" for n in range(3)], "nyu", JPEG),
    (nyuv2, "nyu_data", "train", ["basement_0001a_out/1", "basement_0001a_out/2"], "nyu", JPEG),
    (nyuv2, "nyu_data", "test", ["00000"], "nyu", PNG),
    (kitti_depth, "kitti", "train", [f"{DRIVES[0]}/image_02/000000000{n}" for n in (5, 6)], "kitti", PNG),
    (kitti_depth, "kitti", "val", [f"{DRIVES[1]}/image_02/000000000{n}" for n in (5, 6)], "kitti", PNG),
    (kitti_depth, "kitti", "eigen-train", [f"{DRIVES[0]}/image_02/000000000{n}" for n in (5, 6)], "kitti", PNG),
    (kitti_depth, "kitti", "eigen-test", [f"{DRIVES[1]}/image_02/0000000005"], "kitti", PNG),
    (
        partial(kitti_depth, cameras=("image_02", "image_03")),
        "kitti",
        "val",
        [f"{DRIVES[1]}/image_0{camera}/000000000{n}" for camera in (2, 3) for n in (5, 6)],
        "kitti",
        PNG,
    ),
    (
        kitti_depth_selection,
        "kitti",
        "val",
        [f"{DRIVES[1]}_0000000005_image_02", f"{DRIVES[1]}_0000000006_image_03"],
        "kitti",
        PNG,
    ),
    (hypersim, "hypersim", "train", [f"ai_001_001/cam_00/000{n}" for n in (0, 1)], "hypersim", JPEG),
    (
        hypersim,
        "hypersim",
        "test",
        [f"ai_001_002/cam_0{camera}/000{n}" for camera in (0, 1) for n in (0, 1)],
        "hypersim",
        JPEG,
    ),
    (seven_scenes, "7scenes-room", "train", [f"frame-{n:06d}" for n in (0, 4, 8, 12)], "7scenes", JPEG),
    (seven_scenes, "7scenes-room", "val", ["frame-000016"], "7scenes", JPEG),
    (
        seven_scenes_sequences,
        "7scenes",
        "train",
        [f"{place}/seq-01/frame-00000{n}" for place in ("chess", "fire") for n in (0, 1)],
        "7scenes",
        PNG,
    ),
    (seven_scenes_sequences, "7scenes/fire", "test", [f"fire/seq-02/frame-00000{n}" for n in (0, 1)], "7scenes", PNG),
    (
        tartanair_depth,
        "tartanair",
        "train",
        [
            f"abandonedfactory/abandonedfactory/{frame}"
            for frame in ("Easy/P000/000000", "Easy/P000/000001", "Hard/P001/000000")
        ],
        "tartanair",
        PNG,
    ),
    (tartanair_depth, "tartanair/abandonedfactory/abandonedfactory", "hard", ["Hard/P001/000000"], "tartanair", PNG),
    (
        tartanair_depth,
        "tartanair/abandonedfactory/abandonedfactory/Easy/P000",
        "easy",
        ["P000/000000", "P000/000001"],
        "tartanair",
        PNG,
    ),
    (
        middlebury_depth,
        "middlebury2014",
        "all",
        ["Adirondack-perfect", "MiddEval3/trainingQ/Jadeplant", "Piano-perfect"],
        "middlebury",
        PNG,
    ),
    (middlebury_depth, "middlebury2014/Piano-perfect", "all", ["Piano-perfect"], "middlebury", PNG),
    (middlebury_depth, "motorcycle", "all", ["motorcycle"], "middlebury", PNG),
    (depth_folder, "depth-folder", "train", ["a", "b", "yard/c"], "folder", JPEG),
    (depth_folder, "depth-folder", "val", ["d"], "folder", PNG),
    (depth_folder, "depth-folder", "all", ["train/a", "train/b", "train/yard/c", "val/d"], "folder", JPEG),
]


@pytest.mark.parametrize("find, place, split, expected, kind, tolerance", CASES)
def test_rows_and_values(frames, find, place, split, expected, kind, tolerance):
    """Red is depth, green the column and blue the row: in metres, of this image, and not transposed."""
    found = find(ROOT / place, split)
    assert names(found) == expected and found.missing == []
    pictures = []
    for row in found.rows:
        image = formats.decode_image(row["image"]["path"])
        depth = formats.decode_depth(row["depth"]["path"], row["depth_format"])
        assert image.shape == (32, 48, 3) and image.dtype == np.uint8
        assert depth.shape == (32, 48) and depth.dtype == np.float32
        depth = np.where(depth == frames.SKY, np.nan, depth)
        red, green, blue = image.astype(float).transpose(2, 0, 1)
        y, x = np.mgrid[:32, :48]
        inside = np.isfinite(depth)
        assert np.abs(green - 5 * x).max() <= tolerance and np.abs(blue - 7 * y).max() <= tolerance
        assert np.abs(red - depth * frames.LEVELS[kind])[inside].max() <= tolerance
        assert inside.mean() > (0.1 if "kitti" in place else 0.95)
        if not row["image"]["path"].split("::")[0].endswith(".mat"):  # where depth is filled in
            assert not inside[:4, :4].any()
        pictures.append(depth)
    differ = [np.nanmax(np.abs(a - b)) * frames.LEVELS[kind] for a, b in pairwise(pictures)]
    assert all(most > 4 * tolerance for most in differ)  # another frame's depth would not pass
    assert len(table(found.rows, "depth-estimation")) == len(expected)


def test_frames_come_from_their_script(frames, tmp_path):
    frames.main(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert made == sorted(path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    for path in made:
        new, old = tmp_path / path, ROOT / path
        if path.suffix == ".jpg":  # may differ by a rounding between versions of the library
            assert np.abs(np.asarray(Image.open(new), int) - np.asarray(Image.open(old), int)).max() <= 4
        elif path.suffix == ".png":
            assert (np.asarray(Image.open(new)) == np.asarray(Image.open(old))).all()
        elif path.suffix == ".hdf5" or path.name == "nyu_depth_v2_labeled.mat":
            with h5py.File(new) as one, h5py.File(old) as other:
                assert list(one) == list(other)
                assert all(np.array_equal(one[key][()], other[key][()], equal_nan=True) for key in one)
        elif path.suffix == ".npz":
            assert (np.load(new)["arr_0"] == np.load(old)["arr_0"]).all()
        else:
            assert new.read_bytes() == old.read_bytes()
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) < 400_000


def test_catalogue():
    assert len(ENTRIES) == len(SETS) == 10
    for entry in SETS:
        assert entry.task == "depth-estimation" and entry.scored in entry.splits and entry.terms and entry.layout
        assert entry.source.startswith("https://") or entry.name == "depth-folder"
        assert entry.labels is None and entry.palette is None
    assert (ENTRIES["nyuv2"].depth_range, ENTRIES["nyuv2"].crop) == ((1e-3, 10.0), "eigen")
    assert (ENTRIES["kitti-depth"].depth_range, ENTRIES["kitti-depth"].crop) == ((1e-3, 80.0), "garg")
    assert ENTRIES["kitti-depth-selection"].crop is None
    raw = ENTRIES["seven-scenes-raw"].find(ROOT / "7scenes", "all")
    assert len(raw.rows) == 8 and all(
        row["depth"]["path"].endswith("0.depth.png") or "1.depth.png" in row["depth"]["path"] for row in raw.rows
    )


@pytest.mark.parametrize("entry", SETS, ids=lambda entry: entry.name)
def test_wrong_root_and_split(entry, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "a.png")
    for root in (tmp_path, tmp_path / "nowhere"):
        for split in entry.splits:
            with pytest.raises(FileNotFoundError) as error:
                entry.find(root, split)
            message = str(error.value)
            assert message.startswith(f"{root}/") and "is missing" in message
            assert entry.source in message and entry.layout in message
    with pytest.raises(ValueError, match=rf"no split 'holdout': expected one of {', '.join(entry.splits)}"):
        entry.find(ROOT, "holdout")


# set, folder, split, the file that is gone, a name that is gone with it
PARTIAL = [
    (nyuv2, "nyu_png", "train", "official_splits/train/bathroom/sync_depth_00002.png", "bathroom/00002"),
    (nyuv2, "nyu_png", "sync", "sync/bathroom_0001/rgb_00000.jpg", "bathroom_0001/00000"),
    (nyuv2, "nyu_data", "train", "data/nyu2_train/basement_0001a_out/1.png", "basement_0001a_out/1"),
    (nyuv2, "nyu_data", "test", "data/nyu2_test/00000_colors.png", "00000"),
    (
        kitti_depth,
        "kitti",
        "val",
        f"2011_09_26/{DRIVES[1]}/image_02/data/0000000005.png",
        f"{DRIVES[1]}/image_02/0000000005",
    ),
    (
        kitti_depth,
        "kitti",
        "eigen-test",
        f"data_depth_annotated/val/{DRIVES[1]}/proj_depth/groundtruth/image_02/0000000005.png",
        f"{DRIVES[1]}/image_02/0000000005",
    ),
    (
        kitti_depth_selection,
        "kitti",
        "val",
        f"depth_selection/val_selection_cropped/groundtruth_depth/{DRIVES[1]}_groundtruth_depth_0000000005_image_02.png",
        f"{DRIVES[1]}_0000000005_image_02",
    ),
    (
        kitti_depth_selection,
        "kitti",
        "val",
        f"depth_selection/val_selection_cropped/image/{DRIVES[1]}_image_0000000006_image_03.png",
        f"{DRIVES[1]}_0000000006_image_03",
    ),
    (
        hypersim,
        "hypersim",
        "test",
        "ai_001_002/images/scene_cam_01_final_preview/frame.0001.tonemap.jpg",
        "ai_001_002/cam_01/0001",
    ),
    (
        hypersim,
        "hypersim",
        "all",
        "ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5",
        "ai_001_001/cam_00/0000",
    ),
    (seven_scenes, "7scenes-room", "train", "depth/frame-000008.png", "frame-000008"),
    (seven_scenes, "7scenes-room", "val", "rgb/frame-000016.jpg", "frame-000016"),
    (seven_scenes_sequences, "7scenes", "test", "fire/seq-02/frame-000001.depth.proj.png", "fire/seq-02/frame-000001"),
    (
        tartanair_depth,
        "tartanair",
        "easy",
        "abandonedfactory/abandonedfactory/Easy/P000/depth_left/000001_left_depth.npy",
        "abandonedfactory/abandonedfactory/Easy/P000/000001",
    ),
    (middlebury_depth, "middlebury2014", "all", "Piano-perfect/calib.txt", "Piano-perfect"),
    (middlebury_depth, "middlebury2014", "all", "Piano-perfect/disp0.pfm", "Piano-perfect"),
    (middlebury_depth, "motorcycle", "all", "motorcycle_disp.npz", "motorcycle"),
    (depth_folder, "depth-folder", "train", "images/train/yard/c.png", "yard/c"),
]


@pytest.mark.parametrize("find, place, split, gone, name", PARTIAL)
def test_a_missing_companion(copy, find, place, split, gone, name):
    """Rows stay complete and the others the same; the file that is gone is named."""
    root = copy(place)
    whole = names(find(root, split))
    (root / gone).unlink()
    found = find(root, split)
    assert names(found) == [other for other in whole if other != name] and name in whole
    # the suffix of an image that isn't there is a guess where a set has several
    assert [str(Path(path).with_suffix("")) for path in found.missing] == [str((root / gone).with_suffix(""))]


def test_nyu_without_its_list_of_splits(copy):
    root = copy("nyu_depth_v2")
    (root / "splits.mat").unlink()
    assert len(nyuv2(root, "all").rows) == 5
    assert names(nyuv2(root / "nyu_depth_v2_labeled.mat", "all")) == names(nyuv2(root, "all"))
    with pytest.raises(FileNotFoundError, match=r"splits\.mat is missing: it says which frames .* of split 'train'"):
        nyuv2(root, "train")
    shutil.copytree(ROOT / "nyu_png" / "official_splits", root / "official_splits")
    assert names(nyuv2(root, "test")) == ["bathroom/00001", "bathroom/00045"]


def test_nyu_cells_and_damaged_files(copy):
    root = copy("nyu_depth_v2")
    row = nyuv2(root, "test").rows[1]
    assert row["image"] == row["depth"] == {"bytes": None, "path": f"{root}/nyu_depth_v2_labeled.mat::4"}
    with h5py.File(root / "nyu_depth_v2_labeled.mat") as file:  # depths has no holes, rawDepths does
        stored, holes = file["depths"][4].T, file["rawDepths"][4].T == 0
    assert (formats.decode_depth(row["depth"]["path"], row["depth_format"]) == stored).all() and holes.any()
    (root / "splits.mat").write_bytes(b"no MATLAB file")
    with pytest.raises(ValueError, match=r"splits\.mat: not a readable MATLAB 5 file with testNdxs"):
        nyuv2(root, "test")
    (root / "nyu_depth_v2_labeled.mat").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"labeled\.mat: not a readable MATLAB 7\.3 file with images"):
        nyuv2(root, "all")


def test_nyu_splits_of_another_file(copy):
    root = copy("nyu_depth_v2")
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "r+") as file:
        first = file["images"][:2]
        del file["images"]
        file["images"] = first
    with pytest.raises(ValueError, match=r"splits\.mat: testNdxs goes from 2 to 5, but .*labeled\.mat has 2 frames"):
        nyuv2(root, "test")


def test_nyu_of_eight_bits():
    """DenseDepth's training frames: 255 is 10 m."""
    row = nyuv2(ROOT / "nyu_data", "train").rows[0]
    stored = np.asarray(Image.open(row["depth"]["path"]))
    depth = formats.decode_depth(row["depth"]["path"], row["depth_format"])
    assert stored.dtype == np.uint8 and stored.max() > 100
    assert (
        depth[stored > 0] == pytest.approx(stored[stored > 0] / 255.0 * 10, rel=1e-6)
        and np.isnan(depth[stored == 0]).all()
    )


def test_kitti_layouts(copy):
    """Unzipped into one folder, as the development kit says; raw drives elsewhere; frames without depth aren't missing."""
    root = copy("kitti")
    whole = names(kitti_depth(root, "train"))
    for part in ("train", "val"):
        (root / "data_depth_annotated" / part).rename(root / part)
    (root / "raw").mkdir()
    (root / "2011_09_26").rename(root / "raw" / "2011_09_26")
    found = kitti_depth(root, "train")
    assert names(found) == whole and found.missing == []
    assert not any("0000000000" in row["image"]["path"] for row in found.rows)
    shutil.rmtree(root / "raw" / "2011_09_26" / DRIVES[0])  # a drive whose images weren't downloaded
    found = kitti_depth(root, "train")
    assert found.rows == [] and [Path(path).name for path in found.missing] == ["0000000005.png", "0000000006.png"]
    assert found.missing[0].startswith(str(root / "2011_09_26" / DRIVES[0]))
    assert len(kitti_depth(root, "val").rows) == 2
    (root / "eigen_test_files_with_gt.txt").write_text("a.png b.png\n")
    with pytest.raises(ValueError, match=r"eigen_test_files_with_gt\.txt, line 1: 'a\.png b\.png'; expected an image"):
        kitti_depth(root, "eigen-test")


def test_kitti_eigen_drive_that_is_absent(copy):
    root = copy("kitti")
    shutil.rmtree(root / "data_depth_annotated" / "val")
    shutil.rmtree(root / "2011_09_26" / DRIVES[1])
    found = kitti_depth(root, "eigen-test")
    assert found.rows == [] and [Path(path).name for path in found.missing] == ["0000000005.png"] * 2


def test_kitti_test_has_no_depth():
    found = kitti_depth_selection(ROOT / "kitti", "test")
    assert names(found) == ["0000000000", "0000000001"] and found.missing == []
    assert all(row["depth"] is None and row["depth_format"] is None for row in found.rows)
    assert table(found.rows, "depth-estimation")[0]["depth"] is None


def test_hypersim_splits(copy):
    """The list names a scene that isn't here and frames that were never published; neither is missing."""
    root = copy("hypersim")
    assert len(hypersim(root, "all").rows) == 6 and hypersim(root, "val").rows == []
    assert names(hypersim(root / "ai_001_001", "train")) == names(hypersim(root, "train"))
    (root / "scenes").mkdir()
    for scene in list(root.glob("ai_*")):
        scene.rename(root / "scenes" / scene.name)
    assert names(hypersim(root, "train")) == ["ai_001_001/cam_00/0000", "ai_001_001/cam_00/0001"]
    path = root / "metadata_images_split_scene_v1.csv"
    path.write_text("scene,camera\nai_001_001,cam_00\n")
    with pytest.raises(ValueError, match=r"split_scene_v1\.csv: expected the columns scene_name"):
        hypersim(root, "train")
    path.unlink()
    assert len(hypersim(root, "all").rows) == 6
    with pytest.raises(FileNotFoundError, match=r"split_scene_v1\.csv is missing: it lists split 'train'"):
        hypersim(root, "train")


def test_a_missing_frame_moves_no_other_across_the_room_s_split(copy):
    root = copy("7scenes-room")
    (root / "rgb" / "frame-000000.jpg").unlink()
    train, val = seven_scenes(root, "train"), seven_scenes(root, "val")
    assert names(train) == ["frame-000004", "frame-000008", "frame-000012"] and names(val) == ["frame-000016"]
    assert len(train.missing) == 1 and val.missing == []
    both = seven_scenes(root, "all")
    assert names(both) == names(train) + names(val) and both.missing == train.missing
    for path in [*(root / "rgb").iterdir(), *(root / "depth").iterdir()]:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"rgb holds no frames: .*16-bit millimetres registered"):
        seven_scenes(root, "train")


def test_room_s_unknown_values():
    row = seven_scenes(ROOT / "7scenes-room", "val").rows[0]
    depth = formats.decode_depth(row["depth"]["path"], row["depth_format"])
    stored = np.asarray(Image.open(row["depth"]["path"]))
    assert stored[6, 6] == 65535 and np.isnan(depth[6, 6])
    assert (np.isnan(depth) == np.isin(stored, (0, 65535))).all()
    assert depth[20, 30] == pytest.approx(stored[20, 30] / 1000)


def test_two_images_of_one_frame(copy):
    root = copy("7scenes-room")
    shutil.copy(root / "rgb" / "frame-000004.jpg", root / "rgb" / "._frame-000004.jpg")  # left by macOS
    assert len(seven_scenes(root, "all").rows) == 5
    Image.new("RGB", (48, 32)).save(root / "rgb" / "frame-000004.png")
    with pytest.raises(ValueError, match=r"frame-000004\.png and frame-000004\.jpg have one name"):
        seven_scenes(root, "all")


def test_sequences_raw_and_registered(copy):
    root = copy("7scenes")
    registered = seven_scenes_sequences(root, "train").rows[0]
    raw = seven_scenes_sequences(root, "train", raw=True).rows[0]
    assert registered["image"] == raw["image"] and registered["name"] == raw["name"]
    there, here = (formats.decode_depth(row["depth"]["path"], row["depth_format"]) for row in (registered, raw))
    assert np.array_equal(here[:, :-4], there[:, 3:-1], equal_nan=True)  # as the generator shifts it
    for path in root.rglob("*.depth.proj.png"):
        path.unlink()
    assert len(seven_scenes_sequences(root, "all", raw=True).rows) == 8
    with pytest.raises(
        FileNotFoundError, match=r"depth\.proj\.png are missing: .* depth camera's view; .*seven-scenes-raw"
    ):
        seven_scenes_sequences(root, "train")


def test_sequences_lists(copy):
    root = copy("7scenes")
    (root / "chess" / "TestSplit.txt").write_text("sequence2\nsequence12\n\n")
    found = seven_scenes_sequences(root, "test")
    assert len(found.rows) == 4 and found.missing == [str(root / "chess" / "seq-12")]  # not unpacked
    (root / "chess" / "TestSplit.txt").write_text("second\n")
    with pytest.raises(ValueError, match=r"TestSplit\.txt: expected lines such as sequence1, got \['second'\]"):
        seven_scenes_sequences(root, "test")
    (root / "chess" / "TestSplit.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"chess/TestSplit\.txt is missing"):
        seven_scenes_sequences(root, "test")


def test_middlebury_calibration(copy):
    """Z = f b / (d + doffs), of numbers that can be checked by hand; the test set's scene has no disparity and isn't missing."""
    root = copy("middlebury2014")
    row = middlebury_depth(root).rows[0]
    kind, numbers = row["depth_format"].split(":")
    assert kind == "disparity-pfm" and [float(n) for n in numbers.split(",")] == [pytest.approx(40 * 0.193001), 3.5]
    path = root / "Adirondack-perfect" / "calib.txt"
    path.write_text(
        "cam0=[3997.684 0 1176.728; 0 3997.684 1011.728; 0 0 1]\ndoffs=131.111\nbaseline=193.001\nwidth=2964\n"
    )
    numbers = middlebury_depth(root).rows[0]["depth_format"].split(":")[1]
    assert [float(n) for n in numbers.split(",")] == [pytest.approx(771.557, abs=1e-3), 131.111]
    path.write_text("width=2964\n")
    with pytest.raises(ValueError, match=r"Adirondack-perfect/calib\.txt: expected lines cam0="):
        middlebury_depth(root)


def test_own_scale(copy):
    root = copy("depth-folder")
    rows = {row["name"]: row["depth_format"] for row in depth_folder(root, "all").rows}
    assert rows == {"train/a": "png:1000", "train/b": "npy", "train/yard/c": "pfm", "val/d": "hdf5:depth"}
    rows = {row["name"]: row["depth_format"] for row in depth_folder(root, "all", 256, "z").rows}
    assert rows == {"train/a": "png:256", "train/b": "npy:256", "train/yard/c": "pfm:256", "val/d": "hdf5:z"}
    with pytest.raises(FileNotFoundError, match=r"images/test is missing"):
        depth_folder(root, "test")


# -------------------------------------------------------------------------------------------------------- real samples


def test_the_real_room(real_data):
    root = real_data("7scenes-redkitchen")
    train, val = seven_scenes(root, "train"), seven_scenes(root, "val")
    assert (len(train.rows), len(val.rows)) == (128, 32) and train.missing == val.missing == []
    assert names(train) + names(val) == [f"frame-{n:06d}" for n in range(0, 640, 4)]
    row = train.rows[0]
    depth = formats.decode_depth(row["depth"]["path"], row["depth_format"])
    assert formats.decode_image(row["image"]["path"]).shape == (480, 640, 3) and depth.shape == (480, 640)
    assert 0.1 < np.isnan(depth).mean() < 0.5 and np.nanmin(depth) > 0.3 and 1 < np.nanmedian(depth) < 4


def test_the_real_motorcycle(real_data):
    root = real_data("middlebury-stereo")
    rows = middlebury_depth(root).rows
    assert [row["name"] for row in rows] == ["motorcycle"] and rows == middlebury_depth(root / "motorcycle").rows
    depth = formats.decode_depth(rows[0]["depth"]["path"], rows[0]["depth_format"])
    disparity = np.load(root / "motorcycle" / "motorcycle_disp.npz")["arr_0"]
    assert depth.shape == disparity.shape == formats.decode_image(rows[0]["image"]["path"]).shape[:2] == (500, 741)
    assert (np.isnan(depth) == np.isinf(disparity)).all()
    for y, x in ((250, 370), (480, 700), (40, 40)):
        expected = np.nan if np.isinf(disparity[y, x]) else 0.193001 * 994.978 / (disparity[y, x] + 31.086)
        assert depth[y, x] == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert np.isfinite([depth[250, 370], depth[480, 700]]).all()
    assert 1.5 < np.nanmin(depth) < np.nanmedian(depth) < np.nanmax(depth) < 6.5  # a motorcycle in a garage
