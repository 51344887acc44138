"""Draws tests/frames/depth: tiny synthetic frames with depth, in the real layout and file formats of each benchmark.

    python tests/frames/make_depth_frames.py

Nothing here comes from a benchmark but the names of its folders and files, the form of the files and its calibration's format.
In every image the colour tells what the depth must be: red is `LEVELS` steps for each metre, green 5 for each column, blue 7
for each row. So a test sees at a pixel whether image and depth belong together, in scale and orientation. The 4x4 pixels in
the top left corner have no depth.

The files are written here by the formats' definitions, not with the package's writers. Running it again changes no byte.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

HEIGHT, WIDTH = 32, 48
# red per metre, so that the far end of a set's depths is below 250
LEVELS = {
    "nyu": 25.0,
    "kitti": 3.0,
    "hypersim": 25.0,
    "7scenes": 50.0,
    "tartanair": 3.0,
    "middlebury": 50.0,
    "folder": 25.0,
}
FAR = {name: 240 / levels for name, levels in LEVELS.items()}
SKY = 10000.0  # metres, TartanAir's


def scene(kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A slanted wall with a box before it, by the name: image uint8 (H, W, 3) and depth float64 (H, W) in metres, NaN in the
    corner."""
    rng = np.random.default_rng(zlib.crc32(f"{kind}/{name}".encode()))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    left, right, tilt = rng.uniform(0.35, 0.85, 3)
    depth = left + (right - left) * x / WIDTH + (tilt - 0.6) * 0.3 * y / HEIGHT
    top, start = 8 * int(rng.integers(1, 3)), 8 * int(rng.integers(1, 4))  # on the grid of JPEG's blocks
    depth[top : top + 8, start : start + 16] = rng.uniform(0.1, 0.3)
    depth *= FAR[kind]
    red = np.rint(depth * LEVELS[kind])
    depth[:4, :4] = np.nan
    return np.stack([red, 5 * x, 7 * y], axis=-1).astype(np.uint8), depth


def folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save_image(path: Path, image: np.ndarray) -> None:
    options = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {"optimize": True}
    Image.fromarray(image).save(folder(path), **options)


def save_png16(path: Path, depth: np.ndarray, steps: float, unknown: int = 0) -> None:
    stored = np.where(np.isnan(depth), unknown, np.rint(np.nan_to_num(depth) * steps)).astype(np.uint16)
    Image.fromarray(stored).save(folder(path), optimize=True)


def save_pfm(path: Path, values: np.ndarray) -> None:
    """Grey PFM, little-endian: the last row first."""
    header = f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode()
    folder(path).write_bytes(header + values[::-1].astype("<f4").tobytes())


def save_hdf5(path: Path, **arrays: np.ndarray) -> None:
    with h5py.File(folder(path), "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", track_times=False)


# ------------------------------------------------------------------------------------------------------------- the sets

NYU_FRAMES, NYU_TRAIN, NYU_TEST = 5, (1, 3, 4), (2, 5)  # numbers as in splits.mat, from 1


def nyu_labelled(root: Path) -> None:
    """MATLAB 7.3: HDF5 behind a header of 512 bytes, axes in reverse. rawDepths has the holes that depths has filled."""
    images, depths = zip(*(scene("nyu", f"labelled {n}") for n in range(NYU_FRAMES)), strict=True)
    holes = np.nan_to_num(np.stack(depths)).astype(np.float32).transpose(0, 2, 1)
    filled = np.where(holes == 0, np.stack(images)[..., 0].transpose(0, 2, 1) / np.float32(LEVELS["nyu"]), holes)
    path = folder(root / "nyu_depth_v2_labeled.mat")
    with h5py.File(path, "w", userblock_size=512) as file:
        arrays = {"images": np.stack(images).transpose(0, 3, 2, 1), "depths": filled, "rawDepths": holes}
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", track_times=False)
    header = b"MATLAB 7.3 MAT-file, tiny synthetic frames".ljust(116) + bytes(8) + struct.pack("<H", 0x0200) + b"IM"
    with path.open("r+b") as file:
        file.write(header.ljust(512, b"\0"))
    content = io.BytesIO()
    columns = {"trainNdxs": NYU_TRAIN, "testNdxs": NYU_TEST}
    scipy.io.savemat(content, {name: np.array(numbers, np.uint16)[:, None] for name, numbers in columns.items()})
    # the header's first 116 bytes are a text with the date; the rest says version and byte order
    (root / "splits.mat").write_bytes(
        b"MATLAB 5.0 MAT-file, tiny synthetic frames".ljust(116) + content.getvalue()[116:]
    )


