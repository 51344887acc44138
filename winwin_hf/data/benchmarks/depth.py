"""Images with depth: where the files of each benchmark lie (rows.py has the schema, formats.py the decoders).

Notable:
- Each function lists a split of a folder as it unpacks, and opens nothing but split files and calibrations (NYU's .mat: its
  header).
- 7-Scenes has three entries because its own depth is of another camera than its images: a room with registered depth in our
  layout, the official sequences with depth that somebody registered, and the raw ones.
- Middlebury's stereo pairs serve as depth of the left image: focal length x baseline / (disparity + offset).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
from scipy.io import loadmat

from winwin_hf.data.benchmarks.entry import DataSet
from winwin_hf.data.benchmarks.folders import IMAGE_SUFFIXES, Files, Origin, existing, folders, name_below, pairs
from winwin_hf.data.formats.files import decoding
from winwin_hf.data.rows import Found, cell

PHOTOS = (".jpg", ".png")


def _row(name: str, image: str | Path, depth: str | Path | None, depth_format: str | None) -> dict[str, Any]:
    return {"name": name, "image": cell(image), "depth": cell(depth), "depth_format": depth_format}


def _add(
    found: Found, images: Files, depths: Files, depth_format: str, place: str = "", keys: Container[str] | None = None
) -> None:
    """Appends a row for each pair of the two, named `place` + key."""
    complete, missing = pairs(images, depths, keys)
    found.rows += [_row(f"{place}{key}", image, depth, depth_format) for key, image, depth in complete]
    found.missing += missing


# ------------------------------------------------------------------------------------------------------- NYU Depth V2

NYU = Origin(
    "NYU Depth V2",
    "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
    "nyu_depth_v2_labeled.mat with splits.mat beside it; or official_splits/{train,test}/<scene>/rgb_00045.jpg and "
    "sync_depth_00045.png (and sync/<scene>/ likewise); or data/nyu2_{train,test}/",
)
NYU_SPLITS = ("train", "test", "all", "sync")
NYU_MAT = "nyu_depth_v2_labeled.mat"


def nyuv2(root: Path, split: str) -> Found:
    """
    NYU Depth V2 (Silberman et al. 2012): Kinect depth of rooms, 640x480, up to 10 m. Of several layouts below root the first
    that has the split:

    - the labelled .mat: 1449 frames. "train" 795 and "test" 654 need splits.mat; "all" doesn't. Cells are `file.mat::17`,
      counted from 0, and names are that number.
    - PNG in millimetres, as BTS extracts them: official_splits/ for "train", "test" and "all" (the same frames; their depth
      is the sensor's own, with holes), sync/ for "sync", 24 000 more frames of the training scenes.
    - data/nyu2_train (50 688 frames, depth of 8 bits only: 255 is 10 m, steps of 4 cm) and data/nyu2_test (654, in
      millimetres), as DenseDepth packs them.
    """
    NYU.check(split, NYU_SPLITS)
    mat = root if root.suffix == ".mat" else root / NYU_MAT
    if mat.is_file() and (split == "all" or (split != "sync" and (mat.parent / "splits.mat").is_file())):
        return _nyu_labelled(mat, split)
    parts = ["train", "test"] if split == "all" else [split]
    found = _nyu_extracted(root, parts) or _nyu_packed(root, parts)
    if found is not None:
        return found
    if split == "sync":
        raise NYU.absent(root, root / "sync")
    if mat.is_file():
        problem = f'is missing: it says which frames of {mat.name} are of split {split!r} (split "all" needs none)'
        raise NYU.absent(mat.parent, mat.parent / "splits.mat", problem)
    raise NYU.absent(root, mat)


def _nyu_extracted(root: Path, parts: list[str]) -> Found | None:
    """BTS's layout; None where it isn't."""
    places = [root / ("sync" if part == "sync" else f"official_splits/{part}") for part in parts]
    if not any(place.is_dir() for place in places):
        return None
    found = Found()
    for scene in (scene for place in places for scene in folders(place)):
        images, depths = Files(scene, PHOTOS, "rgb_"), Files(scene, (".png",), "sync_depth_")
        _add(found, images, depths, "png:1000", f"{scene.name}/")
    return found


def _nyu_packed(root: Path, parts: list[str]) -> Found | None:
    """DenseDepth's layout; None where it isn't."""
    places = {part: existing(root, f"data/nyu2_{part}", f"nyu2_{part}", f"nyu_data/data/nyu2_{part}") for part in parts}
    if not any(places.values()):
        return None
    found, train = Found(), places.get("train")
    for scene in folders(train) if train else []:
        _add(found, Files(scene, (".jpg",)), Files(scene, (".png",)), "png:25.5", f"{scene.name}/")
    if test := places.get("test"):
        _add(found, Files(test, ("_colors.png",)), Files(test, ("_depth.png",)), "png:1000")
    return found


def _nyu_labelled(mat: Path, split: str) -> Found:
    with decoding(mat, "MATLAB 7.3 file with images and depths"), h5py.File(mat, "r") as file:
        count = int(file["images"].shape[0])  # MATLAB's last axis
    numbers = list(range(count))
    if split != "all":
        splits, name = mat.parent / "splits.mat", f"{split}Ndxs"
        with decoding(splits, f"MATLAB 5 file with {name}"):
            numbers = sorted(int(number) - 1 for number in loadmat(splits)[name].ravel())
        if numbers and not (numbers[0] >= 0 and numbers[-1] < count):
            found = f"{name} goes from {numbers[0] + 1} to {numbers[-1] + 1}"
            raise ValueError(f"{splits}: {found}, but {mat} has {count} frames")
    return Found([_row(f"{n:05d}", f"{mat}::{n}", f"{mat}::{n}", "nyu-mat") for n in numbers])


# -------------------------------------------------------------------------------------------------------------- KITTI

KITTI = Origin(
    "KITTI's depth prediction benchmark",
    "https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction",
    "data_depth_annotated/{train,val}/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005.png, with the raw "
    "images 2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005.png",
)
KITTI_SPLITS = ("train", "val", "eigen-train", "eigen-test")
EIGEN_LINE = re.compile(r"(\d{4}_\d\d_\d\d_drive_\d{4}_sync)/(image_0[23])/data/(\d{10})\.\w+\s+(\S+)")


def kitti_depth(root: Path, split: str, cameras: Sequence[str] = ("image_02",)) -> Found:
    """
    KITTI (Uhrig et al. 2017): lidar depth accumulated over 11 frames, sparse, 256 steps per metre.

    Rows follow the annotated depth; the first and last frames of a drive have none, and that isn't missing. "eigen-train" and
    "eigen-test" (Eigen et al. 2014) are read from eigen_{train,test}_files_with_gt.txt in root, as BTS and others publish it:
    lines "<drive>/image_02/data/0000000069.png <its depth or None> <focal length>"; frames without depth are left out.

    cameras: image_02 is the left colour camera, image_03 the right one (not for the Eigen splits, whose list names it).
    """
    KITTI.check(split, KITTI_SPLITS)
    parts = {part: existing(root, f"data_depth_annotated/{part}", part) for part in ("train", "val")}
    annotated = [place for part, place in parts.items() if place and (split == part or split.startswith("eigen"))]
    if not annotated:
        raise KITTI.absent(root, root / "data_depth_annotated" / ("val" if split == "val" else "train"))
    found = Found()
    if split.startswith("eigen"):
        for (name, camera), keys in sorted(_eigen_frames(root, split).items()):
            drive = next((place / name for place in annotated if (place / name).is_dir()), annotated[0] / name)
            images, depths = _kitti_files(root, drive, camera)
            absent = sorted(keys - {*images.found(), *depths.found()})
            found.missing += [str(files.expected(key)) for key in absent for files in (images, depths)]
            _add(found, images, depths, "png:256", f"{name}/{camera}/", keys)
        return found
    drives = folders(annotated[0], "*_sync")
    if not drives:
        raise KITTI.absent(root, annotated[0] / "*_sync")
    for drive in drives:
        for camera in cameras:
            images, depths = _kitti_files(root, drive, camera)
            _add(found, images, depths, "png:256", f"{drive.name}/{camera}/", depths.found())
    return found


def _kitti_files(root: Path, drive: Path, camera: str) -> tuple[Files, Files]:
    """The images and the depth of a camera in a drive; `drive` is the folder of its depth."""
    raw = f"{drive.name[:10]}/{drive.name}/{camera}/data"
    choices = (raw, f"raw/{raw}", f"raw_data/{raw}", f"kitti_raw/{raw}", f"{drive.name}/{camera}/data")
    images = existing(root, *choices) or existing(drive, f"{camera}/data") or root / raw
    suffixes = PHOTOS[::-1]  # KITTI's own are PNG; many keep them as JPEG
    return Files(images, suffixes), Files(drive / "proj_depth" / "groundtruth" / camera, (".png",))


def _eigen_frames(root: Path, split: str) -> dict[tuple[str, str], set[str]]:
    """{(drive, camera): numbers of the frames with depth}"""
    path = KITTI.first(root, f"{split.replace('-', '_')}_files_with_gt.txt")
    frames: dict[tuple[str, str], set[str]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = EIGEN_LINE.search(line)
        if match is None and line.strip():
            raise ValueError(
                f"{path}, line {number}: {line!r}; expected an image, its depth (or None) and a focal length"
            )
        if match and match[4] != "None":
            frames.setdefault((match[1], match[2]), set()).add(match[3])
    return frames


KITTI_SELECTION = Origin(
    "KITTI's selected depth frames",
    "https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction (data_depth_selection.zip)",
    "depth_selection/val_selection_cropped/{image,groundtruth_depth}/ and depth_selection/test_depth_prediction_anonymous/image/",
)


def kitti_depth_selection(root: Path, split: str) -> Found:
    """
    KITTI's 1000 validation frames of 1216x352 (split "val", both cameras), chosen by hand, and the 500 of its test server
    ("test", without depth). The benchmark scores every pixel that has depth: no crop, no cap.
    """
    KITTI_SELECTION.check(split, ("val", "test"))
    name = "val_selection_cropped" if split == "val" else "test_depth_prediction_anonymous"
    folder = KITTI_SELECTION.first(root, f"depth_selection/{name}", name, f"data_depth_selection/{name}")
    if split == "test":
        images = Files(folder / "image", (".png",)).found()
        return Found([_row(key, path, None, None) for key, path in images.items()])
    images = {
        key.replace("_sync_image_", "_sync_"): path for key, path in Files(folder / "image", (".png",)).found().items()
    }
    depths = {
        key.replace("_sync_groundtruth_depth_", "_sync_"): path
        for key, path in Files(folder / "groundtruth_depth", (".png",)).found().items()
    }
    found = Found()
    for key in sorted({*images, *depths}):
        if key in images and key in depths:
            found.rows.append(_row(key, images[key], depths[key], "png:256"))
        else:
            lacking, inner = ("groundtruth_depth", "groundtruth_depth_") if key in images else ("image", "image_")
            found.missing.append(str(folder / lacking / f"{key.replace('_sync_', f'_sync_{inner}')}.png"))
    return found


# ----------------------------------------------------------------------------------------------------------- Hypersim

HYPERSIM = Origin(
    "Hypersim",
    "https://github.com/apple/ml-hypersim",
    "ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg and "
    "scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5, with metadata_images_split_scene_v1.csv for train, val and test",
)
HYPERSIM_SPLITS = ("train", "val", "test", "all")
HYPERSIM_CSV = "metadata_images_split_scene_v1.csv"


def hypersim(root: Path, split: str) -> Found:
    """
    Hypersim (Roberts et al. 2021): rendered rooms, 1024x768. Its files hold the distance to the camera; decoded, it is depth
    along the optical axis, for the focal length of 886.81 pixels that nearly all scenes have.

    Scenes that weren't downloaded are no missing files. Without the list of splits (in root, beside it, or in analysis/) only
    "all" is known. Images are the previews with Hypersim's own tone mapping.
    """
    HYPERSIM.check(split, HYPERSIM_SPLITS)
    scenes, below = _hypersim_scenes(root)
    chosen = None if split == "all" else _hypersim_split(root, below, split)
    found = Found()
    for scene in scenes:
        for camera in sorted({path.name[6:12] for path in folders(scene / "images", "scene_cam_??_*")}):
            images = Files(scene / "images" / f"scene_{camera}_final_preview", (".tonemap.jpg",), "frame.")
            depths = Files(scene / "images" / f"scene_{camera}_geometry_hdf5", (".depth_meters.hdf5",), "frame.")
            keys = None if chosen is None else chosen.get((scene.name, camera), set())
            _add(found, images, depths, "hypersim", f"{scene.name}/{camera}/", keys)
    return found


def _hypersim_scenes(root: Path) -> tuple[list[Path], Path]:
    """The scenes' folders, and the folder that holds them."""
    if (root / "images").is_dir() and root.name.startswith("ai_"):
        return [root], root.parent
    for below in (root, root / "scenes", root / "evermotion_dataset" / "scenes"):
        if scenes := folders(below, "ai_*"):
            return scenes, below
    raise HYPERSIM.absent(root, root / "ai_001_001")


def _hypersim_split(root: Path, below: Path, split: str) -> dict[tuple[str, str], set[str]]:
    """{(scene, camera): frames} of a split, from Hypersim's own list."""
    places = (root, below, below.parent, below.parent / "analysis", root / "analysis")
    path = next((place / HYPERSIM_CSV for place in places if (place / HYPERSIM_CSV).is_file()), None)
    if path is None:
        raise HYPERSIM.absent(
            root, root / HYPERSIM_CSV, f'is missing: it lists split {split!r} (split "all" needs no list)'
        )
    frames: dict[tuple[str, str], set[str]] = {}
    try:
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                if line["split_partition_name"] == split:
                    key = line["scene_name"], line["camera_name"]
                    frames.setdefault(key, set()).add(f"{int(line['frame_id']):04d}")
    except (KeyError, ValueError, TypeError) as error:
        columns = "scene_name, camera_name, frame_id and split_partition_name"
        raise ValueError(f"{path}: expected the columns {columns} ({error!r})") from error
    return frames


# ----------------------------------------------------------------------------------------------------------- 7-Scenes

SEVEN_SCENES_SOURCE = "https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes"
SEVEN_SCENES_DEPTH = "png:1000,65535"  # millimetres; 65535, like 0, is unknown
ROOM = Origin(
    "a room of 7-Scenes",
    SEVEN_SCENES_SOURCE,
    "rgb/frame-000000.jpg (or .png) and depth/frame-000000.png, 16-bit millimetres registered to the colour camera",
)
TRAIN_SHARE = 0.8


def seven_scenes(root: Path, split: str) -> Found:
    """
    One room of 7-Scenes (Shotton et al. 2013) with depth that was registered to the colour camera: "train" is the first 80 %
    of its frames, "val" the rest, "all" both.

    The split is ours and by time, in two contiguous blocks: neighbouring frames are nearly the same picture, so a random
    split would put near-copies of training frames into the validation. A missing file moves no frame across it.
    """
    ROOM.check(split, ("train", "val", "all"))
    images = Files(ROOM.first(root, "rgb"), PHOTOS, "frame-")
    depths = Files(ROOM.first(root, "depth"), (".png",), "frame-")
    keys = sorted({*images.found(), *depths.found()})
    if not keys:
        raise ROOM.absent(root, images.folder, "holds no frames")
    cut = round(TRAIN_SHARE * len(keys))
    found = Found()
    _add(
        found,
        images,
        depths,
        SEVEN_SCENES_DEPTH,
        "frame-",
        {"train": keys[:cut], "val": keys[cut:], "all": keys}[split],
    )
    return found


SEQUENCES = Origin(
    "7-Scenes",
    SEVEN_SCENES_SOURCE,
    "chess/TrainSplit.txt, TestSplit.txt, seq-01/frame-000000.color.png and frame-000000.depth.proj.png (registered depth)",
)
RAW_SEQUENCES = Origin(
    SEQUENCES.title, SEQUENCES.source, SEQUENCES.layout.split(" and ")[0] + " and frame-000000.depth.png"
)


def seven_scenes_sequences(root: Path, split: str, raw: bool = False) -> Found:
    """
    The official sequences of one scene or of all that lie in root, by TrainSplit.txt and TestSplit.txt ("all" needs neither).

    raw: take the depth as published, frame-*.depth.png. It is *not registered*: it is what the depth camera saw from 2.5 cm
    beside the colour camera and with a longer focal length, so edges lie up to tens of pixels off. Otherwise
    frame-*.depth.proj.png, the name that common tools give to depth they have projected into the colour camera.
    """
    origin = RAW_SEQUENCES if raw else SEQUENCES
    origin.check(split, ("train", "test", "all"))
    suffix, scenes = ".depth.png" if raw else ".depth.proj.png", [root] if _is_scene(root) else folders(root)
    scenes = [scene for scene in scenes if _is_scene(scene)]
    if not scenes:
        raise origin.absent(root, root / "seq-01")
    found = Found()
    for scene in scenes:
        for sequence in _sequences(origin, scene, split):
            if not sequence.is_dir():
                found.missing.append(str(sequence))
            images, depths = Files(sequence, (".color.png",), "frame-"), Files(sequence, (suffix,), "frame-")
            _add(found, images, depths, SEVEN_SCENES_DEPTH, f"{scene.absolute().name}/{sequence.name}/frame-")
    if not raw and not found.rows and any(scene.glob("seq-*/frame-000000.depth.png") for scene in scenes):
        problem = "are missing: frame-*.depth.png is in the depth camera's view; register it, or read seven-scenes-raw as it is"
        raise origin.absent(root, scenes[0] / "seq-*" / "frame-*.depth.proj.png", problem)
    return found


def _is_scene(folder: Path) -> bool:
    return (folder / "TrainSplit.txt").is_file() or bool(folders(folder, "seq-*"))


def _sequences(origin: Origin, scene: Path, split: str) -> list[Path]:
    """The folders of a scene's sequences, also those that its list names but that aren't there."""
    if split == "all":
        return folders(scene, "seq-*")
    path = origin.first(scene, "TrainSplit.txt" if split == "train" else "TestSplit.txt")
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    numbers = [re.fullmatch(r"(?:sequence|seq-)(\d+)", line) for line in lines]
    if not lines or None in numbers:
        raise ValueError(f"{path}: expected lines such as sequence1, got {lines[:3]}")
    return [scene / f"seq-{int(number[1]):02d}" for number in numbers if number]


# ---------------------------------------------------------------------------------------------------------- TartanAir

TARTANAIR = Origin(
    "TartanAir",
    "https://github.com/castacks/tartanair_tools",
    "<environment>/{Easy,Hard}/P000/image_left/000000_left.png and depth_left/000000_left_depth.npy",
)
TARTANAIR_SPLITS = ("train", "easy", "hard")


def tartanair_depth(root: Path, split: str) -> Found:
    """
    TartanAir (Wang et al. 2020): rendered trajectories, 640x480, depth in metres of the left camera. "train" is all that lies
    in root, "easy" and "hard" its two halves; the published split has no validation.

    Skies are kilometres away in it, not unknown: give the reader a max_depth.
    """
    TARTANAIR.check(split, TARTANAIR_SPLITS)
    inner = ("", "P*/", "*/P*/", "*/*/P*/", "*/*/*/P*/")  # its archives unpack to <environment>/<environment>/Easy/P000
    places = {
        path.parent for deeper in inner for side in ("image", "depth") for path in folders(root, f"{deeper}{side}_left")
    }
    if not places:
        raise TARTANAIR.absent(root, root / "*" / "Easy" / "P000" / "image_left")
    found = Found()
    for place in sorted(places):
        if split != "train" and place.absolute().parent.name.lower() != split:
            continue
        name = name_below(root, place)
        images, depths = Files(place / "image_left", ("_left.png",)), Files(place / "depth_left", ("_left_depth.npy",))
        _add(found, images, depths, "npy", f"{name}/")
    return found


# --------------------------------------------------------------------------------------------------------- Middlebury

MIDDLEBURY = Origin(
    "Middlebury's stereo sets of 2014",
    "https://vision.middlebury.edu/stereo/data/scenes2014/",
    "<scene>/im0.png, disp0.pfm (or disp0GT.pfm) and calib.txt; or scikit-image's motorcycle_left.png and motorcycle_disp.npz",
)
MOTORCYCLE = (
    994.978,
    193.001,
    31.086,
)  # focal length in pixels, baseline in mm, offset in pixels: of scikit-image's copy


def middlebury_depth(root: Path, split: str = "all") -> Found:
    """
    Middlebury 2014 (Scharstein et al.) and the third stereo evaluation's training sets, of which root may be one
    (trainingH): the left images with depth from disparity, as precise as the disparity is. There is one split, "all".

    Raises: ValueError for a calib.txt without cam0, baseline or doffs.
    """
    MIDDLEBURY.check(split, ("all",))
    sample = existing(root, "motorcycle_left.png", "motorcycle/motorcycle_left.png")
    if sample is not None:
        disparity = sample.with_name("motorcycle_disp.npz")
        if not disparity.is_file():
            return Found(missing=[str(disparity)])
        return Found([_row("motorcycle", sample, disparity, _from_disparity("npz", *MOTORCYCLE))])
    files = [
        path
        for deeper in ("", "*/", "*/*/", "*/*/*/")
        for name in ("im0.png", "disp0*.pfm")
        for path in root.glob(deeper + name)
    ]
    if not files:
        raise MIDDLEBURY.absent(root, root / "*" / "im0.png")
    found = Found()
    for scene in sorted({path.parent for path in files}):
        if scene.absolute().parent.name.startswith("test"):
            continue  # the evaluation's test sets have no disparity
        disparity = existing(scene, "disp0.pfm", "disp0GT.pfm") or scene / "disp0.pfm"
        needed = (scene / "im0.png", disparity, scene / "calib.txt")
        lacking = [str(path) for path in needed if not path.is_file()]
        found.missing += lacking
        if not lacking:
            found.rows.append(
                _row(name_below(root, scene), needed[0], disparity, _from_disparity("pfm", *_calibration(needed[2])))
            )
    return found


def _from_disparity(kind: str, focal: float, baseline: float, offset: float) -> str:
    """The format of depth in metres from disparity; baseline in millimetres."""
    return f"disparity-{kind}:{focal * baseline / 1000:.9g},{offset:.9g}"


def _calibration(path: Path) -> tuple[float, float, float]:
    """Middlebury's calib.txt -> focal length (pixels), baseline (mm), offset of the disparities (pixels).

    Its lines are `cam0=[f 0 cx; 0 f cy; 0 0 1]`, `doffs=131.111`, `baseline=193.001` and more.
    """
    values = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    try:
        return float(values["cam0"].strip(" []").split()[0]), float(values["baseline"]), float(values["doffs"])
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: expected lines cam0=[f 0 cx; ...], baseline= and doffs= ({error!r})") from error


# ------------------------------------------------------------------------------------------------------- one's own

OWN = Origin(
    "images with depth",
    "your own",
    "images/ and depth/ with files of the same names (depth: .png, .npy, .pfm or .hdf5), or images/train/ and depth/train/",
)
OWN_SPLITS = ("train", "val", "test", "all")


def depth_folder(root: Path, split: str, steps_per_metre: float | None = None, dataset: str = "depth") -> Found:
    """
    images/ and depth/ with the same names up to the suffix, in subfolders too. Splits "train", "val" and "test" are subfolders
    of both; "all" is everything.

    steps_per_metre: what a depth of one metre is stored as; default 1000 (millimetres) in .png, 1 (metres) in .npy and .pfm.
        In PNG, 0 is unknown.
    dataset: name of the depth in an .hdf5 file, in metres.
    """
    OWN.check(split, OWN_SPLITS)
    inner = "" if split == "all" else f"/{split}"
    images = Files(OWN.first(root, f"images{inner}"), IMAGE_SUFFIXES, deep=True)
    depths = Files(OWN.first(root, f"depth{inner}"), (".png", ".npy", ".pfm", ".hdf5", ".h5"), deep=True)
    steps = "" if steps_per_metre is None else f":{steps_per_metre:.9g}"
    kinds = {".png": f"png{steps or ':1000'}", ".npy": f"npy{steps}", ".pfm": f"pfm{steps}"}
    complete, missing = pairs(images, depths)
    rows = [_row(key, image, path, kinds.get(path.suffix.lower(), f"hdf5:{dataset}")) for key, image, path in complete]
    return Found(rows, missing)


# ------------------------------------------------------------------------------------------------------------ catalogue

METRES_10, METRES_80 = (1e-3, 10.0), (1e-3, 80.0)

SETS: tuple[DataSet, ...] = (
    DataSet(
        "nyuv2",
        "depth-estimation",
        nyuv2,
        NYU_SPLITS,
        "test",
        NYU.source,
        NYU.layout,
        terms="not stated",
        depth_range=METRES_10,
        crop="eigen",
    ),
    DataSet(
        "kitti-depth",
        "depth-estimation",
        kitti_depth,
        KITTI_SPLITS,
        "val",
        KITTI.source,
        KITTI.layout,
        terms="CC BY-NC-SA 3.0",
        depth_range=METRES_80,
        crop="garg",
    ),
    DataSet(
        "kitti-depth-selection",
        "depth-estimation",
        kitti_depth_selection,
        ("val", "test"),
        "val",
        KITTI_SELECTION.source,
        KITTI_SELECTION.layout,
        terms="CC BY-NC-SA 3.0",
    ),
    DataSet(
        "hypersim",
        "depth-estimation",
        hypersim,
        HYPERSIM_SPLITS,
        "test",
        HYPERSIM.source,
        HYPERSIM.layout,
        terms="CC BY-SA 3.0",
    ),
    DataSet(
        "seven-scenes",
        "depth-estimation",
        seven_scenes,
        ("train", "val", "all"),
        "val",
        ROOM.source,
        ROOM.layout,
        terms="research, not for commerce",
    ),
    DataSet(
        "seven-scenes-sequences",
        "depth-estimation",
        seven_scenes_sequences,
        ("train", "test", "all"),
        "test",
        SEQUENCES.source,
        SEQUENCES.layout,
        terms="research, not for commerce",
    ),
    DataSet(
        "seven-scenes-raw",
        "depth-estimation",
        partial(seven_scenes_sequences, raw=True),
        ("train", "test", "all"),
        "test",
        RAW_SEQUENCES.source,
        RAW_SEQUENCES.layout,
        terms="research, not for commerce",
    ),
    DataSet(
        "tartanair-depth",
        "depth-estimation",
        tartanair_depth,
        TARTANAIR_SPLITS,
        "train",
        TARTANAIR.source,
        TARTANAIR.layout,
        terms="not stated with the download (its tools: BSD 3-clause)",
    ),
    DataSet(
        "middlebury-depth",
        "depth-estimation",
        middlebury_depth,
        ("all",),
        "all",
        MIDDLEBURY.source,
        MIDDLEBURY.layout,
        terms="not stated",
    ),
    DataSet(
        "depth-folder",
        "depth-estimation",
        depth_folder,
        OWN_SPLITS,
        "val",
        OWN.source,
        OWN.layout,
        terms="your own",
    ),
)
