"""What an image may be, made into one kind of array: the image processor's plain functions.

Arrays are (C, H, W) once `channels_first` has run; sizes are (height, width) in pixels.
"""

import os
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from transformers.image_utils import PILImageResampling, load_image


def size_text(size: Any) -> str:
    return " x ".join(str(int(side)) for side in size)


def open_image(source: Any, timeout: float | None = None) -> Any:
    """A path or URL -> a PIL image turned as its EXIF says, all its bits kept. Anything else comes back as it is."""
    if not isinstance(source, (str, os.PathLike)):
        return source
    name = os.fspath(source)
    if not os.path.isfile(name):  # noqa: PTH113 - a URL or base64 text, which is no path
        return load_image(name, timeout)
    try:
        with PIL.Image.open(name) as image:
            return PIL.ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name}: not a readable image ({error}).") from error


def image_array(image: Any, layout: Any = None) -> np.ndarray:
    """One image of any kind -> (C, H, W) of any dtype. `layout` overrides what the shape says ("channels_first", "_last")."""
    image = open_image(image)
    prefer_first = isinstance(image, torch.Tensor)
    if isinstance(image, PIL.Image.Image):
        array, layout = _pil_array(image), "channels_last"
    elif isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        array = (image.float() if image.is_floating_point() else image).numpy()
    elif isinstance(image, np.ndarray):
        array = image
    else:
        raise ValueError(
            f"An image must be a PIL image, a path or URL, or a NumPy or torch array; got {type(image).__name__}."
        )
    array = channels_first(array, layout, prefer_first)
    if 0 in array.shape:
        raise ValueError(f"An image of {size_text(array.shape[-2:])} (height x width) has no pixels.")
    return array


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


def _pil_array(image: PIL.Image.Image) -> np.ndarray:
    """A PIL image of any mode -> (H, W, C) with C 1, 3 or 4; more than 8 bits a channel survive."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode == "I":  # 32-bit storage; PNG's 16-bit grey arrives so from older Pillow
        return np.asarray(image).clip(0, 65535).astype(np.uint16)[..., None]
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
    if array.dtype == np.uint16:
        return array.astype(np.float32) / np.float32(257)
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.integer):
        if low < 0 or high > 255:
            raise ValueError(f"{array.dtype} pixels must lie in 0..255 (16-bit images: uint16); got {low}..{high}.")
        return array.astype(np.uint8)
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # also true of NaN
        raise ValueError(
            f"Float pixels must lie in 0..1; got {low}..{high}. Pass 8-bit integers, divide by 255, or set do_rescale=False "
            "to have the values taken as they are."
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
