"""7-Scenes: indoor frames with depth from a Kinect (Shotton et al. 2013), one room at a time.

    <root>/rgb/frame-000000.jpg (or .png)    <root>/depth/frame-000000.png

Depth is 16-bit PNG in millimetres *in the colour camera's view*; 0 and 65535 are unknown. (The original raw depth is not
registered to the colour camera: register it first.) For research, not for commerce.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Value

from winwin_hf.data.sample import ImageAugmentation, ImageSample, augmented_view

SOURCE = "https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes"
TRAIN_SHARE = 0.8
UNKNOWN_MILLIMETRES = (0, 65535)


def load_seven_scenes(root: str | Path, split: str) -> Dataset:
    """Frames of a room in the order of their numbers: "train" is the first 80 %, "val" the rest, "all" both.

    The split is ours and by time, in two contiguous blocks: neighbouring frames are nearly the same picture, so a random
    split would put near-copies of training frames into the validation.

    Columns: image and depth (PIL when read), path.
    Raises: ValueError for an unknown split; FileNotFoundError for a missing folder or file, with what was expected.
    """
    root = Path(root)
    if split not in ("train", "val", "all"):
        raise ValueError(f"7-Scenes has no split {split!r}: expected train, val or all")
    images, depths = root / "rgb", root / "depth"
    for folder in (images, depths):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is missing: {root} should hold a room of 7-Scenes ({SOURCE}) as rgb/frame-*.jpg (or .png) "
                "and depth/frame-*.png, 16-bit millimetres registered to the colour camera"
            )
    paths = sorted([*images.glob("*.jpg"), *images.glob("*.png")], key=lambda path: path.stem)
    if not paths:
        raise FileNotFoundError(f"{images} holds no frames; expected frame-000000.jpg and so on from {SOURCE}")
    for path in paths:
        if not (depths / f"{path.stem}.png").is_file():
            raise FileNotFoundError(f"{depths / path.stem}.png is missing: the depth of {path}")
    cut = round(TRAIN_SHARE * len(paths))
    paths = {"train": paths[:cut], "val": paths[cut:], "all": paths}[split]
    columns = {
        "image": [str(path) for path in paths],
        "depth": [str(depths / f"{path.stem}.png") for path in paths],
        "path": [str(path) for path in paths],
    }
    return Dataset.from_dict(columns, Features(image=Image(), depth=Image(), path=Value("string")))


@dataclass
class DepthReader:
    """Example with `image` and `depth` (16-bit millimetres; and `path`) -> a sample with depth in metres.

    Scaling an image by s divides its depth by s: the camera's focal length in pixels stays the same for the network, and
    a thing that looks s times as large through one camera is s times as near. (Its relief would then be flatter than it
    is; the alternative, to keep the depth, makes metric depth ambiguous.)

    max_depth: metres; beyond it the sensor is not trusted and the depth counts as unknown.
    """

    augmentation: ImageAugmentation | None = None
    max_depth: float = float("inf")

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> ImageSample:
        name = example.get("path", "example")
        image = np.asarray(example["image"].convert("RGB"))
        stored = np.array(example["depth"])
        if stored.ndim != 2 or stored.dtype == np.uint8:
            raise ValueError(
                f"{name}: its depth is an array {stored.shape} of {stored.dtype}; expected a 16-bit PNG with one channel"
            )
        if stored.shape != image.shape[:2]:
            raise ValueError(
                f"{name}: the image has {image.shape[0]}x{image.shape[1]} pixels "
                f"and its depth {stored.shape[0]}x{stored.shape[1]}"
            )
        depth = stored.astype(np.float32) / 1000
        depth[np.isin(stored, UNKNOWN_MILLIMETRES) | (depth > self.max_depth)] = np.nan
        sample, scale = augmented_view(image, depth, self.augmentation, rng)
        sample.target = depth / np.float32(scale)
        return sample
