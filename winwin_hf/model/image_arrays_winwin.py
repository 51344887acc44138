"""What an image may be for the image processor: paths, URLs, lists and arrays with a batch axis; and how it is resized.

pixels_winwin.py has what the values of one image mean. Arrays are (C, H, W); sizes are (height, width) in pixels.
"""

import base64
import io
import os
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers import image_utils
from transformers.image_utils import PILImageResampling

from .pixels_winwin import RASTERS, open_raster, pixel_array, shortened


def open_image(source: Any, timeout: float | None = None) -> Any:
    """A path or URL -> a PIL image turned as its EXIF says, all its bits kept. Anything else comes back as it is.

    Raises: FileNotFoundError for text that is no path, URL or base64; ValueError naming the source where it isn't readable.
    """
    if not isinstance(source, (str, os.PathLike)):
        return source
    name = os.fspath(source)
    file: Any = name
    if name.startswith(("http://", "https://")):
        file = io.BytesIO(_download(name, timeout))
    elif not os.path.exists(name):  # noqa: PTH110 - text that may be no path
        name, file = shortened(name), io.BytesIO(_base64(name))
    try:
        return open_raster(file)
    except Exception as error:  # whatever a decoder raises for a malformed file
        raise ValueError(f"{name}: not a readable image ({error}).") from error


def image_array(image: Any, layout: Any = None) -> np.ndarray:
    """One image of any kind, a path or URL too -> (C, H, W) of any dtype, see `pixel_array`."""
    return pixel_array(open_image(image), layout)


def as_list(images: Any, name: str, image_ndim: int = 3) -> list[Any]:
    """One image, a list of images or an array with a batch axis -> a list."""
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError(f"{name} is empty: expected at least one image.")
        if any(isinstance(item, (list, tuple)) for item in images):
            raise ValueError(f"{name} must be one image or a flat list of images; got a list of lists.")
        return [part for item in images for part in as_list(item, name, image_ndim)]
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == image_ndim + 1:
        return list(images)
    return [images]


def resize(image: np.ndarray, size: tuple[int, int], resample: Any) -> np.ndarray:
    """(C, H, W) -> (C, *size) with Pillow's filters (which smooth when they shrink)."""
    height, width = size
    filter_ = PILImageResampling(int(resample))
    if image.dtype == np.uint8 and image.shape[0] == 3:
        picture = PIL.Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        return np.asarray(picture.resize((width, height), filter_)).transpose(2, 0, 1)
    planes = [PIL.Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), filter_) for plane in image]
    return np.stack([np.asarray(plane) for plane in planes])


def label_array(labels: Any) -> np.ndarray:
    """A segmentation map of any kind -> (H, W) integers."""
    labels = open_image(labels)
    array = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2:
        raise ValueError(f"A segmentation map must be (H, W) with class ids, got a shape of {array.shape}.")
    if not (np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_):
        raise ValueError(f"A segmentation map must hold whole numbers (class ids), got {array.dtype}.")
    return array


# ---- where images come from ----


def _download(url: str, timeout: float | None) -> bytes:
    """Not `load_image`: it makes 8 bits of 16, and white of most."""
    http: Any = vars(image_utils)["httpx"]  # the client that this transformers comes with
    try:
        answer = http.get(url, timeout=timeout, follow_redirects=True)
        answer.raise_for_status()
    except http.HTTPError as error:
        raise ValueError(f"{url}: no image could be fetched ({error}).") from error
    return answer.content


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
