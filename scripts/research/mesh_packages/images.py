"""Textures: files are looked up without regard to case, read once, and their alpha is judged."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

OPAQUE_SHARE = 0.995  # an image with more opaque pixels than this share has no holes


@lru_cache(maxsize=64)
def cached(read: Callable[[str], bytes], name: str) -> Image.Image:
    """The decoded image; files of a package share textures, and a glTF file stores each object once."""
    image = Image.open(io.BytesIO(read(name)))
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")


def has_holes(image: Image.Image) -> bool:
    """Whether its alpha channel makes more than a few pixels invisible."""
    if image.mode != "RGBA":
        return False
    return bool((np.asarray(image.getchannel("A")) >= 128).mean() < OPAQUE_SHARE)
