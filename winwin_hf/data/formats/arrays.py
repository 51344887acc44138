"""Files of plain numbers: Middlebury's .flo, .pfm, NumPy's .npy and .npz.

Notable:
- .pfm is read by our own code: OpenCV's divides by the header's scale, whose sign alone benchmarks use, for the byte order.
- numpy's files are parsed with numpy's own header reader, never unpickled, and must have exactly the size they claim.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from typing import Any

import numpy as np

from winwin_hf.data.formats.files import (
    DEFLATE_RATIO,
    PathLike,
    Source,
    check_claim,
    check_suffix,
    decoding,
    flow_array,
    name_of,
    opened,
    read_values,
    to_numpy,
    write_atomic,
)

FLO_MAGIC = 202021.25  # its four little-endian bytes spell "PIEH"
FLO_UNKNOWN = 1e10  # written for an unknown vector
FLO_LIMIT = 1e9  # Middlebury: a component above this is unknown

# Type, width, height, scale; one white space (or "\r\n") ends the header, whatever bytes follow.
PFM_HEADER = re.compile(rb"P([fF])\s+(\d{1,10})\s+(\d{1,10})\s+([-+]?[0-9.]+(?:[eE][-+]?\d{1,3})?)(\s)")
NPY_HEADER = 4096  # largest header that is read, bytes; that of a plain array has 118

# ---- .flo ----


def read_flo(source: Source, unknown_to_nan: bool = True) -> np.ndarray:
    """Middlebury .flo -> (H, W, 2) float32. Vectors with a component beyond 1e9 become NaN, unless `unknown_to_nan=False`.

    Layout: float32 202021.25, int32 width, int32 height, then u and v of each pixel as float32, row by row, little-endian.
    """
    name = name_of(source)
    with opened(source) as (file, size):
        header = file.read(12)
        if len(header) < 12:
            raise ValueError(f"{name}: not a .flo file: {size} bytes are fewer than its header's 12.")
        magic, width, height = struct.unpack("<fii", header)
        if magic != FLO_MAGIC:
            raise ValueError(f"{name}: not a .flo file: it starts with {header[:4]!r}, expected b'PIEH'.")
        if width < 1 or height < 1:
            raise ValueError(f"{name}: a .flo header with the impossible size {width} x {height}.")
        expected = 12 + 8 * width * height
        if size != expected:
            raise ValueError(
                f"{name}: a .flo header of {width} x {height} pixels (width x height) needs {expected} bytes, the file has {size}."
            )
        flow = read_values(source, file, "<f4", (height, width, 2)).astype(np.float32, copy=False)
    if unknown_to_nan:
        with np.errstate(invalid="ignore"):
            flow[~(np.abs(flow) <= FLO_LIMIT).all(axis=2)] = np.nan
    return flow


def write_flo(path: PathLike, flow: Any) -> None:
    """(H, W, 2) -> Middlebury .flo. A vector with a component that isn't finite is written as unknown (1e10, 1e10)."""
    array = flow_array(path, flow)
    known = np.isfinite(array).all(axis=2)
    if not known.all():
        array = np.where(known[..., None], array, np.float32(FLO_UNKNOWN))
    height, width = array.shape[:2]
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<fii", FLO_MAGIC, width, height))
        file.write(np.ascontiguousarray(array, "<f4").data)


# ---- .pfm ----


def read_pfm(source: Source) -> np.ndarray:
    """.pfm -> float32 as stored, (H, W) or (H, W, 3), top row first. (Debevec's description, as Middlebury and FlyingThings3D use it)

    Layout: "Pf" (one channel) or "PF" (three), width, height and scale as text, then float32 row by row from the bottom one.
    A negative scale means little-endian, a positive one big-endian; its magnitude is not applied to the values.
    """
    name = name_of(source)
    with opened(source) as (file, size):
        start = file.read(128)
        match = PFM_HEADER.match(start)
        if match is None:
            raise ValueError(
                f"{name}: not a .pfm file: it starts with {start[:16]!r}, expected PF or Pf, sizes and scale."
            )
        letter, width, height = match[1], int(match[2]), int(match[3])
        with decoding(source, ".pfm file"):
            scale = float(match[4])
        if width < 1 or height < 1 or scale == 0 or not math.isfinite(scale):
            raise ValueError(f"{name}: a .pfm header with the impossible size {width} x {height} or scale {scale}.")
        shape = (height, width, 3) if letter == b"F" else (height, width)
        offset, content = match.end(), 4 * math.prod(shape)
        if size == offset + 1 + content and start[offset - 1 : offset + 1] == b"\r\n":
            offset += 1
        if size != offset + content:
            raise ValueError(
                f"{name}: a .pfm header of {width} x {height} pixels (width x height) needs {offset + content} bytes, "
                f"the file has {size}."
            )
        file.seek(offset)
        values = read_values(source, file, "<f4" if scale < 0 else ">f4", shape)
    return np.ascontiguousarray(values[::-1], np.float32)


