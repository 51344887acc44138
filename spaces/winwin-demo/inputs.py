"""Uploads -> arrays of a size that two CPU cores can process, or one clear sentence about why not.

Notable:
- By default Gradio opens an uploaded picture before the app sees it, and a damaged one ends in a bare "Error". With `as_path` an input
  component gives the path of the unopened file, and `read_picture` refuses a bad one with a `gr.Error`. Which paths a request may name is
  checked before, in `winwin_hf.served_page`.
- Sizes are read from the file's header first, so a picture or a video that claims too many pixels is never decoded.
- A picture larger than the chosen size is scaled down, and a note says so.

Pictures are RGB uint8 (H, W, 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import gradio as gr
import numpy as np
from PIL import Image

from winwin_hf.data import formats
from winwin_hf.inference import clips
from winwin_hf.model.image_settings_winwin import QUALITIES
from winwin_hf.served_page import file_name, refuse

MAX_SOURCE_PIXELS = 64_000_000  # a phone's largest photographs; decoding takes three bytes a pixel
MIN_SIDE = 32  # pixels: two patches
MAX_SIDE = 4096  # pixels, after scaling: a strip of one row's height would pass the limit on its area
AREAS = {"360p": 640 * 360, "540p": 960 * 540, "720p": 1280 * 720, "1080p": 1920 * 1080}
JPEG, JPEG_SCAN = b"\xff\xd8", b"\xff\xda"
MAX_SCANS = 100  # a progressive JPEG has about ten; thousands take minutes
MAX_FRAMES = 24
MAX_VIDEO_PIXELS = 3840 * 2160

# Where the files of video containers have which bytes. The video decoder gets nothing else: it would follow playlists and lists of
# files.
CONTAINERS = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (8, b"AVI "))


@dataclass(frozen=True)
class Picture:
    """An uploaded picture, ready to use."""

    pixels: np.ndarray  # (H, W, 3) uint8
    note: str  # how it was changed, "" if it was not


@dataclass(frozen=True)
class Clip:
    """The frames used of an uploaded clip."""

    frames: list[np.ndarray]  # each (H, W, 3) uint8
    rate: float  # frames per second
    note: str


def as_path(component: Any) -> Any:
    """Makes an input component give its events the uploaded file's path, unopened. Returns the component.

    On the object, not in a subclass: Gradio writes a stub file beside the source of every subclass.
    """

    component.preprocess = lambda payload: None if payload is None else payload.path
    return component


def read_picture(path: str | None, size: str, what: str = "a picture") -> Picture:
    """Reads an upload and scales it down to `size` (a key of AREAS). Raises gr.Error with the reason where it can't be used."""
    if path is None:
        raise refuse(f"Choose {what} first.")
    area = area_of(size)
    name = file_name(path)
    width, height, moving = _header(path, name)
    if width * height > MAX_SOURCE_PIXELS:
        raise refuse(
            f"{name} has {width} x {height} pixels; up to {MAX_SOURCE_PIXELS // 1_000_000} million are taken. Please scale it down."
        )
    if min(width, height) < MIN_SIDE:
        raise refuse(f"{name} has {width} x {height} pixels; at least {MIN_SIDE} on each side are needed.")
    data = Path(path).read_bytes()
    if data.startswith(JPEG) and data.count(JPEG_SCAN) > MAX_SCANS:
        raise refuse(
            f"{name} is a JPEG of more than {MAX_SCANS} scans, each of which is decoded over the whole picture."
        )
    try:
        # from bytes, so that messages have the file's own name, not a path of this server
        pixels = formats.read_image(formats.Blob(data, name))
    except ValueError as error:
        raise refuse(f"{error} Please send a PNG, JPEG, WebP, GIF, BMP or TIFF picture.") from None
    notes = []
    if moving:
        notes.append(f"{name} is an animation: its first frame was taken")
    small = scale_down(pixels, area)
    if small is not pixels:
        notes.append(
            f"{name} was scaled from {pixels.shape[1]} x {pixels.shape[0]} to {small.shape[1]} x {small.shape[0]} pixels"
        )
    if min(small.shape[:2]) < MIN_SIDE:
        raise refuse(
            f"{name} ({width} x {height} pixels) is too narrow: scaled down, it has no {MIN_SIDE} pixels across."
        )
    return Picture(small, "; ".join(notes))


