"""What an image may be for the image processor: paths, URLs, lists and arrays with a batch axis; and how it is resized.

pixels_winwin.py has what the values of one image mean. Arrays are (C, H, W); sizes are (height, width) in pixels.
"""

import base64
import io
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers import image_utils
from transformers.image_utils import PILImageResampling

from .pixels_winwin import RASTERS, check_regular, check_unmasked, open_raster, pixel_array, read_samples, shortened

MAX_DOWNLOAD = 256 << 20  # bytes of an image at a URL; MAX_PIXELS of RGB take 240 MB uncompressed
DOWNLOAD_SECONDS = 60.0  # for all of it


def open_image(source: Any, timeout: float | None = None) -> Any:
    """A path or URL -> a PIL image turned as its EXIF says, all its bits kept. Anything else comes back as it is.

    Raises: FileNotFoundError for text that is no path, URL or base64; ValueError naming the source where it isn't readable.
    """
    return _decode(source, open_raster, timeout) if isinstance(source, (str, os.PathLike)) else source


def image_array(image: Any, layout: Any = None) -> np.ndarray:
    """One image of any kind, a path or URL too -> (C, H, W) of any dtype, see `pixel_array`."""
    return pixel_array(open_image(image), layout)


def as_list(images: Any, name: str) -> list[Any]:
    """One image, a list of images or an array with a batch axis -> a list."""
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError(f"{name} is empty: expected at least one image.")
        if any(isinstance(item, (list, tuple)) for item in images):
            raise ValueError(f"{name} must be one image or a flat list of images; got a list of lists.")
        return [part for item in images for part in as_list(item, name)]
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    return [images]


def as_label_list(maps: Any, sizes: list[Any]) -> list[Any]:
    """One segmentation map, a list of them or an array with a batch axis -> a list. `sizes`: of the images, which tell a batch
    (B, H, W) from a map with channels."""
    if not isinstance(maps, (np.ndarray, torch.Tensor)) or maps.ndim < 3:
        return as_list(maps, "segmentation_maps")
    shape = tuple(maps.shape)
    as_many = shape[0] == len(sizes) and shape[-1] not in (1, 3, 4)
    if maps.ndim > 3 or as_many or shape == (len(sizes), *sizes[0]):
        return list(maps)
    with_channels = shape[0] in (1, 3, 4) or shape[-1] in (1, 3, 4)
    return [maps] if with_channels else list(maps)


def target_list(sizes: Any, count: int) -> list[tuple[int, int]]:
    """`target_sizes` as a list, array or tensor of (height, width), or one such pair for all -> a list of pairs."""
    values = sizes.tolist() if isinstance(sizes, (np.ndarray, torch.Tensor)) else sizes
    if isinstance(values, (list, tuple)) and len(values) == 2 and all(np.ndim(value) == 0 for value in values):
        values = [values] * count
    pairs = [np.asarray(value) for value in values] if isinstance(values, (list, tuple)) else [np.asarray(values)]
    if any(pair.shape != (2,) or pair.dtype.kind not in "iu" or pair.min() < 1 for pair in pairs):
        raise ValueError(
            f"target_sizes must be one (height, width) in whole pixels per image, such as [(480, 640)]; got {sizes!r}."
        )
    return [(int(height), int(width)) for height, width in pairs]


def resize(image: np.ndarray, size: tuple[int, int], resample: Any) -> np.ndarray:
    """(C, H, W) -> (C, *size) with Pillow's filters (which smooth when they shrink)."""
    height, width = size
    filter_ = PILImageResampling(int(resample))
    if image.dtype == np.uint8 and image.shape[0] == 3:
        picture = PIL.Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        return np.asarray(picture.resize((width, height), filter_)).transpose(2, 0, 1)
    planes = [PIL.Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), filter_) for plane in image]
    return np.stack([np.asarray(plane) for plane in planes])


