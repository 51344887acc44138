"""Data sets of stereo pairs, as optical flow from one view to the other: disparity d of the left view is the flow (-d, 0).

Notable:
- Rows are those of flow (rows.py): image1 is the left view, or the reference view where a set has disparity for both (Spring;
  from right to left the flow is (d, 0)). `occluded` marks its pixels that the other view doesn't show.
- Sets are listed as in flow_rendered.py: names only, in the layout in which each set unpacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from winwin_hf.data.benchmarks.entry import DataSet
from winwin_hf.data.benchmarks.flow_rendered import (
    CAMERAS,
    LMB,
    RENDERS,
    RESEARCH_ONLY,
    spring_map,
    spring_scenes,
    taken_parts,
)
from winwin_hf.data.benchmarks.folders import Origin
from winwin_hf.data.benchmarks.listing import Listing, base_of, chosen
from winwin_hf.data.rows import Found

# ---- Spring ----

SPRING = Origin(
    "Spring (stereo)",
    "https://doi.org/10.18419/darus-3376",
    "train/0001/frame_left/frame_left_0001.png, frame_right/frame_right_0001.png, disp1_left/disp1_left_0001.dsp5 (or right), "
    "test/0003/frame_left, optional train/0001/maps/matchmap_disp1_left/matchmap_disp1_left_0001.png",
)


def spring_stereo(root: Path, split: str, cameras: Sequence[str] | None = None) -> Found:
    """Spring (Mehl et al. 2023), 1920x1080; disparity has twice the size, its values are in pixels of the frames, 0 in the sky.

    The benchmark scores the disparity of both views: 2,000 without ground truth, 10,000 with it.
    `occluded`, of the frames' size, is what it calls unmatched.

    cameras: reference views, of "left", "right". By default all that have ground truth (each is a separate download). One that
    is named must exist. The frames of both cameras are always needed.
    """
    SPRING.check(split, ("train", "test"))
    listing, scenes = spring_scenes(SPRING, root, split)
    parts = {
        camera: ["frame_left", "frame_right"] + ([f"disp1_{camera}"] if split == "train" else [])
        for camera in chosen("cameras", cameras or CAMERAS, CAMERAS)
    }
    taken = taken_parts(SPRING, root, listing, scenes, parts, by_name=bool(cameras))
    for scene in scenes:
        for camera in taken:
            other, kind = "right" if camera == "left" else "left", f"disp1_{camera}"
            stored = "disparity-dsp5" if camera == "left" else "disparity-dsp5:right"
            for number, first in listing.frames(scene / f"frame_{camera}", f"frame_{camera}_{{:04d}}").items():
                second = scene / f"frame_{other}" / f"frame_{other}_{number:04d}.png"
                truth = scene / kind / f"{kind}_{number:04d}.dsp5" if split == "train" else None
                mask = spring_map(scene, f"matchmap_{kind}", number) if truth else None
                listing.add(f"{scene.name}/{kind}_{number:04d}", first, second, truth, stored, mask, "png")
    return listing.found


# ---- KITTI ----

KITTI = {
    2012: Origin(
        "KITTI 2012 (stereo)",
        "https://www.cvlibs.net/datasets/kitti/eval_stereo_flow.php?benchmark=stereo",
        "training/colored_0/000000_10.png, colored_1 (or image_0, image_1), training/disp_occ/000000_10.png, testing/colored_0, "
        "optional training/disp_noc/000000_10.png",
    ),
    2015: Origin(
        "KITTI 2015 (stereo)",
        "https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php?benchmark=stereo",
        "training/image_2/000000_10.png, image_3, training/disp_occ_0/000000_10.png, testing/image_2, "
        "optional training/disp_noc_0/000000_10.png",
    ),
}


def kitti_2012_stereo(root: Path, split: str) -> Found:
    """KITTI 2012 (Geiger et al. 2012), static scenes: 194 stereo pairs with sparse disparity, 195 without.

    Colour frames (colored_0, colored_1) where they are, else the grey ones (image_0, image_1).
    """
    views = (("colored_0", "colored_1"), ("image_0", "image_1"))
    return _kitti(root, split, 2012, views, ("disp_occ", "disp_noc"), "data_stereo_flow")


def kitti_2015_stereo(root: Path, split: str) -> Found:
    """KITTI 2015 (Menze and Geiger 2015), with moving cars: 200 stereo pairs with sparse disparity, 200 without."""
    return _kitti(root, split, 2015, (("image_2", "image_3"),), ("disp_occ_0", "disp_noc_0"), "data_scene_flow")


def _kitti(
    root: Path, split: str, year: int, views: tuple[tuple[str, str], ...], truths: tuple[str, str], unpacked: str
) -> Found:
    """truths: the folders of disparity of all pixels, and of those that aren't occluded."""
    origin = KITTI[year]
    origin.check(split, ("train", "test"))
    folder = "training" if split == "train" else "testing"
    base = base_of(origin, root, ("training", "testing"), (unpacked, "KITTI", f"KITTI{year}")) / folder
    listing = Listing()
    left, right = next((pair for pair in views if listing.names(base / pair[0])), views[0])
    for needed in (left, right):  # where a camera is missing, the folder is one for optical flow
        if not listing.frames(base / needed, "{:06d}_10"):
            raise origin.absent(root, base / needed / "000000_10.png")
    for first in listing.frames(base / left, "{:06d}_10").values():
        truth, visible = (base / kind / first.name if split == "train" else None for kind in truths)
        listing.add(
            first.stem, first, base / right / first.name, truth, "disparity-kitti", visible, "kitti-disparity-noc"
        )
    return listing.found


# ---- FlyingThings3D, Monkaa, Driving ----

