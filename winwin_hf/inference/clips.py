"""Clips: read the frames of a video or of a folder of images one by one, and write a video.

Notable:
- PyAV reads and writes videos: its wheels bring FFmpeg and an H.264 encoder, so the system needs neither.
- A clip holds no frames. Each pass decodes it again, so memory doesn't grow with its length.

Frames are RGB uint8 (H, W, 3), upright.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from glob import glob
from pathlib import Path
from typing import BinaryIO, cast

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace

from winwin_hf.data import formats
from winwin_hf.data.benchmarks.listing import gaps
from winwin_hf.data.formats.files import bytes_text
from winwin_hf.model.pixels_winwin import IMAGE_SUFFIXES, MAX_INPUT_PIXELS, ZEROS, check_pixels, check_regular, naming

RIFF_SLACK = 9  # bytes: some writers count the part's own header, or leave out the last byte of an odd one
# The outermost of MP4 (ISO 14496-12) and QuickTime.
BOXES = frozenset(
    b"ftyp moov mdat free skip wide pnot moof mfra sidx ssix styp prft emsg meta meco pdin uuid udta imda".split()
)
IMAGE_RATE = Fraction(10)  # frames a second of a video made from images

# Encoders of formats that browsers play, the best first, with options for high quality.
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "libx264": ("H.264", {"crf": "18"}),
    "libopenh264": ("H.264", {"b": "20M"}),
    "libvpx-vp9": ("VP9", {"crf": "24", "b": "0", "cpu-used": "5"}),
}


@dataclass(frozen=True)
class Clip:
    """Chosen frames of a video or of images: start, start + stride, ... before `end`, counted from 0."""

    name: str
    files: tuple[Path, ...]  # the images, or the one video
    is_video: bool
    rate: Fraction  # chosen frames a second
    length: int | None  # frames of the whole clip: exact for images; of a video as its header says, or None
    size: tuple[int, int] | None = None  # (height, width) that frames are resized to
    start: int = 0
    end: int | None = None
    stride: int = 1

    def frames(self, skip: int = 0) -> Iterator[np.ndarray]:
        """The chosen frames after the first `skip`. A video is always read from its beginning.

        Raises: ValueError, while running, for a frame that can't be decoded or is of another size than the first one read, and at the
            end of a video that was cut.
        """
        shape = None
        with contextlib.closing(self._loaders()) as loaders:
            first = self.start + skip * self.stride
            for number, load in itertools.islice(enumerate(loaders), first, self._end(first), self.stride):
                frame = load()
                shape = shape or frame.shape
                if frame.shape != shape:
                    which = f"frame {number}" if self.is_video else self.files[number].name
                    raise ValueError(
                        f"{self.name}: {which} is {frame.shape[0]} x {frame.shape[1]} (height x width), after frames of "
                        f"{shape[0]} x {shape[1]}; expected frames of one size."
                    )
                yield frame if self.size is None else _resize(frame, self.size)

    def count(self) -> int | None:
        """The number of chosen frames; None where a video doesn't say its length and `end` is open."""
        end = min((limit for limit in (self.end, self.length) if limit is not None), default=None)
        return None if end is None else len(range(self.start, end, self.stride))

    def number(self, index: int) -> int:
        """The place of a chosen frame in the whole clip, counted from 1."""
        return self.start + index * self.stride + 1

    def digest(self) -> str:
        """Tells clips apart by the size and the first MiB of their (first) file, and by the names of all images."""
        names = "" if self.is_video else f"-{zlib.crc32(repr([file.name for file in self.files]).encode()):08x}"
        with self.files[0].open("rb") as file:
            return f"{self.files[0].stat().st_size}-{zlib.crc32(file.read(1 << 20)):08x}{names}"

    def gap(self) -> str | None:
        """A sentence about numbers that images seem to lack; None where none are missing."""
        found = [] if self.is_video else gaps([file.stem for file in self.files])
        if not found:
            return None
        before, missing = found[0]
        more = f", and {len(found) - 1} more gaps" if len(found) > 1 else ""
        return f"{self.name}: no frame {missing} after {before}{more}; flow goes from each frame to the next one that is there"

    def _end(self, first: int) -> int | None:
        return None if self.end is None else max(first, self.end)

    def _loaders(self) -> Generator[Callable[[], np.ndarray], None, None]:
        """For every frame a function that decodes it, so that frames that aren't chosen cost little."""
        if not self.is_video:
            yield from (functools.partial(formats.read_image, path) for path in self.files)
            return
        number = 0
        try:
            with av.open(str(self.files[0])) as container:
                stream = container.streams.video[0]
                if stream.codec_context is None:  # the process would crash in PyAV 17, the newest for Python 3.10
                    raise ValueError(f"{self.name}: frame 0 can't be decoded (its header names no known codec).")
                context = stream.codec_context
                with naming(self.name):
                    check_pixels((context.height, context.width))
                stream.thread_type = "AUTO"
                for frame in container.decode(stream):
                    yield functools.partial(self._picture, frame, number)
                    number += 1
            if cut := missing_end(self.files[0]):
                raise ValueError(f"{self.name}: {cut}")
            if not number:
                raise ValueError(f"{self.name}: no frame in it can be decoded")
            if self.length and number < self.length and ends_in_zeros(self.files[0]):
                few = f"{number} of about {self.length} frames"
                raise ValueError(f"{self.name}: {few}, and zeros at its end; expected a whole video")
        except FFmpegError as error:
            raise ValueError(f"{self.name}: frame {number} can't be decoded ({error.strerror}).") from error

    def _picture(self, frame: av.VideoFrame, number: int) -> np.ndarray:
        """A decoded frame, turned upright: phones store the sensor's picture and how the phone was held."""
        if frame.is_corrupt:  # decoders fill what they miss with other frames' pixels
            raise ValueError(f"{self.name}: frame {number} is damaged; expected a whole video, or a range without it")
        turns = round(frame.rotation / 90) % 4  # counter-clockwise, as rot90's
        return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def open_clip(
    source: str | Path,
    size: tuple[int, int] | None = None,
    start: int = 0,
    end: int | None = None,
    stride: int = 1,
) -> Clip:
    """The clip at `source`: a video file, a folder of images, or a pattern of images such as "shots/*.png". Images are sorted
    by the numbers in their names, 2 before 10.

    Raises: FileNotFoundError where nothing is found; ValueError for a file that isn't a video, or a range without frames.
    """
    if start < 0 or stride < 1 or (end is not None and end <= start):
        raise ValueError(f"start {start}, end {end}, stride {stride}: expected 0 <= start < end and stride >= 1.")
    if size is not None and min(size) < 1:
        raise ValueError(f"size {size}: expected a height and a width of at least one pixel.")
    if size is not None:
        check_pixels(size, MAX_INPUT_PIXELS)
    path = Path(source)
    if os.path.lexists(path) and not path.is_dir():
        check_regular(path)
    if path.is_file():
        rate, length = _probe(path)
        return Clip(str(path), (path,), True, rate / stride, length, size, start, end, stride)
    if path.is_dir():
        found = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."]
        missing = f"{path}: no images in this folder; expected files that end in {', '.join(IMAGE_SUFFIXES)}."
    else:
        # Path.glob takes no absolute patterns
        found = [file for file in map(Path, glob(str(source), recursive=True)) if file.is_file()]  # noqa: PTH207
        missing = f"{source}: no such video, folder of images or pattern of images."
    if not found:
        raise FileNotFoundError(missing)
    found.sort(key=lambda file: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(file))])
    return Clip(str(source), tuple(found), False, IMAGE_RATE, len(found), size, start, end, stride)


