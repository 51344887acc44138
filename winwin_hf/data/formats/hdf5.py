"""Ground truth in HDF5: Spring's .flo5 and .dsp5, Hypersim, NYUv2's labelled .mat.

Notable:
- Files are opened through Python's own file objects: the same way for a path and a Blob, and without HDF5's file locks, which
  fail on some network drives.
- Only plain data sets inside the file are read: no links to or parts in other files, no filter but gzip and shuffle, and no
  larger than the stored bytes can unpack to.
- The HDF5 library (also 2.0.0) crashes or hangs on some damaged files, because it trusts two things: the sizes of chunks, which
  are therefore unpacked or checked here, and a list in the file that can run in a circle, see `_Watched`. With both checks,
  270,000 randomly damaged files gave an array or an error. Maliciously crafted files should be converted in a separate process.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import struct
import textwrap
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO

import h5py
import numpy as np

from winwin_hf.data.formats.files import (
    DEFLATE_RATIO,
    Blob,
    PathLike,
    Source,
    check_claim,
    decoding,
    flow_array,
    map_array,
    name_of,
    opened,
    to_numpy,
    write_atomic,
)

GZIP, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
HYPERSIM_FOCAL, HYPERSIM_WIDTH = 886.81, 1024  # pixels: a field of view of 60 degrees


def read_hdf5(source: Source, dataset: str, dimensions: int, kinds: str = "f", entry: int | None = None) -> np.ndarray:
    """One data set of an HDF5 file, as stored; with `entry`, only that index of its first axis.

    dimensions: how many the result has. kinds: numpy's letters of the types allowed: f float, u unsigned, i signed.
    Raises: ValueError if the data set is missing or isn't of that kind, or the file is damaged.
    """
    name, where = name_of(source), f"{name_of(source)}: its data set {dataset!r}"
    with opened(source) as (file, size):
        with decoding(source, "HDF5 file"):
            archive = h5py.File(_Watched(file), "r")
        with archive:
            with decoding(source, "HDF5 file"):
                item = _own_dataset(archive, dataset)
                names = [] if item is not None else [repr(key) for key in itertools.islice(archive, 20)]
            if item is None:
                raise ValueError(
                    f"{name}: no data set {dataset!r} of its own; it holds {textwrap.shorten(', '.join(names), 200) or 'nothing'}."
                )
            with decoding(source, "HDF5 file"):
                shape: tuple[int, ...] = item.shape or ()
                dtype, chunks, stored = item.dtype, item.chunks, item.id.get_storage_size()
                usual = item.id.get_type().equal(h5py.h5t.py_create(dtype))
                properties = item.id.get_create_plist()
                filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
            wanted = shape if entry is None else shape[1:]
            if dtype.kind not in kinds or not usual or len(wanted) != dimensions:
                axes = dimensions + (entry is not None)
                raise ValueError(
                    f"{where} is {str(dtype)[:80]} of shape {shape}; expected {axes} dimensions of kind {kinds!r}."
                )
            if entry is not None and not entry < shape[0]:
                raise ValueError(f"{where} has {shape[0]} entries, counted from 0: there is no entry {entry}.")
            if filters not in ([], [GZIP], [SHUFFLE, GZIP]):
                raise ValueError(f"{where} is packed with the HDF5 filters {filters}; expected gzip.")
            if stored > size:
                raise ValueError(f"{where} claims {stored} stored bytes, the file has {size}.")
            ratio = DEFLATE_RATIO if filters else 1
            check_claim(where, wanted, dtype.itemsize, stored, ratio)
            if chunks:
                check_claim(f"{where}, a chunk", chunks, dtype.itemsize, stored, ratio)
            if chunks and filters:
                first, last = (0, shape[0]) if entry is None else (entry, entry + 1)
                return _read_chunks(source, item, filters, first, last).reshape(wanted)
            with decoding(source, "HDF5 file"):
                if chunks:  # the library trusts these sizes, too
                    item.id.chunk_iter(partial(_check_chunk, dtype.itemsize * math.prod(chunks)))
                return np.asarray(item[()] if entry is None else item[entry])


def _check_chunk(size: int, chunk: Any) -> None:
    if chunk.size != size:
        raise ValueError(f"its chunk at {chunk.chunk_offset} holds {chunk.size} bytes, expected {size}")


class _Watched(io.RawIOBase):
    """The file as the HDF5 library reads it.

    A local heap (the names of a group's members) has a list of its free blocks. If it runs in a circle, the library follows it
    without end and fills the memory, so the list is checked here first.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.base = file, 0  # addresses count from the start of HDF5: at 0, 512, 1024, 2048 ...
        while (start := self._bytes(self.base, 8)) and start != b"\x89HDF\r\n\x1a\n":
            self.base = max(512, 2 * self.base)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        start = self.file.tell()
        count = self.file.readinto(buffer)  # type: ignore[attr-defined]
        if bytes(buffer[:4]) == b"HEAP":
            self._follow_free_blocks(start)
            self.file.seek(start + count)
        return count

    def _follow_free_blocks(self, start: int) -> None:
        """The heap: "HEAP", a version, its size, the first free block's offset and the address they count from. A free block: the
        next one's offset, and its size. 1 ends the list."""
        header, seen = self._bytes(start + 16, 16), set()
        if len(header) == 16:
            free, address = struct.unpack("<QQ", header)
            while free != 1 and len(link := self._bytes(self.base + address + free, 8)) == 8:
                if free in seen:
                    raise ValueError("the free blocks of a heap run in a circle")
                seen.add(free)
                free = int.from_bytes(link, "little")

    def _bytes(self, position: int, count: int) -> bytes:
        if position >= 2**63:
            return b""
        self.file.seek(position)
        return self.file.read(count)


def _own_dataset(archive: h5py.File, path: str) -> h5py.Dataset | None:
    """The data set; None if it, or a part of it, is in another file, which a data set must not make us open."""
    item: h5py.File | h5py.Group | h5py.Dataset = archive
    for part in path.strip("/").split("/"):
        if not isinstance(item, h5py.Group) or not isinstance(item.get(part, getlink=True), h5py.HardLink):
            return None
        item = item[part]
    return item if isinstance(item, h5py.Dataset) and not item.is_virtual and not item.external else None


def _read_chunks(source: Source, item: h5py.Dataset, filters: list[int], first: int, last: int) -> np.ndarray:
    """The entries from `first` to before `last` of the first axis, each chunk of them unpacked and checked.

    Only for packed ones: of others, h5py's `read_direct_chunk` gets a wrong size from the library, and writes beyond its buffer.
    """
    dtype, sides, stops = item.dtype, item.chunks, (last, *item.shape[1:])
    origin = (first, *[0] * (len(stops) - 1))
    values = np.empty((last - first, *stops[1:]), dtype)
    size = dtype.itemsize * math.prod(sides)
    starts = [range(at - at % side, stop, side) for at, stop, side in zip(origin, stops, sides, strict=True)]
    for corner in itertools.product(*starts):
        with decoding(source, "HDF5 file"):
            skipped, content = item.id.read_direct_chunk(corner)  # skipped: a bit for each filter that wasn't applied
            if not skipped >> filters.index(GZIP) & 1:
                inflation = zlib.decompressobj()
                content = inflation.decompress(content, size + 1)
                if not inflation.eof:
                    raise ValueError(f"its chunk at {corner} is damaged")
            if len(content) != size:
                raise ValueError(f"its chunk at {corner} holds {len(content)} bytes, expected {size}")
        chunk = np.frombuffer(content, np.uint8)
        if SHUFFLE in filters and not skipped >> filters.index(SHUFFLE) & 1:
            # The first bytes of all values come first, then the second ones.
            chunk = np.ascontiguousarray(chunk.reshape(dtype.itemsize, -1).T)
        bounds = [
            (max(at, base), min(at + side, stop))
            for at, base, stop, side in zip(corner, origin, stops, sides, strict=True)
        ]
        here = tuple(slice(low - base, high - base) for (low, high), base in zip(bounds, origin, strict=True))
        there = tuple(slice(low - at, high - at) for (low, high), at in zip(bounds, corner, strict=True))
        values[here] = chunk.view(dtype).reshape(sides)[there]
    return values


def write_hdf5(path: PathLike, datasets: Mapping[str, np.ndarray]) -> None:
    """Arrays by name -> an HDF5 file, packed with gzip, bit for bit. Each chunk is one entry of the first axis of 3 or more
    dimensions, unless h5py's own guess is smaller."""
    with write_atomic(path) as temporary, h5py.File(temporary, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values, compression="gzip", compression_opts=5)


# ---- Spring ----


@np.errstate(over="ignore")  # of a file in float64
def read_flo5(source: Source) -> np.ndarray:
    """Spring's .flo5, the HDF5 data set "flow" -> (H, W, 2) float32 as stored; NaN is unknown. (Spring's flow_IO)

    Spring's flow has twice the image's resolution, in pixels of the image: [::2, ::2] has one vector a pixel.
    """
    flow = read_hdf5(source, "flow", 3).astype(np.float32, copy=False)
    if flow.shape[2] != 2:
        raise ValueError(f"{name_of(source)}: its data set 'flow' has the shape {flow.shape}, expected (H, W, 2).")
    return flow


def write_flo5(path: PathLike, flow: Any) -> None:
    """(H, W, 2) -> Spring's .flo5, float32, bit for bit."""
    write_hdf5(path, {"flow": flow_array(path, flow)})


@np.errstate(over="ignore")  # of a file in float64
def read_dsp5(source: Source) -> np.ndarray:
    """Spring's .dsp5, the HDF5 data set "disparity" -> (H, W) float32 pixels as stored; NaN is unknown. (Spring's flow_IO)"""
    return read_hdf5(source, "disparity", 2).astype(np.float32, copy=False)


def write_dsp5(path: PathLike, disparity: Any) -> None:
    """(H, W) -> Spring's .dsp5, float32, bit for bit."""
    write_hdf5(path, {"disparity": map_array(path, disparity, "a disparity map")})


# ---- Hypersim ----


@np.errstate(over="ignore")  # of a file in float64
def read_hypersim(source: Source) -> np.ndarray:
    """Hypersim's depth_meters.hdf5 -> z-depth (H, W) float32 in metres, NaN unknown. (Hypersim's README)

    The file holds the distance to the camera's centre, along each pixel's ray. The focal length is 886.81 pixels at a width of
    1024 and grows with the width; the principal point is the image's centre. (Some of its scenes have other cameras: theirs is
    an approximation.)
    """
    distance = read_hdf5(source, "dataset", 2)
    return (distance.astype(np.float64) * _hypersim_cosines(distance.shape)).astype(np.float32)


def write_hypersim(path: PathLike, depth: Any) -> None:
    """z-depth (H, W) in metres -> Hypersim's HDF5 of distances; in float64, so that the same float32 depths are read again."""
    array = map_array(path, depth, "a depth map")
    write_hdf5(path, {"dataset": array.astype(np.float64) / _hypersim_cosines(array.shape)})


def _hypersim_cosines(shape: tuple[int, ...]) -> np.ndarray:
    """Of the angle between each pixel's ray and the optical axis: (H, W) float64."""
    height, width = shape
    focal = HYPERSIM_FOCAL * width / HYPERSIM_WIDTH
    x = np.arange(width) + 0.5 - width / 2
    y = np.arange(height)[:, None] + 0.5 - height / 2
    return focal / np.sqrt(x**2 + y**2 + focal**2)


# ---- NYUv2 ----


def is_mat_entry(source: Source) -> bool:
    """Whether the source is named like `file.mat::17`."""
    return _MAT_ENTRY.fullmatch(name_of(source)) is not None


def read_nyu_image(source: Source) -> np.ndarray:
    """`file.mat::17` -> image 17, counted from 0, of NYUv2's labelled file: RGB uint8 (H, W, 3).

    The file is MATLAB's 7.3, which is HDF5 with the axes in reverse: `images` is (N, 3, W, H).
    """
    file, entry = _mat_entry(source)
    image = read_hdf5(file, "images", 3, "u", entry)
    if image.dtype != np.uint8 or image.shape[0] != 3:
        raise ValueError(f"{name_of(source)}: an image of {image.dtype} {image.shape}, expected uint8 (3, W, H).")
    return np.ascontiguousarray(image.transpose(2, 1, 0))


@np.errstate(over="ignore")  # of a file in float64
def read_nyu_depth(source: Source) -> np.ndarray:
    """`file.mat::17` -> depth 17, counted from 0, of NYUv2's labelled file: (H, W) float32 metres. (`depths`, which is filled in)"""
    file, entry = _mat_entry(source)
    return np.ascontiguousarray(read_hdf5(file, "depths", 2, "f", entry).T.astype(np.float32, copy=False))


def write_nyu_mat(path: PathLike, images: Any, depths: Any) -> None:
    """Images uint8 (N, H, W, 3) and depths float32 (N, H, W) -> a file laid out as NYUv2's labelled one, bit for bit.

    It is HDF5 without MATLAB's own header: h5py and `read_nyu_image` read it, MATLAB's `load` does not.
    """
    images, depths = np.asarray(to_numpy(images)), np.asarray(to_numpy(depths), np.float32)
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[:3] != depths.shape or images.shape[3] != 3:
        raise ValueError(
            f"{path}: expected images uint8 (N, H, W, 3) and depths (N, H, W), got {images.shape} and {depths.shape}."
        )
    write_hdf5(path, {"images": images.transpose(0, 3, 2, 1), "depths": depths.transpose(0, 2, 1)})


_MAT_ENTRY = re.compile(r"(.+\.mat)::(\d{1,9})", re.IGNORECASE)


def _mat_entry(source: Source) -> tuple[Source, int]:
    match = _MAT_ENTRY.fullmatch(name_of(source))
    if match is None:
        raise ValueError(f"{name_of(source)}: expected the name of a .mat file and an entry, such as nyu.mat::17.")
    return Blob(source.data, match[1]) if isinstance(source, Blob) else match[1], int(match[2])