def write_pfm(path: PathLike, values: Any, big_endian: bool = False) -> None:
    """float32 (H, W) or (H, W, 3), top row first -> .pfm with a scale of 1; every value bit for bit, NaN and inf included."""
    array = np.asarray(to_numpy(values), np.float32)
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or 0 in array.shape:
        raise ValueError(f"{path}: a .pfm file holds (H, W) or (H, W, 3), got a shape of {array.shape}.")
    height, width = array.shape[:2]
    header = f"{'PF' if array.ndim == 3 else 'Pf'}\n{width} {height}\n{'1.0' if big_endian else '-1.0'}\n"
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        file.write(header.encode())
        file.write(np.ascontiguousarray(array[::-1], ">f4" if big_endian else "<f4").data)


# ---- numpy ----


def read_npy(source: Source) -> np.ndarray:
    """.npy of real numbers -> the array as stored."""
    with opened(source) as (file, size):
        return _npy_array(source, file, size)


def write_npy(path: PathLike, values: Any) -> None:
    """An array of real numbers -> .npy, bit for bit."""
    check_suffix(path, ".npy")
    array = np.asarray(to_numpy(values))
    if array.dtype.kind not in "fiu" or array.size == 0:
        raise ValueError(f"{path}: expected an array of real numbers, got {array.dtype} of shape {array.shape}.")
    with write_atomic(path) as temporary, temporary.open("wb") as file:  # by name, numpy would add .npy to .NPY
        np.save(file, array, allow_pickle=False)


def read_npz(source: Source) -> np.ndarray:
    """.npz -> its first array, of real numbers, as stored."""
    name = name_of(source)
    with opened(source) as (file, size):
        with decoding(source, ".npz file"):
            archive = zipfile.ZipFile(file)
            member = next((item for item in archive.infolist() if item.filename.endswith(".npy")), None)
        if member is None:
            raise ValueError(f"{name}: a .npz file without an array.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name}: its array {member.filename!r} is packed in a way that numpy doesn't use.")
        check_claim(name, (member.file_size,), 1, min(member.compress_size, size), DEFLATE_RATIO)
        with decoding(source, ".npz file"):
            stream = archive.open(member)  # verifies the checksum when it comes to file_size, and ends there
        return _npy_array(source, stream, member.file_size)


def _npy_array(source: Source, file: Any, size: int) -> np.ndarray:
    name = name_of(source)
    with decoding(source, ".npy file"):
        header = io.BytesIO(file.read(NPY_HEADER))
        version = np.lib.format.read_magic(header)
        if version not in ((1, 0), (2, 0)):  # later ones are for structured types
            raise ValueError(f"version {version}, expected 1.0 or 2.0")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(header, max_header_size=NPY_HEADER)
        offset, expected = header.tell(), header.tell() + dtype.itemsize * math.prod(shape)
        file.seek(offset)
    if dtype.kind not in "fiu":
        raise ValueError(f"{name}: an array of {str(dtype)[:80]}; expected real numbers.")
    if min(shape, default=0) < 1 or size != expected:
        raise ValueError(f"{name}: an array of {dtype} {shape} needs {expected} bytes, the file has {size}.")
    values = read_values(source, file, dtype, shape[::-1] if fortran else shape)
    return values.T if fortran else values


def write_npz(path: PathLike, values: Any) -> None:
    """An array of real numbers -> .npz that holds it alone, compressed, bit for bit."""
    check_suffix(path, ".npz")
    array = np.asarray(to_numpy(values))
    if array.dtype.kind not in "fiu" or array.size == 0:
        raise ValueError(f"{path}: expected an array of real numbers, got {array.dtype} of shape {array.shape}.")
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, array)
