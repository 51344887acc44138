"""The texture bank of synthetic scenes, and sampling through affine maps and homographies.

Texture i is a pure function of the bank's seed and i.

Notable here:
- Three kinds: coloured noise (also as marble, stripes and checks), dead leaves, photographs from a folder.
- Textures are made on first use and kept in a least-recently-used cache with a bound in megabytes.
- Each texture comes with prefiltered half and quarter sizes, so that minifying it does not alias.

A procedural texture is 512 x 512 RGB and takes about 1 MB with its levels, a photograph of 768 x 512 1.6 MB.
Source: ours (dead leaves after Lee, Mumford and Huang, 2001).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.sample import Box

KINDS = ("noise", "leaves", "photographs")
SIDE = 512  # pixels of a procedural texture
LEVELS = 3  # full, half and quarter size
PHOTOGRAPH_SUFFIXES = (".jpg", ".jpeg", ".png")
NEAREST = 0.05  # lower bound of a homography's denominator: points near or behind the horizon go far outside the frame


def desaturate(colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours moved towards their grey by a random share: independent channels would be more colourful than photographs."""
    share = rng.uniform(0.2, 0.95)
    return share * colours.mean(-1, keepdims=True) + (1 - share) * colours


def _palette(rng: np.random.Generator, colours: int) -> np.ndarray:
    """A smooth random walk through `colours` colours as a look-up table, uint8 (256, 1, 3)."""
    knots = desaturate(rng.uniform(0, 255, (1, colours, 3)), rng).astype(np.uint8)
    return cv2.resize(knots, (256, 1), interpolation=cv2.INTER_LINEAR).reshape(256, 1, 3)


def _octaves(rng: np.random.Generator, channels: int, decay: float, side: int = SIDE) -> np.ndarray:
    """Sum of octaves of value noise whose amplitude goes with (1 / frequency) ** decay: float32 (side, side, channels),
    zero mean, unit deviation in each channel."""
    total = np.zeros((side, side, channels), np.float32)
    cells = 4
    while cells <= side:
        values = rng.random((cells, cells, channels), dtype=np.float32) - 0.5
        layer = values if cells == side else cv2.resize(values, (side, side), interpolation=cv2.INTER_LINEAR)
        cv2.scaleAdd(layer.reshape(total.shape), float((4.0 / cells) ** decay), total, total)
        cells *= 2
    mean, deviation = cv2.meanStdDev(total)
    total -= mean.reshape(-1).astype(np.float32)
    total /= np.maximum(deviation.reshape(-1), 1e-6).astype(np.float32)
    return total


def noise_texture(rng: np.random.Generator) -> np.ndarray:
    """Coloured noise, uint8 RGB (512, 512, 3): plain, through a palette (marble), stripes or checks."""
    kind = rng.choice(4, p=(0.45, 0.3, 0.15, 0.1))
    decay = rng.uniform(0.3, 1.1)
    if kind == 0:  # three correlated channels
        noise = _octaves(rng, 3, decay)
        mix = np.eye(3) * rng.uniform(0.2, 1.0) + rng.uniform(0.3, 1.0, (3, 1)) @ np.ones((1, 3)) / 3
        image = cv2.transform(noise, mix.astype(np.float32) * rng.uniform(25, 60))
        image += desaturate(rng.uniform(50, 205, 3), rng).astype(np.float32)
        return np.clip(image, 0, 255).astype(np.uint8)
    scalar = _octaves(rng, 1, decay)[..., 0]
    if kind == 1:
        values = cv2.convertScaleAbs(scalar * np.float32(rng.uniform(40, 120)) + 128)
        return cv2.LUT(cv2.merge([values] * 3), _palette(rng, int(rng.integers(3, 24))))
    # Stripes and checks: a plane wave (or the product of two), bent a little by the noise, so not repetitive.
    angle, length, bend = rng.uniform(0, np.pi), rng.uniform(12, 90), rng.uniform(0.3, 1.5)
    phase = np.arange(SIDE, dtype=np.float32) * np.float32(2 * np.pi / length)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    wave = np.sin(phase * c + phase[:, None] * s + scalar * np.float32(bend))
    if kind == 3:
        wave *= np.sin(phase[:, None] * c - phase * s - scalar * np.float32(bend))
    if rng.random() < 0.5:
        wave = np.clip(wave * 4, -1, 1)
    values = cv2.convertScaleAbs(wave * np.float32(90) + scalar * np.float32(rng.uniform(8, 30)) + 128)
    return cv2.LUT(cv2.merge([values] * 3), _palette(rng, int(rng.integers(2, 6))))


