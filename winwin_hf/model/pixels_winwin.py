"""What a picture's values mean. Every door of the package reads pictures here: the image processor, files, the predictor, rows of data
sets and drawings, so that one picture has the same values everywhere.

Values: 8 bits are 0..255; 16-bit integers are 0..65535; floats are 0..1, whatever an image's own largest value is; booleans are black
and white. Anything outside is an error: nothing is guessed from the values.

NumPy and Pillow only: readers of files go without torch. Arrays are (C, H, W) once `channels_first` has run; sizes are (height, width).
"""

import errno
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

# Formats that Pillow may open: those of data sets and cameras. For others it may run Ghostscript (EPS).
RASTERS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "GIF", "WEBP", "TGA", "JPEG2000")

# How names of their files end, in any case; GIF and the like are as good as PNG to who takes a folder.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k"),
)

# Of a picture that is read. Pillow warns above 89 million.
MAX_PIXELS = 80_000_000
# Of what a network sees in one pass; 8K has 35 million, and takes 3 GB on a CPU.
MAX_INPUT_PIXELS = 40_000_000
MAX_CLASSES = 64  # of which MAX_INPUT_PIXELS may have a score each: 10 GB; of fewer pixels, more
LIMIT = "WINWIN_MAX_PIXELS"  # the variable that replaces both
ZEROS = 64  # so many at the end of a compressed picture are none of it
KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISREG, ""))


def check_regular(path: Any) -> None:
    """
    Raises OSError, which names the path and says what lies there, unless it is a file that can be read to its end.

    A pipe would block until somebody writes, and a device may have no end.
    """
    name = shortened(os.fspath(path))
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - a path may be text
    except FileNotFoundError:
        what = "a link to a file that doesn't exist" if os.path.islink(path) else "no such file"  # noqa: PTH114
        raise FileNotFoundError(f"{name}: {what}") from None
    except OSError as error:
        loop = error.errno == errno.ELOOP
        raise OSError(f"{name}: {'links that lead in a circle' if loop else str(error.strerror).lower()}") from None
    except ValueError:
        raise FileNotFoundError(f"{name!r}: no name of a file") from None
    kind = next((text for test, text in KINDS if test(mode)), "a device")
    if kind:
        raise (IsADirectoryError if kind == "a folder" else OSError)(f"{name}: {kind}; expected a file")


def pixel_limit(default: int) -> int:
    """The largest number of pixels: `default`, or what the variable WINWIN_MAX_PIXELS says."""
    text = os.environ.get(LIMIT, str(default))
    if not text.isdecimal() or not 0 < int(text) < 10**12:
        raise ValueError(f"{LIMIT}={text}: expected a whole number of pixels")
    return int(text)


def check_pixels(size: Any, default: int = MAX_PIXELS, otherwise: str = "a smaller picture") -> None:
    """
    Raises ValueError for a picture that takes too much memory, before it does.

    Args:
        size: (height, width). default: the limit where the variable doesn't say another. otherwise: what to give instead.
    """
    limit = pixel_limit(default)
    if size[0] * size[1] > limit:
        raise ValueError(
            f"{size_text(size)} pixels (height x width) are more than the limit of {limit:,}; expected {otherwise}, or a higher "
            f"limit in the variable {LIMIT}"
        )


def check_scores(size: Any, classes: int) -> None:
    """
    Raises ValueError where the scores of a network's classes take too much memory, before they do.

    Args:
        size: (height, width) of the network's input.
    """
    limit = pixel_limit(MAX_INPUT_PIXELS) * MAX_CLASSES
    if classes * size[0] * size[1] > limit:
        raise ValueError(
            f"{size_text(size)} pixels (height x width) with {classes} classes have {classes * size[0] * size[1]:,} scores, more than "
            f"the limit of {limit:,}; expected a smaller picture, or a higher limit in the variable {LIMIT} ({MAX_CLASSES} scores a pixel)"
        )


def size_text(size: Any) -> str:
    return " x ".join(str(int(side)) for side in size)


@contextmanager
def _opened(file: Any) -> Iterator[PIL.Image.Image]:
    """A path or binary file of a picture in one of `RASTERS`, of which nothing but the header is read yet."""
    limit = pixel_limit(MAX_PIXELS)
    if LIMIT in os.environ and PIL.Image.MAX_IMAGE_PIXELS is not None:  # Pillow has a limit of its own
        PIL.Image.MAX_IMAGE_PIXELS = max(PIL.Image.MAX_IMAGE_PIXELS, limit)
    with PIL.Image.open(file, formats=RASTERS) as image:
        check_pixels(image.size[::-1])
        _check_whole(image)
        yield image


