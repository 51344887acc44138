"""One picture has the same values through every door: image processor, files, predictor, rows of data sets, clips, drawings."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.model_cases import make

from winwin_hf.data import formats
from winwin_hf.data.formats import Blob
from winwin_hf.data.readers import image_of
from winwin_hf.inference import drawing
from winwin_hf.inference.clips import open_clip
from winwin_hf.inference.drawing import as_picture
from winwin_hf.inference.predictor import Method, Prediction, Predictor
from winwin_hf.model import image_arrays_winwin
from winwin_hf.model.image_arrays_winwin import image_array, open_image
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.pipeline_winwin import OpticalFlowPipeline

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (9, 11, 3), dtype=np.uint8)
COLOUR[0, 0] = 255
GREY = COLOUR[..., 0]
ALPHA = COLOUR[..., 1]
OVER_WHITE = np.rint(255 + (COLOUR - 255.0) * (ALPHA[..., None] / 255)).astype(np.uint8)
GREY_OVER_WHITE = np.rint(255 + (GREY - 255.0) * (ALPHA / 255)).astype(np.uint8)
PROCESSOR = WinWinImageProcessor(do_pad=False, do_normalize=False)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def saved(kind: str, array: Any, **options: Any) -> Callable[[Path], None]:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    return lambda path: image.save(path, kind, **options)


def palette_image() -> Image.Image:
    image = Image.fromarray((GREY % 4).astype(np.uint8), "P")
    image.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250, 90, 90, 90])
    return image


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright
    return exif


def by_opencv(path: Path, array: np.ndarray) -> None:
    assert cv2.imwrite(str(path), array[..., ::-1])


def pgm(path: Path) -> None:
    samples = np.rint(GREY / 255 * 1023).astype(">u2")
    path.write_bytes(b"P5\n11 9\n1023\n" + samples.tobytes())


CLEAR = np.array([[250, 0, 0], [255, 255, 255], [0, 0, 250], [90, 90, 90]], np.uint8)[
    GREY % 4
]  # colour 1 is transparent
FILES: dict[str, tuple[str, Callable[[Path], None], np.ndarray]] = {
    "8-bit PNG": (".png", saved("PNG", COLOUR), COLOUR),
    "float TIFF in 0..1": (".tif", saved("TIFF", (GREY / 255).astype(np.float32)), rgb(GREY)),
    "black float TIFF": (".tif", saved("TIFF", np.zeros((9, 11), np.float32)), np.zeros((9, 11, 3), np.uint8)),
    "16-bit grey PNG": (".png", saved("PNG", GREY.astype(np.uint16) * 257), rgb(GREY)),
    "16-bit grey TIFF": (".tif", saved("TIFF", GREY.astype(np.uint16) * 257), rgb(GREY)),
    "16-bit grey in 32 bits": (".tif", saved("TIFF", GREY.astype(np.int32) * 257), rgb(GREY)),
    "16-bit colour PNG": (".png", lambda path: by_opencv(path, COLOUR.astype(np.uint16) * 257), COLOUR),
    "16-bit colour TIFF": (".tif", lambda path: by_opencv(path, COLOUR.astype(np.uint16) * 257), COLOUR),
    "10-bit PGM": (".pgm", pgm, rgb(GREY)),
    "1 bit": (".png", saved("PNG", GREY > 99), rgb(np.where(GREY > 99, 255, 0).astype(np.uint8))),
    "palette with a clear colour": (".png", saved("PNG", palette_image(), transparency=1), CLEAR),
    "RGBA": (".png", saved("PNG", np.dstack([COLOUR, ALPHA])), OVER_WHITE),
    "LA": (".png", saved("PNG", np.dstack([GREY, ALPHA])), rgb(GREY_OVER_WHITE)),
    "CMYK JPEG": (
        ".jpg",
        saved("JPEG", Image.new("CMYK", (11, 9), (0, 255, 255, 0))),
        np.full((9, 11, 3), (255, 0, 0)),
    ),
    "animated WebP": (
        ".webp",
        saved("WEBP", COLOUR, save_all=True, append_images=[Image.fromarray(255 - COLOUR)], lossless=True),
        COLOUR,
    ),
    "animated GIF": (".gif", saved("GIF", GREY, save_all=True, append_images=[Image.fromarray(255 - GREY)]), rgb(GREY)),
    "turned by EXIF": (".png", saved("PNG", COLOUR, exif=turned()), np.rot90(COLOUR, -1)),
}

ARRAYS: dict[str, tuple[Any, np.ndarray]] = {
    "(H, W)": (GREY, rgb(GREY)),
    "(1, H, W)": (GREY[None], rgb(GREY)),
    "(H, W, 1)": (GREY[..., None], rgb(GREY)),
    "(3, H, W)": (COLOUR.transpose(2, 0, 1), COLOUR),
    "RGBA": (np.dstack([COLOUR, ALPHA]), OVER_WHITE),
    "float RGBA": (np.dstack([COLOUR, ALPHA]) / 255, OVER_WHITE),
    "mirrored": (COLOUR[::-1, ::-1], COLOUR[::-1, ::-1]),
    "every other pixel": (COLOUR[::2, ::2], COLOUR[::2, ::2]),
    "bool": (GREY > 99, rgb(np.where(GREY > 99, 255, 0).astype(np.uint8))),
    "int64": (COLOUR.astype(np.int64), COLOUR),
    "uint16": (COLOUR.astype(np.uint16) * 257, COLOUR),
    "big-endian uint16": ((COLOUR.astype(np.uint16) * 257).astype(">u2"), COLOUR),
    "big-endian int32": (COLOUR.astype(">i4"), COLOUR),
    "big-endian float": ((COLOUR / 255).astype(">f4"), COLOUR),
    "float16": ((COLOUR / 255).astype(np.float16), COLOUR),
    "float64": (COLOUR / 255, COLOUR),
    "torch uint8": (torch.from_numpy(COLOUR).permute(2, 0, 1), COLOUR),
    "torch bool": (torch.from_numpy(GREY > 99), rgb(np.where(GREY > 99, 255, 0).astype(np.uint8))),
    "torch bfloat16": (torch.from_numpy(COLOUR).permute(2, 0, 1).bfloat16() / 255, COLOUR),
}

REFUSED = {
    "0..255": GREY.astype(np.float32),
    "negative": (GREY / 255).astype(np.float32) - 0.5,
    "NaN": np.where(GREY > 99, np.nan, GREY / 255).astype(np.float32),
    "infinite": np.where(GREY > 99, np.inf, GREY / 255).astype(np.float32),
}


class Recorder(Method):
    """Keeps the image that a method gets."""

    name, task = "recorder", "depth-estimation"

    def predict(self, image: np.ndarray, second: np.ndarray | None) -> Prediction:
        return Prediction(image)


def by_processor(image: Any) -> np.ndarray:
    values = PROCESSOR(images=image)["pixel_values"][0]
    return np.rint(values.transpose(1, 2, 0) * 255).astype(np.uint8)


def by_method(image: Any) -> np.ndarray:
    return Recorder()(image).values


@functools.cache
def flow_pipeline() -> OpticalFlowPipeline:
    return OpticalFlowPipeline(model=make("optical-flow", "linear").eval(), image_processor=PROCESSOR)


def by_pipeline(image: Any) -> np.ndarray:
    first = flow_pipeline().preprocess((image, image))["frames"][0]
    return np.rint(first[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def by_row(image: Any) -> np.ndarray:
    return image_of(image, "row")


def opened(path: Path) -> Image.Image:
    image = Image.open(path)
    image.load()
    return image


DOORS_OF_FILES: dict[str, Callable[[Path], np.ndarray]] = {
    "read_image": formats.read_image,
    "bytes": lambda path: formats.read_image(Blob(path.read_bytes(), "a shard's")),
    "row with a path": lambda path: by_row({"path": str(path), "bytes": None}),
    "row with bytes": lambda path: by_row({"path": None, "bytes": path.read_bytes()}),
    "row with a PIL image": lambda path: by_row(opened(path)),
    "clip": lambda path: next(open_clip(str(path.parent / "pict*")).frames()),
    "method": by_method,
    "method, PIL": lambda path: by_method(opened(path)),
    "processor": by_processor,
    "pipeline": lambda path: by_pipeline(str(path)),
    "pipeline, PIL": lambda path: by_pipeline(opened(path)),
}
# These take a PIL image as it is held, so that it fits the size that the caller reads from it.
DOORS_AS_HELD: dict[str, Callable[[Path], np.ndarray]] = {
    "processor, PIL": lambda path: by_processor(opened(path)),
    "drawing, PIL": lambda path: as_picture(opened(path)),
}
DOORS_OF_ARRAYS = {"processor": by_processor, "pipeline": by_pipeline, "method": by_method, "drawing": as_picture}


@pytest.mark.parametrize("name", FILES)
def test_a_file_through_every_door(name, tmp_path):
    suffix, write, expected = FILES[name]
    path = tmp_path / f"picture{suffix}"
    write(path)
    doors = DOORS_OF_FILES | ({} if "EXIF" in name else DOORS_AS_HELD)
    for door, read in doors.items():
        found = read(path)
        assert found.dtype == np.uint8 and found.shape == expected.shape, door
        assert np.abs(found.astype(int) - expected).max() <= (1 if "CMYK" in name else 0), door
    if "EXIF" in name:
        for door, read in DOORS_AS_HELD.items():
            np.testing.assert_array_equal(read(path), COLOUR, door)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_through_every_door(name):
    image, expected = ARRAYS[name]
    for door, read in (DOORS_OF_ARRAYS | {"row": by_row}).items():
        found = read(image)
        assert found.dtype == np.uint8, door
        np.testing.assert_array_equal(found, expected, door)


def test_an_image_in_8_bits_is_not_copied():
    assert by_method(COLOUR) is COLOUR or np.shares_memory(by_method(COLOUR), COLOUR)


@pytest.mark.parametrize("name", REFUSED)
def test_floats_outside_0_to_1_are_refused_by_every_door(name, tmp_path):
    path = tmp_path / "picture.tif"
    Image.fromarray(REFUSED[name]).save(path)
    for door, read in (DOORS_OF_FILES | DOORS_AS_HELD).items():
        with pytest.raises(ValueError, match=r"0\.\.1; got") as caught:
            read(path)
        if door in ("read_image", "method", "processor"):
            assert str(caught.value).count(str(path)) == 1
    for read in (*DOORS_OF_ARRAYS.values(), by_row):
        with pytest.raises(ValueError, match=r"0\.\.1; got"):
            read(REFUSED[name])


def test_whole_numbers_out_of_range_are_refused_by_every_door(tmp_path):
    path = tmp_path / "picture.tif"
    for wrong in (GREY.astype(np.int32) - 9, GREY.astype(np.int32) * 258):
        Image.fromarray(wrong).save(path)
        for read in (DOORS_OF_FILES | DOORS_AS_HELD).values():
            with pytest.raises(ValueError, match=r"0\.\.65535; got"):
                read(path)
    for read in (*DOORS_OF_ARRAYS.values(), by_row):
        with pytest.raises(ValueError, match=r"0\.\.255"):
            read(COLOUR.astype(np.int64) + 1)


@pytest.mark.parametrize(
    "wrong", [COLOUR.astype(object), COLOUR * 1j, np.array([["a", "b"]])], ids=lambda x: str(x.dtype)
)
def test_what_holds_no_numbers_is_refused_by_every_door(wrong):
    for read in (*DOORS_OF_ARRAYS.values(), by_row):
        with pytest.raises(ValueError, match="must hold numbers"):
            read(wrong)


@pytest.mark.parametrize("suffix", [".tif", ".hdr"])
def test_colours_in_floats_are_refused_with_a_reason(suffix, tmp_path):
    path = tmp_path / f"picture{suffix}"
    by_opencv(path, (COLOUR / 255).astype(np.float32))
    for read in (formats.read_image, by_processor, by_method):
        with pytest.raises(ValueError, match="colours in floats") as caught:
            read(path)
        assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize(("image", "message"), [(GREY.astype(np.uint16) * 4, "10 bits"), (COLOUR / 255**2, "twice")])
def test_values_that_are_nearly_black_are_told_of(image, message):
    for read in DOORS_OF_ARRAYS.values():
        with pytest.warns(UserWarning, match=message):
            read(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PROCESSOR(images=[GREY.astype(np.uint16) * 257, COLOUR / 255, np.zeros((4, 4)), np.zeros((4, 4), np.uint16)])


def test_predictions_from_float_16_bits_and_8_bits_agree(tmp_path):
    grey = cv2.GaussianBlur(RANDOM.integers(0, 256, (37, 50), dtype=np.uint8), (0, 0), 2)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray((grey / 255).astype(np.float32)).save(tmp_path / "float.tif")
    model = make("depth-estimation", "linear").eval()
    processor = WinWinImageProcessor(patch_size=model.config.patch_size)
    predictor = Predictor(model, processor, "depth-estimation")
    expected = predictor(tmp_path / "8.png").values
    black = predictor(np.zeros((37, 50, 3), np.uint8)).values
    assert np.abs(expected - black).max() > 1e-3 * np.abs(black).max()
    for name in ("16.png", "float.tif"):
        np.testing.assert_array_equal(predictor(tmp_path / name).values, expected)
        with torch.no_grad():
            outputs = model(**processor(images=str(tmp_path / name), return_tensors="pt"))
        found = processor.post_process_depth_estimation(outputs, target_sizes=[(37, 50)])[0]["predicted_depth"]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


# ---- text: paths, URLs, base64 ----


def test_a_missing_path_says_so(tmp_path):
    for missing in ("frames/0001.png", str(tmp_path / "none.jpg"), "frame", "", tmp_path / "none.jpg"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            by_processor(missing)
        with pytest.raises(FileNotFoundError, match="no such file"):
            by_pipeline(missing)
    with pytest.raises(FileNotFoundError, match=r"^A{60}\.\.\.: no such file"):
        by_processor("A" * 10_000)
    with pytest.raises(IsADirectoryError, match="a folder; expected a file"):
        by_processor(str(tmp_path))


def test_base64_text_and_urls_keep_all_bits(tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(GREY.astype(np.uint16) * 256 + 77).save(path)
    exact = image_array(str(path))
    assert exact.dtype == np.uint16
    text = base64.b64encode(path.read_bytes()).decode()
    np.testing.assert_array_equal(image_array(text), exact)
    np.testing.assert_array_equal(image_array(f"data:image/png;base64,{text}"), exact)
    handler = functools.partial(Silent, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        np.testing.assert_array_equal(image_array(f"{address}/grey.png"), exact)
        with pytest.raises(ValueError, match=r"none\.png.*404"):
            image_array(f"{address}/none.png")
        server.shutdown()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Endless(http.server.BaseHTTPRequestHandler):
    """Sends zeros until the client hangs up: /slow a byte at a time, /claims only says that it has much."""

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/claims":
            self.send_header("Content-Length", str(10**12))
        self.end_headers()
        with contextlib.suppress(OSError):
            while self.path != "/claims":
                self.wfile.write(bytes(1 if self.path == "/slow" else 1 << 16))
                time.sleep(0.05 if self.path == "/slow" else 0)

    def log_message(self, *_: Any) -> None:
        pass


def test_what_a_url_sends_is_bounded_in_bytes_and_in_time(monkeypatch):
    monkeypatch.setattr(image_arrays_winwin, "MAX_DOWNLOAD", 1 << 20)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for path in ("endless", "claims"):
            with pytest.raises(ValueError, match=rf"^{address}/{path}: more than 1 MB; expected an image"):
                open_image(f"{address}/{path}")
        with pytest.raises(ValueError, match=rf"^{address}/slow: not fetched within 0.3 seconds"):
            open_image(f"{address}/slow", timeout=0.3)
        with pytest.raises(ValueError, match=r"^http://\[: no image could be fetched"):
            open_image("http://[")
        with pytest.raises(ValueError) as error:
            open_image(f"{address}/{'x' * 9000}", timeout=0)
        assert len(str(error.value)) < 500
        server.shutdown()


def test_masked_arrays_are_refused(tmp_path):
    """`np.asarray` would drop the mask in silence."""
    picture = np.ma.masked_equal(np.zeros((8, 8, 3), np.uint8), 0)
    labels = np.ma.masked_equal(np.zeros((8, 8), np.int64), 0)
    plain = np.ones((8, 8, 3), np.uint8)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: WinWinImageProcessor()(picture),
        lambda: WinWinImageProcessor()(plain, segmentation_maps=labels),
        lambda: drawing.segmentation_to_image(labels),
        lambda: drawing.flow_to_image(np.ma.masked_equal(np.zeros((2, 8, 8)), 0)),
        lambda: formats.write_flo(tmp_path / "f.flo", np.ma.masked_equal(np.zeros((2, 8, 8)), 0)),
        lambda: formats.write_labels(tmp_path / "l.png", labels),
    )
    for call in calls:
        with pytest.raises(ValueError, match="is a masked array; expected one whose values"):
            call()
    assert not any(tmp_path.iterdir())
    WinWinImageProcessor()(np.ma.masked_array(plain))  # hides nothing
