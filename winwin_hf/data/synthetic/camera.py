"""The camera of a synthetic scene: tone curves, blur of the lens, shadow, noise, compression.

Notable here:
- Everything is drawn once for a scene and depends on a pixel's place in the frame, so a window is the crop of the full frame.
  Effects that need a pixel's surroundings get a larger box (`Camera.needs`).
- JPEG works on blocks of 8 x 8 pixels, with halved colours on 16 x 16, and interpolates halved colours from neighbouring
  blocks: boxes are enlarged to the frame's blocks, and with halved colours by one more.

Source: ours.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

from winwin_hf.data.sample import Box
from winwin_hf.data.synthetic.settings import SceneSettings
from winwin_hf.data.synthetic.textures import grid, view

_NOISE_SIDE, _NOISE_UNIT = 512, 24.0  # a tile of gaussian noise, and its standard deviation there
_QUALITY = (30, 95)  # of compression
_EXPOSURE = (0.1, 0.5)  # share of the time between the frames
_BLOCK = 16  # pixels of a compressed block with halved colours; without them it is 8


class Camera:
    """One scene's camera.

    Attributes:
        exposure: of motion blur, as a share of the time between the frames; 0: no blur.
        quality: of compression, 0 to 100; None: no compression. halved: whether it halves the colours' resolution.
    """

    def __init__(self, settings: SceneSettings, rng: np.random.Generator) -> None:
        s = settings
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
        self.exposure = rng.uniform(*_EXPOSURE) if rng.random() < s.motion_blur else 0.0
        self.quality = int(rng.integers(*_QUALITY, endpoint=True)) if rng.random() < s.compression else None
        self.halved = bool(rng.random() < 0.5)

    def curve(self, tint: list[float], frame: int) -> np.ndarray:
        """Tone curve of a layer of this tint in a frame, uint8 (256, 1, 3)."""
        return np.clip(np.rint(self._tones[frame] * tint), 0, 255).astype(np.uint8)

    @property
    def _margin(self) -> int:
        return math.ceil(3 * self._blur)

    def needs(self, box: Box) -> Box:
        """The box that must be rendered so that `develop` can return `box`."""
        top, left, height, width = self._blocks(box)
        return top - self._margin, left - self._margin, height + 2 * self._margin, width + 2 * self._margin

    def _blocks(self, box: Box) -> Box:
        """The box of the compressed blocks that a box depends on."""
        if self.quality is None:
            return box
        side, spare = (_BLOCK, 1) if self.halved else (_BLOCK // 2, 0)
        (top, height), (left, width) = (
            (side * (start // side - spare), side * (-(-(start + size) // side) + spare))
            for start, size in ((box[0], box[2]), (box[1], box[3]))
        )
        return top, left, height - top, width - left

    def develop(self, image: np.ndarray, frame: int, box: Box) -> np.ndarray:
        """The final frame in the box, uint8 RGB (h, w, 3). image: rendered in `needs(box)`."""
        margin, blocks = self._margin, self._blocks(box)
        if margin:
            image = cv2.GaussianBlur(image, (2 * margin + 1,) * 2, self._blur)[margin:-margin, margin:-margin]
        if frame == self._shadow_frame:
            a, b, c, depth = self._shadow
            ramp, _ = grid(np.array([[a, b, c], [0, 0, 0]]), blocks)
            light = (1 - depth * np.clip(ramp, 0, 1)).astype(np.float32)
            image = cv2.multiply(image, cv2.merge([light] * 3), dtype=cv2.CV_8U)
        if self._noise > 0:
            image = cv2.add(image, self._noise_tile(frame, blocks), dtype=cv2.CV_8U)
        if self.quality is not None:
            image = view(self._compress(image, self.quality), box, blocks)
        return np.ascontiguousarray(image)

    def _compress(self, image: np.ndarray, quality: int) -> np.ndarray:
        factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if self.halved else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)

    def _noise_tile(self, frame: int, box: Box) -> np.ndarray:
        """The sensor's noise in the box, float32 (h, w, 3): one tile of noise, shifted at random for each frame. Drawing normal
        deviates for each pixel would cost more than the rest."""
        top, left = ((at + start) % _NOISE_SIDE for at, start in zip(self._noise_at[frame], box[:2], strict=True))
        tile = _gaussian_tile()
        if top + box[2] <= len(tile) and left + box[3] <= len(tile):
            part = tile[top : top + box[2], left : left + box[3]]
        else:
            part = tile[
                (np.arange(top, top + box[2]) % _NOISE_SIDE)[:, None], np.arange(left, left + box[3]) % _NOISE_SIDE
            ]
        return np.multiply(part, np.float32(self._noise / _NOISE_UNIT), dtype=np.float32)


def _tones(deviates: np.ndarray) -> np.ndarray:
    """Grey levels after gamma, contrast, brightness and colour gains, float64 (256, 1, 3); zeros change nothing."""
    brightness, contrast, gamma = deviates[:3].tolist()
    values = (np.arange(256) / 255.0) ** math.exp(0.15 * gamma)
    values = (values - 0.5) * math.exp(0.15 * contrast) + 0.5 + 0.05 * brightness
    return 255 * values[:, None, None] * np.exp(0.05 * deviates[3:])


@lru_cache(maxsize=1)
def _gaussian_tile() -> np.ndarray:
    """Normal deviates times `_NOISE_UNIT`, int8 (768, 768, 3), with period 512, the same in every process. It is larger than
    its period so that most windows are a slice of it."""
    values = np.random.default_rng(0).standard_normal((_NOISE_SIDE, _NOISE_SIDE, 3), dtype=np.float32) * _NOISE_UNIT
    tile = np.clip(np.rint(values), -127, 127).astype(np.int8)
    return np.ascontiguousarray(np.pad(tile, ((0, 256), (0, 256), (0, 0)), mode="wrap"))
