"""Data sets of optical flow: filmed ones, your own folder, and the catalogue's entries. Each is listed in the layout in which it
unpacks; listing.py says what counts as a pair, flow_rendered.py has the rendered sets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from winwin_hf.data.benchmarks.entry import DataSet
from winwin_hf.data.benchmarks.flow_rendered import (
    CHAIRS,
    RESEARCH_ONLY,
    SINTEL,
    SINTEL_TERMS,
    SPRING,
    TARTANAIR,
    THINGS,
    flying_chairs,
    sintel,
    spring,
    tartanair,
    things,
)
from winwin_hf.data.benchmarks.folders import Origin
from winwin_hf.data.benchmarks.listing import Listing, base_of, numbered, successive
from winwin_hf.data.rows import Found
from winwin_hf.model.pixels_winwin import IMAGE_SUFFIXES

# ---- KITTI ----

KITTI = {
    2012: Origin(
        "KITTI 2012",
        "https://www.cvlibs.net/datasets/kitti/eval_stereo_flow.php?benchmark=flow",
        "training/colored_0/000000_10.png, 000000_11.png (or image_0), training/flow_occ/000000_10.png, testing/colored_0, "
        "optional training/flow_noc/000000_10.png",
    ),
    2015: Origin(
        "KITTI 2015",
        "https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php?benchmark=flow",
        "training/image_2/000000_10.png, 000000_11.png, training/flow_occ/000000_10.png, testing/image_2, "
        "optional training/flow_noc/000000_10.png",
    ),
}


def kitti_2012(root: Path, split: str) -> Found:
    """KITTI 2012 (Geiger et al. 2012), about 1242x375, static scenes: 194 pairs with sparse ground truth, 195 without.

    The colour frames (colored_0) where they are, else the grey ones (image_0).
    """
    return _kitti(root, split, 2012, ("colored_0", "image_0"), "data_stereo_flow")


def kitti_2015(root: Path, split: str) -> Found:
    """KITTI 2015 (Menze and Geiger 2015), about 1242x375, with moving cars: 200 pairs with sparse ground truth, 200 without."""
    return _kitti(root, split, 2015, ("image_2",), "data_scene_flow")


def _kitti(root: Path, split: str, year: int, cameras: tuple[str, ...], unpacked: str) -> Found:
    """The ground truth is flow_occ, of all pixels; flow_noc lacks the occluded ones."""
    origin = KITTI[year]
    origin.check(split, ("train", "test"))
    folder = "training" if split == "train" else "testing"
    base = base_of(origin, root, ("training", "testing"), (unpacked, "KITTI", f"KITTI{year}")) / folder
    listing = Listing()
    frames = next((base / camera for camera in cameras if listing.names(base / camera)), base / cameras[0])
    scenes = listing.frames(frames, "{:06d}_10")
    if not scenes:
        raise origin.absent(root, frames / "000000_10.png")
    for number, first in scenes.items():
        truth, visible = (
            (base / "flow_occ" / first.name, base / "flow_noc" / first.name) if split == "train" else (None, None)
        )
        listing.add(first.stem, first, frames / f"{number:06d}_11.png", truth, "kitti", visible, "kitti-noc")
    return listing.found


# ---- HD1K ----

HD1K = Origin(
    "HD1K",
    "http://hci-benchmark.iwr.uni-heidelberg.de",
    "hd1k_input/image_2/000000_0010.png, hd1k_flow_gt/flow_occ/000000_0010.png, hd1k_challenge/image_2/000000_0010.png",
)


def hd1k(root: Path, split: str) -> Found:
    """HD1K (Kondermann et al. 2016), 2560x1080, driving: 36 sequences with sparse ground truth in KITTI's format; the
    challenge's pairs, without it, are "test"."""
    HD1K.check(split, ("train", "test"))
    base = base_of(HD1K, root, ("hd1k_input", "hd1k_challenge"), ("hd1k_full_package", "hd1k", "HD1K", "HD1k"))
    frames = base / ("hd1k_input" if split == "train" else "hd1k_challenge") / "image_2"
    listing = Listing()
    matches = (re.fullmatch(r"(\d{6})_\d{4}\.png", name) for name in listing.names(frames))
    sequences = sorted({match[1] for match in matches if match})
    if not sequences:
        raise HD1K.absent(root, frames / "000000_0010.png")
    for sequence in sequences:
        stem = f"{sequence}_{{:04d}}"
        truth = numbered(base / "hd1k_flow_gt" / "flow_occ", f"{stem}.png") if split == "train" else None
        for _, first, second, flow in listing.pairs(frames, stem, truth, truth_at_end=True):
            listing.add(first.stem, first, second, flow, "kitti")
    return listing.found


# ---- Middlebury ----

MIDDLEBURY = Origin(
    "Middlebury flow",
    "https://vision.middlebury.edu/flow/data",
    "other-data/<sequence>/frame10.png, frame11.png, other-gt-flow/<sequence>/flow10.flo, eval-data/<sequence>/frame10.png",
)
MIDDLEBURY_WITHOUT_TRUTH = ("Beanbags", "DogDance", "MiniCooper", "Walking")  # of other-data; theirs isn't published


