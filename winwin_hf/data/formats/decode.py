"""Files -> arrays in the package's conventions, by the format that a row names; and depth to a file, by its suffix.

The formats with parameters, such as "png:1000,65535", are documented at `decode_flow`, `decode_depth`, `decode_label`, `decode_mask`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from winwin_hf.data.formats import hdf5, images
from winwin_hf.data.formats.arrays import FLO_LIMIT, read_flo, read_npy, read_npz, read_pfm
from winwin_hf.data.formats.files import Source, name_of

IGNORE = 255  # the label of pixels that do not count

# Cityscapes: its 19 scored classes by raw id, in the order of the train ids. (cityscapesScripts, labels)
CITYSCAPES_SCORED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_IDS = 34  # raw ids are below; its -1, the licence plate, is stored as 255

# CamVid: the 11 classes that SegNet introduced, each with the colours of the annotated classes (32 in all) that it unites.
CAMVID_COLOURS = (
    ((128, 128, 128),),  # sky
    ((128, 0, 0), (64, 192, 0), (0, 128, 64), (64, 0, 64), (192, 0, 128)),  # building; wall, bridge, tunnel, archway
    ((192, 192, 128), (0, 0, 64)),  # pole; traffic cone
    ((128, 64, 128), (128, 0, 192), (192, 0, 64)),  # road; lane markings to be driven over, and others
    ((0, 0, 192), (64, 192, 128), (128, 128, 192)),  # pavement; parking block, road shoulder
    ((128, 128, 0), (192, 192, 0)),  # tree; other vegetation
    ((192, 128, 128), (128, 128, 64), (0, 64, 64)),  # sign symbol; other text, traffic light
    ((64, 64, 128),),  # fence
    (
        (64, 0, 128),
        (64, 128, 192),
        (192, 128, 192),
        (192, 64, 128),
        (128, 64, 64),
    ),  # car; pick-up, lorry, train, others
    ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),  # pedestrian; child, pram, animal
    ((0, 128, 192), (192, 0, 192)),  # bicyclist; motorcycle
)

# Each returns (H, W) float32 as stored; values that aren't finite are unknown.
DISPARITIES: dict[str, Callable[[Source], np.ndarray]] = {
    "disparity-pfm": read_pfm,
    "disparity-dsp5": hdf5.read_dsp5,
    "disparity-kitti": images.read_kitti_disparity,
    "disparity-npz": read_npz,
}
FLOWS: dict[str, Callable[[Source], np.ndarray]] = {
    "flo": read_flo,
    "flo5": hdf5.read_flo5,
    "pfm": read_pfm,
    "kitti": images.read_kitti_flow,
    "npy": read_npy,
}


def decode_image(source: Source) -> np.ndarray:
    """RGB uint8 (H, W, 3) of any image file. `file.mat::17` is image 17, counted from 0, of NYUv2's labelled file."""
    return hdf5.read_nyu_image(source) if hdf5.is_mat_entry(source) else images.read_image(source)


@np.errstate(invalid="ignore", over="ignore")  # what float32 can't hold becomes inf, and then unknown
def decode_flow(source: Source, flow_format: str) -> np.ndarray:
    """Flow float32 (H, W, 2) in pixels, NaN in both components where one isn't finite or is beyond 1e9.

    flow_format:
        "flo", "flo5" (Spring), "kitti" (16-bit PNG), "pfm" (FlyingThings3D: u, v and an unused channel),
        "npy" (TartanAir: floats (H, W, 2)).
        "disparity-pfm", "disparity-dsp5", "disparity-kitti", "disparity-npz": the disparity d of a left view is the flow (-d, 0) to
        the right one. With ":right" it is of the right view: (+d, 0).
    Raises: ValueError for a malformed file or another format.
    """
    kind, _, parameter = flow_format.partition(":")
    if kind in FLOWS and not parameter:
        flow = FLOWS[kind](source)
        if kind == "pfm" and flow.shape[2:] == (3,):
            flow = flow[..., :2]
        if flow.ndim != 3 or flow.shape[2] != 2 or flow.dtype.kind != "f":
            raise ValueError(f"{name_of(source)}: flow is (H, W, 2), this file has {flow.dtype} of shape {flow.shape}.")
    elif kind in DISPARITIES and parameter in ("", "right"):
        disparity = _disparity(source, kind)
        flow = np.zeros((*disparity.shape, 2), np.float32)
        flow[..., 0] = disparity if parameter else -disparity
    else:
        known = [*FLOWS, *(f"{name}[:right]" for name in DISPARITIES)]
        raise ValueError(f"{name_of(source)}: unknown flow format {flow_format!r}; known are {', '.join(known)}.")
    flow = np.ascontiguousarray(flow, np.float32)
    flow[~(np.abs(flow) <= FLO_LIMIT).all(axis=2)] = np.nan
    return flow


