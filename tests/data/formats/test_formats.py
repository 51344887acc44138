"""Files of images, flow, depth and labels: bit-exact round trips, and one clear error for a malformed file."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from winwin_hf.data import formats
from winwin_hf.data.formats import Blob

one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=40
)
sides = array_shapes(min_dims=2, max_dims=2, max_side=6)
any_float = st.floats(width=32)  # with NaN, inf and -0.0
flows = arrays(
    np.float32,
    sides.map(lambda shape: (*shape, 2)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
any_flows = arrays(np.float32, sides.map(lambda shape: (*shape, 2)), elements=any_float)
any_maps = arrays(np.float32, sides, elements=any_float)


def blob(path: Path) -> Blob:
    return Blob(path.read_bytes(), path.name)


def same(array: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit: -0.0 isn't 0.0, and a NaN is itself."""
    return array.dtype == other.dtype and array.shape == other.shape and array.tobytes() == other.tobytes()


# ---- .flo ----


@given(flow=flows)
@one_folder
def test_flo_round_trip_is_bit_exact(tmp_path, flow):
    formats.write_flo(tmp_path / "flow.flo", flow)
    assert same(formats.read_flo(tmp_path / "flow.flo", unknown_to_nan=False), flow)
    read = formats.read_flo(blob(tmp_path / "flow.flo"))
    known = (np.abs(flow) <= 1e9).all(axis=2)
    assert read[known].tobytes() == flow[known].tobytes() and np.isnan(read[~known]).all()


def test_flo_layout_and_unknown_vectors(tmp_path):
    flow = np.array([[[1.5, -2], [np.nan, 3], [4, np.inf]]], np.float32)
    formats.write_flo(tmp_path / "flow.flo", torch.from_numpy(flow))
    content = (tmp_path / "flow.flo").read_bytes()
    assert content[:12] == b"PIEH" + struct.pack("<ii", 3, 1)
    assert np.array_equal(np.frombuffer(content[12:], "<f4"), np.float32([1.5, -2, 1e10, 1e10, 1e10, 1e10]))
    assert np.isnan(formats.read_flo(tmp_path / "flow.flo")[0, 1:]).all()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PIEH\x02\x00",
        b"PIEX" + struct.pack("<ii", 1, 1) + bytes(8),
        b"PIEH" + struct.pack("<ii", 2, 2) + bytes(31),
        b"PIEH" + struct.pack("<ii", 2, 2) + bytes(33),
        b"PIEH" + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + bytes(32),
        b"PIEH" + struct.pack("<ii", -2, 2) + bytes(32),
        b"PIEH" + struct.pack("<ii", 0, 0),
    ],
)
def test_malformed_flo_is_one_error_that_names_it(tmp_path, content):
    (tmp_path / "bad.flo").write_bytes(content)
    for source in (tmp_path / "bad.flo", str(tmp_path / "bad.flo"), Blob(content, "bad.flo")):
        with pytest.raises(ValueError, match=r"bad\.flo"):
            formats.read_flo(source)


def test_flow_of_the_wrong_shape_is_not_written(tmp_path):
    for write, name in (
        (formats.write_flo, "flow.flo"),
        (formats.write_flo5, "flow.flo5"),
        (formats.write_kitti_flow, "flow.png"),
    ):
        with pytest.raises(ValueError, match="permute"):
            write(tmp_path / name, np.zeros((2, 5, 6)))
        with pytest.raises(FileNotFoundError, match="folder"):
            write(tmp_path / "no" / name, np.zeros((5, 6, 2)))
    assert list(tmp_path.iterdir()) == []


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), formats.write_atomic(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt" and temporary != path
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with formats.write_atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


# ---- .pfm ----


@given(
    values=st.one_of(any_maps, arrays(np.float32, sides.map(lambda shape: (*shape, 3)), elements=any_float)),
    big=st.booleans(),
)
@one_folder
def test_pfm_round_trip_is_bit_exact(tmp_path, values, big):
    formats.write_pfm(tmp_path / "map.pfm", values, big_endian=big)
    assert same(formats.read_pfm(tmp_path / "map.pfm"), values)
    assert same(formats.read_pfm(blob(tmp_path / "map.pfm")), values)


def test_pfm_by_hand():
    """Rows are stored from the bottom; the scale's sign is the byte order and its magnitude is not applied."""
    image = np.float32([[1, 2, 3], [4, 5, 6]])
    for order, scale in (("<", b"-1.0"), (">", b"1"), ("<", b"-0.003922"), (">", b"+2.5e-1")):
        rows = struct.pack(f"{order}6f", 4, 5, 6, 1, 2, 3)
        assert same(formats.read_pfm(Blob(b"Pf\n3 2\n" + scale + b"\n" + rows, "a")), image)
        assert same(formats.read_pfm(Blob(b"Pf 3\n2 " + scale + b"\r\n" + rows, "a")), image)
        assert same(formats.read_pfm(Blob(b"PF\n1 2\n" + scale + b"\n" + rows, "a")), image.reshape(2, 1, 3))
    first = struct.pack("<f", np.frombuffer(b"\n \r\n", "<f4")[0])  # values that look like white space
    assert formats.read_pfm(Blob(b"Pf\n1 1\n-1\n" + first, "a")).tobytes() == b"\n \r\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"P6\n1 1\n-1\n" + bytes(4),
        b"Pf\n1 1\n0\n" + bytes(4),
        b"Pf\n1 1\n-1.0.0\n" + bytes(4),
        b"Pf\n1 1\n1e999\n" + bytes(4),
        b"Pf\n0 1\n-1\n",
        b"Pf\n-1 1\n-1\n" + bytes(4),
        b"Pf\n2 1\n-1\n" + bytes(7),
        b"Pf\n2 1\n-1\n" + bytes(9),
        b"PF\n2 1\n-1\n" + bytes(8),
        b"Pf\n2147483647 2147483647\n-1\n" + bytes(8),
        b"Pf\n1 1",
    ],
)
def test_malformed_pfm_is_one_error_that_names_it(content):
    with pytest.raises(ValueError, match=r"^bad\.pfm: "):
        formats.read_pfm(Blob(content, "bad.pfm"))