def leaves_texture(rng: np.random.Generator) -> np.ndarray:
    """Dead leaves, uint8 RGB (512, 512, 3): discs and polygons that hide each other, radii by a power law, each with a
    noise of its own strength."""
    count, smallest, largest = int(rng.integers(400, 900)), rng.uniform(3, 12), rng.uniform(60, 160)
    power = rng.uniform(1.2, 2.4)  # of the density of radii; inverse of its cumulative distribution below
    low, high = smallest ** (1 - power), largest ** (1 - power)
    radii = (low + (high - low) * rng.random(count)) ** (1 / (1 - power))
    # Sort half of the radii, so that large leaves lie below small ones; else hardly any small leaf would be visible.
    half = count // 2
    radii[:half] = np.sort(radii[:half])[::-1]
    centres = rng.uniform(-20, SIDE + 20, (count, 2))
    polygonal = rng.random() * np.ones(count) > rng.random(count)
    base = desaturate(rng.uniform(0, 255, 3), rng)
    spread = rng.uniform(25, 110)
    colours = np.clip(desaturate(base + rng.normal(0, spread, (count, 3)), rng), 0, 255)
    strengths = rng.uniform(0, 60, count) * rng.random()
    corners = rng.integers(3, 8, count)
    angles = np.sort(rng.uniform(0, 2 * np.pi, (count, 8)), axis=1)
    stretch = rng.uniform(0.5, 1.0, (count, 8))
    canvas = np.empty((SIDE, SIDE, 4), np.uint8)
    canvas[:] = (*base, 40)
    points = centres[:, None] + (radii[:, None] * stretch)[..., None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    points16 = np.rint(points * 16).astype(np.int32)
    centres16, radii16 = np.rint(centres * 16).astype(int).tolist(), np.rint(radii * 16).astype(int).tolist()
    paints = np.concatenate([colours, strengths[:, None]], axis=1).tolist()
    for i in range(count):
        if polygonal[i]:
            cv2.fillPoly(canvas, [points16[i, : corners[i]]], paints[i], cv2.LINE_AA, 4)
        else:
            cv2.circle(canvas, centres16[i], radii16[i], paints[i], -1, cv2.LINE_AA, 4)
    grain = _octaves(rng, 1, rng.uniform(0.1, 0.9))[..., 0]
    grain *= canvas[..., 3]
    return cv2.add(canvas[..., :3], cv2.merge([grain] * 3), dtype=cv2.CV_8U)


def find_photographs(folder: str | Path) -> list[Path]:
    """All jpg and png files below `folder`, sorted by their path. An error if there are none."""
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"textures folder {str(root)!r} is not a folder")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in PHOTOGRAPH_SUFFIXES and path.is_file())
    if not files:
        raise FileNotFoundError(f"textures folder {str(root)!r} has no jpg or png file")
    return files


def read_photograph(path: str | Path, max_side: int) -> np.ndarray:
    """A photograph as uint8 RGB (h, w, 3), no side longer than `max_side` pixels. Raises BrokenExample for a file that can't be read."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise BrokenExample(f"{path}: {error.strerror or error}; expected the photograph that was listed") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise BrokenExample(f"cannot decode the texture {str(path)!r}: expected a jpg or png photograph")
    scale = max_side / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class TextureBank:
    """`bank.levels(i)` gives texture i at full, half and quarter size; i is any integer from 0.

    Args:
        seed: another seed is another bank.
        photographs: a folder, searched recursively; None: no photographs, whatever their weight.
        weights: share of each kind of `KINDS`; they need not sum to one.
        max_side: longest side of a photograph, pixels (larger ones are reduced).
        cache_mb: bound of the cache, megabytes per process.
    """

    def __init__(
        self,
        seed: int = 0,
        photographs: str | Path | None = None,
        weights: Mapping[str, float] | None = None,
        max_side: int = 768,
        cache_mb: float = 256,
    ) -> None:
        weights = dict.fromkeys(KINDS, 1.0) if weights is None else dict(weights)
        unknown = sorted(set(weights) - set(KINDS))
        if unknown or any(value < 0 for value in weights.values()):
            raise ValueError(f"texture weights must be numbers >= 0 for {', '.join(KINDS)}; got {weights}")
        self.files = find_photographs(photographs) if photographs is not None else []
        shares = np.array([weights.get(kind, 0.0) for kind in KINDS], np.float64)
        if not self.files:
            shares[KINDS.index("photographs")] = 0.0
        if shares.sum() <= 0:
            raise ValueError(f"no texture can be drawn: weights {weights}, {len(self.files)} photographs")
        self.seed, self.max_side, self.cache_bytes = seed, max_side, int(cache_mb * 2**20)
        self._bounds = np.cumsum(shares / shares.sum())
        self._cache: OrderedDict[int, list[np.ndarray]] = OrderedDict()
        self._held = 0

    def make(self, index: int) -> np.ndarray:
        """Texture `index` at full size, uint8 RGB (h, w, 3), not cached."""
        rng = np.random.default_rng((self.seed, index))
        kind = KINDS[min(int(np.searchsorted(self._bounds, rng.random(), side="right")), len(KINDS) - 1)]
        if kind == "noise":
            return noise_texture(rng)
        if kind == "leaves":
            return leaves_texture(rng)
        return read_photograph(self.files[int(rng.integers(len(self.files)))], self.max_side)

    def levels(self, index: int) -> list[np.ndarray]:
        """Texture `index` at full, half and quarter size, each uint8 RGB."""
        found = self._cache.get(index)
        if found is not None:
            self._cache.move_to_end(index)
            return found
        levels = [self.make(index)]
        while len(levels) < LEVELS:
            levels.append(cv2.pyrDown(levels[-1]))
        self._cache[index] = levels
        self._held += sum(level.nbytes for level in levels)
        while self._held > self.cache_bytes and len(self._cache) > 1:
            self._held -= sum(level.nbytes for level in self._cache.popitem(last=False)[1])
        return levels


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The map p -> outer(inner(p)): 2 x 3 of two affine maps, 3 x 3 if either is a homography."""
    if len(outer) == len(inner) == 2:
        result = outer[:, :2] @ inner
        result[:, 2] += outer[:, 2]
        return result
    return _square(outer) @ _square(inner)