@np.errstate(invalid="ignore", over="ignore")
def decode_depth(source: Source, depth_format: str) -> np.ndarray:
    """Depth float32 (H, W) in metres along the optical axis, NaN where the value isn't finite or not positive.

    depth_format:
        "png:STEPS[,UNKNOWN...]": a 16-bit PNG of STEPS a metre; 0 and the values UNKNOWN are unknown. KITTI is "png:256".
        "npy[:STEPS]", "pfm[:STEPS]": numbers of STEPS a metre, 1 by default; .npy may be (H, W, 1), too.
        "hdf5:DATASET": that data set, in metres. "hypersim": its HDF5 of distances along the ray.
        "nyu-mat": `file.mat::17` is depth 17, counted from 0, of NYUv2's labelled file.
        "disparity-pfm:FB[,OFFSET]", and -dsp5, -kitti, -npz: FB / (disparity + OFFSET), where FB is the focal length in pixels
        times the baseline in metres, and OFFSET the difference between the principal points in pixels, 0 by default.
    Raises: ValueError for a malformed file or another format.
    """
    kind, _, parameter = depth_format.partition(":")
    numbers = _numbers(parameter)
    scale = numbers[0] if numbers else 1.0
    positive = numbers is None or scale > 0
    if kind == "png" and numbers and positive:
        depth = images.read_depth_png(source, scale, (0, *(int(value) for value in numbers[1:])))
    elif kind in ("npy", "pfm") and (not parameter or (numbers and len(numbers) == 1 and positive)):
        depth = read_npy(source) if kind == "npy" else read_pfm(source)
        if depth.ndim == 3 and depth.shape[2] == 1:
            depth = depth[..., 0]
        depth = depth / np.asarray(scale, np.float32 if depth.itemsize <= 4 else np.float64)
    elif kind in DISPARITIES and numbers and len(numbers) <= 2 and positive:
        disparity = _disparity(source, kind).astype(np.float64) + (numbers[1] if len(numbers) > 1 else 0.0)
        depth = np.divide(scale, disparity, out=np.full_like(disparity, np.nan), where=disparity > 0)
    elif kind == "hdf5" and parameter:
        depth = hdf5.read_hdf5(source, parameter, 2)
    elif depth_format == "hypersim":
        depth = hdf5.read_hypersim(source)
    elif depth_format == "nyu-mat":
        depth = hdf5.read_nyu_depth(source)
    else:
        known = "png:STEPS[,UNKNOWN...], npy[:STEPS], pfm[:STEPS], hdf5:DATASET, hypersim, nyu-mat, " + ", ".join(
            f"{name}:FB[,OFFSET]" for name in DISPARITIES
        )
        raise ValueError(f"{name_of(source)}: unknown depth format {depth_format!r}; known are {known}.")
    if depth.ndim != 2:
        raise ValueError(f"{name_of(source)}: depth is (H, W), this file has {depth.dtype} of shape {depth.shape}.")
    depth = np.ascontiguousarray(depth, np.float32)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    return depth


def decode_label(source: Source, label_format: str) -> np.ndarray:
    """Labels uint8 (H, W): train ids, 255 where ignored.

    label_format:
        "ids[:IGNORED...]": a picture of ids; 255 and the ids IGNORED are ignored. "ids:0,34"
        "minus-one": a picture of ids from 1 on; 0 and 255 are ignored. (ADE20K)
        "cityscapes": its raw ids -> its 19 train ids.
        "values:V,V,...[;IGNORED...]": a picture of other numbers: V is stored where class 0, 1, ... is. Further values are errors, but for
        IGNORED and 255, unless that is a class. A binary mask is "values:0,255".
        "colours:RRGGBB,...[;IGNORED...]": the same of a picture in colours, in hexadecimal; what isn't listed is an error.
        "camvid-colours": a picture in CamVid's 32 colours -> its 11 classes; void and other colours are ignored.
    Raises: ValueError for a malformed file, impossible ids (Cityscapes' above 33, any above 255) or another format.
    """
    kind, _, parameter = label_format.partition(":")
    if name_of(source).lower().endswith((".jpg", ".jpeg")):
        raise ValueError(
            f"{name_of(source)}: a JPEG, which changes the ids along every edge; expected PNG (threshold it and save it so)."
        )
    if label_format == "camvid-colours":
        return _camvid_ids(images.read_image(source))
    if kind in ("values", "colours"):
        return _listed_ids(source, label_format)
    ignored = _numbers(parameter) if kind == "ids" else None
    if kind not in ("ids", "minus-one", "cityscapes") or (parameter and not ignored):
        known = "ids[:IGNORED...], values:V,V..., colours:RRGGBB,..., minus-one, cityscapes, camvid-colours"
        raise ValueError(f"{name_of(source)}: unknown label format {label_format!r}; known are {known}.")
    ids = images.read_labels(source).astype(np.int32)
    if ignored:
        ids[np.isin(ids, np.array(ignored))] = IGNORE
    highest = CITYSCAPES_IDS - 1 if kind == "cityscapes" else IGNORE
    impossible = ids[(ids > highest) & (ids != IGNORE)]
    if impossible.size:
        raise ValueError(f"{name_of(source)}: an id of {impossible.max()}; {label_format!r} has none above {highest}.")
    if kind == "ids":
        return ids.astype(np.uint8)
    trained = np.full(256, IGNORE, np.uint8)
    if kind == "minus-one":
        trained[1:IGNORE] = np.arange(IGNORE - 1)
    else:
        trained[list(CITYSCAPES_SCORED)] = np.arange(len(CITYSCAPES_SCORED))
    return trained[ids]