def test_what_a_pfm_file_cannot_hold(tmp_path):
    for shape in ((3, 4, 2), (5,), (0, 4)):
        with pytest.raises(ValueError, match=r"a\.pfm"):
            formats.write_pfm(tmp_path / "a.pfm", np.zeros(shape))


# ---- numpy ----

numbers = st.sampled_from(["<f2", "<f4", ">f4", "<f8", "u1", "<i4", ">u2"]).flatmap(
    lambda dtype: arrays(dtype, array_shapes(max_dims=4, max_side=4))
)


@given(values=numbers, fortran=st.booleans())
@one_folder
def test_numpy_round_trips_are_bit_exact(tmp_path, values, fortran):
    values = np.asfortranarray(values) if fortran else values
    formats.write_npy(tmp_path / "a.npy", values)
    formats.write_npz(tmp_path / "a.npz", values)
    np.savez(tmp_path / "two.npz", first=values, second=np.zeros(3))
    for read in (
        formats.read_npy(tmp_path / "a.npy"),
        formats.read_npy(blob(tmp_path / "a.npy")),
        formats.read_npz(tmp_path / "a.npz"),
        formats.read_npz(blob(tmp_path / "two.npz")),
    ):
        assert same(read, values) and read.flags.writeable


def npy(values: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


def npz(*members: tuple[str, bytes], **options) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def test_malformed_numpy_files():
    good = npy(np.zeros((2, 3), np.float32))
    bad = [
        b"",
        b"text",
        good[:-1],
        good + b"\0",
        good.replace(b"(2, 3)", b"(9, 9)"),
        good.replace(b"(2, 3)", b"(2,-3)"),
        good.replace(b"(2, 3)", b"(" + b"1," * 100 + b"6)"),
        good.replace(b"<f4", b"<c8"),
        good.replace(b"<f4", b"|O8"),
        good.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x03"),
        npy(np.zeros((0, 3))),
        npy(np.array(["text"])),
        npy(np.array([None]), allow_pickle=True),
        npy(np.zeros(2, [("x", "f4"), ("y", "f4")])),
    ]
    for content in bad:
        with pytest.raises(ValueError, match=r"^bad\.npy: "):
            formats.read_npy(Blob(content, "bad.npy"))
    for content in [
        *bad,
        *(npz(("a.npy", content)) for content in bad),
        npz(("a.txt", good)),
        npz(("a.npy", good), compression=zipfile.ZIP_LZMA),
        npz(("a.npy", good))[:-30],
    ]:
        with pytest.raises(ValueError, match=r"^bad\.npz: "):
            formats.read_npz(Blob(content, "bad.npz"))
    with pytest.raises(ValueError, match="real numbers"):
        formats.write_npy("a.npy", np.array(["text"]))


# ---- HDF5 ----


@given(flow=any_flows, disparity=any_maps)
@one_folder
def test_spring_round_trips_are_bit_exact(tmp_path, flow, disparity):
    formats.write_flo5(tmp_path / "a.flo5", flow)
    formats.write_dsp5(tmp_path / "a.dsp5", disparity)
    for source in (tmp_path, None):
        assert same(formats.read_flo5(tmp_path / "a.flo5" if source else blob(tmp_path / "a.flo5")), flow)
        assert same(formats.read_dsp5(tmp_path / "a.dsp5" if source else blob(tmp_path / "a.dsp5")), disparity)
    with h5py.File(tmp_path / "a.flo5") as file:  # as Spring's own tools do
        assert same(file["flow"][()], flow) and file["flow"].compression == "gzip"


@given(depth=arrays(np.float32, sides, elements=st.floats(2**-10, 1000, width=32) | st.just(np.nan)))
@one_folder
def test_hypersim_round_trip_is_bit_exact(tmp_path, depth):
    formats.write_hypersim(tmp_path / "a.hdf5", depth)
    assert same(formats.read_hypersim(tmp_path / "a.hdf5"), depth)


def test_hypersim_distances_become_depths(tmp_path):
    """A wall at 2 m that faces the camera; its file has half the usual size, and float16 values."""
    height, width, focal = 384, 512, 886.81 / 2
    x, y = np.meshgrid(np.arange(width) - width / 2 + 0.5, np.arange(height) - height / 2 + 0.5)
    distance = 2 * np.sqrt(1 + (x / focal) ** 2 + (y / focal) ** 2)
    assert distance[192, 256] < 2.00001 and distance[0, 0] > 2.4
    formats.write_hdf5(tmp_path / "a.hdf5", {"dataset": distance.astype(np.float16)})
    depth = formats.read_hypersim(blob(tmp_path / "a.hdf5"))
    assert depth.dtype == np.float32 and np.abs(depth - 2).max() < 2e-3


def test_nyu_labelled_file(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 8, 10, 3), dtype=np.uint8)
    depths = rng.uniform(0.5, 9, (3, 8, 10)).astype(np.float32)
    path = tmp_path / "nyu.mat"
    formats.write_nyu_mat(path, images, depths)
    with h5py.File(path) as file:  # MATLAB's axes are in reverse
        assert file["images"].shape == (3, 3, 10, 8) and file["depths"].shape == (3, 10, 8)
        assert np.array_equal(file["depths"][1], depths[1].T)
    for source in (f"{path}::2", Path(f"{path}::2"), Blob(path.read_bytes(), "nyu.mat::2")):
        assert same(formats.read_nyu_image(source), images[2]) and same(formats.read_nyu_depth(source), depths[2])
    with pytest.raises(ValueError, match=r"no entry 3"):
        formats.read_nyu_depth(f"{path}::3")
    with pytest.raises(ValueError, match=r"nyu\.mat::17"):
        formats.read_nyu_image(path)
    with pytest.raises(FileNotFoundError, match=r"none\.mat"):
        formats.read_nyu_image(tmp_path / "none.mat::0")


