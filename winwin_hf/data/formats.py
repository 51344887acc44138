"""Reading and writing files of images, flow and depth.

A malformed file is one error that names it; nothing is allocated on the word of a header that the file's size can't back.
Every writer goes through `write_atomic`: a reader never sees half a file, and a failed write leaves what was there.

Flow is float32 (H, W, 2), (u right, v down) in pixels, NaN = unknown; depth is float32 (H, W) in metres, NaN = unknown.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

PathLike: TypeAlias = "str | Path"

FLO_MAGIC = 202021.25  # its four little-endian bytes spell "PIEH"
FLO_UNKNOWN = 1e10  # what we write for an unknown vector
FLO_LIMIT = 1e9  # Middlebury: a component above this is unknown

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_RATIO = 1100  # deflate packs at most about 1032 : 1


@contextmanager
def write_atomic(path: PathLike) -> Iterator[Path]:
    """Gives a temporary name in `path`'s folder, with its suffix; what was written there becomes `path` if nothing failed.

    ```python
    with write_atomic("flow.flo") as temporary:
        temporary.write_bytes(content)
    ```
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist.")
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# ---- images ----


def read_image(path: PathLike) -> np.ndarray:
    """Any image Pillow reads -> RGB uint8 (H, W, 3), turned as its EXIF says. 16-bit grey is scaled; alpha is laid over white."""
    path = Path(path)
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips it to white
                grey = np.asarray(image).clip(0, 65535).astype(np.float32) / 257
                return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)
            if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.asarray(image.convert("RGB"))
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: not a readable image ({error}).") from error


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


# ---- flow ----


def read_flo(path: PathLike, unknown_to_nan: bool = True) -> np.ndarray:
    """Middlebury .flo -> (H, W, 2) float32. Vectors with a component beyond 1e9 become NaN, unless `unknown_to_nan=False`.

    Layout: float32 202021.25, int32 width, int32 height, then u and v of each pixel as float32, row by row, little-endian.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(12)
        if len(header) < 12:
            raise ValueError(f"{path}: not a .flo file: {size} bytes are fewer than its header's 12.")
        magic, width, height = struct.unpack("<fii", header)
        if magic != FLO_MAGIC:
            raise ValueError(f"{path}: not a .flo file: it starts with {header[:4]!r}, expected b'PIEH'.")
        if width < 1 or height < 1:
            raise ValueError(f"{path}: a .flo header with the impossible size {width} x {height}.")
        expected = 12 + 8 * width * height
        if size != expected:
            raise ValueError(
                f"{path}: a .flo header of {width} x {height} pixels (width x height) needs {expected} bytes, the file has {size}."
            )
        flow = np.fromfile(file, "<f4", 2 * width * height)
    if flow.size != 2 * width * height:
        raise ValueError(f"{path}: the file ended while it was read.")
    flow = flow.reshape(height, width, 2).astype(np.float32, copy=False)
    if unknown_to_nan:
        with np.errstate(invalid="ignore"):
            flow[~(np.abs(flow) <= FLO_LIMIT).all(axis=2)] = np.nan
    return flow


def write_flo(path: PathLike, flow: Any) -> None:
    """(H, W, 2) -> Middlebury .flo. A vector with a component that isn't finite is written as unknown (1e10, 1e10)."""
    array = _flow_array(path, flow)
    known = np.isfinite(array).all(axis=2)
    if not known.all():
        array = np.where(known[..., None], array, np.float32(FLO_UNKNOWN))
    height, width = array.shape[:2]
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<fii", FLO_MAGIC, width, height))
        file.write(np.ascontiguousarray(array, "<f4").data)


