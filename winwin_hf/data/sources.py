"""From a recipe's words to a data set, its reader and its labels: one entry a data set, all with the same face."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import datasets

from winwin_hf.data.camvid import CAMVID_NAMES, SegmentationReader, load_camvid
from winwin_hf.data.collator import Reader, Task
from winwin_hf.data.sample import ImageAugmentation
from winwin_hf.data.sevenscenes import DepthReader, load_seven_scenes
from winwin_hf.data.synthetic import SceneSettings, SyntheticFlow, synthetic_flow
from winwin_hf.recipe import build

HELD_OUT = 1_000_003  # added to seeds: held-out scenes and textures are others than the training's
NAMES = ("synthetic-flow", "camvid", "seven-scenes")


@dataclass
class Source:
    """dataset: examples; reader: example -> Sample; labels: class names, of segmentation only."""

    name: str
    task: Task
    dataset: datasets.Dataset | datasets.IterableDataset
    reader: Reader
    labels: tuple[str, ...] | None = None

    def examples(self, length: int | None = None, rank: int = 0, world: int = 1) -> Iterator[dict[str, Any]]:
        """Every `world`-th example from `rank` on, of the first `length`; each with its "index"."""
        for index, example in enumerate(self.dataset):
            if length is not None and index >= length:
                return
            if index % world == rank:
                yield {"index": index, **example}

    def __len__(self) -> int:
        return len(self.dataset)


def open_source(
    name: str,
    path: str | None = None,
    split: str = "train",
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    length: int | None = None,
    num_shards: int = 1,
    start: int = 0,
) -> Source:
    """
    Args:
        name: one of `NAMES`.
        path: its folder; for synthetic scenes an optional folder of photographs.
        split: "train", or a held-out one.
        settings: fields of SceneSettings, or of ImageAugmentation (none are used on held-out splits unless given).
        seed, length, num_shards, start: of the synthetic stream; see `synthetic_flow`.
    """
    where = f"settings of {name}"
    if name == "synthetic-flow":
        scene = build(SceneSettings, {**({"textures": path} if path else {}), **(settings or {})}, where)
        if split != "train":
            seed, scene = seed + HELD_OUT, replace(scene, texture_seed=scene.texture_seed + HELD_OUT)
        return Source(name, "flow", synthetic_flow(seed, num_shards, length, start), SyntheticFlow(scene))
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}: expected one of {', '.join(NAMES)}")
    if path is None:
        raise ValueError(f"data set {name!r} needs a path: the folder it was unpacked to")
    augment = build(ImageAugmentation, settings or {}, where) if settings or split == "train" else None
    if name == "camvid":
        return Source(name, "segmentation", load_camvid(path, split), SegmentationReader(augment), CAMVID_NAMES)
    return Source(name, "depth", load_seven_scenes(path, split), DepthReader(augment))
