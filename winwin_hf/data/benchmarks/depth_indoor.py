"""Data sets of rooms with depth: NYU Depth V2, Hypersim, 7-Scenes. depth.py has the others and the catalogue's entries.

7-Scenes has three entries because its own depth is of another camera than its images: a room with registered depth in our
layout, the official sequences with depth that somebody registered, and the raw ones.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import h5py
from scipy.io import loadmat

from winwin_hf.data.benchmarks.folders import Files, Origin, existing, folders, image_row, image_rows
from winwin_hf.data.formats.files import decoding, read_text
from winwin_hf.data.rows import Found

PHOTOS = (".jpg", ".png")

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
    NYU Depth V2 (Silberman et al. 2012): Kinect depth of rooms, 640x480, up to 10 m. The first of these layouts below root that
    has the split:

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
    """BTS's layout, or None."""
    places = [root / ("sync" if part == "sync" else f"official_splits/{part}") for part in parts]
    if not any(place.is_dir() for place in places):
        return None
    found = Found()
    for scene in (scene for place in places for scene in folders(place)):
        images, depths = Files(scene, PHOTOS, "rgb_"), Files(scene, (".png",), "sync_depth_")
        found += image_rows(images, depths, "depth", "png:1000", f"{scene.name}/")
    return found


def _nyu_packed(root: Path, parts: list[str]) -> Found | None:
    """DenseDepth's layout, or None."""
    places = {part: existing(root, f"data/nyu2_{part}", f"nyu2_{part}", f"nyu_data/data/nyu2_{part}") for part in parts}
    if not any(places.values()):
        return None
    found, train = Found(), places.get("train")
    for scene in folders(train) if train else []:
        found += image_rows(Files(scene, (".jpg",)), Files(scene, (".png",)), "depth", "png:25.5", f"{scene.name}/")
    if test := places.get("test"):
        found += image_rows(Files(test, ("_colors.png",)), Files(test, ("_depth.png",)), "depth", "png:1000")
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
    return Found([image_row(f"{n:05d}", f"{mat}::{n}", "depth", f"{mat}::{n}", "nyu-mat") for n in numbers])


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

    Scenes that weren't downloaded don't count as missing. Splits other than "all" need Hypersim's list, in root, beside it or
    in analysis/. Images are the previews with Hypersim's own tone mapping.
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
            found += image_rows(images, depths, "depth", "hypersim", f"{scene.name}/{camera}/", keys)
    return found


def _hypersim_scenes(root: Path) -> tuple[list[Path], Path]:
    """(folders of the scenes, the folder that holds them)"""
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
        for line in csv.DictReader(read_text(path).splitlines()):
            if line["split_partition_name"] == split:
                key = line["scene_name"], line["camera_name"]
                frames.setdefault(key, set()).add(f"{int(line['frame_id']):04d}")
    except (KeyError, ValueError, TypeError, csv.Error) as error:
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
ROOM_SPLITS, SEQUENCE_SPLITS = ("train", "val", "all"), ("train", "test", "all")
TRAIN_SHARE = 0.8


def seven_scenes(root: Path, split: str) -> Found:
    """
    One room of 7-Scenes (Shotton et al. 2013) with depth that was registered to the colour camera: "train" is the first 80 %
    of its frames, "val" the rest, "all" both.

    The split is ours and by time, in two contiguous blocks: neighbouring frames are nearly the same picture, so a random
    split would put near-copies of training frames into the validation set. A missing file doesn't move the border.
    """
    ROOM.check(split, ROOM_SPLITS)
    images = Files(ROOM.first(root, "rgb"), PHOTOS, "frame-")
    depths = Files(ROOM.first(root, "depth"), (".png",), "frame-")
    keys = sorted({*images.found(), *depths.found()})
    if not keys:
        raise ROOM.absent(root, images.folder, "holds no frames")
    cut = round(TRAIN_SHARE * len(keys))
    found = Found()
    found += image_rows(
        images,
        depths,
        "depth",
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

    raw: use the depth as published, frame-*.depth.png. It is *not registered*: the depth camera is 2.5 cm beside the colour
    camera and has a longer focal length, so edges lie up to tens of pixels off. Otherwise use frame-*.depth.proj.png, which
    common tools write when they project the depth into the colour camera.
    """
    origin = RAW_SEQUENCES if raw else SEQUENCES
    origin.check(split, SEQUENCE_SPLITS)
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
            found += image_rows(
                images, depths, "depth", SEVEN_SCENES_DEPTH, f"{scene.absolute().name}/{sequence.name}/frame-"
            )
    if not raw and not found.rows and any(scene.glob("seq-*/frame-000000.depth.png") for scene in scenes):
        problem = "are missing: frame-*.depth.png is in the depth camera's view; register it, or read seven-scenes-raw as it is"
        raise origin.absent(root, scenes[0] / "seq-*" / "frame-*.depth.proj.png", problem)
    return found


def _is_scene(folder: Path) -> bool:
    return (folder / "TrainSplit.txt").is_file() or bool(folders(folder, "seq-*"))


def _sequences(origin: Origin, scene: Path, split: str) -> list[Path]:
    """The folders of a scene's sequences, including missing ones that its list names."""
    if split == "all":
        return folders(scene, "seq-*")
    path = origin.first(scene, "TrainSplit.txt" if split == "train" else "TestSplit.txt")
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    numbers = [re.fullmatch(r"(?:sequence|seq-)(\d+)", line) for line in lines]
    if not lines or None in numbers:
        raise ValueError(f"{path}: expected lines such as sequence1, got {lines[:3]}")
    return [scene / f"seq-{int(number[1]):02d}" for number in numbers if number]
