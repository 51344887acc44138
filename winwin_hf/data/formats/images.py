"""Pictures, and ground truth stored in them: KITTI's flow and disparity, depth, labels.

Notable:
- Pillow reads pictures and labels (it keeps a palette's indices); OpenCV reads 16-bit PNGs, whose colours Pillow cuts to 8 bits.
- OpenCV decodes a damaged PNG partly, without an error. So every chunk's checksum is verified first.
- 16-bit PNGs hold steps, not floats: values that were read are written as the same samples; others are rounded to the nearest
  step. A value that 16 bits can't hold is written as unknown.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from winwin_hf.data.formats.arrays import write_npy
from winwin_hf.data.formats.files import (
    DEFLATE_RATIO,
    PathLike,
    Source,
    check_claim,
    check_suffix,
    content_of,
    decoding,
    flow_array,
    map_array,
    name_of,
    opened,
    write_atomic,
)
from winwin_hf.model.pixels_winwin import check_pixels, naming, open_raster, read_samples, rgb_image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: grey, RGB, palette, grey and alpha, RGB and alpha

# ---- pictures ----


def read_image(source: Source) -> np.ndarray:
    """Any image Pillow reads -> RGB uint8 (H, W, 3), turned as its EXIF says, values as `rgb_image` says: 16 bits and floats in 0..1 are
    scaled; alpha is laid over white; of an animation, the first frame."""
    with opened(source) as (file, size):
        _png_header(name_of(source), file.read(33), size)
        file.seek(0)
        with decoding(source, "image"):
            image = open_raster(file)
    with naming(name_of(source)):
        return rgb_image(image)


def save_image(path: PathLike, image: Any) -> None:
    """Writes uint8 (H, W, 3) or (H, W), or a PIL image, in the format that the suffix names."""
    path = Path(path)
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
            raise ValueError(
                f"{path}: an image is uint8 (H, W, 3) or (H, W), got {array.dtype} of shape {array.shape}."
            )
        image = Image.fromarray(np.ascontiguousarray(array))
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{path}: the suffix {path.suffix!r} names no image format; expected e.g. .png or .jpg.")
    with write_atomic(path) as temporary:
        image.save(temporary)


# ---- labels ----


def read_labels(source: Source) -> np.ndarray:
    """A picture of ids -> (H, W), uint8 or, if it has 16 bits, int32. A palette's indices are the ids, its colours are ignored.

    Raises: ValueError for a picture of several channels, and for a JPEG, whose compression changes ids.
    """
    with opened(source) as (file, _):
        if file.read(3) == b"\xff\xd8\xff":
            raise ValueError(f"{name_of(source)}: a JPEG, whose compression changes the ids of classes; expected a PNG")
    ids, mode = _read_samples(source)
    if ids.ndim != 2 or ids.dtype.kind == "f":
        raise ValueError(
            f"{name_of(source)}: labels are one integer a pixel, this picture has the channels {mode!r}; in names.txt each class "
            "may have its colour (`road = #804080`)."
        )
    return ids if ids.dtype == np.uint8 else ids.astype(np.int32)


def read_mask(source: Source) -> np.ndarray:
    """A picture -> bool (H, W): where a sample other than alpha isn't zero. Of a palette picture, where the index isn't."""
    samples, mode = _read_samples(source)
    if samples.ndim == 2:
        return samples != 0
    return (samples[..., : len(mode.rstrip("AaXx"))] != 0).any(axis=2)


def _read_samples(source: Source) -> tuple[np.ndarray, str]:
    with opened(source) as (file, size):
        _png_header(name_of(source), file.read(33), size)
        file.seek(0)
        with decoding(source, "image"):
            return read_samples(file)


def write_labels(path: PathLike, ids: Any, palette: Sequence[Sequence[int]] | None = None) -> None:
    """Ids (H, W) -> PNG: 8-bit grey; a palette PNG if `palette` (RGB colours of the first ids) is given; 16-bit grey if an id is
    above 255. `read_labels` gives the same ids.

    Raises: ValueError for ids outside 0 to 65535, or above 255 with a palette.
    """
    check_suffix(path, ".png")
    array = map_array(path, ids, "a label map", None)
    if array.dtype.kind not in "bui":
        raise ValueError(f"{path}: labels are integers, got {array.dtype}.")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > (65535 if palette is None else 255):
        raise ValueError(
            f"{path}: ids from {low} to {high}; expected 0 to {'65535' if palette is None else '255, with a palette'}."
        )
    image = Image.fromarray(array.astype(np.uint8 if high <= 255 else np.uint16))
    if palette is not None:
        colours = np.zeros((256, 3), np.uint8)  # all 256: with fewer, Pillow would store ids of fewer bits
        colours[: len(palette)] = palette
        image.putpalette(colours.tobytes())
    with write_atomic(path) as temporary:
        image.save(temporary)


# ---- KITTI ----


def read_kitti_flow(source: Source) -> np.ndarray:
    """KITTI's 16-bit PNG -> (H, W, 2) float32, NaN where there is no ground truth. (KITTI's development kit)

    Red is u and green is v, each as value / 64 - 512; blue is 0 where unknown.
    """
    raw = _read_png16(source)
    if raw.ndim != 3 or raw.shape[2] != 3 or raw.dtype != np.uint16:
        raise ValueError(
            f"{name_of(source)}: KITTI flow is a 16-bit PNG of three channels, this one is {raw.dtype} {raw.shape}."
        )
    flow = (raw[..., 2:0:-1].astype(np.float32) - np.float32(32768)) / np.float32(
        64
    )  # OpenCV's order: blue, green, red
    flow[raw[..., 0] == 0] = np.nan
    return flow


def write_kitti_flow(path: PathLike, flow: Any) -> None:
    """(H, W, 2) -> KITTI's 16-bit PNG, rounded to the nearest 1/64 pixel; blue is 1 where known.

    Unknown: not finite, or outside -512 to 511.98 pixels. Those are written as zero flow marked as unknown, as KITTI's are.
    """
    check_suffix(path, ".png")
    steps = np.rint(flow_array(path, flow).astype(np.float64) * 64 + 32768)
    known = ((steps >= 0) & (steps <= 65535)).all(axis=2)  # false for NaN, too
    steps[~known] = 32768
    _write_png16(path, np.dstack([known, steps[..., 1], steps[..., 0]]).astype(np.uint16))


def read_kitti_disparity(source: Source) -> np.ndarray:
    """KITTI's 16-bit PNG of disparities -> (H, W) float32 in pixels, value / 256; 0 is unknown, NaN. (KITTI's development kit)"""
    return _read_grey16(source, 256.0, (0,), "a KITTI disparity map")


def write_kitti_disparity(path: PathLike, disparity: Any) -> None:
    """(H, W) in pixels -> KITTI's 16-bit PNG, rounded to the nearest 1/256 pixel. Unknown: not finite, negative, or 256 and more.

    The format has no zero disparity: what rounds to it is written as 1/256.
    """
    array = map_array(path, disparity, "a disparity map", np.float64)
    _write_steps(path, array, array >= 0, 256.0)


# ---- depth ----


def read_depth_png(source: Source, scale: float, unknown: Sequence[int] = (0,)) -> np.ndarray:
    """16-bit grey PNG -> depth in metres (H, W) float32, value / scale; `unknown` values become NaN.

    `scale` is in steps per metre: 256 for KITTI, 1000 for millimetres (7-Scenes, where 65535 is unknown too), 5000 for TUM.
    """
    return _read_grey16(source, scale, unknown, "a depth PNG")


def write_depth_png(path: PathLike, depth: Any, scale: float = 1000.0) -> None:
    """Depth in metres (H, W) -> 16-bit grey PNG of `scale` steps per metre; 0 = unknown, or further than 16 bits reach."""
    array = map_array(path, depth, "a depth map", np.float64)
    _write_steps(path, array, array > 0, scale)


MOST_METRES = 65.535  # of 16 bits of millimetres


def write_depth(path: PathLike, depth: np.ndarray) -> None:
    """Depth (H, W) in metres -> .npy (float32) or .png (16-bit millimetres; 0 = unknown; 65.535 m and more are 65535), by the suffix."""
    if Path(path).suffix.lower() == ".png":
        millimetres = np.rint(np.nan_to_num(depth * 1000, nan=0.0, posinf=0.0, neginf=0.0)).clip(0, 65535)
        save_image(path, Image.fromarray(millimetres.astype(np.uint16)))
    else:
        write_npy(path, depth.astype(np.float32))


# ---- shared by the functions above ----


def _read_grey16(source: Source, scale: float, unknown: Sequence[int], what: str) -> np.ndarray:
    if not scale > 0:
        raise ValueError(f"scale must be a positive number of steps per unit, got {scale}.")
    raw = _read_png16(source)
    if raw.ndim != 2 or raw.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{name_of(source)}: {what} is grey with 16 bits, this one is {raw.dtype} {raw.shape}.")
    if raw.dtype == np.uint8 and scale >= 256:  # all of it would lie below one unit
        raise ValueError(
            f"{name_of(source)}: {what} of {scale:g} steps per unit has 16 bits, this one has 8; expected other bits or steps."
        )
    values = raw.astype(np.float32) / np.float32(scale)
    values[np.isin(raw, unknown)] = np.nan
    return values


def _write_steps(path: PathLike, values: np.ndarray, known: np.ndarray, scale: float) -> None:
    check_suffix(path, ".png")
    if not scale > 0:
        raise ValueError(f"scale must be a positive number of steps per unit, got {scale}.")
    steps = np.maximum(np.rint(values * scale), 1)  # a very small value isn't unknown
    _write_png16(path, np.where(known & (steps <= 65535), steps, 0).astype(np.uint16))  # false for NaN, too


def _write_png16(path: PathLike, raw: np.ndarray) -> None:
    done, content = cv2.imencode(".png", raw)
    if not done:
        raise ValueError(f"{path}: OpenCV could not encode {raw.dtype} of shape {raw.shape} as PNG.")
    with write_atomic(path) as temporary:
        temporary.write_bytes(content.tobytes())


def _read_png16(source: Source) -> np.ndarray:
    """A PNG with its bits kept: (H, W) or (H, W, 3) in OpenCV's order BGR."""
    name, content = name_of(source), content_of(source)
    header = _png_header(name, content[:33], len(content))
    if header is None:
        raise ValueError(f"{name}: not a PNG file.")
    _check_png_chunks(name, content)
    if header[2] < 8:
        raise ValueError(f"{name}: a PNG of {header[2]} bits a channel; expected 16.")
    with decoding(source, "PNG"):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{name}: not a readable PNG.")
    return image


