"""Rendered data sets of optical flow: Sintel, FlyingChairs, FlyingThings3D, TartanAir, Spring. flow.py has the others and the
catalogue's entries.

A function a data set: (root, split) -> `Found`. It reads the names in folders and opens no file but FlyingChairs' list of the split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from winwin_hf.data.benchmarks.folders import Origin
from winwin_hf.data.benchmarks.listing import Listing, Truth, base_of, chosen, numbered
from winwin_hf.data.formats.files import read_text
from winwin_hf.data.rows import Found

Part = TypeVar("Part")  # of a data set, such as a camera

RENDERS = ("clean", "final")  # Sintel and the Scene Flow sets: final has motion blur, defocus and the like
LMB = "https://lmb.informatik.uni-freiburg.de/resources/datasets"
RESEARCH_ONLY = "for research only, any commercial use is prohibited"

# ---- MPI Sintel ----

SINTEL = {
    render: Origin(
        f"MPI Sintel ({render})",
        "http://sintel.is.tue.mpg.de/downloads",
        f"training/{render}/<sequence>/frame_0001.png, training/flow/<sequence>/frame_0001.flo, test/{render}, "
        "optional training/occlusions/<sequence>/frame_0001.png",
    )
    for render in RENDERS
}
SINTEL_TERMS = "film CC BY 3.0 (Blender Foundation), ground truth not stated"


def sintel(root: Path, split: str, render: str = "clean") -> Found:
    """MPI Sintel (Butler et al. 2012), 1024x436: 1,041 pairs of 23 sequences with ground truth, 552 of 12 without.

    render: "clean", or "final" with motion blur, defocus and atmosphere. The benchmark scores both, each by itself.
    """
    (render,) = chosen("render", render, RENDERS)
    origin = SINTEL[render]
    origin.check(split, ("train", "test"))
    folder = "training" if split == "train" else "test"
    base = base_of(origin, root, ("training", "test"), ("MPI-Sintel-complete", "Sintel")) / folder
    listing = Listing()
    sequences = listing.folders(base / render)
    if not sequences:
        raise origin.absent(root, base / render)
    for sequence in sequences:
        truth = numbered(base / "flow" / sequence.name, "frame_{:04d}.flo") if split == "train" else None
        for _, first, second, flow in listing.pairs(sequence, "frame_{:04d}", truth):
            mask = base / "occlusions" / sequence.name / first.name if flow else None
            listing.add(f"{sequence.name}/{first.stem}", first, second, flow, "flo", mask, "png")
    return listing.found


# ---- FlyingChairs ----

CHAIRS_SPLIT = "FlyingChairs_train_val.txt"
CHAIRS = Origin(
    "FlyingChairs",
    f"{LMB}/FlyingChairs.en.html",
    f"FlyingChairs_release/data/00001_img1.ppm, 00001_img2.ppm, 00001_flow.flo and FlyingChairs_release/{CHAIRS_SPLIT}",
)


def flying_chairs(root: Path, split: str) -> Found:
    """FlyingChairs (Dosovitskiy et al. 2015), 512x384: 22,232 pairs for training, 640 for validation.

    The list of the split is a separate download: one line a pair, 1 train, 2 val. Raises ValueError if it holds anything else,
    or has fewer lines than there are pairs.
    """
    CHAIRS.check(split, ("train", "val"))
    base = Path(root)
    if base.name != "data":
        base = base_of(CHAIRS, base, ("data",), ("FlyingChairs_release", "FlyingChairs")) / "data"
    split_file = next((file for file in (base.parent / CHAIRS_SPLIT, base / CHAIRS_SPLIT) if file.is_file()), None)
    if split_file is None:
        raise CHAIRS.absent(root, base.parent / CHAIRS_SPLIT)
    lines = read_text(split_file, errors="replace").split()
    if not set(lines) <= {"1", "2"}:
        raise ValueError(
            f"{split_file}: expected one line a pair, 1 (train) or 2 (val), as it comes from {CHAIRS.source}"
        )
    listing = Listing()
    matches = (re.fullmatch(r"(\d{5})_(?:img1\.ppm|img2\.ppm|flow\.flo)", name) for name in listing.names(base))
    numbers = sorted({int(match[1]) for match in matches if match})
    if not numbers:
        raise CHAIRS.absent(root, base / "00001_img1.ppm")
    if numbers[0] < 1 or numbers[-1] > len(lines):
        raise ValueError(
            f"{split_file} has {len(lines)} lines and {base} a pair {numbers[-1]:05d}; expected a line for each"
        )
    wanted = "1" if split == "train" else "2"
    for number in numbers:
        if lines[number - 1] == wanted:
            image1, image2, flow = (base / f"{number:05d}_{what}" for what in ("img1.ppm", "img2.ppm", "flow.flo"))
            listing.add(f"{number:05d}", image1, image2, flow, "flo")
    return listing.found


# ---- FlyingThings3D ----

THINGS = {
    render: Origin(
        f"FlyingThings3D ({render})",
        f"{LMB}/SceneFlowDatasets.en.html",
        f"frames_{render}pass/TRAIN/A/0000/left/0006.png (or .webp), "
        "optical_flow/TRAIN/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm, the same with TEST",
    )
    for render in RENDERS
}
CAMERAS = ("left", "right")
INTO = {"into_future": ("IntoFuture", 1), "into_past": ("IntoPast", -1)}


def things(
    root: Path,
    split: str,
    render: str = "clean",
    cameras: Sequence[str] = CAMERAS,
    directions: Sequence[str] = tuple(INTO),
) -> Found:
    """FlyingThings3D (Mayer et al. 2016), 960x540, the full set (not the "subset", whose folders are others): TRAIN and TEST.

    render: "clean" or "final". cameras: of "left", "right". directions: of "into_future", "into_past". Each of the four
    combinations is a pair of its own. A sequence that lacks a camera's frames gives no pairs of that camera.
    """
    (render,) = chosen("render", render, RENDERS)
    origin = THINGS[render]
    origin.check(split, ("train", "test"))
    cameras, directions = chosen("cameras", cameras, CAMERAS), chosen("directions", directions, tuple(INTO))
    frames = f"frames_{render}pass"
    base = base_of(origin, root, (frames, "optical_flow"), ("FlyingThings3D", "flyingthings3d"))
    listing = Listing()
    sequences = listing.folders(base / frames / split.upper(), "*/*")
    if not sequences:
        raise origin.absent(root, base / frames / split.upper())
    for sequence in sequences:
        place = Path(sequence.parent.name, sequence.name)  # A/0000
        for camera in cameras:
            for direction in directions:
                spelled, step = INTO[direction]
                truth = numbered(
                    base / "optical_flow" / split.upper() / place / direction / camera,
                    f"OpticalFlow{spelled}_{{:04d}}_{camera[0].upper()}.pfm",
                )
                for _, first, second, flow in listing.pairs(
                    sequence / camera, "{:04d}", truth, step, truth_at_end=True, suffixes=(".png", ".webp")
                ):
                    name = f"{place.as_posix()}/{camera}/{direction}/{first.stem}"
                    listing.add(name, first, second, flow, "pfm")
    return listing.found


# ---- TartanAir ----

TARTANAIR = Origin(
    "TartanAir",
    "https://theairlab.org/tartanair-dataset",
    "<environment>/Easy/P000/image_left/000000_left.png, flow/000000_000001_flow.npy, "
    "optional flow/000000_000001_mask.npy, the same with Hard",
)
LEVELS = ("Easy", "Hard")


def tartanair(root: Path, split: str, levels: Sequence[str] = LEVELS) -> Found:
    """TartanAir (Wang et al. 2020), 640x480, left camera: all that has ground truth is "train".

    Its flow is computed from the camera's motion and the depth. The masks (a separate download) mark with 1, 10 or 100 the
    pixels that are hidden in the second frame or leave it.

    root: the folder of the environments, or one of them. levels: of difficulty.
    """
    TARTANAIR.check(split, ("train",))
    levels, root, listing = chosen("levels", levels, LEVELS), Path(root), Listing()
    # Unpacked in one folder, the archives make <environment>/Easy/P000, or <environment>/<environment>/Easy/P000.
    patterns = [f"{above}{level}/P*" for above in ("", "*/", "*/*/") for level in levels]
    trajectories = [folder for pattern in patterns for folder in listing.folders(root, pattern)]
    trajectories = [folder for folder in trajectories if "image_left" in listing.names(folder)]
    if not trajectories:
        raise TARTANAIR.absent(root, root / "<environment>" / (levels or LEVELS)[0] / "P000" / "image_left")
    for trajectory in sorted(trajectories):
        level, environment = trajectory.parent.name, trajectory.parents[1].resolve().name
        for number, first, second, flow in listing.pairs(
            trajectory / "image_left", "{:06d}_left", _between(trajectory / "flow", "flow")
        ):
            mask = _between(trajectory / "flow", "mask")(number)
            name = f"{environment}/{level}/{trajectory.name}/{number:06d}"
            listing.add(name, first, second, flow, "npy", mask, "npy")
    return listing.found


def _between(folder: Path, kind: str) -> Truth:
    return lambda number: folder / f"{number:06d}_{number + 1:06d}_{kind}.npy"


# ---- Spring ----

SPRING = Origin(
    "Spring",
    "https://doi.org/10.18419/darus-3376",
    "train/0001/frame_left/frame_left_0001.png, train/0001/flow_FW_left/flow_FW_left_0001.flo5 (or BW, right), "
    "test/0003/frame_left, optional train/0001/maps/matchmap_flow_FW_left/matchmap_flow_FW_left_0001.png",
)
DIRECTIONS = {"FW": 1, "BW": -1}


def spring(
    root: Path, split: str, cameras: Sequence[str] | None = None, directions: Sequence[str] | None = None
) -> Found:
    """Spring (Mehl et al. 2023), 1920x1080; ground truth has twice the size, vectors are in pixels of the frames.

    The benchmark scores forward and backward flow of both cameras together: 3,960 pairs without ground truth, 19,852 with it.
    `occluded`, of the frames' size, is what it calls unmatched: hidden in the second frame, or outside of it.

    cameras: of "left", "right". directions: of "FW", "BW". By default all that exist: each is a separate download, so one that
    the whole split lacks doesn't count as missing. One that is named must exist.
    """
    SPRING.check(split, ("train", "test"))
    listing, scenes = spring_scenes(SPRING, root, split)
    parts = {
        (camera, direction): [f"frame_{camera}"] + ([f"flow_{direction}_{camera}"] if split == "train" else [])
        for camera in chosen("cameras", cameras or CAMERAS, CAMERAS)
        for direction in chosen("directions", directions or tuple(DIRECTIONS), tuple(DIRECTIONS))
    }
    taken = taken_parts(SPRING, root, listing, scenes, parts, by_name=bool(cameras or directions))
    for scene in scenes:
        for camera, direction in taken:
            kind = f"flow_{direction}_{camera}"
            truth = numbered(scene / kind, f"{kind}_{{:04d}}.flo5") if split == "train" else None
            for number, first, second, flow in listing.pairs(
                scene / f"frame_{camera}", f"frame_{camera}_{{:04d}}", truth, DIRECTIONS[direction]
            ):
                mask = spring_map(scene, f"matchmap_{kind}", number) if flow else None
                listing.add(f"{scene.name}/{kind}_{number:04d}", first, second, flow, "flo5", mask, "png")
    return listing.found


def spring_scenes(origin: Origin, root: Path, split: str) -> tuple[Listing, list[Path]]:
    base = base_of(origin, root, ("train", "test"), ("spring", "Spring")) / split
    listing = Listing()
    scenes = listing.folders(base, "[0-9]*")
    if not scenes:
        raise origin.absent(root, base / "0001")
    return listing, scenes


def taken_parts(
    origin: Origin, root: Path, listing: Listing, scenes: list[Path], parts: dict[Part, list[str]], by_name: bool
) -> list[Part]:
    """The parts that were downloaded: each of their folders is in one scene at least.

    Raises FileNotFoundError if there is none, or if parts were asked for `by_name` and one is lacking.
    """
    there = {name for scene in scenes for name in listing.names(scene)}
    taken = [part for part, folders in parts.items() if there.issuperset(folders)]
    if not taken or (by_name and len(taken) < len(parts)):
        lacking = next(folders for part, folders in parts.items() if part not in taken)
        raise origin.absent(root, scenes[0] / next(folder for folder in lacking if folder not in there))
    return taken


def spring_map(scene: Path, kind: str, number: int) -> Path:
    return scene / "maps" / kind / f"{kind}_{number:04d}.png"
