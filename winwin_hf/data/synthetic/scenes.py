"""Synthetic scenes for optical flow: endless, seeded, with exact flow and occlusion, rendered only where asked.

Notable here:
- `scene_stream` is a `datasets.IterableDataset` of seeds; nothing is rendered until a window is requested.
- `SyntheticFlow` (the reader) turns such an example into a `SyntheticScene`: layers (a background and objects) with a
  texture, a shape and a motion M each. Flow is M(p) - p of the topmost layer, exact at every pixel.
- A window equals the same crop of the full frame, bit for bit: texture coordinates are computed in float64 from the
  pixel's place in the frame and sampled with `cv2.remap` (`cv2.warpAffine` rounds otherwise when moved).

Coordinates: pixel centres at integers, x right, y down. Affine maps are 2 x 3 float64. Source: ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import cv2
import datasets
import numpy as np

from winwin_hf.data.sample import Box
from winwin_hf.data.synthetic.camera import Camera
from winwin_hf.data.synthetic.layout import draw_layers
from winwin_hf.data.synthetic.settings import SceneSettings
from winwin_hf.data.synthetic.textures import TextureBank, intersect, view


def scene_seed(seed: int, index: int) -> int:
    """63-bit seed of example `index` of set `seed` (splitmix64: distinct for distinct indices, except for the last bit)."""
    mask = (1 << 64) - 1
    value = seed & mask
    for step in (0, index):
        value = (value + (step + 1) * 0x9E3779B97F4A7C15) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        value ^= value >> 31
    return value >> 1


def _examples(shards: list[int], num_shards: int, seed: int, start: int, length: int | None) -> Iterator[dict]:
    for step in itertools.count(start):
        indices = [shard + step * num_shards for shard in shards]
        if length is not None:
            indices = [index for index in indices if index < length]
            if not indices:
                return
        for index in indices:
            yield {"index": index, "seed": scene_seed(seed, index), "step": step}


def scene_stream(
    seed: int = 0, num_shards: int = 1, length: int | None = None, start: int = 0
) -> datasets.IterableDataset:
    """A stream of examples `{"index", "seed", "step"}` for `SyntheticFlow` and other scenes made from a seed. Endless if `length` is None.

    Shard s of S holds the indices s, s + S, s + 2 S, ...; `step` counts within the shard. Every process and every
    DataLoader worker reads its own shards, so S must be at least processes x workers, and a multiple of it is best. A
    worker of an endless set reads only the first of its shards.

    Args:
        seed: of the set; a held-out set has another (and a `length`).
        start: skip this many examples of each shard, at no cost. To resume after n batches of size b with W
            workers (W = 1 without workers), n a multiple of W: `start = n * b // W`.
    """
    if num_shards < 1 or start < 0 or (length is not None and length < 0):
        raise ValueError(f"expected num_shards >= 1, start >= 0, length >= 0; got {num_shards}, {start}, {length}")
    shards = list(range(num_shards if length is None else max(1, min(num_shards, length))))
    arguments = {"shards": shards, "num_shards": len(shards), "seed": seed, "start": start, "length": length}
    return datasets.IterableDataset.from_generator(_examples, gen_kwargs=arguments)


class TexturedSettings(Protocol):
    """The settings of a texture bank; see `SceneSettings`."""

    @property
    def textures(self) -> str | None: ...
    @property
    def texture_weights(self) -> Mapping[str, float]: ...
    @property
    def texture_seed(self) -> int: ...
    @property
    def texture_side(self) -> int: ...
    @property
    def cache_mb(self) -> float: ...


Textured = TypeVar("Textured", bound=TexturedSettings)


class SceneReader(Generic[Textured]):
    """Settings and their texture bank. Picklable; each process has its own bank."""

    def __init__(self, settings: Textured) -> None:
        self.settings = settings
        self._bank: TextureBank | None = None
        _ = self.bank  # a missing folder is an error here, not in a worker; textures are made later

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "_bank": None}

    @property
    def bank(self) -> TextureBank:
        if self._bank is None:
            s = self.settings
            self._bank = TextureBank(s.texture_seed, s.textures, s.texture_weights, s.texture_side, s.cache_mb)
        return self._bank

    @property
    def files(self) -> list[Path]:
        """All that scenes may be made of."""
        return self.bank.files


class SyntheticFlow(SceneReader[SceneSettings]):
    """The reader: an example of `scene_stream` -> `SyntheticScene`."""

    def __init__(self, settings: SceneSettings | None = None) -> None:
        super().__init__(SceneSettings() if settings is None else settings)

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator | None = None) -> SyntheticScene:
        """The scene depends on the example's `seed` (and `step`) and the settings alone; `rng` is not used."""
        settings, seed = self.settings, int(example["seed"])
        if settings.sizes is not None:  # the seed is itself a hash, so it can choose the size
            height, width = settings.sizes[seed % len(settings.sizes)]
            settings = replace(settings, height=height, width=width, sizes=None)
        return SyntheticScene(settings, seed, self.bank, int(example.get("step", 0)))