def _check_whole(image: PIL.Image.Image) -> None:
    """
    Raises ValueError for a PNG with a wrong checksum, and for a JPEG or WebP that ends in zeros: downloads that broke off, and disks
    that lost a part. Decoders make black, or other ids, of what is missing.

    image: opened, of which no pixel is read yet.
    """
    stream: Any = getattr(image, "fp", None)
    if stream is None or image.format not in ("PNG", "JPEG", "MPO", "WEBP"):
        return
    place = stream.tell()
    try:
        stream.seek(max(0, stream.seek(0, io.SEEK_END) - ZEROS))
        if image.format != "PNG" and any(stream.read()):
            return
        stream.seek(0)
        content = stream.read()
    finally:
        stream.seek(place)
    if image.format == "PNG":
        try:
            with PIL.Image.open(io.BytesIO(content), formats=("PNG",)) as again:
                again.verify()
        except Exception as error:  # Pillow's are SyntaxErrors
            raise ValueError(f"a damaged PNG ({error})") from None
        return
    whole = content.rstrip(b"\0")
    if len(content) - len(whole) >= ZEROS and (image.format == "WEBP" or not whole.endswith(b"\xff\xd9")):
        raise ValueError(f"its last {len(content) - len(whole)} bytes are zeros; expected a whole file")


def open_raster(file: Any) -> PIL.Image.Image:
    """A path or binary file of a picture in one of `RASTERS` -> a PIL image turned as its EXIF says. Of an animation, the first frame.

    Raises: what Pillow raises.
    """
    try:
        with _opened(file) as image:
            return PIL.ImageOps.exif_transpose(image)
    except PIL.UnidentifiedImageError:  # its message has the file again, and no reason
        known = f"expected {', '.join(RASTERS)}, with samples that Pillow reads: colours in floats are none"
        raise PIL.UnidentifiedImageError(known) from None


def read_samples(file: Any) -> tuple[np.ndarray, str]:
    """The samples of a path or binary file as they are stored, (H, W) or (H, W, channels), turned as its EXIF says; and Pillow's mode.

    For ids: a palette's indices, and grey of 2 or 4 bits, which Pillow stretches to 255, as the numbers that they are.
    """
    with _opened(file) as stored:
        tiles: Any = getattr(stored, "tile", None)
        layout: Any = tiles[0][3] if tiles else ""
        image = PIL.ImageOps.exif_transpose(stored)
        mode, samples = image.mode, np.array(image)
    if mode == "1":
        samples = samples.astype(np.uint8)
    kind = layout[0] if layout and isinstance(layout, tuple) else layout  # "L;4": grey of 4 bits
    if kind in ("L;2", "L;4"):
        samples //= 255 // (2 ** int(kind[2:]) - 1)
    return samples, mode


@contextmanager
def naming(source: Any) -> Iterator[None]:
    """Puts the source, where it is a path or URL, before the message of a ValueError that doesn't name it yet."""
    try:
        yield
    except ValueError as error:
        name = shortened(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else ""
        if str(error).startswith(name):
            raise
        raise ValueError(f"{name}: {error}") from error


def rgb_image(image: Any, layout: Any = None) -> np.ndarray:
    """One image of any kind -> RGB uint8 (H, W, 3), rounded to 8 bits; alpha is laid over white. For what it takes, see `pixel_array`.

    An array that is one already comes back as it is.
    """
    array = to_rgb(to_255(pixel_array(image, layout), checked=True))
    if array.dtype != np.uint8:
        array = np.rint(array).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(array.transpose(1, 2, 0))


def pixel_array(image: Any, layout: Any = None) -> np.ndarray:
    """One image of any kind -> (C, H, W) of any dtype. `layout` overrides what the shape says ("channels_first", "_last").

    Args:
        image: a PIL image (as it is held), a NumPy or torch array.
    """
    prefer_first = hasattr(image, "detach") and hasattr(image, "cpu")  # a torch tensor, without importing torch
    if isinstance(image, PIL.Image.Image):
        array, layout = _pil_array(image), "channels_last"
    elif prefer_first:
        image = image.detach().cpu()
        array = (image.float() if image.is_floating_point() else image).numpy()
    elif isinstance(image, np.ndarray):
        check_unmasked("An image", image)
        array = image
    else:
        raise ValueError(
            f"An image must be a PIL image, a path or URL, or a NumPy or torch array; got {type(image).__name__}."
        )
    if array.dtype.kind not in "buif":
        raise ValueError(f"An image must hold numbers; got an array of {array.dtype}.")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # files of other machines: big-endian
    array = channels_first(array, layout, prefer_first)
    if 0 in array.shape:
        raise ValueError(f"An image of {size_text(array.shape[-2:])} (height x width) has no pixels.")
    return array


def check_unmasked(what: str, values: Any) -> None:
    """Raises ValueError for a masked array of NumPy: most functions drop the mask, and what it hides would count."""
    if isinstance(values, list | tuple):
        for part in values:
            if isinstance(part, list | tuple | np.ma.MaskedArray):
                check_unmasked(what, part)
    elif np.ma.is_masked(values):
        raise ValueError(
            f"{what} is a masked array; expected one whose values say what is unknown, such as values.filled(np.nan), or filled with "
            "the ignored label."
        )


def _pil_array(image: PIL.Image.Image) -> np.ndarray:
    """A PIL image of any mode -> (H, W, C) with C 1, 3 or 4; more than 8 bits a channel survive."""
    if image.mode.startswith("I"):  # 16 bits; PNG's and PGM's arrive in 32-bit storage, depending on Pillow
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 65535:
            raise ValueError(f"Pixels of 32 bits must lie in 0..65535; got {samples.min()}..{samples.max()}.")
        return samples.astype(np.uint16)[..., None]
    if image.mode == "F":
        return np.asarray(image)[..., None]
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))
    if image.mode == "L":
        return np.asarray(image)[..., None]
    return np.asarray(image.convert("RGB"))