def middlebury(root: Path, split: str) -> Found:
    """Middlebury flow (Baker et al. 2011): frames 10 and 11 of the 8 sequences with ground truth, and of the evaluation's without.

    A pixel without ground truth has flow beyond 1e9 in its file.
    """
    MIDDLEBURY.check(split, ("train", "test"))
    base = base_of(MIDDLEBURY, root, ("other-data", "eval-data"), ("middlebury-flow", "Middlebury"))
    frames = base / ("other-data" if split == "train" else "eval-data")
    listing = Listing()
    sequences = listing.folders(frames)
    if not sequences:
        raise MIDDLEBURY.absent(root, frames)
    for sequence in sequences:
        flow = base / "other-gt-flow" / sequence.name / "flow10.flo" if split == "train" else None
        if flow is None or sequence.name not in MIDDLEBURY_WITHOUT_TRUTH:
            listing.add(sequence.name, sequence / "frame10.png", sequence / "frame11.png", flow, "flo")
    return listing.found


# ---- your own ----

FLOW_FOLDER = Origin(
    "a folder of frames and flow",
    "your own files",
    "frames/<clip>/*.png and flow/<clip>/*.flo (or .flo5, .pfm, KITTI .png, .npy) of the same names, "
    "or the same within train/, val/, test/",
)
FLOW_SUFFIXES = {".flo": "flo", ".flo5": "flo5", ".pfm": "pfm", ".png": "kitti", ".npy": "npy"}


def flow_folder(root: Path, split: str) -> Found:
    """Your own frames and flow: <root>/frames/<clip>/*.png (or .jpg, ...) and <root>/flow/<clip>/*.flo.

    Frames follow one another by the numbers in their names (see `successive`). A frame's flow to the next one has its name and one
    of `FLOW_SUFFIXES` (a .png is KITTI's 16-bit format, a .npy an array (H, W, 2)). Of flow without its frames, those are missing.
    Optional: occlusions/<clip>/*.png, non-zero where occluded.
    Splits are folders, <root>/train/frames and so on; without them all of it is "train". Only "test" may lack flow.
    """
    FLOW_FOLDER.check(split, ("train", "val", "test"))
    root = Path(root)
    base = root / split if split != "train" or (root / split / "frames").is_dir() else root
    listing = Listing()
    clips = listing.folders(base / "frames")
    if not clips:
        raise FLOW_FOLDER.absent(root, base / "frames" / "<clip>")
    with_truth = split != "test" or (base / "flow").is_dir()
    for clip in clips:
        frames: dict[str, Path] = {}
        for name in sorted(listing.names(clip)):
            if name.lower().endswith(IMAGE_SUFFIXES) and name[0] != ".":
                if (stem := Path(name).stem) in frames:
                    raise ValueError(f"{clip / name} and {frames[stem].name} have one name; expected one file for each")
                frames[stem] = clip / name
        flows: dict[str, Path] = {}
        for name in sorted(listing.names(base / "flow" / clip.name)):
            path = base / "flow" / clip.name / name
            if path.suffix in FLOW_SUFFIXES and name[0] != ".":
                if path.stem in flows:
                    raise ValueError(f"{path} and {flows[path.stem].name} have one name; expected one file for each")
                flows[path.stem] = path
        usual = next(iter(frames.values())).suffix if frames else ".png"
        for stem, second in successive(sorted({*frames, *flows})):
            if stem not in flows and not (stem in frames and second in frames):
                continue  # the last frame, or the last one before a gap
            flow = flows.get(stem, base / "flow" / clip.name / f"{stem}.flo") if with_truth else None
            flow_format = FLOW_SUFFIXES[flow.suffix] if flow else None
            mask = base / "occlusions" / clip.name / f"{stem}.png"
            image1, image2 = (frames.get(name, clip / f"{name}{usual}") for name in (stem, second))
            listing.add(f"{clip.name}/{stem}", image1, image2, flow, flow_format, mask, "png")
    return listing.found


# ---- all of them ----


def _entry(
    name: str, find: Callable[[Path, str], Found], splits: tuple[str, ...], scored: str, origin: Origin, terms: str
) -> DataSet:
    return DataSet(name, "optical-flow", find, splits, scored, origin, terms)


SETS: tuple[DataSet, ...] = (
    *(
        _entry(f"sintel-{render}", partial(sintel, render=render), ("train", "test"), "train", origin, SINTEL_TERMS)
        for render, origin in SINTEL.items()
    ),
    _entry("flying-chairs", flying_chairs, ("train", "val"), "val", CHAIRS, RESEARCH_ONLY),
    *(
        _entry(f"things-{render}", partial(things, render=render), ("train", "test"), "test", origin, RESEARCH_ONLY)
        for render, origin in THINGS.items()
    ),
    _entry("tartanair", tartanair, ("train",), "train", TARTANAIR, "CC BY 4.0"),
    _entry("kitti-2012", kitti_2012, ("train", "test"), "train", KITTI[2012], "CC BY-NC-SA 3.0"),
    _entry("kitti-2015", kitti_2015, ("train", "test"), "train", KITTI[2015], "CC BY-NC-SA 3.0"),
    _entry("hd1k", hd1k, ("train", "test"), "train", HD1K, "not verified, see its source"),
    _entry("middlebury", middlebury, ("train", "test"), "train", MIDDLEBURY, "not stated"),
    _entry("spring", spring, ("train", "test"), "train", SPRING, "CC BY 4.0"),
    _entry("flow-folder", flow_folder, ("train", "val", "test"), "train", FLOW_FOLDER, "your own"),
)
