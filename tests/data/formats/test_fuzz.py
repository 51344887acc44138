"""Damaged files: every reader gives an array or one ValueError that names the file, and no header makes it allocate what it claims."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable

import h5py
import numpy as np
import pytest
from PIL import Image

from winwin_hf.data import formats
from winwin_hf.data.formats import Blob

Reader = Callable[[Blob], np.ndarray]
RNG = np.random.default_rng(0)
FLOW = RNG.normal(size=(12, 16, 2)).astype(np.float32)
MAP = RNG.uniform(0.5, 9, (12, 16)).astype(np.float32)
IMAGE = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)


def reader(decode: Callable[..., np.ndarray], *kind: str) -> Reader:
    return lambda source: decode(source, *kind)


READERS: dict[
    str, tuple[str, Reader, str]
] = {  # file -> its name in an error, how it is read, and the type of the result
    "flow.flo": ("a.flo", reader(formats.decode_flow, "flo"), "f4"),
    "flow.flo5": ("a.flo5", reader(formats.decode_flow, "flo5"), "f4"),
    "latest.flo5": ("a.flo5", reader(formats.decode_flow, "flo5"), "f4"),
    "plain.flo5": ("a.flo5", reader(formats.decode_flow, "flo5"), "f4"),
    "flow.pfm": ("a.pfm", reader(formats.decode_flow, "pfm"), "f4"),
    "kitti.png": ("a.png", reader(formats.decode_flow, "kitti"), "f4"),
    "flow.npy": ("a.npy", reader(formats.decode_flow, "npy"), "f4"),
    "map.pfm": ("a.pfm", reader(formats.decode_flow, "disparity-pfm:right"), "f4"),
    "map.dsp5": ("a.dsp5", reader(formats.decode_flow, "disparity-dsp5"), "f4"),
    "map.npz": ("a.npz", reader(formats.decode_depth, "disparity-npz:100,3"), "f4"),
    "map.png": ("a.png", reader(formats.decode_depth, "disparity-kitti:100"), "f4"),
    "depth.png": ("a.png", reader(formats.decode_depth, "png:1000,65535"), "f4"),
    "depth.npy": ("a.npy", reader(formats.decode_depth, "npy"), "f4"),
    "hypersim.hdf5": ("a.hdf5", reader(formats.decode_depth, "hypersim"), "f4"),
    "nyu.mat": ("nyu.mat::1", formats.decode_image, "u1"),
    "nyu-depth.mat": ("nyu.mat::1", reader(formats.decode_depth, "nyu-mat"), "f4"),
    "ids.png": ("a.png", reader(formats.decode_label, "ids:11"), "u1"),
    "palette.png": ("a.png", reader(formats.decode_label, "ids"), "u1"),
    "colours.png": ("a.png", reader(formats.decode_label, "camvid-colours"), "u1"),
    "mask.png": ("a.png", reader(formats.decode_mask, "png"), "b1"),
    "image.png": ("a.png", formats.decode_image, "u1"),
    "image.jpg": ("a.jpg", formats.decode_image, "u1"),
    "image.gif": ("a.gif", formats.decode_image, "u1"),
    "image.webp": ("a.webp", formats.decode_image, "u1"),
    "image.ppm": ("a.ppm", formats.decode_image, "u1"),
    "image.tif": ("a.tif", formats.decode_image, "u1"),
    "image.bmp": ("a.bmp", formats.decode_image, "u1"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """A small valid file for each of `READERS`."""
    folder = tmp_path_factory.mktemp("files")
    formats.write_flo(folder / "flow.flo", FLOW)
    formats.write_flo5(folder / "flow.flo5", FLOW)
    with h5py.File(folder / "latest.flo5", "w", libver="latest") as file:
        file.create_dataset("flow", data=FLOW, chunks=(5, 7, 2), compression="gzip", shuffle=True)
    with h5py.File(folder / "plain.flo5", "w") as file:
        file["flow"] = FLOW
    formats.write_pfm(folder / "flow.pfm", np.dstack([FLOW, MAP]))
    formats.write_kitti_flow(folder / "kitti.png", FLOW)
    formats.write_npy(folder / "flow.npy", FLOW)
    formats.write_pfm(folder / "map.pfm", MAP, big_endian=True)
    formats.write_dsp5(folder / "map.dsp5", MAP)
    formats.write_npz(folder / "map.npz", MAP)
    formats.write_kitti_disparity(folder / "map.png", MAP)
    formats.write_depth_png(folder / "depth.png", MAP)
    formats.write_npy(folder / "depth.npy", MAP)
    formats.write_hypersim(folder / "hypersim.hdf5", MAP)
    for name in ("nyu.mat", "nyu-depth.mat"):
        formats.write_nyu_mat(folder / name, np.stack([IMAGE] * 3), np.stack([MAP] * 3))
    formats.write_labels(folder / "ids.png", IMAGE[..., 0])
    formats.write_labels(folder / "palette.png", IMAGE[..., 0], palette=[(1, 2, 3)])
    formats.save_image(folder / "mask.png", Image.fromarray(IMAGE).convert("1"))
    for name in ("colours.png", *(f"image.{suffix}" for suffix in ("png", "jpg", "gif", "webp", "ppm", "tif", "bmp"))):
        formats.save_image(folder / name, IMAGE)
    return {name: (folder / name).read_bytes() for name in READERS}


def check(file: str, content: bytes) -> None:
    name, read, dtype = READERS[file]
    try:
        result = read(Blob(content, name))
    except ValueError as error:
        message = str(error)
        assert message.count(name.split("::")[0]) == 1 and "\n" not in message and len(message) < 500, message
    else:
        assert result.dtype == dtype and result.ndim in (2, 3) and result.size


def flipped(content: bytes, rng: random.Random, count: int) -> bytes:
    damaged = bytearray(content)
    headers = [at for at in range(len(content)) if any(content[max(at - 1, 0) : at + 2])]  # HDF5 has long runs of zeros
    for _ in range(count):
        damaged[rng.choice(headers)] = rng.choice([rng.randrange(256), 0, 1, 16, 128, 255])
    return bytes(damaged)


def fuzz(file: str, content: bytes, cases: int) -> None:
    rng = random.Random(file)
    for length in {*range(min(40, len(content))), *(rng.randrange(len(content)) for _ in range(cases // 4))}:
        check(file, content[:length])
    for _ in range(cases):
        check(file, flipped(content, rng, rng.choice([1, 1, 2, 4, 16])))
    for _ in range(cases // 10):
        check(file, rng.randbytes(rng.randrange(2000)))
        check(file, content[:12] + rng.randbytes(rng.randrange(2000)))


@pytest.mark.parametrize("file", READERS)
@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_files(files, file):
    assert READERS[file][1](Blob(files[file], READERS[file][0])).shape[:2] == (12, 16)
    fuzz(file, files[file], 60)


@pytest.mark.slow
@pytest.mark.parametrize("file", READERS)
@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_files_for_longer(files, file):
    fuzz(file, files[file], 5000)


# ---- files that claim to be huge ----


def npy_header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def zipped(content: bytes, **claims: int) -> bytes:
    """A .npz of one array, whose directory claims other sizes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
        for name, value in claims.items():
            setattr(archive.infolist()[0], name, value)
    return stream.getvalue()