def nyu_png(root: Path) -> None:
    """BTS's extraction (official_splits and sync), and DenseDepth's package."""
    frames = {
        "official_splits/train/bathroom": ("00000", "00002"),
        "official_splits/train/kitchen": ("00003",),
        "official_splits/test/bathroom": ("00001", "00045"),
        "sync/bathroom_0001": ("00000", "00001", "00002"),
    }
    for place, numbers in frames.items():
        for number in numbers:
            image, depth = scene("nyu", f"{place}/{number}")
            save_image(root / place / f"rgb_{number}.jpg", image)
            save_png16(root / place / f"sync_depth_{number}.png", depth, 1000)


def nyu_packed(root: Path) -> None:
    for number in ("1", "2"):
        image, depth = scene("nyu", f"packed {number}")
        place = root / "data" / "nyu2_train" / "basement_0001a_out"
        save_image(place / f"{number}.jpg", image)
        Image.fromarray(np.rint(np.nan_to_num(depth) * 25.5).astype(np.uint8)).save(place / f"{number}.png")
    image, depth = scene("nyu", "packed test")
    save_image(root / "data" / "nyu2_test" / "00000_colors.png", image)
    save_png16(root / "data" / "nyu2_test" / "00000_depth.png", depth, 1000)


def kitti(root: Path) -> None:
    """Sparse depth, from frame 5 on; the raw drive has frame 0, too."""
    drives = {"train": "2011_09_26_drive_0001_sync", "val": "2011_09_26_drive_0002_sync"}
    for part, drive in drives.items():
        raw = root / "2011_09_26" / drive
        for camera in ("image_02", "image_03"):
            for number in ("0000000000", "0000000005", "0000000006"):
                image, depth = scene("kitti", f"{drive}/{camera}/{number}")
                save_image(raw / camera / "data" / f"{number}.png", image)
                if number != "0000000000":
                    save_png16(
                        root
                        / "data_depth_annotated"
                        / part
                        / drive
                        / "proj_depth"
                        / "groundtruth"
                        / camera
                        / f"{number}.png",
                        sparse(depth),
                        256,
                    )
    for part, drive in (("train", drives["train"]), ("test", drives["val"])):
        lines = [f"2011_09_26/{drive}/image_02/data/0000000000.png None 721.5377"]
        for number in ("0000000006", "0000000005") if part == "train" else ("0000000005",):
            image = f"2011_09_26/{drive}/image_02/data/{number}.png"
            lines.append(f"{image} {drive}/proj_depth/groundtruth/image_02/{number}.png 721.5377")
        (root / f"eigen_{part}_files_with_gt.txt").write_text("\n".join(lines) + "\n")
    selection, drive = root / "depth_selection" / "val_selection_cropped", drives["val"]
    for number, camera in (("0000000005", "image_02"), ("0000000006", "image_03")):
        image, depth = scene("kitti", f"{drive}/{camera}/{number}")
        save_image(selection / "image" / f"{drive}_image_{number}_{camera}.png", image)
        save_png16(
            selection / "groundtruth_depth" / f"{drive}_groundtruth_depth_{number}_{camera}.png", sparse(depth), 256
        )
    test = root / "depth_selection" / "test_depth_prediction_anonymous" / "image"
    for number in ("0000000000", "0000000001"):
        save_image(test / f"{number}.png", scene("kitti", f"test {number}")[0])


def sparse(depth: np.ndarray) -> np.ndarray:
    """Every third pixel of each second row, as lidar has it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.where((y % 2 == 0) & (x % 3 == 0), depth, np.nan)


def hypersim(root: Path) -> None:
    """Distances along each pixel's ray, float16; two scenes, of which the list of splits has one more that isn't here."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    focal = 886.81 * WIDTH / 1024
    ray = np.sqrt(1 + ((x + 0.5 - WIDTH / 2) ** 2 + (y + 0.5 - HEIGHT / 2) ** 2) / focal**2)
    lines = ["scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name"]
    for place, camera, part in (
        ("ai_001_001", "cam_00", "train"),
        ("ai_001_002", "cam_00", "test"),
        ("ai_001_002", "cam_01", "test"),
        ("ai_001_003", "cam_00", "train"),
    ):
        for number in (0, 1):
            lines.append(f"{place},{camera},{number},True,,{part}")
            if place == "ai_001_003":
                continue
            image, depth = scene("hypersim", f"{place}/{camera}/{number}")
            images = root / place / "images"
            save_image(images / f"scene_{camera}_final_preview" / f"frame.{number:04d}.tonemap.jpg", image)
            stored = (depth * ray).astype(np.float16)
            save_hdf5(
                images / f"scene_{camera}_geometry_hdf5" / f"frame.{number:04d}.depth_meters.hdf5", dataset=stored
            )
        lines.append(f"{place},{camera},2,False,CONTENT FLAGGED FOR REMOVAL,")
    (root / "metadata_images_split_scene_v1.csv").write_text("\n".join(lines) + "\n")


