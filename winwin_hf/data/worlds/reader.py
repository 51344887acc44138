"""`synthetic-worlds`: from an example of `scene_stream` to a world. Source: ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from winwin_hf.data.synthetic.scenes import SceneReader
from winwin_hf.data.worlds.atlas import Pyramids
from winwin_hf.data.worlds.library import Library
from winwin_hf.data.worlds.places import build
from winwin_hf.data.worlds.settings import WorldSettings
from winwin_hf.data.worlds.world import World


class SyntheticWorlds(SceneReader[WorldSettings]):
    """The reader. meshes: a folder of them, None for shapes of our own alone. Picklable; each process has its own cache."""

    def __init__(self, settings: WorldSettings | None = None, meshes: str | Path | None = None) -> None:
        self.meshes = meshes
        self._library: Library | None = None
        self._pyramids: Pyramids | None = None
        self.table: np.ndarray | None = None  # class -> label to learn (merging.py)
        super().__init__(WorldSettings() if settings is None else settings)
        _ = self.library  # a missing folder is an error here, not in a worker

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "meshes": self.meshes,
            "table": self.table,
            "_library": None,
            "_pyramids": None,
        }

    @property
    def library(self) -> Library:
        if self._library is None:
            s = self.settings
            self._library = Library(self.meshes, s.texture_seed, s.held, int(s.cache_mb * 2**19))
        return self._library

    @property
    def files(self) -> list[Path]:
        return [*super().files, *(path for paths in self.library.files.values() for path in paths)]

    @property
    def pyramids(self) -> Pyramids:
        if self._pyramids is None:
            self._pyramids = Pyramids(self.bank, int(self.settings.cache_mb * 2**19))
        return self._pyramids

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator | None = None) -> World:
        """The world depends on the example's `seed` (and `step`), the settings and the files alone; `rng` is not used."""
        settings, seed = self.settings, int(example["seed"])
        if settings.sizes is not None:  # the seed is itself a hash, so it can choose the size
            height, width = settings.sizes[seed % len(settings.sizes)]
            settings = replace(settings, height=height, width=width, sizes=None)
        drawn = np.random.default_rng(seed)
        scene = build(settings, drawn, self.library, int(example.get("step", 0)))
        return World(scene, settings, drawn, self.pyramids, self.table)