class SyntheticScene:
    """One scene as a Sample (see `sample.py`): `first`, `second` and `occlusion` each render one box.

    The scene continues outside the frame; only the flow is NaN (and `occlusion` True) there.
    """

    def __init__(self, settings: SceneSettings, seed: int, bank: TextureBank, step: int = 0) -> None:
        self.settings, self.seed, self.bank = settings, seed, bank
        self.height, self.width = settings.height, settings.width
        rng = np.random.default_rng(seed)
        self.layers = draw_layers(settings, rng, step)
        self.camera = Camera(settings, rng)
        if self.camera.exposure:
            for layer in self.layers:
                layer.expose(self.camera.exposure, (self.height, self.width))

    def _visible(self, frame: int, box: Box, sharp: bool = False) -> tuple[int, list[tuple[int, Box, np.ndarray]]]:
        """(lowest visible layer in the box, layers above it as (index, part of the box, opacity there)).

        sharp: without motion blur.
        """
        found: list[tuple[int, Box, np.ndarray]] = []
        for index in range(len(self.layers) - 1, 0, -1):
            layer = self.layers[index]
            part = intersect(box, layer.bounds[frame])
            if part is None:
                continue
            alpha = layer.opacity(frame, part, sharp)
            x, y, width, height = cv2.boundingRect(alpha)
            if width == 0:
                continue
            alpha = alpha[y : y + height, x : x + width]
            part = (part[0] + y, part[1] + x, height, width)
            if part == box and int(alpha.min()) == 255:
                return index, found[::-1]
            found.append((index, part, alpha))
        return 0, found[::-1]

    def _texture(self, index: int, frame: int, box: Box) -> np.ndarray:
        layer = self.layers[index]
        image = self.bank.levels(layer.texture)[layer.level] if layer.image is None else layer.image
        return cv2.LUT(layer.colours(image, frame, box), self.camera.curve(layer.tint, frame))

    def _render(self, frame: int, box: Box) -> tuple[np.ndarray, int, list[tuple[int, Box, np.ndarray]]]:
        """The image uint8 (h, w, 3) of the box, and `_visible` of the larger box that the camera needs."""
        outer = self.camera.needs(box)
        base, above = self._visible(frame, outer)
        image = self._texture(base, frame, outer)
        for index, part, alpha in above:
            texture, target = self._texture(index, frame, part), view(image, part, outer)
            ys, xs = np.nonzero(cv2.inRange(alpha, 1, 254))
            weight = alpha[ys, xs, None].astype(np.int32)
            edge = (texture[ys, xs] * weight + target[ys, xs] * (255 - weight) + 127) // 255
            cv2.copyTo(texture, cv2.inRange(alpha, 255, 255), target)
            target[ys, xs] = edge
        return self.camera.develop(image, frame, box), base, above

    def _labels(self, box: Box) -> np.ndarray:
        """Index of the topmost layer with more than half opacity in frame 1, int (h, w)."""
        base, above = self._visible(0, box, sharp=True)
        labels = np.full(box[2:], base, np.int32)
        for index, part, alpha in above:
            view(labels, part, box)[alpha >= 128] = index
        return labels

    def _outside(self, box: Box) -> np.ndarray:
        rows, columns = np.arange(box[0], box[0] + box[2]), np.arange(box[1], box[1] + box[3])
        return ~(((rows >= 0) & (rows < self.height))[:, None] & ((columns >= 0) & (columns < self.width)))

    def _layer_flow(self, index: int, box: Box) -> np.ndarray:
        x, y = self.layers[index].motion.flow(box)
        return cv2.merge([x.astype(np.float32), y.astype(np.float32)])

    def first(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Frame 1 in the box, uint8 RGB (h, w, 3), and its flow, float32 (h, w, 2), NaN outside the frame."""
        image, base, above = self._render(0, box)
        if self.camera.exposure:  # the flow changes at sharp edges
            base, above = self._visible(0, box, sharp=True)
        flow = self._layer_flow(base, box)
        for index, part, alpha in above:
            inner = intersect(part, box)
            if inner is not None:
                mask = cv2.inRange(view(alpha, inner, part), 128, 255)
                cv2.copyTo(self._layer_flow(index, inner), mask, view(flow, inner, box))
        if box[0] < 0 or box[1] < 0 or box[0] + box[2] > self.height or box[1] + box[3] > self.width:
            flow[self._outside(box)] = np.nan
        return image, flow

    def second(self, box: Box) -> np.ndarray:
        """Frame 2 in the box, uint8 RGB (h, w, 3)."""
        return self._render(1, box)[0]

    def occlusion(self, box: Box) -> np.ndarray:
        """bool (h, w): True where the content of frame 1 is behind another layer in frame 2, or outside it."""
        labels = self._labels(box)
        hidden = self._outside(box)
        for label in np.unique(labels).tolist():
            motion = self.layers[label].motion
            x, y = motion.forward(box)
            gone = (x < 0) | (y < 0) | (x > self.width - 1) | (y > self.height - 1)
            for above in self.layers[label + 1 :]:
                gone |= above.opacity_behind(motion, box) >= 128
            hidden |= gone & (labels == label)
        return hidden
