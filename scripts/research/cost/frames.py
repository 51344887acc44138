"""Frames to load, in the layouts of BDD100K (1280x720 JPEG, PNG of train ids) and Spring (1920x1080 PNG, flow of twice the size).

Sizes and formats are those of the real files, so loading costs as much. The content is noise.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from winwin_hf.data.formats.hdf5 import write_flo5

COUNT = 6


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3): noise of several sizes, which compresses about as well as a photograph."""
    image = np.full((height, width, 3), 127, np.float32)
    for step, strength in ((256, 90), (64, 45), (16, 25), (4, 12)):
        coarse = rng.standard_normal((height // step + 2, width // step + 2, 3), dtype=np.float32)
        image += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_bdd(folder: Path, height: int, width: int, count: int = COUNT) -> Path:
    """bdd100k/images/10k/train/*.jpg and bdd100k/labels/sem_seg/masks/train/*.png with 19 classes. Returns the root."""
    root, rng = folder / "bdd100k", np.random.default_rng(0)
    images = root / "bdd100k" / "images" / "10k" / "train"
    labels = root / "bdd100k" / "labels" / "sem_seg" / "masks" / "train"
    for path in (images, labels):
        path.mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(images / f"{i:04d}.jpg"), picture(rng, height, width), [cv2.IMWRITE_JPEG_QUALITY, 90])
        ids = rng.integers(0, 19, (height // 64 + 1, width // 64 + 1), dtype=np.uint8)
        cv2.imwrite(str(labels / f"{i:04d}.png"), cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST))
    return root


def write_spring(folder: Path, height: int, width: int, count: int = COUNT) -> Path:
    """train/0001/frame_left/*.png and flow_FW_left/*.flo5, with smooth motion of about 20 pixels. Returns the root."""
    root, rng = folder / "spring", np.random.default_rng(1)
    frames, flows = (root / "train" / "0001" / name for name in ("frame_left", "flow_FW_left"))
    for path in (frames, flows):
        path.mkdir(parents=True)
    for i in range(1, count + 1):
        cv2.imwrite(str(frames / f"frame_left_{i:04d}.png"), picture(rng, height, width))
        if i < count:  # the last frame has no next one
            coarse = 20 * rng.standard_normal((3, 4, 2), dtype=np.float32)
            flow = cv2.resize(coarse, (2 * width, 2 * height), interpolation=cv2.INTER_CUBIC)
            write_flo5(flows / f"flow_FW_left_{i:04d}.flo5", flow)
    return root