def read_kitti_flow(path: PathLike) -> np.ndarray:
    """KITTI's 16-bit PNG -> (H, W, 2) float32, NaN where there is no ground truth.

    Red is u and green is v, each as value / 64 - 512; blue is 0 where unknown.
    """
    raw = _read_png16(path)
    if raw.ndim != 3 or raw.shape[2] != 3 or raw.dtype != np.uint16:
        raise ValueError(f"{path}: KITTI flow is a 16-bit PNG of three channels, this one is {raw.dtype} {raw.shape}.")
    flow = (raw[..., 2:0:-1].astype(np.float32) - np.float32(32768)) / np.float32(
        64
    )  # OpenCV's order is blue, green, red
    flow[raw[..., 0] == 0] = np.nan
    return flow


# ---- depth ----


def read_depth_png(path: PathLike, scale: float, unknown: Sequence[int] = (0,)) -> np.ndarray:
    """16-bit grey PNG -> depth in metres (H, W) float32, value / scale; `unknown` values become NaN.

    `scale` is in steps per metre: 256 for KITTI, 1000 for millimetres (7-Scenes, where 65535 is unknown too), 5000 for TUM.
    """
    if not scale > 0:
        raise ValueError(f"scale must be a positive number of steps per metre, got {scale}.")
    raw = _read_png16(path)
    if raw.ndim != 2 or raw.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: a depth PNG is grey with 16 bits, this one is {raw.dtype} {raw.shape}.")
    depth = raw.astype(np.float32) / np.float32(scale)
    depth[np.isin(raw, unknown)] = np.nan
    return depth


def write_depth_png(path: PathLike, depth: Any, scale: float = 1000.0) -> None:
    """Depth in metres (H, W) -> 16-bit grey PNG of `scale` steps per metre; 0 = unknown, or further than 16 bits reach."""
    if not scale > 0:
        raise ValueError(f"scale must be a positive number of steps per metre, got {scale}.")
    if hasattr(depth, "detach"):
        depth = depth.detach().cpu().float().numpy()
    metres = np.asarray(depth, np.float64)
    if metres.ndim != 2 or 0 in metres.shape:
        raise ValueError(f"{path}: a depth map is (H, W), got a shape of {metres.shape}.")
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: expected a name that ends in .png.")
    steps = np.maximum(np.rint(metres * scale), 1)  # a very near point isn't unknown
    steps = np.where((metres > 0) & (steps <= 65535), steps, 0)  # false for NaN, too
    with write_atomic(path) as temporary:
        Image.fromarray(steps.astype(np.uint16)).save(temporary)


# ---- what the functions above share ----


def _read_png16(path: PathLike) -> np.ndarray:
    """A PNG with its bits kept: (H, W) or (H, W, 3) in OpenCV's order BGR. Pillow would cut colours to 8 bits."""
    path = Path(path)
    content = path.read_bytes()
    if len(content) < 33 or content[:8] != PNG_SIGNATURE or content[12:16] != b"IHDR":
        raise ValueError(f"{path}: not a PNG file.")
    width, height, bits, color = struct.unpack(">IIBB", content[16:26])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(color, 1)
    if width * height * channels * bits // 8 > PNG_RATIO * len(content):
        raise ValueError(
            f"{path}: a PNG header of {width} x {height} pixels that a file of {len(content)} bytes cannot hold."
        )
    image = None
    if b"IEND\xaeB`\x82" not in content:  # OpenCV would fill a truncated file up with black
        raise ValueError(f"{path}: a PNG file that ends too early.")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"{path}: not a readable PNG ({error}).") from error
    if image is None:
        raise ValueError(f"{path}: not a readable PNG.")
    return image


def _flow_array(path: PathLike, flow: Any) -> np.ndarray:
    if hasattr(flow, "detach"):
        flow = flow.detach().cpu().float().numpy()
    array = np.asarray(flow, np.float32)
    if array.ndim != 3 or array.shape[2] != 2 or 0 in array.shape:
        raise ValueError(
            f"{path}: flow to be written is (H, W, 2), got a shape of {array.shape}. From the model's (2, H, W), permute first."
        )
    return array
