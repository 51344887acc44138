"""Draws the tiny frames of tests/frames/flow, of flow and of stereo: synthetic, each set in its benchmark's real layout.

    python tests/frames/make_flow_frames.py

Nothing here comes from a benchmark but the names of files and folders, and their form. All frames of a sequence show one smooth
texture through a map that is affine in the pixel, so the flow between any two of them is known exactly, and no two rows,
columns or directions of it are alike: a wrong sign, order, scale, frame or row order shows when a frame is warped.

The files are written here, by hand, rather than by the package's own writers: what those got wrong, its readers would undo.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import h5py
import numpy as np
from PIL import Image

HERE = Path(__file__).parent / "flow"
SIZE = (32, 48)  # rows, columns
# Of pixels (x, y): what a frame's pixel has moved by in the next one. In 64ths of a pixel, as KITTI's files are.
MOTIONS = (
    ((1 / 32, 1 / 16, 2.5), (1 / 16, -1 / 32, -2.0)),
    ((-1 / 32, 1 / 16, -2.0), (-1 / 16, 1 / 64, 2.5)),
)
DISPARITY = (1 / 32, 1 / 16, 3.0)  # of the left view, at (x, y)


# ---- geometry: a view is a matrix that takes its pixels to the texture ----


def views(motion: int, count: int) -> list[np.ndarray]:
    """The frames of a sequence."""
    step = np.eye(3)
    step[:2] += np.array(MOTIONS[motion])
    return [np.linalg.matrix_power(np.linalg.inv(step), k) for k in range(count)]


def right_of(left: np.ndarray) -> np.ndarray:
    """The right camera's view beside a left one."""
    shift = np.eye(3)
    shift[0] -= np.array(DISPARITY)
    return left @ np.linalg.inv(shift)


def pixels(size: tuple[int, int], double: bool = False) -> np.ndarray:
    """(H, W, 3): homogeneous (x, y, 1) of each pixel, or of the quarters of each (2H, 2W, 3)."""
    axes = [(np.arange(2 * n) + 0.5) / 2 - 0.5 if double else np.arange(n, dtype=float) for n in size]
    y, x = np.meshgrid(*axes, indexing="ij")
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def flow_between(one: np.ndarray, other: np.ndarray, size: tuple[int, int] = SIZE, double: bool = False) -> np.ndarray:
    """(H, W, 2): where each pixel of one view is in the other, less where it is."""
    grid = pixels(size, double)
    return ((grid @ (np.linalg.inv(other) @ one).T) - grid)[..., :2]