SCENE_FLOW = Origin(
    "the Scene Flow data sets",
    f"{LMB}/SceneFlowDatasets.en.html",
    "FlyingThings3D/, Monkaa/, Driving/ (or one of them), each with frames_finalpass/.../left/0006.png (or .webp), "
    "frames_finalpass/.../right, disparity/.../left/0006.pfm, where ... is TRAIN/A/0000, <scene> or "
    "15mm_focallength/scene_forwards/fast",
)


def sceneflow_stereo(root: Path, split: str, render: str = "final") -> Found:
    """The Scene Flow data sets (Mayer et al. 2016), 960x540: FlyingThings3D, Monkaa and Driving, those that exist.

    root: the folder of the three, or one of them. "test" is FlyingThings3D's TEST, "train" everything else.
    render: "final" (as is usual for stereo) or "clean".
    """
    SCENE_FLOW.check(split, ("train", "test"))
    (render,) = chosen("render", render, RENDERS)
    frames, root, listing = f"frames_{render}pass", Path(root), Listing()
    near = [
        folder for folder in listing.folders(root) if folder.name.lower() in ("flyingthings3d", "monkaa", "driving")
    ]
    bases = [base for base in (root, *near) if (base / frames).is_dir()]
    for base in bases:
        prefix = "" if base == root else f"{base.name}/"
        views = listing.folders(base / frames, "*/left") + listing.folders(base / frames, "*/*/*/left")
        for view in views:
            place = view.parent.relative_to(base / frames)
            if (place.parts[0] == "TEST") != (split == "test"):
                continue
            within = Path(*place.parts[1:]) if place.parts[0] in ("TRAIN", "TEST") else place
            for number, first in listing.frames(view, "{:04d}", (".png", ".webp")).items():
                truth = base / "disparity" / place / "left" / f"{number:04d}.pfm"
                name = f"{prefix}{within.as_posix()}/{number:04d}"
                listing.add(name, first, view.parent / "right" / first.name, truth, "disparity-pfm")
    if not listing.found.rows and not listing.found.missing:
        raise SCENE_FLOW.absent(root, (bases or [root])[0] / frames / ("TEST" if split == "test" and bases else ""))
    return listing.found


# ---- Middlebury ----

MIDDLEBURY = Origin(
    "Middlebury stereo",
    "https://vision.middlebury.edu/stereo/data",
    "<scene>/im0.png, im1.png, disp0.pfm (or disp0GT.pfm, optional mask0nocc.png), or MiddEval3/trainingH and testH of such scenes",
)


def middlebury_stereo(root: Path, split: str) -> Found:
    """Middlebury's scenes of 2014 and later (Scharstein et al. 2014), and version 3 of its evaluation (MiddEval3).

    Vertical disparities of scenes with "imperfect" rectification (up to a few pixels) are not read: their flow is (-d, 0), too.

    root: the folder of the scenes, or one scene: im0.png, im1.png and disp0.pfm; or NAME_left.png, NAME_right.png, NAME_disp.npz,
    as scikit-image ships one. Or MiddEval3, with trainingF, H or Q and testF, H or Q; the finest is used.
    """
    MIDDLEBURY.check(split, ("train", "test"))
    root, listing = Path(root), Listing()
    base = root / "MiddEval3" if (root / "MiddEval3").is_dir() else root
    kind = "training" if split == "train" else "test"
    sizes = [base / f"{kind}{size}" for size in "FHQ"]
    folder = next((path for path in sizes if path.is_dir()), None if split == "test" else root)
    scenes = [path for path in (folder, *listing.folders(folder)) if _title(listing, path)] if folder else []
    if not scenes:
        raise MIDDLEBURY.absent(root, (folder / "<scene>" if folder else sizes[1] / "<scene>") / "im0.png")
    for scene in scenes:
        title, names = _title(listing, scene), listing.names(scene)
        mask = None
        if title == "im":
            first, second, mask = scene / "im0.png", scene / "im1.png", scene / "mask0nocc.png"
            truth, stored = scene / ("disp0GT.pfm" if "disp0GT.pfm" in names else "disp0.pfm"), "disparity-pfm"
        else:
            first, second = scene / f"{title}_left.png", scene / f"{title}_right.png"
            truth, stored = scene / f"{title}_disp.npz", "disparity-npz"
        if split == "train":
            listing.add(scene.resolve().name, first, second, truth, stored, mask, "visible-png:128")
        else:
            listing.add(scene.resolve().name, first, second)
    return listing.found


def _title(listing: Listing, folder: Path) -> str | None:
    """The start of the names of a scene's views: "im" of im0.png, "motorcycle" of motorcycle_left.png. None: no scene."""
    names = listing.names(folder)
    if names & {"im0.png", "im1.png"}:
        return "im"
    sides = sorted(name for name in names if name.endswith(("_left.png", "_right.png")))
    return sides[0].rsplit("_", 1)[0] if sides else None


# ---- all of them ----

SETS: tuple[DataSet, ...] = tuple(
    DataSet(name, "optical-flow", find, ("train", "test"), scored, origin, terms)
    for name, find, scored, origin, terms in (
        ("spring-stereo", spring_stereo, "train", SPRING, "CC BY 4.0"),
        ("kitti-2012-stereo", kitti_2012_stereo, "train", KITTI[2012], "CC BY-NC-SA 3.0"),
        ("kitti-2015-stereo", kitti_2015_stereo, "train", KITTI[2015], "CC BY-NC-SA 3.0"),
        ("sceneflow-stereo", sceneflow_stereo, "test", SCENE_FLOW, RESEARCH_ONLY),
        ("middlebury-stereo", middlebury_stereo, "train", MIDDLEBURY, "not stated"),
    )
)