def _listed_ids(source: Source, label_format: str) -> np.ndarray:
    """The classes of a picture by the list of their values or colours."""
    kind, _, parameter = label_format.partition(":")
    base = 10 if kind == "values" else 16
    try:
        classes, ignored = (
            [int(text, base) for text in part.split(",") if text] for part in f"{parameter};".split(";")[:2]
        )
    except ValueError:
        classes, ignored = [], []
    if not 0 < len(classes) < IGNORE or len({*classes, *ignored}) < len(classes) + len(ignored):
        raise ValueError(f"{name_of(source)}: the label format {label_format!r}; expected {kind}: and each value once.")
    if kind == "values":
        stored = images.read_labels(source).astype(np.int64)
        ignored += [IGNORE] if IGNORE not in (*classes, *ignored) else []
    else:
        red, green, blue = np.moveaxis(images.read_image(source).astype(np.int64), 2, 0)
        stored = red << 16 | green << 8 | blue
    flat = stored.ravel()
    first = np.flatnonzero(
        np.diff(flat, prepend=flat[:1] - 1)
    )  # of each run of equal values: sorting every pixel takes ten times as long
    found, places = np.unique(flat[first], return_inverse=True)
    other = [value for value in found.tolist() if value not in (*classes, *ignored)]
    if other:
        shown = ", ".join(str(value) if kind == "values" else f"#{value:06x}" for value in other[:8])
        raise ValueError(
            f"{name_of(source)}: it holds {shown}{', ...' if len(other) > 8 else ''}, of which {label_format!r} knows no class."
        )
    ids = [classes.index(value) if value in classes else IGNORE for value in found.tolist()]
    return np.array(ids, np.uint8)[places].repeat(np.diff(first, append=flat.size)).reshape(stored.shape)


def decode_mask(source: Source, mask_format: str) -> np.ndarray:
    """Mask bool (H, W), True where the pixel's content is occluded in the other view.

    mask_format:
        "png": a picture, occluded where it isn't black.
        "npy": an array, occluded where it isn't 0 (TartanAir's flow masks: 1 and 10 hidden, 100 out of view).
        "visible-png:VALUE": a picture, occluded where it has that value. Middlebury's mask0nocc is "visible-png:128".
        "kitti-noc", "kitti-disparity-noc": KITTI's ground truth without occluded pixels. Occluded where it is unknown; this is
        right wherever the ground truth of all pixels is known.
    Raises: ValueError for a malformed file or another format.
    """
    kind, _, parameter = mask_format.partition(":")
    if mask_format == "png":
        return images.read_mask(source)
    if mask_format == "npy":
        return np.asarray(read_npy(source) != 0)
    if kind == "visible-png" and parameter.isdecimal():
        return np.asarray(images.read_labels(source) == int(parameter))
    if mask_format == "kitti-noc":
        return np.isnan(images.read_kitti_flow(source)[..., 0])
    if mask_format == "kitti-disparity-noc":
        return np.isnan(images.read_kitti_disparity(source))
    known = "png, npy, visible-png:VALUE, kitti-noc, kitti-disparity-noc"
    raise ValueError(f"{name_of(source)}: unknown mask format {mask_format!r}; known are {known}.")


def _numbers(parameter: str) -> list[float] | None:
    """ "1000,65535" -> its numbers; None if it isn't a list of finite numbers."""
    try:
        numbers = [float(text) for text in parameter.split(",")]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _disparity(source: Source, kind: str) -> np.ndarray:
    disparity = DISPARITIES[kind](source)
    if disparity.ndim != 2 or disparity.dtype.kind != "f":
        raise ValueError(
            f"{name_of(source)}: disparity is (H, W), this file has {disparity.dtype} of shape {disparity.shape}."
        )
    return disparity


def _camvid_ids(image: np.ndarray) -> np.ndarray:
    """All of CamVid's colours are multiples of 64: two bits a channel make an index into 64 possible ones."""
    classes = np.full(64, IGNORE, np.uint8)
    for number, colours in enumerate(CAMVID_COLOURS):
        for colour in colours:
            classes[_two_bits(*colour)] = number
    ids = classes[_two_bits(image[..., 0], image[..., 1], image[..., 2])]
    ids[(image & 63).any(axis=2)] = IGNORE
    return ids


def _two_bits(red: Any, green: Any, blue: Any) -> Any:
    return (red >> 2 & 48) | (green >> 4 & 12) | blue >> 6
