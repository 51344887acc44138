"""All textures of a world in one array, each at every halved size, so that any pixels are looked up in one go. Source: ours."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from winwin_hf.data.synthetic.textures import TextureBank
from winwin_hf.data.worlds.meshes import Material

MAX_LEVELS = 12


@dataclass(frozen=True, eq=False)
class Pyramid:
    """A texture at all sizes, one after the other. pixels: uint8 RGBA (n, 4). sizes: [(height, width)]."""

    pixels: np.ndarray
    sizes: list[tuple[int, int]]

    @classmethod
    def of(cls, texture: np.ndarray) -> Pyramid:
        """texture: uint8 (h, w, 3 or 4)."""
        if texture.shape[2] == 3:
            texture = np.dstack([texture, np.full(texture.shape[:2], 255, np.uint8)])
        levels = [np.ascontiguousarray(texture)]
        while max(levels[-1].shape[:2]) > 1 and len(levels) < MAX_LEVELS:
            height, width = levels[-1].shape[:2]
            smaller = cv2.resize(levels[-1], (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
            levels.append(smaller.reshape(max(1, height // 2), max(1, width // 2), 4))
        return cls(np.concatenate([level.reshape(-1, 4) for level in levels]), [lv.shape[:2] for lv in levels])


class Pyramids:
    """The pyramids of materials, kept while `limit` bytes last. One for each process."""

    def __init__(self, bank: TextureBank, limit: int):
        self.bank, self.limit, self.held = bank, limit, 0
        self.kept: dict[object, tuple[object, Pyramid]] = {}

    def of(self, material: Material) -> Pyramid:
        texture = material.texture
        key: object = texture if isinstance(texture, int) else id(texture)
        if key in self.kept:
            self.kept[key] = self.kept.pop(key)  # the latest used is the last
            return self.kept[key][1]
        pyramid = Pyramid.of(self.bank.make(texture) if isinstance(texture, int) else texture)
        self.kept[key] = (texture, pyramid)  # holding the array keeps its id its own
        self.held += pyramid.pixels.nbytes
        while self.held > self.limit and len(self.kept) > 1:
            _, old = self.kept.pop(next(iter(self.kept)))
            self.held -= old.pixels.nbytes
        return pyramid


class Atlas:
    """
    The materials of a world, numbered in order.

    pixels: uint8 (n, 4). start, height, width: int (materials, levels). levels: (materials,).
    """

    def __init__(self, materials: list[Material], pyramids: Pyramids):
        mine: dict[int, int] = {}  # id of a pyramid -> its first pixel
        parts: list[np.ndarray] = []
        shape = (len(materials), MAX_LEVELS)
        self.start, self.height, self.width = (np.ones(shape, np.int32) for _ in range(3))
        self.levels = np.ones(len(materials), np.int32)
        held = [pyramids.of(material) for material in materials]
        total = 0
        for i, pyramid in enumerate(held):
            if id(pyramid) not in mine:
                mine[id(pyramid)] = total
                parts.append(pyramid.pixels)
                total += len(pyramid.pixels)
            at = mine[id(pyramid)]
            self.levels[i] = len(pyramid.sizes)
            for level, (height, width) in enumerate(pyramid.sizes):
                self.start[i, level], self.height[i, level], self.width[i, level] = at, height, width
                at += height * width
        self.pixels = np.concatenate(parts)
        self.tint = np.array([m.tint for m in materials], np.float32)
        self.label = np.array([m.label for m in materials], np.uint8)
        self.gloss = np.array([m.gloss for m in materials], np.float32)
        # a texture of the bank has no seamless edges: every other copy is mirrored
        self.mirrored = np.array([isinstance(m.texture, int) for m in materials], bool)
        self.side = np.sqrt(self.height[:, 0].astype(np.float32) * self.width[:, 0])

    def sample(self, material: np.ndarray, u: np.ndarray, v: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """
        Colours float32 (n, 4), 0 to 255, at places of textures that repeat, interpolated linearly.

        material: int (n,). u, v: (n,) in widths and heights, v up. footprint: (n,) the side of a pixel in the texture's full pixels.
        """
        level = np.rint(np.log2(np.maximum(footprint, 1.0))).astype(np.int32)
        level = np.minimum(level, self.levels[material] - 1)
        start, height, width = (table[material, level] for table in (self.start, self.height, self.width))
        mirrored = self.mirrored[material]
        x = _folded(u, mirrored) * width - 0.5
        y = (1.0 - _folded(v, mirrored)) * height - 0.5
        left, top = np.floor(x), np.floor(y)
        fx, fy = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
        left, top = left.astype(np.int32), top.astype(np.int32)
        right, bottom = (left + 1) % width, ((top + 1) % height) * width + start
        left, top = left % width, (top % height) * width + start
        above = self.pixels[top + left].astype(np.float32)
        above += fx * (self.pixels[top + right] - above)
        below = self.pixels[bottom + left].astype(np.float32)
        below += fx * (self.pixels[bottom + right] - below)
        above += fy * (below - above)
        return above


def _folded(place: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """A coordinate in the texture, 0 to 1, of one in copies of it that lie side by side."""
    whole = np.floor(place)
    part = place - whole
    return np.where(mirrored & (whole % 2 == 1), 1 - part, part)
