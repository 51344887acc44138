"""Data sets of images with depth: outdoor ones, stereo pairs as depth, your own folder; and the catalogue's entries.

Notable:
- Each function lists a split of a folder as it unpacks, and opens nothing but split files and calibrations (NYU's .mat: its
  header). rows.py has the rows' columns, formats/ the decoders, depth_indoor.py the sets of rooms.
- Middlebury's stereo pairs serve as depth of the left image: focal length x baseline / (disparity + offset).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from winwin_hf.data.benchmarks.depth_indoor import (
    HYPERSIM,
    HYPERSIM_SPLITS,
    NYU,
    NYU_SPLITS,
    PHOTOS,
    RAW_SEQUENCES,
    ROOM,
    ROOM_SPLITS,
    SEQUENCE_SPLITS,
    SEQUENCES,
    hypersim,
    nyuv2,
    seven_scenes,
    seven_scenes_sequences,
)
from winwin_hf.data.benchmarks.entry import DataSet
from winwin_hf.data.benchmarks.folders import (
    Files,
    Origin,
    existing,
    folders,
    image_row,
    image_rows,
    images_alone,
    name_below,
    pairs,
)
from winwin_hf.data.formats.files import read_text
from winwin_hf.data.rows import Found
from winwin_hf.model.pixels_winwin import IMAGE_SUFFIXES

# -------------------------------------------------------------------------------------------------------------- KITTI

Positive = Annotated[float, Field(gt=0)]
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

    There is a row for each annotated depth; the first and last frames of a drive have none. "eigen-train" and "eigen-test"
    (Eigen et al. 2014) are read from eigen_{train,test}_files_with_gt.txt in root, as BTS and others publish it: lines
    "<drive>/image_02/data/0000000069.png <its depth or None> <focal length>"; frames without depth are left out.

    cameras: image_02 is the left colour camera, image_03 the right one. The Eigen splits ignore it: their lists name the camera.
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
            found += image_rows(images, depths, "depth", "png:256", f"{name}/{camera}/", keys)
        return found
    drives = folders(annotated[0], "*_sync")
    if not drives:
        raise KITTI.absent(root, annotated[0] / "*_sync")
    for drive in drives:
        for camera in cameras:
            images, depths = _kitti_files(root, drive, camera)
            found += image_rows(images, depths, "depth", "png:256", f"{drive.name}/{camera}/", depths.found())
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
    for number, line in enumerate(read_text(path).splitlines(), 1):
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
SELECTION_SPLITS = ("val", "test")


def kitti_depth_selection(root: Path, split: str) -> Found:
    """
    KITTI's 1000 validation frames of 1216x352 (split "val", both cameras), chosen by hand, and the 500 of its test server
    ("test", without depth). The benchmark scores every pixel that has depth: no crop, no cap.
    """
    KITTI_SELECTION.check(split, SELECTION_SPLITS)
    name = "val_selection_cropped" if split == "val" else "test_depth_prediction_anonymous"
    folder = KITTI_SELECTION.first(root, f"depth_selection/{name}", name, f"data_depth_selection/{name}")
    if split == "test":
        return images_alone(Files(folder / "image", (".png",)), "depth")
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
            found.rows.append(image_row(key, images[key], "depth", depths[key], "png:256"))
        else:
            lacking, inner = ("groundtruth_depth", "groundtruth_depth_") if key in images else ("image", "image_")
            found.missing.append(str(folder / lacking / f"{key.replace('_sync_', f'_sync_{inner}')}.png"))
    return found


# ---------------------------------------------------------------------------------------------------------- TartanAir

TARTANAIR = Origin(
    "TartanAir",
    "https://github.com/castacks/tartanair_tools",
    "<environment>/{Easy,Hard}/P000/image_left/000000_left.png and depth_left/000000_left_depth.npy",
)
TARTANAIR_SPLITS = ("train", "easy", "hard")


def tartanair_depth(root: Path, split: str) -> Found:
    """
    TartanAir (Wang et al. 2020): rendered trajectories, 640x480, depth of the left camera in metres. "train" is everything in
    root; "easy" and "hard" are its two halves. There is no published validation split.

    Skies are stored as kilometres away, not as unknown: give the reader a max_depth.
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
        found += image_rows(images, depths, "depth", "npy", f"{name}/")
    return found


# --------------------------------------------------------------------------------------------------------- Middlebury

MIDDLEBURY = Origin(
    "Middlebury's stereo sets of 2014",
    "https://vision.middlebury.edu/stereo/data/scenes2014/",
    "<scene>/im0.png, disp0.pfm (or disp0GT.pfm) and calib.txt; or scikit-image's motorcycle_left.png and motorcycle_disp.npz",
)
# Of scikit-image's copy: focal length in pixels, baseline in mm, offset in pixels.
MOTORCYCLE = (994.978, 193.001, 31.086)


