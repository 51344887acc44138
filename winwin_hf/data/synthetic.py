"""Synthetic scenes for optical flow: endless, seeded, with exact flow and occlusion, rendered only where asked.

Notable here:
- `synthetic_flow` is a `datasets.IterableDataset` of seeds; nothing is rendered until a window is asked for;
- `SyntheticFlow` (the reader) turns such an example into a `SyntheticScene`: layers (a background and objects) with a
  texture, a shape and an affine motion A each. Flow is A p - p of the topmost layer, exact at every pixel;
- a window equals the same crop of the full frame, bit for bit: texture coordinates are computed in float64 from the
  pixel's place in the frame and sampled with `cv2.remap` (`cv2.warpAffine` rounds otherwise when moved).

Coordinates: pixel centres at integers, x right, y down. Affine maps are 2 x 3 float64. Source: ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import cv2
import datasets
import numpy as np

from .sample import Box
from .textures import (
    LEVELS,
    SIDE,
    Layer,
    TextureBank,
    about,
    compose,
    grid,
    intersect,
    point,
    rotation,
    sample,
    view,
)

_NOISE_SIDE, _NOISE_UNIT = 512, 24.0  # a tile of gaussian noise, and its standard deviation there
_TAIL = 1.0  # sigma of the log-normal motion magnitude
_CALM = 0.15  # share of the scenes that hardly move
_GAIN = 0.98  # measured once: makes the mean of |flow| the setting's `motion`


@dataclass(frozen=True)
class SceneSettings:
    """What scenes look like. Lengths in pixels.

    Attributes:
        height, width: of the frame.
        sizes: (height, width) of several kinds of frame, of which each scene draws one; instead of `height` and `width`.
        motion: mean of |flow| over the pixels of a 384 x 512 frame. Magnitudes are heavy-tailed: many below a pixel,
            some six times the mean. Nothing scales with the frame's size: translations keep their pixels, rotations their
            degrees, so the corners of a larger frame move further.
        objects: fewest and most objects in front of the background.
        object_size: smallest and largest radius of an object as a share of the frame's shorter side.
        texture_scale: smallest and largest size of a texture's pixel, in pixels of the frame.
        photometric: strength of brightness, contrast, gamma and colour changes; 0 is none.
        asymmetric: share of `photometric` by which the two frames differ from each other.
        shadow: probability of a soft shadow over a part of one frame.
        blur: probability of a gaussian blur; blur_sigma: its largest standard deviation.
        noise: largest standard deviation of the sensor's noise, in grey levels of 255 (uniform from 0).
        textures: a folder of photographs, searched recursively; None: procedural textures only.
        texture_weights: share of "noise", "leaves" and "photographs".
        texture_seed: of the texture bank; a held-out set should have another.
        texture_count: a scene draws its textures from this many of the bank.
        texture_steps: after so many scenes of a shard the oldest of these textures is replaced by a new one, so that an
            endless training never stops seeing new ones; 0: never.
        texture_side: longest side of a photograph.
        cache_mb: memory for textures per process, MB; the default holds all 128 of them.
    """

    height: int = 384
    width: int = 512
    sizes: tuple[tuple[int, int], ...] | None = None
    motion: float = 10.0
    objects: tuple[int, int] = (1, 8)
    object_size: tuple[float, float] = (0.05, 0.4)
    texture_scale: tuple[float, float] = (0.5, 2.0)
    photometric: float = 1.0
    asymmetric: float = 0.3
    shadow: float = 0.25
    blur: float = 0.3
    blur_sigma: float = 1.2
    noise: float = 4.0
    textures: str | None = None
    texture_weights: Mapping[str, float] = field(
        default_factory=lambda: {"noise": 0.25, "leaves": 0.35, "photographs": 0.4}
    )
    texture_seed: int = 0
    texture_count: int = 128
    texture_steps: int = 50
    texture_side: int = 768
    cache_mb: float = 256.0

    def __post_init__(self) -> None:
        for name in ("objects", "object_size", "texture_scale"):  # lists in a recipe
            value = tuple(getattr(self, name))
            if len(value) != 2 or value[0] > value[1] or value[0] < 0:
                raise ValueError(f"{name} must be (smallest, largest), both >= 0; got {getattr(self, name)!r}")
            object.__setattr__(self, name, value)
        if self.sizes is not None:
            object.__setattr__(self, "sizes", tuple((int(height), int(width)) for height, width in self.sizes))
            if not self.sizes or min(side for size in self.sizes for side in size) < 1:
                raise ValueError(f"sizes must be pairs of positive (height, width); got {self.sizes}")
        for name in ("height", "width", "texture_count", "texture_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("motion", "photometric", "asymmetric", "shadow", "blur", "blur_sigma", "noise", "texture_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if self.texture_scale[0] < 0.2:
            raise ValueError(f"texture_scale must be at least 0.2, or textures alias; got {self.texture_scale}")


def scene_seed(seed: int, index: int) -> int:
    """63-bit seed of example `index` of set `seed` (splitmix64: one to one in the index, but for its last bit)."""
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


def synthetic_flow(
    seed: int = 0, num_shards: int = 1, length: int | None = None, start: int = 0
) -> datasets.IterableDataset:
    """A stream of examples `{"index", "seed", "step"}` for `SyntheticFlow`. Endless if `length` is None.

    Shard s of S holds the indices s, s + S, s + 2 S, ...; `step` counts within the shard. Every process and every
    DataLoader worker reads its own shards, so S must be at least processes x workers, and a multiple of it is best. A
    worker of an endless set reads only the first of its shards.

    Args:
        seed: of the set; a held-out set has another (and a `length`).
        start: leave out this many examples of each shard, in no time. To resume after n batches of size b with W
            workers (W = 1 without workers), n a multiple of W: `start = n * b // W`.
    """
    if num_shards < 1 or start < 0 or (length is not None and length < 0):
        raise ValueError(f"expected num_shards >= 1, start >= 0, length >= 0; got {num_shards}, {start}, {length}")
    shards = list(range(num_shards if length is None else max(1, min(num_shards, length))))
    arguments = {"shards": shards, "num_shards": len(shards), "seed": seed, "start": start, "length": length}
    return datasets.IterableDataset.from_generator(_examples, gen_kwargs=arguments)


class SyntheticFlow:
    """The reader: an example of `synthetic_flow` -> `SyntheticScene`. Picklable; each process has its textures."""

    def __init__(self, settings: SceneSettings | None = None) -> None:
        self.settings = SceneSettings() if settings is None else settings
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

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator | None = None) -> SyntheticScene:
        """The scene depends on the example's `seed` (and `step`) and the settings alone; `rng` is not used."""
        settings, seed = self.settings, int(example["seed"])
        if settings.sizes is not None:  # the seed is as good as random, and the scene draws from it afresh
            height, width = settings.sizes[seed % len(settings.sizes)]
            settings = replace(settings, height=height, width=width, sizes=None)
        return SyntheticScene(settings, seed, self.bank, int(example.get("step", 0)))