@pytest.mark.parametrize("chunks", [None, True, (5, 7, 1), (2, 16, 2), (12, 16, 2)])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_any_plain_hdf5_layout(tmp_path, chunks, dtype, version):
    values = np.random.default_rng(0).normal(size=(12, 16, 2)).astype(dtype)
    values[3:6] = 0  # some chunks are packed, some are not
    packing = {"compression": "gzip", "shuffle": dtype != ">f4"} if chunks else {}
    with h5py.File(tmp_path / "a.h5", "w", libver=version, userblock_size=512) as file:
        file.create_dataset("group/values", data=values, chunks=chunks, **packing)
    assert same(formats.read_hdf5(tmp_path / "a.h5", "group/values", 3), values)
    assert same(formats.read_hdf5(blob(tmp_path / "a.h5"), "group/values", 2, entry=7), values[7])


def test_hdf5_that_is_not_what_it_should_be(tmp_path):
    flow = np.zeros((4, 6, 2), np.float32)

    def refused(expected: str, **datasets) -> None:
        with h5py.File(tmp_path / "a.flo5", "w") as file:
            for name, make in datasets.items():
                make(file, name)
        for source in (tmp_path / "a.flo5", blob(tmp_path / "a.flo5")):
            with pytest.raises(ValueError, match=rf"a\.flo5: .*{expected}"):
                formats.read_flo5(source)

    (tmp_path / "raw").write_bytes(flow.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["flow"] = flow
    refused("it holds nothing")
    refused("it holds 'disparity'", disparity=lambda file, name: file.create_dataset(name, data=flow[..., 0]))
    refused("it holds 'flow'", flow=lambda file, name: file.create_group(name))
    refused("it holds 'flow'", flow=lambda file, name: file.__setitem__(name, h5py.ExternalLink("other.h5", "flow")))
    external = [(str(tmp_path / "raw"), 0, flow.nbytes)]
    refused("it holds 'flow'", flow=lambda file, name: file.create_dataset(name, flow.shape, "f4", external=external))
    layout = h5py.VirtualLayout(flow.shape, "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "flow", flow.shape)
    refused("it holds 'flow'", flow=lambda file, name: file.create_virtual_dataset(name, layout))
    refused("shape", flow=lambda file, name: file.create_dataset(name, data=flow[..., :1]))
    refused("dimensions", flow=lambda file, name: file.create_dataset(name, data=flow[..., 0]))
    refused("kind", flow=lambda file, name: file.create_dataset(name, data=flow.astype(np.int32)))
    refused("kind", flow=lambda file, name: file.create_dataset(name, data="text"))
    refused("filters", flow=lambda file, name: file.create_dataset(name, data=flow, compression="lzf"))
    refused("values", flow=lambda file, name: file.create_dataset(name, (0, 6, 2), "f4"))
    refused("values", flow=lambda file, name: file.create_dataset(name, (4, 6, 2), "f4"))  # nothing was stored
    refused("dimensions", flow=lambda file, name: file.create_dataset(name, data=h5py.Empty("f4")))

    def holes(file: h5py.File, name: str) -> None:
        file.create_dataset(name, flow.shape, "f4", chunks=(2, 6, 2), compression="gzip")[:2] = 1

    refused("HDF5", flow=holes)
    for content in (b"", b"text" * 100, b"\x89HDF\r\n\x1a\n" + bytes(100)):
        with pytest.raises(ValueError, match=r"^bad\.flo5: "):
            formats.read_flo5(Blob(content, "bad.flo5"))


@pytest.mark.parametrize("content", [b"short", bytes(10**6)])
@pytest.mark.parametrize("packed", [True, False])
def test_an_hdf5_chunk_of_the_wrong_length(tmp_path, content, packed):
    """The library itself goes beyond its buffer where a chunk is short, and unpacks a long one to any length."""
    with h5py.File(tmp_path / "a.flo5", "w") as file:
        compression = "gzip" if packed else None
        flow = file.create_dataset("flow", (8, 8, 2), "f4", chunks=(8, 8, 2), compression=compression)
        flow.id.write_direct_chunk((0, 0, 0), zlib.compress(content) if packed else content)
    with pytest.raises(ValueError, match=r"a\.flo5: .*(chunk|values cannot come from)"):
        formats.read_flo5(tmp_path / "a.flo5")


@pytest.mark.parametrize("userblock", [0, 512, 1024])
def test_an_hdf5_heap_that_runs_in_a_circle(tmp_path, userblock):
    """The library itself would follow it for ever, and take all memory."""
    flow = np.ones((2, 3, 2), np.float32)
    with h5py.File(tmp_path / "a.flo5", "w", userblock_size=userblock) as file:
        file["flow"] = flow
    assert same(formats.read_flo5(tmp_path / "a.flo5"), flow)
    content = bytearray((tmp_path / "a.flo5").read_bytes())
    free, address = struct.unpack_from("<QQ", content, content.index(b"HEAP") + 16)
    struct.pack_into("<Q", content, userblock + address + free, free)  # the block is its own successor
    with pytest.raises(ValueError, match=r"^bad\.flo5: .*circle"):
        formats.read_flo5(Blob(bytes(content), "bad.flo5"))


# ---- names ----


@pytest.mark.parametrize("suffix", ["flo", "flo5", "npy", "npz", "pfm", "png"])
def test_a_suffix_in_capitals(tmp_path, suffix):
    """A camera's, or of a system that doesn't tell them apart."""
    writer = "kitti_flow" if suffix == "png" else suffix
    values = np.ones((4, 6) if suffix in ("npy", "npz", "pfm") else (4, 6, 2), np.float32)
    path = tmp_path / f"a.{suffix.upper()}"
    getattr(formats, f"write_{writer}")(path, values)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert same(np.asarray(getattr(formats, f"read_{writer}")(path)), values)


def test_a_folder_that_goes_while_a_file_is_written(tmp_path):
    """No argument is wrong: neither FileNotFoundError, nor exit code 2."""
    (tmp_path / "a").mkdir()
    with (
        pytest.raises(OSError, match=r"x\.npy: could not be written: its folder") as caught,
        formats.write_atomic(tmp_path / "a/x.npy"),
    ):
        (tmp_path / "a").rmdir()
    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.skipif(sys.platform != "linux", reason="a file that is there and can't be read")
@pytest.mark.parametrize("read", [formats.read_image, formats.read_flo, formats.read_npy])
def test_a_fault_while_a_file_is_read_names_it(read):
    """The system's error of a failing disk or server has no name in it."""
    with pytest.raises(OSError, match="/proc/self/mem"):
        read(Path("/proc/self/mem"))