def seven_scenes_room(root: Path) -> None:
    for number in range(0, 20, 4):
        image, depth = scene("7scenes", f"room {number}")
        save_image(root / "rgb" / f"frame-{number:06d}.jpg", image)
        depth[6, 6] = 65.535  # 65535 in the file: unknown, too
        save_png16(root / "depth" / f"frame-{number:06d}.png", depth, 1000)


def seven_scenes(root: Path) -> None:
    """Two scenes, two sequences each. The raw depth is the registered one three columns to the left."""
    for place in ("chess", "fire"):
        for sequence in ("seq-01", "seq-02"):
            for number in range(2):
                image, depth = scene("7scenes", f"{place}/{sequence}/{number}")
                stem = root / place / sequence / f"frame-{number:06d}"
                save_image(stem.with_name(f"{stem.name}.color.png"), image)
                save_png16(stem.with_name(f"{stem.name}.depth.proj.png"), depth, 1000)
                save_png16(stem.with_name(f"{stem.name}.depth.png"), np.roll(depth, -3, axis=1), 1000, 65535)
                pose = "\n".join("\t ".join(f"{value:.7e}" for value in row) for row in np.eye(4))
                stem.with_name(f"{stem.name}.pose.txt").write_text(pose + "\n")
        (root / place / "TrainSplit.txt").write_text("sequence1\n")
        (root / place / "TestSplit.txt").write_text("sequence2\n")


def tartanair(root: Path) -> None:
    for place, numbers in (("Easy/P000", (0, 1)), ("Hard/P001", (0,))):
        base = root / "abandonedfactory" / "abandonedfactory" / place
        for number in numbers:
            image, depth = scene("tartanair", f"{place}/{number}")
            depth = np.where(np.isnan(depth), SKY, depth).astype(np.float32)
            save_image(base / "image_left" / f"{number:06d}_left.png", image)
            np.save(folder(base / "depth_left" / f"{number:06d}_left_depth.npy"), depth)


CALIBRATION = (40.0, 193.001, 3.5)  # focal length (pixels), baseline (mm), offset of the disparities (pixels)


def calibration_text(focal: float, baseline: float, offset: float) -> str:
    matrix = f"[{focal} 0 {WIDTH / 2}; 0 {focal} {HEIGHT / 2}; 0 0 1]"
    return (
        f"cam0={matrix}\ncam1={matrix}\ndoffs={offset}\nbaseline={baseline}\nwidth={WIDTH}\nheight={HEIGHT}\n"
        "ndisp=64\nisint=0\nvmin=1\nvmax=60\ndyavg=0\ndymax=0\n"
    )


def disparity(depth: np.ndarray, focal: float, baseline: float, offset: float) -> np.ndarray:
    """Pixels, float32; infinite where unknown."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(depth), np.inf, focal * baseline / 1000 / depth - offset).astype(np.float32)


def middlebury(root: Path) -> None:
    for place, truth in (
        ("Adirondack-perfect", "disp0.pfm"),
        ("Piano-perfect", "disp0.pfm"),
        ("MiddEval3/trainingQ/Jadeplant", "disp0GT.pfm"),
        ("MiddEval3/testQ/Classroom2", None),
    ):
        image, depth = scene("middlebury", place)
        save_image(root / place / "im0.png", image)
        (root / place / "calib.txt").write_text(calibration_text(*CALIBRATION))
        if truth:
            save_pfm(root / place / truth, disparity(depth, *CALIBRATION))


def motorcycle(root: Path) -> None:
    """scikit-image's sample: its calibration isn't in a file."""
    image, depth = scene("middlebury", "motorcycle")
    save_image(root / "motorcycle_left.png", image)
    np.savez_compressed(root / "motorcycle_disp.npz", disparity(depth, 994.978, 193.001, 31.086))


def own(root: Path) -> None:
    for place in ("train/a.jpg", "train/b.png", "train/yard/c.png", "val/d.png"):
        image, depth = scene("folder", place)
        save_image(root / "images" / place, image)
        target = (root / "depth" / place).with_suffix("")
        if target.name == "a":
            save_png16(target.with_suffix(".png"), depth, 1000)
        elif target.name == "b":
            np.save(folder(target.with_suffix(".npy")), depth.astype(np.float32))
        elif target.name == "c":
            save_pfm(target.with_suffix(".pfm"), depth)
        else:
            save_hdf5(target.with_suffix(".hdf5"), depth=depth.astype(np.float32))


PLACES = {
    "nyu_depth_v2": nyu_labelled,
    "nyu_png": nyu_png,
    "nyu_data": nyu_packed,
    "kitti": kitti,
    "hypersim": hypersim,
    "7scenes-room": seven_scenes_room,
    "7scenes": seven_scenes,
    "tartanair": tartanair,
    "middlebury2014": middlebury,
    "motorcycle": motorcycle,
    "depth-folder": own,
}


def main(root: Path = Path(__file__).parent / "depth") -> None:
    for name, draw in PLACES.items():
        draw(root / name)


if __name__ == "__main__":
    main()