def read_pair(path1: str | None, path2: str | None, size: str) -> tuple[Picture, Picture]:
    """Two frames of the same size."""
    first, second = read_picture(path1, size, "a first frame"), read_picture(path2, size, "a second frame")
    if first.pixels.shape != second.pixels.shape:
        sizes = [f"{picture.pixels.shape[1]} x {picture.pixels.shape[0]}" for picture in (first, second)]
        raise refuse(f"The two frames must have the same size; these have {sizes[0]} and {sizes[1]} pixels.")
    return first, second


def read_clip(path: str | None, size: str) -> Clip:
    """The first MAX_FRAMES frames of a clip, scaled down to `size`."""
    if path is None:
        raise refuse("Choose a video first.")
    area, name = area_of(size), file_name(path)
    kinds = "Please send an MP4, MOV, WebM, MKV or AVI file."
    try:
        with Path(path).open("rb") as file:
            start = file.read(16)
        if not any(start[at : at + len(magic)] == magic for at, magic in CONTAINERS):
            raise refuse(f"{name} is not a video that this demo reads. {kinds}")
        clip = clips.open_clip(path, end=MAX_FRAMES)
        with av.open(path) as container:
            context = container.streams.video[0].codec_context
            if context is not None:
                _check_frame(context.width, context.height, name)
        frames: list[np.ndarray] = []
        for frame in clip.frames():
            height, width = frame.shape[:2]
            _check_frame(width, height, name)  # a stream may change its size
            frames.append(scale_down(frame, area))
    except gr.Error:  # a ValueError, too
        raise
    except (ValueError, OSError) as error:
        # the file's own name, not this server's path; what else than a video the command line takes is left out
        reason = str(error).replace(path, name).partition("; expected")[0].rstrip(".")
        raise refuse(f"{reason}. {kinds}") from None
    if len(frames) < 2:
        raise refuse(f"{name} has {len(frames)} frame; motion needs at least two.")
    if min(frames[0].shape[:2]) < MIN_SIDE:
        raise refuse(
            f"{name} ({width} x {height} pixels) is too narrow: scaled down, it has no {MIN_SIDE} pixels across."
        )
    notes = []
    if clip.length is not None and clip.length > len(frames):
        notes.append(f"only the first {len(frames)} of about {clip.length} frames were used")
    if frames[0].shape[:2] != (height, width):
        notes.append(
            f"frames were scaled from {width} x {height} to {frames[0].shape[1]} x {frames[0].shape[0]} pixels"
        )
    return Clip(frames, float(clip.rate), "; ".join(notes))


def _check_frame(width: int, height: int, name: str) -> None:
    if width * height > MAX_VIDEO_PIXELS:
        raise refuse(f"{name} has frames of {width} x {height} pixels; up to 3840 x 2160 are taken.")
    if 0 < min(width, height) < MIN_SIDE:
        raise refuse(f"{name} has frames of {width} x {height} pixels; at least {MIN_SIDE} a side are needed.")


def area_of(size: str) -> int:
    if size not in AREAS:
        raise refuse(f"The size must be one of {', '.join(AREAS)}; got {str(size)[:40]!r}.")
    return AREAS[size]


def check_quality(quality: str) -> None:
    if quality not in QUALITIES:
        raise refuse(f"The quality must be {' or '.join(QUALITIES)}; got {str(quality)[:40]!r}.")


def scale_down(pixels: np.ndarray, area: int) -> np.ndarray:
    """At most `area` pixels and MAX_SIDE on a side, proportions kept; the same array where it is small enough."""
    height, width = pixels.shape[:2]
    factor = min(math.sqrt(area / (height * width)), MAX_SIDE / max(height, width))
    if factor >= 1:
        return pixels
    target = max(1, int(width * factor)), max(1, int(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _header(path: str, name: str) -> tuple[int, int, bool]:
    """(width, height, whether it is an animation) from the file's header; no pixel is decoded."""
    try:
        with Image.open(path) as image:
            return image.width, image.height, getattr(image, "is_animated", False)  # counting the frames takes minutes
    except Image.DecompressionBombError:
        raise refuse(
            f"{name} claims to have far too many pixels; up to {MAX_SOURCE_PIXELS // 1_000_000} million are taken."
        ) from None
    except FileNotFoundError:
        raise refuse(f"{name} is not on the server any more. Please upload it again.") from None
    except Exception:  # whatever a decoder raises on a malformed file
        raise refuse(
            f"{name} is not a picture that can be read. Please send a PNG, JPEG, WebP, GIF, BMP or TIFF file."
        ) from None