def _probe(path: Path) -> tuple[Fraction, int | None]:
    """Frames a second and the number of frames, as the video's header says."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: holds no video; expected one, a folder of images or a pattern of images.")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate or IMAGE_RATE
            seconds = Fraction(container.duration or 0, av.time_base)
            return rate, stream.frames or round(seconds * rate) or None
    except FFmpegError as error:
        raise ValueError(f"{path}: not a readable video ({error.strerror}).") from error


def missing_end(path: str | Path) -> str | None:
    """A sentence about a video file that was cut, which decoders don't tell; None where all is there that its header announces."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        start = file.read(4)
        if start == b"\x1aE\xdf\xa3":
            end = _matroska_end(file)
        elif start == b"RIFF":
            end = _riff_end(file, size)
        elif start == b"GIF8":
            whole = file.read().rstrip(b"\0").endswith(b";")
            return None if whole else "its end is missing; expected a whole video"
        elif missing := _missing_frames(path, size):
            return missing
        else:
            end = _boxes_end(file, size)
    if end is None or end <= size + RIFF_SLACK:
        return None
    return f"it has {bytes_text(size)} of {bytes_text(end)}; expected a whole video"


def ends_in_zeros(path: str | Path) -> bool:
    """Whether a file ends in ZEROS zeros or more: a download that broke off in a file of the size that it should get."""
    with Path(path).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - ZEROS))
        end = file.read()
    return len(end) == ZEROS and not any(end)