def invert(a: np.ndarray) -> np.ndarray:
    """The inverse map, 2 x 3 or 3 x 3 as `a` is."""
    if len(a) == 3:
        return np.linalg.inv(a)
    (m, n, u), (o, p, v) = a.tolist()
    d = m * p - n * o
    return np.array([[p / d, -n / d, (n * v - p * u) / d], [-o / d, m / d, (o * u - m * v) / d]])


def _square(a: np.ndarray) -> np.ndarray:
    return a if len(a) == 3 else np.vstack([a, (0.0, 0.0, 1.0)])


def about(linear: np.ndarray, source: tuple[float, float], target: tuple[float, float]) -> np.ndarray:
    """The affine map with this 2 x 2 linear part that takes `source` to `target`."""
    (m, n), (o, p) = linear.tolist()
    (x, y), (u, v) = source, target
    return np.array([[m, n, u - m * x - n * y], [o, p, v - o * x - p * y]])


def rotation(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def point(affine: np.ndarray, x: float, y: float) -> tuple[float, float]:
    (a, b, c), (d, e, f) = affine.tolist()
    return a * x + b * y + c, d * x + e * y + f


def grid(plane: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The map (2 x 3 or 3 x 3) at each pixel of the box, (x, y) as float64 (h, w) each; its bits don't depend on the box."""
    top, left, height, width = box
    xs = np.arange(left, left + width, dtype=np.float64)
    ys = np.arange(top, top + height, dtype=np.float64)[:, None]
    return project(plane, xs, ys)


def project(plane: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map (2 x 3 or 3 x 3) at places (x, y), two arrays that may be broadcast."""
    (a, b, c), (d, e, f) = plane[:2].tolist()
    u, v = a * x + (b * y + c), d * x + (e * y + f)
    if len(plane) == 3:
        g, h, i = plane[2].tolist()
        nearness = 1 / np.maximum(g * x + (h * y + i), NEAREST)
        u *= nearness
        v *= nearness
    return u, v


def sample_at(image: np.ndarray, x: np.ndarray, y: np.ndarray, border: int) -> np.ndarray:
    """The image at places (x, y), (h, w) each, interpolated linearly."""
    return cv2.remap(
        image, x.astype(np.float32, copy=False), y.astype(np.float32, copy=False), cv2.INTER_LINEAR, borderMode=border
    )


def intersect(a: Box, b: Box) -> Box | None:
    top, left = max(a[0], b[0]), max(a[1], b[1])
    bottom, right = min(a[0] + a[2], b[0] + b[2]), min(a[1] + a[3], b[1] + b[3])
    return (top, left, bottom - top, right - left) if bottom > top and right > left else None


def view(image: np.ndarray, box: Box, outer: Box) -> np.ndarray:
    """The part `box` of an image of the box `outer`."""
    top, left = box[0] - outer[0], box[1] - outer[1]
    return image[top : top + box[2], left : left + box[3]]