def _png_header(name: str, start: bytes, size: int) -> tuple[int, int, int, int] | None:
    """Width, height, bits a channel and colour type of a PNG file of `size` bytes; None for other files.

    Raises: ValueError if the file can't hold that many pixels, since a decoder would allocate them first.
    """
    if start[:8] != PNG_SIGNATURE:
        return None
    if len(start) < 33 or start[12:16] != b"IHDR":
        raise ValueError(f"{name}: a PNG file without a header.")
    width, height, bits, colour = struct.unpack(">IIBB", start[16:26])
    with naming(name):
        check_pixels((height, width))
    check_claim(name, (height, width), bits * PNG_CHANNELS.get(colour, 1) / 8, size, DEFLATE_RATIO)
    return width, height, bits, colour


def _check_png_chunks(name: str, content: bytes) -> None:
    """Raises ValueError unless the chunks follow each other to the end, each with the right checksum."""
    view, position, kind = memoryview(content), 8, b""
    while kind != b"IEND":
        if position + 12 > len(content):
            raise ValueError(f"{name}: a PNG file that ends too early.")
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + length
        if end + 4 > len(content):
            raise ValueError(f"{name}: a PNG file that ends too early.")
        if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise ValueError(f"{name}: a damaged PNG file: the checksum of {kind!r} at byte {position} is wrong.")
        position = end + 4