def _missing_frames(path: str | Path, size: int) -> str | None:
    """Of MP4 and QuickTime, whose index says where each frame lies."""
    with av.open(str(path)) as container:
        if "mp4" not in container.format.name:
            return None
        index = container.streams.video[0].index_entries
        missing = sum(entry.pos + entry.size > size for entry in index)
        return f"{missing} of {len(index)} frames lie beyond its end; expected a whole video" if missing else None


def _boxes_end(file: BinaryIO, size: int) -> int | None:
    """The end of the last box of an MP4 or QuickTime file, which follow each other; None of another file, or of a box up to its end."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if kind not in BOXES or length < 8:
            return None
        place += length
    return place


def _matroska_end(file: BinaryIO) -> int | None:
    """Where the segment ends; None where its writer left that open."""
    file.seek(4)
    file.seek(_vint(file) or 0, os.SEEK_CUR)  # the header
    while (kind := file.read(1)) == b"\xec":  # space that was left for later
        file.seek(_vint(file) or 0, os.SEEK_CUR)
    if kind + file.read(3) != b"\x18S\x80g":
        return None
    length = _vint(file)
    return None if length is None else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """A number of Matroska, whose first byte says how many follow; None where all of its bits are ones: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] ^ (0x80 >> more)]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _riff_end(file: BinaryIO, size: int) -> int | None:
    """The end of an AVI's last part, which follow each other; None where one doesn't say."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        kind, length = file.read(4), int.from_bytes(file.read(4), "little")
        if kind != b"RIFF":  # something else follows
            return place
        if length in (0, 0xFFFFFFFF):
            return None
        place += 8 + length + length % 2
    return place


def _resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    smaller = size[0] * size[1] < frame.shape[0] * frame.shape[1]
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def write_video(path: str | Path, pictures: Iterable[np.ndarray], rate: Fraction | float) -> str:
    """Writes pictures of one size as an .mp4 that browsers play, `rate` a second; returns its format, "H.264" where PyAV has it.

    Odd sides grow by a pixel, the last one repeated, because colour has half the resolution there.
    Raises: ValueError for another suffix, for no pictures, or where PyAV came without any of `ENCODERS`.
    """
    if Path(path).suffix.lower() != ".mp4":
        raise ValueError(f"{path}: expected a name that ends in .mp4.")
    encoder = next((name for name in ENCODERS if name in av.codecs_available), None)
    if encoder is None:
        raise ValueError(f"{path}: this PyAV can write none of {', '.join(ENCODERS)}; its wheels from PyPI can.")
    kind, options = ENCODERS[encoder]
    stream: av.VideoStream | None = None
    with (
        formats.write_atomic(path) as temporary,
        av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container,
    ):
        for picture in pictures:
            if stream is None:
                fraction = Fraction(rate).limit_denominator(1001)  # 30000/1001 and the like
                stream = cast(av.VideoStream, container.add_stream(encoder, fraction, options=options))
                stream.height, stream.width = (side + side % 2 for side in picture.shape[:2])
                stream.pix_fmt = "yuv420p"
                # _encodable converts by BT.709; without these tags, players would guess the conversion
                context = stream.codec_context
                context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709
                context.color_range = ColorRange.MPEG
            container.mux(stream.encode(_encodable(picture)))
        if stream is None:
            raise ValueError(f"{path}: a video needs at least one picture.")
        container.mux(stream.encode())
    return kind


def _encodable(picture: np.ndarray) -> av.VideoFrame:
    height, width = picture.shape[:2]
    even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