def middlebury_depth(root: Path, split: str = "all") -> Found:
    """
    Middlebury 2014 (Scharstein et al.) and the training sets of the third stereo evaluation (root may be one of them, such as
    trainingH): the left images with depth from disparity. There is one split, "all".

    Raises: ValueError for a calib.txt without cam0, baseline or doffs.
    """
    MIDDLEBURY.check(split, ("all",))
    sample = existing(root, "motorcycle_left.png", "motorcycle/motorcycle_left.png")
    if sample is not None:
        disparity = sample.with_name("motorcycle_disp.npz")
        if not disparity.is_file():
            return Found(missing=[str(disparity)])
        return Found([image_row("motorcycle", sample, "depth", disparity, _from_disparity("npz", *MOTORCYCLE))])
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
            kind = _from_disparity("pfm", *_calibration(needed[2]))
            found.rows.append(image_row(name_below(root, scene), needed[0], "depth", disparity, kind))
    return found


def _from_disparity(kind: str, focal: float, baseline: float, offset: float) -> str:
    """The format of depth in metres from disparity; baseline in millimetres."""
    return f"disparity-{kind}:{focal * baseline / 1000:.9g},{offset:.9g}"


def _calibration(path: Path) -> tuple[float, float, float]:
    """Middlebury's calib.txt -> focal length (pixels), baseline (mm), offset of the disparities (pixels).

    Its lines are `cam0=[f 0 cx; 0 f cy; 0 0 1]`, `doffs=131.111`, `baseline=193.001` and more.
    """
    values = dict(line.split("=", 1) for line in read_text(path).splitlines() if "=" in line)
    try:
        return float(values["cam0"].strip(" []").split()[0]), float(values["baseline"]), float(values["doffs"])
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: expected lines cam0=[f 0 cx; ...], baseline= and doffs= ({error!r})") from error


# ------------------------------------------------------------------------------------------------------- your own

OWN = Origin(
    "images with depth",
    "your own",
    "images/ and depth/ with files of the same names (depth: .png, .npy, .pfm or .hdf5), or images/train/ and depth/train/",
)
OWN_SPLITS = ("train", "val", "test", "all")


def depth_folder(root: Path, split: str, steps_per_metre: Positive | None = None, dataset: str = "depth") -> Found:
    """
    Your own images/ and depth/ with the same names up to the suffix, in subfolders too. Splits "train", "val" and "test" are
    subfolders of both; "all" is everything.

    steps_per_metre: what a depth of one metre is stored as; default 1000 (millimetres) in .png, 1 (metres) in .npy and .pfm.
        In PNG, 0 is unknown.
    dataset: name of the depth in an .hdf5 file, in metres.
    """
    OWN.check(split, OWN_SPLITS)
    frames, maps = OWN.halves(root, split, "images", "depth")
    images = Files(frames, IMAGE_SUFFIXES, deep=True)
    depths = Files(maps, (".png", ".npy", ".pfm", ".hdf5", ".h5"), deep=True)
    steps = "" if steps_per_metre is None else f":{steps_per_metre:.9g}"
    kinds = {".png": f"png{steps or ':1000'}", ".npy": f"npy{steps}", ".pfm": f"pfm{steps}"}
    complete, missing = pairs(images, depths)
    rows = [
        image_row(key, image, "depth", path, kinds.get(path.suffix.lower(), f"hdf5:{dataset}"))
        for key, image, path in complete
    ]
    return Found(rows, missing)


# ------------------------------------------------------------------------------------------------------------ catalogue

METRES_10, METRES_80 = (1e-3, 10.0), (1e-3, 80.0)
KITTI_TERMS, SEVEN_SCENES_TERMS = "CC BY-NC-SA 3.0", "research, not for commerce"


def _entry(
    name: str, find: Any, splits: tuple[str, ...], scored: str, origin: Origin, terms: str, **scoring: Any
) -> DataSet:
    return DataSet(name, "depth-estimation", find, splits, scored, origin, terms, **scoring)


SETS: tuple[DataSet, ...] = (
    _entry("nyuv2", nyuv2, NYU_SPLITS, "test", NYU, "not stated", depth_range=METRES_10, crop="eigen"),
    _entry("kitti-depth", kitti_depth, KITTI_SPLITS, "val", KITTI, KITTI_TERMS, depth_range=METRES_80, crop="garg"),
    _entry("kitti-depth-selection", kitti_depth_selection, SELECTION_SPLITS, "val", KITTI_SELECTION, KITTI_TERMS),
    _entry("hypersim", hypersim, HYPERSIM_SPLITS, "test", HYPERSIM, "CC BY-SA 3.0"),
    _entry("seven-scenes", seven_scenes, ROOM_SPLITS, "val", ROOM, SEVEN_SCENES_TERMS),
    _entry("seven-scenes-sequences", seven_scenes_sequences, SEQUENCE_SPLITS, "test", SEQUENCES, SEVEN_SCENES_TERMS),
    _entry(
        "seven-scenes-raw",
        partial(seven_scenes_sequences, raw=True),
        SEQUENCE_SPLITS,
        "test",
        RAW_SEQUENCES,
        SEVEN_SCENES_TERMS,
    ),
    _entry(
        "tartanair-depth",
        tartanair_depth,
        TARTANAIR_SPLITS,
        "train",
        TARTANAIR,
        "not stated with the download (its tools: BSD 3-clause)",
    ),
    _entry("middlebury-depth", middlebury_depth, ("all",), "all", MIDDLEBURY, "not stated"),
    _entry("depth-folder", depth_folder, OWN_SPLITS, "val", OWN, "your own"),
)
