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
    """
    The pyramids of materials in one array of a process, from which worlds read them.

    When it is full, it begins anew with an empty one; worlds that still read the old one keep it.
    """

    def __init__(self, bank: TextureBank, limit: int):
        """limit: bytes of the array; a world that needs more gets a larger one."""
        self.bank = bank
        self.begin(max(limit // 4, 1))

    def begin(self, pixels: int) -> None:
        self.pixels = np.empty((pixels, 4), np.uint8)
        self.used = 0
        self.kept: dict[object, tuple[object, int, list[tuple[int, int]]]] = {}

    def place(self, material: Material) -> tuple[int, list[tuple[int, int]]] | None:
        """(first pixel, sizes of the levels) of a material's texture; None where it doesn't fit any more."""
        texture = material.texture
        key: object = texture if isinstance(texture, int) else id(texture)
        if key not in self.kept:
            pyramid = Pyramid.of(self.bank.make(texture) if isinstance(texture, int) else texture)
            end = self.used + len(pyramid.pixels)
            if end > len(self.pixels):
                return None
            self.pixels[self.used : end] = pyramid.pixels
            self.kept[key] = (texture, self.used, pyramid.sizes)  # holding the array keeps its id its own
            self.used = end
        return self.kept[key][1:]

    def places(self, materials: list[Material]) -> list[tuple[int, list[tuple[int, int]]]]:
        """Of all materials of a world, in one array."""
        while True:
            fresh = not self.kept
            found = []
            for material in materials:
                place = self.place(material)
                if place is None:
                    break
                found.append(place)
            else:
                return found
            self.begin(len(self.pixels) * 2 if fresh else len(self.pixels))


class Atlas:
    """
    The materials of a world, numbered in order.

    pixels: uint8 (n, 4). start, height, width: int (materials, levels). levels: (materials,).
    """

    def __init__(self, materials: list[Material], pyramids: Pyramids):
        shape = (len(materials), MAX_LEVELS)
        self.start, self.height, self.width = (np.ones(shape, np.int32) for _ in range(3))
        self.levels = np.ones(len(materials), np.int32)
        for i, (first, sizes) in enumerate(pyramids.places(materials)):
            at, self.levels[i] = first, len(sizes)
            for level, (height, width) in enumerate(sizes):
                self.start[i, level], self.height[i, level], self.width[i, level] = at, height, width
                at += height * width
        self.pixels = pyramids.pixels
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