def _magnitude(rng: np.random.Generator) -> float:
    """Log-normal with mean 1 (before the cut at 6)."""
    return min(6.0, math.exp(_TAIL * float(rng.standard_normal()) - _TAIL**2 / 2))


class SyntheticScene:
    """One scene as a Sample (see `sample.py`): `first`, `second` and `occlusion` render the box they are asked for.

    The scene goes on outside the frame; only the flow is NaN (and `occlusion` True) there.
    """

    def __init__(self, settings: SceneSettings, seed: int, bank: TextureBank, step: int = 0) -> None:
        self.settings, self.seed, self.bank = settings, seed, bank
        self.height, self.width = settings.height, settings.width
        rng = np.random.default_rng(seed)
        self._texture_start = step // settings.texture_steps if settings.texture_steps else 0
        self._make_layers(rng)
        self._make_camera(rng)

    def _make_layers(self, rng: np.random.Generator) -> None:
        s = self.settings
        calm = rng.uniform(0, 0.1) if rng.random() < _CALM else 1.0
        unit = s.motion * _GAIN * calm
        centre = (rng.uniform(0.2, 0.8) * s.width, rng.uniform(0.2, 0.8) * s.height)
        camera_linear, camera = self._draw_motion(rng, unit)
        self.layers = [self._make_layer(rng, centre, camera_linear, camera)]
        shorter = min(s.height, s.width)
        for _ in range(int(rng.integers(s.objects[0], s.objects[1], endpoint=True))):
            centre = (rng.uniform(-0.05, 1.05) * s.width, rng.uniform(-0.05, 1.05) * s.height)
            # A share of the camera's motion (parallax) and, three times in four, a motion of its own.
            share = rng.uniform(0.4, 1.6) if rng.random() < 0.7 else 0.0
            own_linear, own = self._draw_motion(rng, unit * (0.8 if rng.random() < 0.75 else 0.05))
            x, y = point(self.layers[0].motion, *centre)
            linear = own_linear + share * (camera_linear - np.eye(2))
            move = (own[0] + share * (x - centre[0]), own[1] + share * (y - centre[1]))
            layer = self._make_layer(rng, centre, linear, move)
            radius = shorter * math.exp(rng.uniform(*np.log(s.object_size)))
            aspect = math.exp(0.5 * rng.uniform(-1, 1) * math.log(4))
            angle = rng.uniform(0, 2 * math.pi)
            layer.give_shape(int(rng.integers(2**62)), centre, (radius * aspect, radius / aspect), angle)
            self.layers.append(layer)

    @staticmethod
    def _draw_motion(rng: np.random.Generator, unit: float) -> tuple[np.ndarray, tuple[float, float]]:
        """A random 2 x 2 part near the identity (rotation, scale, shear) and a displacement in pixels."""
        length, angle = unit * _magnitude(rng), rng.uniform(0, 2 * math.pi)
        strength = unit / 10 * math.sqrt(_magnitude(rng))
        turn, size, shear_x, shear_y = np.clip(
            strength * rng.standard_normal(4) * (0.02, 0.02, 0.01, 0.01), -0.25, 0.25
        )
        linear = rotation(turn) * math.exp(size) @ np.array([[1, shear_x], [shear_y, 1]])
        return linear, (length * math.cos(angle), length * math.sin(angle))

    def _make_layer(
        self, rng: np.random.Generator, centre: tuple[float, float], linear: np.ndarray, move: tuple[float, float]
    ) -> Layer:
        s = self.settings
        scale = math.exp(rng.uniform(*np.log(s.texture_scale)))  # frame pixels per texture pixel
        level = 0 if scale * 1.3 > 1 else min(LEVELS - 1, max(1, round(-math.log2(scale))))
        turn = rotation(rng.uniform(0, 2 * math.pi))
        if rng.random() < 0.5:
            turn = turn * (-1, 1)
        place = rng.uniform(0.25, 0.75, 2) * SIDE / 2**level
        placing = about(turn / (scale * 2**level), centre, (place[0], place[1]))
        texture = self._texture_start + int(rng.integers(s.texture_count))
        tint = np.exp(rng.normal(0, 0.12, 3)).tolist()
        return Layer(texture, placing, level, about(linear, centre, (centre[0] + move[0], centre[1] + move[1])), tint)

    def _make_camera(self, rng: np.random.Generator) -> None:
        """How each frame is developed: tone curves, blur, noise, shadow. All drawn here, used when rendering."""
        s = self.settings
        shared = rng.standard_normal(6) * s.photometric
        self._tones = [_tones(shared + s.asymmetric * s.photometric * rng.standard_normal(6)) for _ in range(2)]
        self._blur = rng.uniform(0.3, max(0.3, s.blur_sigma)) if rng.random() < s.blur else 0.0
        self._noise = rng.uniform(0, s.noise)
        self._noise_at = rng.integers(0, _NOISE_SIDE, (2, 2)).tolist()
        self._shadow_frame = int(rng.integers(2)) if rng.random() < s.shadow else -1
        angle, soft = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.6) * s.width
        x, y = rng.uniform(0, s.width), rng.uniform(0, s.height)
        ramp = np.array([math.cos(angle), math.sin(angle)]) / soft
        self._shadow = (ramp[0], ramp[1], 0.5 - ramp[0] * x - ramp[1] * y, rng.uniform(0.15, 0.5))

    def _curve(self, layer: Layer, frame: int) -> np.ndarray:
        """Tone curve of a layer in a frame, uint8 (256, 1, 3)."""
        return np.clip(np.rint(self._tones[frame] * layer.tint), 0, 255).astype(np.uint8)

    def _visible(self, frame: int, box: Box) -> tuple[int, list[tuple[int, Box, np.ndarray]]]:
        """The lowest layer that is seen in the box, and those above it: index, part of the box, opacity there."""
        found: list[tuple[int, Box, np.ndarray]] = []
        for index in range(len(self.layers) - 1, 0, -1):
            layer = self.layers[index]
            part = intersect(box, layer.bounds[frame])
            if part is None:
                continue
            alpha = layer.alpha(layer.shape[frame], part)
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
        image = self.bank.levels(layer.texture)[layer.level]
        return cv2.LUT(sample(image, layer.placing[frame], box, cv2.BORDER_REFLECT_101), self._curve(layer, frame))

    def _render(self, frame: int, box: Box) -> tuple[np.ndarray, int, list[tuple[int, Box, np.ndarray]]]:
        """The image uint8 (h, w, 3) of the box, and what `_visible` found in the box enlarged by the blur's margin."""
        margin = math.ceil(3 * self._blur)
        outer = (box[0] - margin, box[1] - margin, box[2] + 2 * margin, box[3] + 2 * margin)
        base, above = self._visible(frame, outer)
        image = self._texture(base, frame, outer)
        for index, part, alpha in above:
            texture, target = self._texture(index, frame, part), view(image, part, outer)
            ys, xs = np.nonzero(cv2.inRange(alpha, 1, 254))
            weight = alpha[ys, xs, None].astype(np.int32)
            edge = (texture[ys, xs] * weight + target[ys, xs] * (255 - weight) + 127) // 255
            cv2.copyTo(texture, cv2.inRange(alpha, 255, 255), target)
            target[ys, xs] = edge
        if margin:
            image = cv2.GaussianBlur(image, (2 * margin + 1,) * 2, self._blur)[margin:-margin, margin:-margin]
        if frame == self._shadow_frame:
            a, b, c, depth = self._shadow
            ramp, _ = grid(np.array([[a, b, c], [0, 0, 0]]), box)
            light = (1 - depth * np.clip(ramp, 0, 1)).astype(np.float32)
            image = cv2.multiply(image, cv2.merge([light] * 3), dtype=cv2.CV_8U)
        if self._noise > 0:
            image = cv2.add(image, self._noise_tile(frame, box), dtype=cv2.CV_8U)
        return np.ascontiguousarray(image), base, above

    def _noise_tile(self, frame: int, box: Box) -> np.ndarray:
        """The sensor's noise in the box, float32 (h, w, 3). One tile of noise, laid from a random place for each frame:
        a normal deviate a pixel would cost more than the rest, and so windows keep the frame's noise."""
        top, left = ((at + start) % _NOISE_SIDE for at, start in zip(self._noise_at[frame], box[:2], strict=True))
        tile = _gaussian_tile()
        if top + box[2] <= len(tile) and left + box[3] <= len(tile):
            part = tile[top : top + box[2], left : left + box[3]]
        else:
            part = tile[
                (np.arange(top, top + box[2]) % _NOISE_SIDE)[:, None], np.arange(left, left + box[3]) % _NOISE_SIDE
            ]
        return np.multiply(part, np.float32(self._noise / _NOISE_UNIT), dtype=np.float32)

    def _labels(self, box: Box) -> np.ndarray:
        """Index of the topmost layer with more than half opacity in frame 1, int (h, w)."""
        base, above = self._visible(0, box)
        labels = np.full(box[2:], base, np.int32)
        for index, part, alpha in above:
            view(labels, part, box)[alpha >= 128] = index
        return labels

    def _outside(self, box: Box) -> np.ndarray:
        rows, columns = np.arange(box[0], box[0] + box[2]), np.arange(box[1], box[1] + box[3])
        return ~(((rows >= 0) & (rows < self.height))[:, None] & ((columns >= 0) & (columns < self.width)))

    def _layer_flow(self, index: int, box: Box) -> np.ndarray:
        x, y = grid(self.layers[index].motion - np.eye(2, 3), box)
        return cv2.merge([x.astype(np.float32), y.astype(np.float32)])

    def first(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Frame 1 in the box, uint8 RGB (h, w, 3), and its flow, float32 (h, w, 2), NaN outside the frame."""
        image, base, above = self._render(0, box)
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
        """True where what frame 1 shows is behind another layer in frame 2 or has left the frame, bool (h, w)."""
        labels = self._labels(box)
        hidden = self._outside(box)
        for label in np.unique(labels).tolist():
            motion = self.layers[label].motion
            x, y = grid(motion, box)
            gone = (x < 0) | (y < 0) | (x > self.width - 1) | (y > self.height - 1)
            for above in self.layers[label + 1 :]:
                gone |= above.alpha(compose(above.shape[1], motion), box) >= 128
            hidden |= gone & (labels == label)
        return hidden


def _tones(deviates: np.ndarray) -> np.ndarray:
    """Grey levels after gamma, contrast, brightness and colour gains, float64 (256, 1, 3); zeros change nothing."""
    brightness, contrast, gamma = deviates[:3].tolist()
    values = (np.arange(256) / 255.0) ** math.exp(0.15 * gamma)
    values = (values - 0.5) * math.exp(0.15 * contrast) + 0.5 + 0.05 * brightness
    return 255 * values[:, None, None] * np.exp(0.05 * deviates[3:])


@lru_cache(maxsize=1)
def _gaussian_tile() -> np.ndarray:
    """Normal deviates times `_NOISE_UNIT`, int8 (768, 768, 3), of period 512, the same in every process. It is larger
    than its period so that most windows are a plain slice."""
    values = np.random.default_rng(0).standard_normal((_NOISE_SIDE, _NOISE_SIDE, 3), dtype=np.float32) * _NOISE_UNIT
    tile = np.clip(np.rint(values), -127, 127).astype(np.int8)
    return np.ascontiguousarray(np.pad(tile, ((0, 256), (0, 256), (0, 0)), mode="wrap"))