def label_array(labels: Any, index: int = 0) -> np.ndarray:
    """A segmentation map of any kind -> (H, W) integers. `index`: its place in the batch, for messages."""
    what = f"Segmentation map {index}"
    if isinstance(labels, (str, os.PathLike)):
        what += f" ({shortened(os.fspath(labels))})"
        labels, _ = _decode(labels, read_samples)
    if not isinstance(labels, (PIL.Image.Image, np.ndarray, torch.Tensor)):
        raise ValueError(
            f"{what} must be a PIL image, a path or URL, or a NumPy or torch array; got {type(labels).__name__}."
        )
    check_unmasked(what, labels)
    array = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim == 3 and {array.shape[0], array.shape[-1]} & {2, 3, 4}:
        raise ValueError(
            f"{what} has colours (a shape of {array.shape}); expected one class id a pixel, (H, W). Map each colour to its id first, or "
            "save ids as a grey or palette PNG. A second frame goes into second_images."
        )
    if array.ndim != 2:
        raise ValueError(f"{what} must be (H, W) with class ids, got a shape of {array.shape}.")
    if array.dtype.kind not in "biu":
        raise ValueError(f"{what} must hold whole numbers (class ids), got {array.dtype}.")
    return array


# ---- where images come from ----


def _decode(source: Any, decode: Callable[[Any], Any], timeout: float | None = None) -> Any:
    """`decode` of the file at a path or URL, or of base64 text."""
    name = os.fspath(source)
    file: Any = name
    if name.startswith(("http://", "https://")):
        file = io.BytesIO(_download(name, timeout))
    elif os.path.lexists(name):
        check_regular(name)
    else:  # text that is no path
        file = io.BytesIO(_base64(name))
    try:
        return decode(file)
    except Exception as error:  # whatever a decoder raises for a malformed file
        raise ValueError(f"{shortened(name)}: not a readable image ({error}).") from error


def _download(url: str, timeout: float | None) -> bytes:
    """
    The bytes at a URL, at most MAX_DOWNLOAD within `timeout` seconds.

    Not `load_image`: it makes 8 bits of 16, and white of most, and takes whatever a server sends.
    """
    http: Any = vars(image_utils)["httpx"]  # the client that this transformers comes with
    seconds = DOWNLOAD_SECONDS if timeout is None else timeout
    name, content, ends = shortened(url), bytearray(), time.monotonic() + seconds
    too_large = f"{name}: more than {MAX_DOWNLOAD >> 20} MB; expected an image, or a file on this machine."
    plain = {"Accept-Encoding": "identity"}  # else a small answer may become a large one
    try:
        with http.stream("GET", url, timeout=seconds, follow_redirects=True, headers=plain) as answer:
            answer.raise_for_status()
            claimed = answer.headers.get("content-length", "")
            if claimed.isdecimal() and int(claimed) > MAX_DOWNLOAD:
                raise ValueError(too_large)
            for block in answer.iter_bytes():
                content += block
                if len(content) > MAX_DOWNLOAD:
                    raise ValueError(too_large)
                if time.monotonic() > ends:
                    raise ValueError(
                        f"{name}: not fetched within {seconds:g} seconds; expected a faster server, or a larger timeout."
                    )
    except (http.HTTPError, http.InvalidURL) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name}: no image could be fetched ({shortened(reason)}).") from error
    return bytes(content)


def _base64(text: str) -> bytes:
    """The bytes of a data: URL, or of base64 text. Raises FileNotFoundError for other text: it was meant as a path."""
    encoded = text.partition(",")[2] if text.startswith("data:image/") else text
    try:
        content = base64.b64decode(encoded.encode(), validate=True)
    except ValueError:
        content = b""
    if not content or (encoded is text and not _is_picture(content)):
        raise FileNotFoundError(f"{shortened(text)}: no such file; an image is a path, a URL or base64 text.")
    return content


def _is_picture(content: bytes) -> bool:
    try:
        PIL.Image.open(io.BytesIO(content), formats=RASTERS)
    except (OSError, SyntaxError, ValueError):
        return False
    return True
