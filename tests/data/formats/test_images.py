"""Pictures, and ground truth in pictures: KITTI's flow and disparity, depth, labels, masks; real files of every kind we have."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from winwin_hf.data import formats
from winwin_hf.data.formats import Blob

one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=40
)
sides = array_shapes(min_dims=2, max_dims=2, max_side=6)


def write_png16(path: Path, array: np.ndarray) -> None:
    assert cv2.imwrite(str(path), array)


def saved(image: Image.Image, kind: str, **options) -> Blob:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Blob(stream.getvalue(), f"image.{kind.lower()}")


def png(width: int, height: int, bits: int, colour: int, packed: bytes) -> bytes:
    """A PNG file by hand; packed: the compressed rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


# ---- pictures ----


def test_images(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    formats.save_image(tmp_path / "image.png", image)
    assert np.array_equal(formats.read_image(tmp_path / "image.png"), image)
    assert np.array_equal(formats.read_image(Blob((tmp_path / "image.png").read_bytes(), "a shard's")), image)
    formats.save_image(tmp_path / "grey.png", image[..., 0])
    assert np.array_equal(formats.read_image(tmp_path / "grey.png"), image[..., :1].repeat(3, axis=2))
    Image.fromarray(image[..., 0].astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    assert np.array_equal(formats.read_image(tmp_path / "grey16.png"), image[..., :1].repeat(3, axis=2))
    Image.fromarray(np.dstack([image, np.zeros((20, 30), np.uint8)])).save(tmp_path / "clear.png")
    assert (formats.read_image(tmp_path / "clear.png") == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(formats.read_image(tmp_path / "turned.png"), image[::-1, ::-1])


def test_images_of_other_kinds():
    grey = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
    image = Image.fromarray(grey).convert("RGB")
    pixels = np.asarray(image)
    red = Image.new("RGB", (8, 6), (200, 10, 10))
    animated = saved(red, "GIF", save_all=True, append_images=[image.convert("RGB")])
    assert np.abs(formats.read_image(animated).astype(int) - (200, 10, 10)).max() < 8  # its first frame
    assert np.abs(formats.read_image(saved(red.convert("CMYK"), "JPEG")).astype(int) - (200, 10, 10)).max() < 4
    assert np.array_equal(formats.read_image(saved(image, "TIFF")), pixels)
    assert np.array_equal(formats.read_image(saved(image, "WEBP", lossless=True)), pixels)
    assert np.array_equal(formats.read_image(saved(image.quantize(256), "PNG")), pixels)
    half = Image.fromarray(np.dstack([grey, np.full_like(grey, 128)]))
    expected = np.rint(grey + (255.0 - grey) * 127 / 255)
    assert np.abs(formats.read_image(saved(half, "PNG"))[..., 0] - expected).max() <= 1
    colour16 = np.random.default_rng(1).integers(0, 65536, (6, 8, 3)).astype(np.uint16)
    content = cv2.imencode(".png", colour16[..., ::-1])[1].tobytes()
    assert np.array_equal(formats.read_image(Blob(content, "a")), colour16 >> 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright
    assert formats.read_image(saved(image, "JPEG", exif=exif)).shape == (8, 6, 3)


def test_unreadable_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        formats.read_image(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        formats.read_image(tmp_path)
    formats.save_image(tmp_path / "image.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "half.png").write_bytes((tmp_path / "image.png").read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no image")
    for name in ("half.png", "text.png"):
        with pytest.raises(ValueError, match=name):
            formats.read_image(tmp_path / name)
    with pytest.raises(ValueError, match="suffix"):
        formats.save_image(tmp_path / "image.xyz", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        formats.save_image(tmp_path / "float.png", np.zeros((4, 4, 3)))


# ---- labels ----


@given(
    ids=st.sampled_from([(np.uint8, 255), (np.int64, 255), (np.int32, 65535)]).flatmap(
        lambda kind: arrays(kind[0], sides, elements=st.integers(0, kind[1]))
    )
)
@one_folder
def test_label_round_trips_are_exact(tmp_path, ids):
    formats.write_labels(tmp_path / "ids.png", ids)
    read = formats.read_labels(tmp_path / "ids.png")
    assert np.array_equal(read, ids) and read.dtype == (np.uint8 if ids.max() < 256 else np.int32)
    if ids.max() < 256:
        formats.write_labels(tmp_path / "ids.png", ids, palette=[(255, 0, 0), (0, 255, 0)])
        with Image.open(tmp_path / "ids.png") as image:
            assert image.mode == "P" and image.getpalette()[:6] == [255, 0, 0, 0, 255, 0]
        assert np.array_equal(formats.read_labels(Blob((tmp_path / "ids.png").read_bytes(), "a")), ids)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
def test_labels_of_few_bits_are_not_stretched(bits, colour):
    """A row of 0, 1, ..., which readers of pictures take for shades from black to white (colour 0) or colours (3)."""
    values = np.arange(2**bits, dtype=np.uint8)
    packed = np.packbits(np.unpackbits(values[:, None], axis=1)[:, -bits:])
    content = png(len(values), 1, bits, colour, zlib.compress(b"\0" + packed.tobytes()))
    if colour == 3:
        palette = bytes(range(len(values) * 3)) if bits < 8 else bytes(768)
        chunk = struct.pack(">I", len(palette)) + b"PLTE" + palette + struct.pack(">I", zlib.crc32(b"PLTE" + palette))
        content = content[:33] + chunk + content[33:]
    assert np.array_equal(formats.read_labels(Blob(content, "ids.png")), values[None])


def test_what_labels_are_not(tmp_path):
    for mode in ("RGB", "RGBA", "LA", "F"):
        image = Image.new(mode, (3, 2))
        with pytest.raises(ValueError, match=r"^image\.[a-z]+: labels are one integer a pixel"):
            formats.read_labels(saved(image, "TIFF" if mode == "F" else "PNG"))
    path = tmp_path / "ids.png"
    for ids, options in (
        ([[-1, 0]], {}),
        ([[65536]], {}),
        ([[256]], {"palette": [(0, 0, 0)]}),
        ([[0.5]], {}),
        ([0, 1], {}),
    ):
        with pytest.raises(ValueError, match=r"ids\.png"):
            formats.write_labels(path, ids, **options)
    with pytest.raises(ValueError, match=r"ends in \.png"):
        formats.write_labels(tmp_path / "ids.jpg", [[0]])
    assert not list(tmp_path.iterdir())


def test_masks():
    values = np.array([[0, 1, 255]], np.uint8)
    white = Image.fromarray(values).convert("1", dither=Image.Dither.NONE)
    colour = np.zeros((1, 3, 4), np.uint8)
    colour[0, 1, 2], colour[..., 3] = 9, 255  # alpha is no sample
    for image, expected in (
        (Image.fromarray(values), [0, 1, 1]),
        (Image.fromarray(values.astype(np.uint16)), [0, 1, 1]),
        (white, [0, 0, 1]),
        (Image.fromarray(colour), [0, 1, 0]),
        (Image.fromarray(colour[..., [2, 3]]), [0, 1, 0]),
        (Image.fromarray(colour[..., :3]), [0, 1, 0]),
    ):
        mask = formats.read_mask(saved(image, "PNG"))
        assert mask.dtype == bool and mask.tolist() == [[bool(value) for value in expected]]


# ---- KITTI and depth ----


@given(raw=arrays(np.uint16, sides.map(lambda shape: (*shape, 2))), known=st.data())
@one_folder
def test_kitti_flow_samples_survive(tmp_path, raw, known):
    """What was read is written again as the same samples; unknown pixels are those of zero flow, as KITTI's are."""
    valid = known.draw(arrays(np.uint16, raw.shape[:2], elements=st.integers(0, 1)))
    raw = np.where(valid[..., None] == 1, raw, 32768)
    samples = np.dstack([valid, raw[..., 1], raw[..., 0]]).astype(np.uint16)  # OpenCV's order: valid, v, u
    write_png16(tmp_path / "flow.png", samples)
    flow = formats.read_kitti_flow(tmp_path / "flow.png")
    formats.write_kitti_flow(tmp_path / "again.png", flow)
    assert np.array_equal(cv2.imread(str(tmp_path / "again.png"), cv2.IMREAD_UNCHANGED), samples)


def test_kitti_flow(tmp_path):
    raw = np.zeros((2, 3, 3), np.uint16)
    raw[0, 0] = (1, 32768 - 64, 32768 + 96)
    raw[1, 2] = (1, 65535, 1)
    write_png16(tmp_path / "flow.png", raw)
    flow = formats.read_kitti_flow(tmp_path / "flow.png")
    assert flow.dtype == np.float32 and flow.shape == (2, 3, 2)
    assert np.array_equal(flow[0, 0], [1.5, -1.0])
    assert np.array_equal(flow[1, 2], np.float32([(1 - 32768) / 64, (65535 - 32768) / 64]))
    assert np.isnan(flow).all(axis=2).sum() == 4
    limits = np.array([[[-512, 511.99], [-512.01, 0], [0, 512], [np.nan, 1], [np.inf, 1], [0.01, -0.007]]])
    formats.write_kitti_flow(tmp_path / "out.png", limits)
    expected = np.full((1, 6, 2), np.nan, np.float32)
    expected[0, [0, 5]] = (-512, 511.984375), (1 / 64, 0)  # to the nearest 64th; what doesn't fit is unknown
    np.testing.assert_array_equal(formats.read_kitti_flow(tmp_path / "out.png"), expected)


def test_kitti_disparity(tmp_path):
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_png16(tmp_path / "a.png", samples)
    disparity = formats.read_kitti_disparity(tmp_path / "a.png")
    assert np.isnan(disparity[0, 0]) and np.array_equal(disparity.ravel()[1:], np.float32(samples.ravel()[1:] / 256))
    formats.write_kitti_disparity(tmp_path / "b.png", disparity)
    assert np.array_equal(cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED), samples)
    formats.write_kitti_disparity(tmp_path / "c.png", np.array([[0, 1 / 1000, -1, np.nan, 255.99609375, 256, np.inf]]))
    expected = np.float32([[1 / 256, 1 / 256, np.nan, np.nan, 255.99609375, np.nan, np.nan]])
    np.testing.assert_array_equal(formats.read_kitti_disparity(tmp_path / "c.png"), expected)


@pytest.mark.parametrize("scale", [256, 1000, 5000, 25.5])
def test_depth_samples_survive(tmp_path, scale):
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_png16(tmp_path / "a.png", samples)
    formats.write_depth_png(tmp_path / "b.png", formats.read_depth_png(tmp_path / "a.png", scale), scale)
    assert np.array_equal(cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED), samples)


def test_depth_by_suffix(tmp_path):
    depth = np.float32([[1.2344, 1.2346, 0.0], [np.nan, np.inf, 70.0]])
    formats.write_depth(tmp_path / "depth.png", depth)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "depth.png")), [[1234, 1235, 0], [0, 0, 65535]])
    formats.write_depth(tmp_path / "depth.npy", depth)
    np.testing.assert_array_equal(np.load(tmp_path / "depth.npy"), depth)


def test_depth_png(tmp_path):
    write_png16(tmp_path / "depth.png", np.array([[0, 500, 65535]], np.uint16))
    depth = formats.read_depth_png(tmp_path / "depth.png", scale=1000)
    np.testing.assert_array_equal(depth, np.float32([[np.nan, 0.5, 65.535]]))
    assert np.isnan(formats.read_depth_png(tmp_path / "depth.png", 1000, unknown=(0, 65535))[0, 2])
    formats.write_depth_png(tmp_path / "out.png", np.array([[np.nan, 1.234, 0.0001, 100.0, np.inf, -1]]))
    expected = np.float32([[np.nan, 1.234, 0.001, np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(formats.read_depth_png(tmp_path / "out.png", 1000), expected)
    for scale in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="scale"):
            formats.read_depth_png(tmp_path / "depth.png", scale)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_whose_end_is_zeros_is_refused(tmp_path, kind):
    """A download that broke off in a file that was made as large as it should become. Zeros after a whole one are none of it."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    path = tmp_path / f"a.{kind}"
    image.save(path)
    content = path.read_bytes()
    assert formats.read_image(path).shape == (96, 96, 3)
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)].ljust(len(content), b"\0"))
        with pytest.raises(ValueError, match=rf"a\.{kind}: not a readable image"):
            formats.read_image(path)
    if kind != "webp":
        path.write_bytes(content + bytes(999))
        assert formats.read_image(path).shape == (96, 96, 3)


def test_a_png_with_another_checksum_is_refused(tmp_path):
    """One byte of the stored pixels is another: ids of classes too."""
    ids = np.random.default_rng(0).integers(0, 12, (64, 64), dtype=np.uint8)
    Image.fromarray(ids).save(tmp_path / "a.png", compress_level=0)
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    for read in (formats.read_labels, formats.read_mask, formats.read_image):
        with pytest.raises(ValueError, match=r"a\.png: .*a damaged PNG"):
            read(tmp_path / "a.png")


def test_ids_in_a_jpeg_are_refused(tmp_path):
    """Under any name: what compression makes of ids are other ids."""
    Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / "a.png", "jpeg")
    with pytest.raises(ValueError, match=r"a\.png: a JPEG, whose compression changes the ids"):
        formats.read_labels(tmp_path / "a.png")


def test_malformed_png(tmp_path):
    write_png16(tmp_path / "good.png", np.random.default_rng(0).integers(0, 65536, (40, 40, 3)).astype(np.uint16))
    content = (tmp_path / "good.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "huge.png").write_bytes(content[:16] + struct.pack(">II", 2**20, 2**20) + content[24:])
    (tmp_path / "flipped.png").write_bytes(content[:999] + bytes([content[999] ^ 1]) + content[1000:])
    (tmp_path / "fewer rows.png").write_bytes(png(40, 40, 16, 2, zlib.compress(bytes(241 * 39))))
    (tmp_path / "wrong filter.png").write_bytes(png(40, 40, 16, 2, zlib.compress(b"\x09" * 241 * 40)))
    (tmp_path / "text.png").write_text("no image" * 10)
    formats.save_image(tmp_path / "eight.png", np.zeros((4, 4, 3), np.uint8))
    names = ("half", "huge", "flipped", "fewer rows", "wrong filter", "text", "eight")
    for name in names:
        with pytest.raises(ValueError, match=rf"{name}\.png"):
            formats.read_kitti_flow(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"good\.png"):
        formats.read_depth_png(tmp_path / "good.png", 256)
    with pytest.raises(ValueError, match="bits"):
        formats.read_kitti_disparity(Blob(png(8, 1, 1, 0, zlib.compress(b"\0\0")), "a.png"))
    grey = Blob(png(1, 1, 8, 0, zlib.compress(b"\0\x0a")), "grey.png")
    assert formats.read_depth_png(grey, 5).item() == 2
    with pytest.raises(ValueError, match=r"grey\.png: .* of 1000 steps per unit has 16 bits, this one has 8"):
        formats.read_depth_png(grey, 1000)  # no farther than 26 cm


# ---- real files ----


def test_real_files(real_data, tmp_path):
    paths = [
        real_data("middlebury-flow/other-gt-flow/RubberWhale/flow10.flo"),
        real_data("Sintel/training/flow/market_5/frame_0002.flo"),
    ]
    for path in paths:
        formats.write_flo(tmp_path / "again.flo", formats.read_flo(path, unknown_to_nan=False))
        assert (tmp_path / "again.flo").read_bytes() == path.read_bytes()
    flow = formats.read_flo(paths[0])
    assert flow.shape == (388, 584, 2) and 0 < np.isnan(flow[..., 0]).mean() < 0.1 and np.nanmax(np.abs(flow)) < 10
    flow = formats.read_flo(paths[1])
    assert flow.shape == (436, 1024, 2) and np.isfinite(flow).all() and 100 < np.abs(flow).max() < 200

    path = next(real_data("KITTI/training/flow_occ").glob("*_10.png"))
    kitti = formats.read_kitti_flow(path)
    assert kitti.shape == (375, 1242, 2) and 0.05 < np.isfinite(kitti[..., 0]).mean() < 0.5
    formats.write_kitti_flow(tmp_path / "again.png", kitti)
    samples, again = (cv2.imread(str(name), cv2.IMREAD_UNCHANGED) for name in (path, tmp_path / "again.png"))
    assert np.array_equal(samples, again)

    path = sorted(real_data("7scenes-redkitchen/depth").glob("*.png"))[0]
    depth = formats.read_depth_png(path, 1000)
    assert depth.shape == (480, 640) and 0.5 < np.nanmedian(depth) < 5
    formats.write_depth_png(tmp_path / "again.png", depth, 1000)
    samples, again = (cv2.imread(str(name), cv2.IMREAD_UNCHANGED) for name in (path, tmp_path / "again.png"))
    assert np.array_equal(samples, again)

    ids = formats.read_labels(sorted(real_data("CamVid/trainannot").glob("*.png"))[0])
    assert ids.shape == (360, 480) and ids.dtype == np.uint8 and set(np.unique(ids)) <= set(range(12))
    formats.write_labels(tmp_path / "again.png", ids)
    assert np.array_equal(formats.read_labels(tmp_path / "again.png"), ids)

    disparity = formats.read_npz(real_data("middlebury-stereo/motorcycle/motorcycle_disp.npz"))
    assert disparity.shape == (500, 741) and disparity.dtype == np.float32
    assert np.isinf(disparity).sum() == 27226 and disparity.min() > 7