def channels_first(array: np.ndarray, layout: Any, prefer_first: bool) -> np.ndarray:
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3:
        raise ValueError(f"An image must be (H, W), (H, W, C) or (C, H, W); got an array of shape {array.shape}.")
    if layout is not None:
        first = str(getattr(layout, "value", layout)) == "channels_first"
    else:
        can_first, can_last = array.shape[0] in (1, 3, 4), array.shape[2] in (1, 3, 4)
        if not (can_first or can_last):
            raise ValueError(f"An image has 1, 3 or 4 channels, first or last; got an array of shape {array.shape}.")
        first = can_first and (prefer_first or not can_last)
    return array if first else array.transpose(2, 0, 1)


def to_255(array: np.ndarray, checked: bool) -> np.ndarray:
    """Values of any dtype -> uint8, or float32 with 255 as white. Not `checked`: values are kept, as float32 at most."""
    if array.dtype == np.uint8:
        return array
    if not checked:
        return array.astype(np.float32)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    low, high = array.min(), array.max()
    if array.dtype == np.uint16:
        if 0 < high < 4096:
            warnings.warn(
                "An image of 16 bits a channel has no value above 4095 and is read as nearly black: white is 65535. Multiply values "
                "of 10 bits by 64 and of 12 bits by 16.",
                stacklevel=2,
            )
        return array.astype(np.float32) / np.float32(257)
    if np.issubdtype(array.dtype, np.integer):
        if low < 0 or high > 255:
            raise ValueError(f"{array.dtype} pixels must lie in 0..255 (16-bit images: uint16); got {low}..{high}.")
        return array.astype(np.uint8)
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # also true of NaN
        raise ValueError(
            f"Float pixels must lie in 0..1; got {low:.6g}..{high:.6g}. Divide them by the value of white (255, say) or give integers; the "
            "image processor's do_rescale=False takes values as they are."
        )
    if 0 < high <= 1 / 255:
        warnings.warn(
            "A float image has no value above 1/255 and is read as black: white is 1. Was it divided by 255 twice?",
            stacklevel=2,
        )
    return array.astype(np.float32) * np.float32(255)


def to_rgb(array: np.ndarray, white: float = 255.0) -> np.ndarray:
    """(C, H, W) with 1, 3 or 4 channels -> (3, H, W); alpha, opaque at `white`, is laid over white."""
    channels = array.shape[0]
    if channels == 3:
        return array
    if channels == 1:
        return np.broadcast_to(array, (3, *array.shape[1:]))
    if channels == 4:
        alpha = array[3:].astype(np.float32) / np.float32(white)
        colour = array[:3].astype(np.float32) * alpha + np.float32(white) * (1 - alpha)
        return np.rint(colour).astype(np.uint8) if array.dtype == np.uint8 else colour
    raise ValueError(f"An image has 1, 3 or 4 channels; got {channels}.")


def shortened(name: str) -> str:
    """A name or text for a message: at most 200 characters, on one line."""
    shown = name if len(name) <= 200 else f"{name[:60]}..."
    return shown if shown.isprintable() and shown else repr(shown)