def outside(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (H, W) that leave the picture at the sides, and at its top or bottom."""
    height, width = flow.shape[:2]
    x, y = np.moveaxis(pixels((height, width))[..., :2] + flow, -1, 0)
    edge = 0.01  # so that a point just on it is inside, rounding or not
    return (x < -edge) | (x > width - 1 + edge), (y < -edge) | (y > height - 1 + edge)


def picture(seed: str, view: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 RGB: waves of 13 to 40 pixels, in steps of 4 so that the file is small."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    x, y = np.moveaxis((pixels(size) @ view.T)[..., :2], -1, 0)
    image = np.full((*size, 3), 128.0)
    for channel in range(3):
        for _ in range(4):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            turns = 2 * np.pi / rng.uniform(13, 40)
            image[..., channel] += 30 * np.sin(turns * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    return np.clip(4 * np.rint(image / 4), 0, 255).astype(np.uint8)


# ---- files ----


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_image(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({"optimize": True} if path.suffix == ".png" else {}))


def write_mask(path: Path, mask: np.ndarray) -> None:
    write_image(path, np.where(mask, np.uint8(255), np.uint8(0)))


def write_flo(path: Path, flow: np.ndarray) -> None:
    height, width = flow.shape[:2]
    write_bytes(path, b"PIEH" + struct.pack("<ii", width, height) + flow.astype("<f4").tobytes())


def write_pfm(path: Path, array: np.ndarray) -> None:
    """(H, W), or (H, W, 2) with a third channel of zeros as in FlyingThings3D; the last row comes first."""
    kind, (height, width) = ("Pf" if array.ndim == 2 else "PF"), array.shape[:2]
    if array.ndim == 3:
        array = np.concatenate([array, np.zeros_like(array[..., :1])], axis=2)
    write_bytes(path, f"{kind}\n{width} {height}\n-1.0\n".encode() + array[::-1].astype("<f4").tobytes())


def write_npy(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def write_hdf5(path: Path, name: str, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=array.astype(np.float32), compression="gzip", compression_opts=5)


def write_png16(path: Path, array: np.ndarray) -> None:
    """RGB or grey."""
    done, content = cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)
    assert done
    write_bytes(path, content.tobytes())


def write_kitti_flow(path: Path, flow: np.ndarray, known: np.ndarray) -> None:
    steps = np.concatenate([np.rint(flow * 64 + 2**15), known[..., None]], axis=2)
    write_png16(path, (steps * known[..., None]).astype(np.uint16))


def write_kitti_disparity(path: Path, disparity: np.ndarray, known: np.ndarray) -> None:
    write_png16(path, (np.rint(disparity * 256) * known).astype(np.uint16))


# ---- flow sets ----


def sintel(root: Path = HERE / "Sintel") -> None:
    for motion, (sequence, count) in enumerate({"alley_1": 3, "market_5": 2}.items()):
        frames = views(motion, count)
        for number, view in enumerate(frames, 1):
            for render in ("clean", "final"):
                frame = picture(f"{sequence}{render}", view)
                write_image(root / "training" / render / sequence / f"frame_{number:04d}.png", frame)
        for number, (one, other) in enumerate(pairwise(frames), 1):
            flow = flow_between(one, other)
            write_flo(root / "training" / "flow" / sequence / f"frame_{number:04d}.flo", flow)
            gone = np.logical_or(*outside(flow))
            write_mask(root / "training" / "occlusions" / sequence / f"frame_{number:04d}.png", gone)
    for number, view in enumerate(views(0, 2), 1):
        for render in ("clean", "final"):
            write_image(
                root / "test" / render / "ambush_1" / f"frame_{number:04d}.png", picture(f"ambush{render}", view)
            )


def flying_chairs(root: Path = HERE / "FlyingChairs" / "FlyingChairs_release") -> None:
    for number, motion in ((1, 0), (2, 1), (3, 1)):
        one, other = views(motion, 2)
        write_image(root / "data" / f"{number:05d}_img1.ppm", picture(f"chairs{number}", one))
        write_image(root / "data" / f"{number:05d}_img2.ppm", picture(f"chairs{number}", other))
        write_flo(root / "data" / f"{number:05d}_flow.flo", flow_between(one, other))
    write_bytes(root / "FlyingChairs_train_val.txt", b"1\n2\n1\n")


def scene_flow(root: Path = HERE / "SceneFlow") -> None:
    """FlyingThings3D with flow and disparity, Monkaa and Driving with disparity only."""
    size = (16, 32)
    places = {
        "FlyingThings3D/{}/TRAIN/A/0000": (6, 7),
        "FlyingThings3D/{}/TEST/B/0001": (6, 7),
        "Monkaa/{}/eating_x2": (0,),
        "Driving/{}/15mm_focallength/scene_forwards/fast": (1,),
    }
    for motion, (place, numbers) in enumerate(places.items()):
        lefts = views(motion % 2, len(numbers))
        cameras = {"left": lefts, "right": [right_of(view) for view in lefts]}
        step = cameras["left"][0] @ np.linalg.inv(views(motion % 2, 2)[1])
        for camera, frames in cameras.items():
            for number, view in zip(numbers, frames, strict=True):
                for render in ("clean", "final"):
                    folder = root / place.format(f"frames_{render}pass") / camera
                    write_image(folder / f"{number:04d}.png", picture(f"{place}{render}", view, size))
                if not place.startswith("FlyingThings3D"):
                    continue
                for into, spelled in (("into_future", "IntoFuture"), ("into_past", "IntoPast")):
                    # The first and last frame have ground truth, too, towards frames that are not part of the set.
                    other = np.linalg.inv(step) @ view if into == "into_future" else step @ view
                    name = f"OpticalFlow{spelled}_{number:04d}_{camera[0].upper()}.pfm"
                    write_pfm(
                        root / place.format("optical_flow") / into / camera / name, flow_between(view, other, size)
                    )
        for number, left in zip(numbers, lefts, strict=True):
            disparity = -flow_between(left, right_of(left), size)[..., 0]
            write_pfm(root / place.format("disparity") / "left" / f"{number:04d}.pfm", disparity)


def tartanair(root: Path = HERE / "TartanAir") -> None:
    """One environment unpacked once, one twice (its archive has the environment's folder in it), without masks."""
    for motion, (place, count, masks) in enumerate(
        (("abandonedfactory/Easy/P000", 3, True), ("office/office/Hard/P001", 2, False))
    ):
        frames = views(motion, count)
        for number, view in enumerate(frames):
            write_image(root / place / "image_left" / f"{number:06d}_left.png", picture(place, view))
        for number, (one, other) in enumerate(pairwise(frames)):
            flow = flow_between(one, other)
            write_npy(root / place / "flow" / f"{number:06d}_{number + 1:06d}_flow.npy", flow.astype(np.float32))
            if masks:
                sides, ends = outside(flow)
                mask = np.where(sides, 100, np.where(ends, 10, 0)).astype(np.uint8)
                write_npy(root / place / "flow" / f"{number:06d}_{number + 1:06d}_mask.npy", mask)


def kitti(year: int) -> None:
    """Two scenes with flow and disparity, one for testing. Ground truth is sparse and misses the upper quarter, as a lidar does."""
    root = HERE / f"KITTI-{year}"
    cameras = {2012: ("colored_0", "colored_1"), 2015: ("image_2", "image_3")}[year]
    disparities = {2012: ("disp_occ", "disp_noc"), 2015: ("disp_occ_0", "disp_noc_0")}[year]
    for number in range(3):
        folder = root / ("training" if number < 2 else "testing")
        scene = number % 2
        lefts = views(scene, 2)
        for camera, frames in zip(cameras, (lefts, [right_of(view) for view in lefts]), strict=True):
            for time, view in zip((10, 11), frames, strict=True):
                image = picture(f"kitti{year}{number}", view)
                write_image(folder / camera / f"{scene:06d}_{time}.png", image)
        if number == 2:
            continue
        rows, columns = np.indices(SIZE)
        measured = (rows >= SIZE[0] // 4) & ((rows + columns) % 3 > 0)
        flow, stereo = flow_between(*lefts), flow_between(lefts[0], right_of(lefts[0]))
        for kind, known in (
            ("flow_occ", measured),
            ("flow_noc", measured & ~outside(flow)[0] & ~outside(flow)[1]),
        ):
            write_kitti_flow(folder / kind / f"{scene:06d}_10.png", flow, known)
        for kind, known in zip(disparities, (measured, measured & ~outside(stereo)[0]), strict=True):
            write_kitti_disparity(folder / kind / f"{scene:06d}_10.png", -stereo[..., 0], known)


def hd1k(root: Path = HERE / "HD1K") -> None:
    for motion, (sequence, count) in enumerate({"000000": 3, "000030": 2}.items()):
        frames = views(motion, count + 1)  # the last one has ground truth, towards a frame that is not part of the set
        for number, (one, other) in enumerate(pairwise(frames), 10):
            name = f"{sequence}_{number:04d}.png"
            write_image(root / "hd1k_input" / "image_2" / name, picture(f"hd1k{sequence}", one))
            rows, columns = np.indices(SIZE)
            known = (rows >= SIZE[0] // 4) & ((rows + columns) % 3 > 0)
            write_kitti_flow(root / "hd1k_flow_gt" / "flow_occ" / name, flow_between(one, other), known)
    for number, view in enumerate(views(0, 2), 10):
        write_image(root / "hd1k_challenge" / "image_2" / f"000000_{number:04d}.png", picture("hd1kchallenge", view))


def middlebury(root: Path = HERE / "Middlebury-flow") -> None:
    """Walking is one of the four sequences whose ground truth was never published."""
    for sequence, folder, motion in (
        ("RubberWhale", "other", 0),
        ("Venus", "other", 1),
        ("Walking", "other", 0),
        ("Army", "eval", 1),
    ):
        one, other = views(motion, 2)
        write_image(root / f"{folder}-data" / sequence / "frame10.png", picture(sequence, one))
        write_image(root / f"{folder}-data" / sequence / "frame11.png", picture(sequence, other))
        if folder == "other" and sequence != "Walking":
            flow = flow_between(one, other)
            flow[:2, :5] = 1666666752.0  # as in its files
            write_flo(root / "other-gt-flow" / sequence / "flow10.flo", flow)


def spring(root: Path = HERE / "Spring") -> None:
    size = (16, 32)
    for motion, (scene, count) in enumerate({"train/0001": 3, "train/0002": 2, "test/0003": 2}.items()):
        folder = root / scene
        lefts = views(motion % 2, count)
        cameras = {"left": lefts, "right": [right_of(view) for view in lefts]}
        for camera, frames in cameras.items():
            for number, view in enumerate(frames, 1):
                name = f"frame_{camera}"
                write_image(folder / name / f"{name}_{number:04d}.png", picture(scene, view, size))
                if scene.startswith("test"):
                    continue
                for direction, step in (("FW", 1), ("BW", -1)):
                    if 1 <= number + step <= count:
                        other = frames[number + step - 1]
                        _spring_truth(folder, f"flow_{direction}_{camera}", number, view, other, size)
                other = cameras["right" if camera == "left" else "left"][number - 1]
                _spring_truth(folder, f"disp1_{camera}", number, view, other, size)


def _spring_truth(
    folder: Path, kind: str, number: int, one: np.ndarray, other: np.ndarray, size: tuple[int, int]
) -> None:
    """Vectors in pixels of the frames, at twice their size, and the map of unmatched pixels at their size."""
    flow = np.round(flow_between(one, other, size, double=True) * 128) / 128  # shorter numbers, smaller files
    stem = f"{kind}_{number:04d}"
    if kind.startswith("disp1"):
        write_hdf5(folder / kind / f"{stem}.dsp5", "disparity", np.abs(flow[..., 0]))
    else:
        flow[:2, 4:6] = np.nan  # Spring has very few of them
        write_hdf5(folder / kind / f"{stem}.flo5", "flow", flow)
    # Red is hidden, green is outside. Nothing is hidden here, so red has the top and bottom: a reader of one channel would fail.
    sides, ends = outside(flow_between(one, other, size))
    match = np.stack([ends, sides, np.zeros_like(ends)], axis=-1)
    write_image(folder / "maps" / f"matchmap_{kind}" / f"matchmap_{stem}.png", match.astype(np.uint8) * 255)


def flow_folder(root: Path = HERE / "FlowFolder") -> None:
    """A clip of three frames, and one of two for each other form of ground truth."""
    size = (16, 32)
    for clip, count in {"flo": 3, "flo5": 2, "pfm": 2, "png": 2, "npy": 2}.items():
        frames = views(0, count)
        for number, view in enumerate(frames):
            write_image(root / "frames" / clip / f"shot{4 * number:03d}.png", picture(f"clip{clip}", view, size))
        for number, (one, other) in enumerate(pairwise(frames)):
            path, flow = root / "flow" / clip / f"shot{4 * number:03d}.{clip}", flow_between(one, other, size)
            if clip == "flo":
                write_flo(path, flow)
                write_mask(root / "occlusions" / clip / f"shot{4 * number:03d}.png", np.logical_or(*outside(flow)))
            elif clip == "flo5":
                write_hdf5(path, "flow", flow)
            elif clip == "pfm":
                write_pfm(path, flow)
            elif clip == "png":
                write_kitti_flow(path, flow, np.ones(size, bool))
            else:
                write_npy(path, flow.astype(np.float32))


# ---- stereo sets ----


def middlebury_stereo(root: Path = HERE / "Middlebury-stereo", evaluation: Path = HERE / "MiddEval3") -> None:
    calibration = (
        "cam0=[994.978 0 311.193; 0 994.978 254.877; 0 0 1]\ncam1=[994.978 0 342.279; 0 994.978 254.877; 0 0 1]\n"
        f"doffs=31.086\nbaseline=193.001\nwidth={SIZE[1]}\nheight={SIZE[0]}\nndisp=70\n"
    )
    left = np.eye(3)
    right = right_of(left)
    flow = flow_between(left, right)
    unknown = np.indices(SIZE).sum(axis=0) < 6
    disparity = np.where(unknown, np.inf, -flow[..., 0])
    scenes = {
        root / "Adirondack-perfect": "disp0.pfm",
        root / "motorcycle": "motorcycle_disp.npz",
        evaluation / "trainingH" / "Piano": "disp0GT.pfm",
        evaluation / "testH" / "Hoops": None,
    }
    for scene, truth in scenes.items():
        names: Sequence[str] = ("im0.png", "im1.png")
        if truth == "motorcycle_disp.npz":
            names = ("motorcycle_left.png", "motorcycle_right.png")
            scene.mkdir(parents=True, exist_ok=True)
            np.savez(scene / truth, disparity.astype(np.float32))
        else:
            write_bytes(scene / "calib.txt", calibration.encode())
        for name, view in zip(names, (left, right), strict=True):
            write_image(scene / name, picture(scene.name, view))
        if truth in ("disp0.pfm", "disp0GT.pfm"):
            write_pfm(scene / truth, disparity)
        if truth == "disp0GT.pfm":
            mask = np.where(unknown, 0, np.where(outside(flow)[0], 128, 255)).astype(np.uint8)
            write_image(scene / "mask0nocc.png", mask)


def main() -> None:
    for draw in (
        sintel,
        flying_chairs,
        scene_flow,
        tartanair,
        hd1k,
        middlebury,
        spring,
        flow_folder,
        middlebury_stereo,
    ):
        draw()
    for year in (2012, 2015):
        kitti(year)


if __name__ == "__main__":
    main()