def png(width: int, height: int, bits: int, colour: int, packed: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    parts = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def hdf5(shape: tuple[int, ...], chunks: tuple[int, ...] | None, content: bytes = b"", name: str = "flow") -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        dataset = file.create_dataset(name, shape, "f4", chunks=chunks, compression="gzip" if chunks else None)
        if chunks:
            dataset.id.write_direct_chunk((0,) * len(shape), content)
    return stream.getvalue()


def image_claiming(kind: str, width: int, height: int) -> bytes:
    """An empty picture of 16-bit sizes, patched."""
    stream = io.BytesIO()
    Image.new("RGB", (257, 515)).save(stream, kind)
    order = ">" if kind == "JPEG" else "<"
    old = struct.pack(f"{order}HH", *((515, 257) if kind == "JPEG" else (257, 515)))
    new = struct.pack(f"{order}HH", *((height, width) if kind == "JPEG" else (width, height)))
    assert old in stream.getvalue()
    return stream.getvalue().replace(old, new)


ZEROS = zlib.compress(bytes(200 * 2**20), 9)  # 200 KB that unpack to 200 MB
HUGE: dict[str, tuple[str, Callable[[], bytes]]] = {
    ".flo": ("flow.flo", lambda: b"PIEH" + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + bytes(99)),
    ".flo, 32 bits": ("flow.flo", lambda: b"PIEH" + struct.pack("<ii", 2**16, 2**16) + bytes(99)),
    ".pfm": ("flow.pfm", lambda: b"PF\n100000 100000\n-1\n" + bytes(99)),
    ".npy": ("flow.npy", lambda: npy_header("(2147483648, 2147483648, 2)") + bytes(99)),
    ".npy, 64 bits": ("flow.npy", lambda: npy_header("(4294967296, 4294967296, 2)") + bytes(99)),
    ".npy of nothing": ("flow.npy", lambda: npy_header("(100000, 100000, 2)", "<V0") + bytes(99)),
    ".npy, header": ("flow.npy", lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"{" * 99),
    ".npz": ("map.npz", lambda: zipped(npy_header("(100000, 100000)") + bytes(99))),
    ".npz, bomb": ("map.npz", lambda: zipped(npy_header("(7, 7)") + bytes(2**27))),
    ".npz, lying": ("map.npz", lambda: zipped(npy_header("(7, 7)") + bytes(2**27), file_size=128 + 196)),
    ".npz, claim": ("map.npz", lambda: zipped(npy_header("(7, 7)") + bytes(196), file_size=2**31)),
    "PNG 16": ("depth.png", lambda: png(100000, 100000, 16, 0, zlib.compress(bytes(9999)))),
    "PNG 16, bomb": ("depth.png", lambda: png(10240, 20480, 8, 0, ZEROS[:99999])),
    "PNG labels": ("ids.png", lambda: png(100000, 100000, 8, 0, zlib.compress(bytes(9999)))),
    "PNG": ("image.png", lambda: png(2**31 - 1, 2**31 - 1, 8, 2, zlib.compress(bytes(9999)))),
    "PNG mask": ("mask.png", lambda: png(12000, 12000, 1, 0, zlib.compress(bytes(9999)))),
    "GIF": ("image.gif", lambda: image_claiming("GIF", 65535, 65535)),
    "JPEG": ("image.jpg", lambda: image_claiming("JPEG", 65535, 65535)),
    "PPM": ("image.ppm", lambda: b"P6\n100000 100000\n255\n" + bytes(99)),
    "HDF5": ("flow.flo5", lambda: hdf5((2**31, 2**31, 2), (4, 4, 2), zlib.compress(bytes(128)))),
    "HDF5, plain": ("flow.flo5", lambda: hdf5((100000, 100000, 2), None)),
    "HDF5, chunk": ("flow.flo5", lambda: hdf5((20000, 20000, 2), (20000, 20000, 1), zlib.compress(bytes(128)))),
    "HDF5, bomb": ("flow.flo5", lambda: hdf5((64, 64, 2), (64, 64, 2), ZEROS)),
    "HDF5, many chunks": ("map.dsp5", lambda: hdf5((16000, 16000), (64, 64), ZEROS, "disparity")),
}


@pytest.mark.parametrize("case", HUGE)
def test_nothing_is_allocated_on_a_header_s_word(case):
    file, make = HUGE[case]
    content = make()
    assert len(content) < 2**20
    name, read, _ = READERS[file]
    source = Blob(content, name)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"^{name}: "):
            read(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20, f"{peak / 2**20:.0f} MiB"
