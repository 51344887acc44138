"""The demo without a browser: its parts in process, and its endpoints over HTTP with gradio_client."""

from __future__ import annotations

import concurrent.futures
import io
import json
import re
import struct
import tempfile
import threading
import time
import types
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from winwin_hf import served_page
from winwin_hf.data import formats
from winwin_hf.inference import clips, drawing
from winwin_hf.inference.predictor import Predictor

pytest.importorskip("gradio", reason="needs gradio (winwin-hf[demo])")

import gradio as gr
from gradio_client import Client, handle_file
from support import space_server


@pytest.fixture(scope="module")
def server() -> space_server.Server:
    return space_server.start()


@pytest.fixture(scope="module")
def client(server: space_server.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """gradio_client leaves an empty folder behind for each file it fetched: in pytest's folder, not the machine's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("fetched")))
        yield Client(server.url, verbose=False)


@pytest.fixture(scope="module")
def networks(space: types.SimpleNamespace, server: space_server.Server) -> object:
    return space.networks.Networks(**server.checkpoints)


@pytest.fixture
def frames(tmp_path: Path, examples: Path) -> tuple[str, str]:
    """Two small frames of the example clip, of no whole number of patches."""
    paths = []
    for number in (1, 2):
        image = Image.open(examples / f"bedroom_{number}.jpg").resize((120, 72))
        paths.append(str(tmp_path / f"frame {number}.png"))
        image.save(paths[-1])
    return paths[0], paths[1]


# ------------------------------------------------------------------ inputs


def test_odd_pictures_are_read(space: types.SimpleNamespace, tmp_path: Path) -> None:
    base = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    exif = Image.Exif()
    exif[274] = 6  # held upright: the sensor's rows are columns
    base.convert("CMYK").save(tmp_path / "cmyk.jpg")
    base.save(tmp_path / "turned.jpg", exif=exif)
    base.convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(np.full((48, 64), 40000, np.uint16)).save(tmp_path / "deep.png")
    base.save(tmp_path / "moving.gif", save_all=True, append_images=[base.rotate(90)])
    base.convert("P").save(tmp_path / "palette.png")
    for name, shape in (
        ("cmyk.jpg", (48, 64, 3)),
        ("turned.jpg", (64, 48, 3)),
        ("alpha.png", (48, 64, 3)),
        ("deep.png", (48, 64, 3)),
        ("moving.gif", (48, 64, 3)),
        ("palette.png", (48, 64, 3)),
    ):
        picture = space.inputs.read_picture(str(tmp_path / name), "1080p")
        assert picture.pixels.shape == shape and picture.pixels.dtype == np.uint8, name
        assert bool(picture.note) == (name == "moving.gif")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.png", b"no picture at all", "not a picture"),
        ("empty.jpg", b"", "not a picture"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0", "not a picture"),
        ("../../etc/passwd", None, "passwd is not on the server"),
    ],
)
def test_bad_pictures_are_refused(
    space: types.SimpleNamespace, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(gr.Error) as error:
        space.inputs.read_picture(str(path) if content is not None else str(tmp_path / "gone" / "passwd"), "1080p")
    assert said in error.value.message and str(tmp_path) not in error.value.message


def test_sizes_are_checked_before_pixels(space: types.SimpleNamespace, tmp_path: Path) -> None:
    for width, height, said in ((30000, 30000, "far too many"), (9000, 9000, "64 million"), (1, 1, "at least 32")):
        path = space_server.write_header(tmp_path / f"{width}.png", width, height)
        with pytest.raises(gr.Error, match=said):
            space.inputs.read_picture(path, "1080p")
    with pytest.raises(gr.Error, match="not a readable image"):  # the size is fine, the pixels are missing
        space.inputs.read_picture(space_server.write_header(tmp_path / "hollow.png", 64, 64), "1080p")
    with pytest.raises(gr.Error, match="Choose a picture"):
        space.inputs.read_picture(None, "1080p")
    with pytest.raises(gr.Error, match="540p"):
        space.inputs.read_picture(path, "8k")


def test_what_takes_long_to_decode_is_refused(space: types.SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    Image.new("RGB", (64, 64)).save(path, progressive=True)
    assert not space.inputs.read_picture(str(path), "1080p").note
    whole = path.read_bytes()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    path.write_bytes(whole[:-2] + 200 * scan + whole[-2:])
    with pytest.raises(gr.Error, match="more than 100 scans"):
        space.inputs.read_picture(str(path), "1080p")
    frames = [Image.new("L", (64, 64), value) for value in range(5)]
    frames[0].save(tmp_path / "many.tif", save_all=True, append_images=frames[1:])
    assert "animation" in space.inputs.read_picture(str(tmp_path / "many.tif"), "1080p").note
    with av.open(tmp_path / "wide.mp4", "w") as container:  # whose header says it; no frame is decoded
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 4096, 2304, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(4096, 2304, "yuv420p")))
        container.mux(stream.encode())
    with pytest.raises(gr.Error, match="4096 x 2304 pixels; up to"):
        space.inputs.read_clip(str(tmp_path / "wide.mp4"), "360p")


def test_large_pictures_are_scaled_and_said_so(space: types.SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    # 2400 x 1800: 1280 x 720 pixels in all, proportions kept; 6000 x 100: 4096 on the longer side.
    for given, size, expected in (((2400, 1800), "720p", (831, 1108)), ((6000, 100), "1080p", (68, 4096))):
        Image.new("RGB", given).save(path)
        picture = space.inputs.read_picture(str(path), size)
        assert picture.pixels.shape[:2] == expected
        assert f"from {given[0]} x {given[1]} to {expected[1]} x {expected[0]}" in picture.note
    Image.new("RGB", (20000, 60)).save(path)
    with pytest.raises(gr.Error, match="too narrow"):
        space.inputs.read_picture(str(path), "1080p")


def test_pairs_have_one_size(space: types.SimpleNamespace, frames: tuple[str, str], tmp_path: Path) -> None:
    Image.new("RGB", (80, 80)).save(tmp_path / "other.png")
    with pytest.raises(gr.Error, match="120 x 72 and 80 x 80"):
        space.inputs.read_pair(frames[0], str(tmp_path / "other.png"), "1080p")


def test_clips(space: types.SimpleNamespace, examples: Path, tmp_path: Path) -> None:
    clip = space.inputs.read_clip(str(examples / "bedroom.mp4"), "360p")
    assert len(clip.frames) == 14 and clip.frames[0].shape == (360, 640, 3) and clip.rate == 12 and not clip.note
    pictures = [np.full((50, 60, 3), 8 * number, np.uint8) for number in range(30)]
    clips.write_video(tmp_path / "long.mp4", pictures, 10)
    clip = space.inputs.read_clip(str(tmp_path / "long.mp4"), "360p")
    assert len(clip.frames) == space.inputs.MAX_FRAMES and "first 24" in clip.note
    clips.write_video(tmp_path / "one.mp4", pictures[:1], 10)
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/hostname\n")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "long.mp4").read_bytes()[:400])
    for name, said in (("one.mp4", "at least two"), ("playlist.mp4", "not a video"), ("cut.mp4", "cut.mp4:")):
        with pytest.raises(gr.Error) as error:
            space.inputs.read_clip(str(tmp_path / name), "360p")
        assert said in error.value.message and str(tmp_path) not in error.value.message
        assert error.value.message.count("Please send") == 1 or name == "one.mp4"


# ------------------------------------------------------------------ networks, views, mesh


def test_results_are_kept_by_content(space: types.SimpleNamespace, networks: object) -> None:
    image = np.random.default_rng(1).integers(0, 255, (64, 96, 3), np.uint8)
    first = networks.depth(image)
    assert networks.depth(image.copy()) is first
    assert networks.depth(image[::-1]) is not first
    assert networks.flow(image, image, "fast").passes == networks.one_pass(image, image).passes == 1
    assert networks.flow(image, image).passes == 2
    assert set(networks._kept) and networks.segment(image).values.shape == (64, 96)


def test_kept_results_are_bounded(
    space: types.SimpleNamespace, networks: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space.networks, "KEPT_BYTES", 3 * 64 * 96 * 4)
    images = [np.full((64, 96, 3), value, np.uint8) for value in range(6)]
    results = [networks.depth(image) for image in images]
    assert sum(result.values.nbytes for result in networks._kept.values()) <= 3 * 64 * 96 * 4
    assert networks.depth(images[-1]) is results[-1] and networks.depth(images[0]) is not results[0]


def test_flow_is_the_packages(networks: object, server: space_server.Server) -> None:
    rng = np.random.default_rng(2)
    image1, image2 = rng.integers(0, 255, (2, 60, 90, 3), np.uint8)
    mine = networks.flow(image1, image2)
    expected = Predictor.load(server.checkpoints["flow"], quality="best")(image1, image2)
    np.testing.assert_allclose(mine.values, expected.values, atol=1e-5)
    (low, high), error = networks.error_bounds(image1), mine.expected_error
    assert error.shape == (60, 90) and (error >= low).all() and (error <= high).all()
    flows = list(networks.flow_of_frames([image1, image2, image1]))
    assert len(flows) == 2
    np.testing.assert_allclose(flows[0], networks.flow(image1, image2, "fast").values, atol=1e-4)


def test_errors_and_tiles_of_enlarged_frames_are_in_their_pixels(
    networks: object, space: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = np.random.default_rng(3).integers(0, 255, (300, 400, 3), np.uint8)
    assert networks.tiles(small) == ([0], [0], (384, 512))
    low, high = networks.error_bounds(small)
    for predictor in (networks._flow, *networks._flows.values()):
        monkeypatch.setattr(predictor.processor, "min_pixels", 4 * 300 * 400)
    assert networks.error_bounds(small, "fast") == (low, high)
    assert networks.error_bounds(small) == (low / 2, high / 2)
    rows, columns, tile = networks.tiles(small)  # tiles of 384 x 512 in 608 x 800, padded
    assert (rows, columns, tile) == ([0, 56, 112], [0, 72, 144], (192, 256))
    legend = space.views.error_legend(np.full((4, 4), low), networks.error_bounds(small))
    assert f"sure: {low / 2:.2g} px" in legend and f"expects {low:.2g} px" in legend


def test_one_network_runs_at_a_time(networks: object, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, guard = 0, 0, threading.Lock()
    true = Predictor.predict

    def watched(*args: object) -> object:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        result = true(*args)
        with guard:
            running -= 1
        return result

    monkeypatch.setattr(Predictor, "predict", watched)
    images = [np.full((32, 32, 3), value, np.uint8) for value in (200, 201, 202, 202)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(networks.depth, images))
    assert most == 1 and results[2] is results[3]


def test_arrows_are_lengthened_when_small(space: types.SimpleNamespace) -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    still, moving = np.full((2, 300, 400), 1.0, np.float32), np.full((2, 300, 400), 30.0, np.float32)
    assert space.views.arrows(image, still)[1] > 1
    picture, times = space.views.arrows(image, moving)
    assert times == 1 and picture.shape == image.shape and picture.any()
    assert space.views.arrows(np.zeros((1080, 1920, 3), np.uint8), np.zeros((2, 1080, 1920)))[0].shape == (360, 640, 3)


def test_legends(space: types.SimpleNamespace) -> None:
    views = space.views
    labels = np.zeros((10, 20), np.uint8)
    labels[:, 5:] = 2
    legend = views.class_legend(labels, list(space_server.LABELS.values()))
    assert "tree &amp; &lt;b&gt;bush" in legend and "75" in legend and "road" not in legend
    swatch = "#{:02x}{:02x}{:02x}".format(*drawing.default_palette(3)[2])
    assert swatch in legend
    assert "12.5" in views.wheel_legend(12.5)
    assert "px" not in views.error_legend()
    assert "unsure of nearly every point" in views.error_legend(np.full((4, 4), 3.99), (0.25, 4.0))
    assert "unsure of nearly every point" not in views.error_legend(np.linspace(0.25, 4, 99), (0.25, 4.0))
    assert "&lt;script" in views.summary(["<script>"], ["<script>"])


def test_difference_and_tiles(space: types.SimpleNamespace) -> None:
    direct, tiled = np.zeros((2, 40, 50), np.float32), np.zeros((2, 40, 50), np.float32)
    tiled[:, 10, 10] = 3, 4
    shade, apart, scale = space.views.difference(direct, tiled)
    assert apart[10, 10] == 5 and scale == 1 and shade[10, 10, 0] == 0 and shade[0, 0, 0] == 255
    marked = space.views.draw_tiles(shade, [0, 20], [0, 30], (20, 20))
    changed = (marked != shade).any(-1)
    assert changed[20].all() and changed[:, 30].all() and changed[:, 20].all() and not changed[5, 5]


def read_glb(data: bytes) -> tuple[dict, bytes]:
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and size % 4 == 0
    binary_size, binary_kind = struct.unpack("<I4s", data[20 + size : 28 + size])
    assert binary_kind == b"BIN\0" and 28 + size + binary_size == len(data)
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def test_surface_of_a_wall_is_flat(space: types.SimpleNamespace) -> None:
    points, texture, triangles = space.mesh.surface(np.full((30, 40), 2.0, np.float32))
    assert len(points) == len(texture) == 30 * 40 and len(triangles) == 2 * 29 * 39
    np.testing.assert_allclose(points[:, 2], -2)
    across = 39 / (space.mesh.FOCAL_SHARE * 40) * 2  # metres between the outermost pixels' centres
    np.testing.assert_allclose(np.ptp(points[:, 0]), across, rtol=1e-5)
    assert points[0, 1] > points[-1, 1]  # the first row is up
    corners = points[triangles[0].astype(int)]
    assert np.cross(corners[1] - corners[0], corners[2] - corners[0])[2] > 0  # faces the camera


def test_surface_is_cut_at_jumps(space: types.SimpleNamespace) -> None:
    depth = np.full((30, 40), 2.0, np.float32)
    depth[:, 20:] = 4
    points, _, triangles = space.mesh.surface(depth)
    joined = points[triangles.astype(int)][..., 2]
    assert len(triangles) == 2 * 29 * 38 and (np.ptp(joined, axis=1) == 0).all()
    depth[:] = np.nan
    with pytest.raises(ValueError, match="no surface"):
        space.mesh.glb(np.zeros((30, 40, 3), np.uint8), depth)


def test_glb_is_whole(space: types.SimpleNamespace) -> None:
    rng = np.random.default_rng(3)
    image, depth = rng.integers(0, 255, (480, 640, 3), np.uint8), np.linspace(1, 3, 480 * 640).reshape(480, 640)
    document, binary = read_glb(space.mesh.glb(image, depth.astype(np.float32)))
    position, texture, indices = document["accessors"]
    assert position["count"] == texture["count"] <= space.mesh.GRID_POINTS
    views = document["bufferViews"]
    triangles = np.frombuffer(binary, "<u4", indices["count"], views[2]["byteOffset"])
    assert triangles.max() < position["count"]
    points = np.frombuffer(binary, "<f4", 3 * position["count"], views[0]["byteOffset"]).reshape(-1, 3)
    np.testing.assert_allclose(points.min(0), position["min"])
    picture = Image.open(io.BytesIO(binary[views[3]["byteOffset"] :][: views[3]["byteLength"]]))
    assert picture.size == (640, 480)
    assert sum(-(-view["byteLength"] // 4) * 4 for view in views) == len(binary) == document["buffers"][0]["byteLength"]


# ------------------------------------------------------------------ endpoints


def test_endpoints_are_documented(server: space_server.Server) -> None:
    with urllib.request.urlopen(f"{server.url}/gradio_api/info") as answer:
        endpoints = json.load(answer)["named_endpoints"]
    expected = {
        "/flow": (["frame1", "frame2", "size", "quality"], 11),
        "/compare_with_tiles": (["frame1", "frame2", "size"], 4),
        "/flow_of_video": (["clip", "size", "quality"], 3),
        "/depth": (["image", "size"], 7),
        "/segment": (["image", "opacity", "size"], 6),
    }
    assert set(endpoints) == set(expected)
    for name, (parameters, returns) in expected.items():
        assert [parameter["parameter_name"] for parameter in endpoints[name]["parameters"]] == parameters
        assert len(endpoints[name]["returns"]) == returns
        assert all(f"{parameter}:" in endpoints[name]["description"] for parameter in parameters)
        assert endpoints[name]["description"].count(";") == returns - 1  # each is described


def test_flow_endpoint(client: Client, server: space_server.Server, frames: tuple[str, str]) -> None:
    result = client.predict(*map(handle_file, frames), api_name="/flow")
    flo, npy, png = result[-3:]
    flow = formats.read_flo(flo)
    images = [formats.read_image(frame) for frame in frames]
    expected = Predictor.load(server.checkpoints["flow"], quality="best")(*images).values.transpose(1, 2, 0)
    np.testing.assert_allclose(flow, expected, atol=1e-5)
    np.testing.assert_array_equal(formats.read_npy(npy), flow)
    assert formats.read_image(png).shape == (72, 120, 3)
    assert [Path(path).name for path in (flo, npy, png)] == ["flow.flo", "flow.npy", "flow.png"]
    frame1, warped = (np.asarray(Image.open(path).convert("RGB")) for path in result[2])
    assert np.abs(frame1.astype(float) - images[0]).mean() < 12 and warped.shape == (72, 120, 3)
    assert "120 x 72" in result[7] and "quality best: 2 passes" in result[7]


def test_quality_of_the_flow_endpoint(client: Client, server: space_server.Server, frames: tuple[str, str]) -> None:
    images = [formats.read_image(frame) for frame in frames]
    for quality, said in (("fast", "quality fast: one pass"), ("best", "quality best: 2 passes")):
        result = client.predict(*map(handle_file, frames), "540p", quality, api_name="/flow")
        expected = Predictor.load(server.checkpoints["flow"], quality=quality)(*images).values
        np.testing.assert_allclose(formats.read_npy(result[9]).transpose(2, 0, 1), expected, atol=1e-5)
        assert said in result[7]
    with pytest.raises(Exception, match="fast, best"):
        client.predict(*map(handle_file, frames), "540p", "good", api_name="/flow")


def test_compare_endpoint(client: Client, frames: tuple[str, str], examples: Path) -> None:
    pair = [handle_file(examples / f"bedroom_{number}.jpg") for number in (1, 2)]
    direct, tiled, apart, said = client.predict(*pair, "540p", api_name="/compare_with_tiles")
    assert "6 tiles" in said and {Image.open(path).size for path in (direct, tiled, apart)} == {(960, 540)}
    with pytest.raises(Exception, match="fit into one tile"):
        client.predict(*map(handle_file, frames), api_name="/compare_with_tiles")


def test_depth_endpoint(client: Client, frames: tuple[str, str]) -> None:
    result = client.predict(handle_file(frames[0]), api_name="/depth")
    depth = formats.read_npy(result[4])
    assert depth.shape == (72, 120) and depth.dtype == np.float32
    np.testing.assert_allclose(formats.read_depth_png(result[5], 1000), depth, atol=6e-4)
    read_glb(Path(result[2]).read_bytes())


def test_equal_results_are_files_of_their_own(server: space_server.Server, frames: tuple[str, str]) -> None:
    """One that is written again while somebody fetches it would arrive empty, or in part."""
    quick = Client(server.url, verbose=False, download_files=False)
    one, two = map(handle_file, frames)
    for name, given in (("/flow", (one, two)), ("/depth", (one,)), ("/segment", (one,))):
        first, second = (re.findall(r"'path': '([^']+)'", repr(quick.predict(*given, api_name=name))) for _ in range(2))
        assert len(first) == len(second) > 3 and not set(first) & set(second), name


def test_segment_endpoint(client: Client, frames: tuple[str, str]) -> None:
    result = client.predict(handle_file(frames[0]), 0.0, api_name="/segment")
    labels = formats.read_npy(result[4])
    np.testing.assert_array_equal(formats.read_labels(result[3]), labels)
    assert labels.shape == (72, 120) and labels.max() <= 2
    plain = np.asarray(Image.open(result[0]).convert("RGB"), float)
    assert np.abs(plain - formats.read_image(frames[0])).mean() < 12  # opacity 0: the picture, but for WebP
    with pytest.raises(Exception, match="from 0 to 1, got 7"):
        client.predict(handle_file(frames[0]), 7, api_name="/segment")


def test_video_endpoint(client: Client, tmp_path: Path, frames: tuple[str, str]) -> None:
    images = [formats.read_image(frame) for frame in frames]
    clips.write_video(tmp_path / "clip.mp4", [*images, images[0]], 8)
    film, _, said = client.predict(handle_file(tmp_path / "clip.mp4"), api_name="/flow_of_video")
    film = film["video"] if isinstance(film, dict) else film
    shown = list(clips.open_clip(film).frames())
    assert len(shown) == 2 and shown[0].shape == (144, 120, 3) and "2 pairs" in said


def test_bad_input_is_answered_with_the_reason(client: Client, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    for path, said in (
        (str(tmp_path / "text.png"), "text.png is not a picture"),
        (space_server.write_header(tmp_path / "huge.png", 30000, 30000), "far too many pixels"),
        (space_server.write_header(tmp_path / "dot.png", 1, 1), "at least 32"),
    ):
        for endpoint in ("/depth", "/segment"):
            with pytest.raises(Exception, match=said):
                client.predict(handle_file(path), api_name=endpoint)
    with pytest.raises(Exception, match="data: URLs"):
        client.predict({"url": "data:image/png;base64,AAAA", "meta": {"_type": "gradio.FileData"}}, api_name="/depth")


def test_files_of_the_server_are_not_given(client: Client, server: space_server.Server) -> None:
    inside = {"path": str(Path(server.checkpoints["flow"]) / "config.json"), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception) as error:
        client.predict(inside, api_name="/depth")
    assert "hidden_size" not in str(error.value)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server.url}/gradio_api/file={inside['path']}")


def test_too_large_files_are_refused(server: space_server.Server, client: Client, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(b"\0" * (33 << 20))
    with pytest.raises(Exception, match=r"413|exceeds|maximum"):
        client.predict(handle_file(tmp_path / "large.png"), api_name="/depth")


def rss(server: space_server.Server) -> float:
    """MB"""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to measure memory")
def test_forty_clients_at_once(server: space_server.Server, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    paths = []
    for number in range(40):  # no two alike: each needs the network
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(0, 255, (540, 960, 3), np.uint8)).save(paths[-1])
    clients = [Client(server.url, verbose=False) for _ in range(3)]
    clients[0].predict(handle_file(paths[0]), api_name="/depth")
    before, most, done = rss(server), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.1):
            most = max(most, rss(server))

    def ask(number: int) -> str:
        client = clients[number % 3]
        try:
            if number % 2:
                client.predict(handle_file(paths[number]), "540p", api_name="/depth")
            else:
                client.predict(handle_file(paths[number]), handle_file(paths[number - 1]), "540p", api_name="/flow")
            return "answered"
        except Exception as error:
            return str(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))
    done.set()
    watcher.join()
    refused = [answer for answer in answers if answer != "answered"]
    assert all("ueue is full" in answer for answer in refused), refused
    assert 40 - len(refused) >= served_page.Limits().client_waiting  # all have one address
    print(f"answered {40 - len(refused)}, refused {len(refused)}, RSS {before:.0f} -> at most {most:.0f} MB")
    assert most - before < 700  # one prediction's memory, the kept results, twenty requests' files on their way
    # and it is well afterwards
    assert clients[0].predict(handle_file(paths[0]), api_name="/depth")


# ------------------------------------------------------------------ what the page opens with


def test_results_are_of_the_bundled_weights(space: types.SimpleNamespace) -> None:
    """Otherwise run `python spaces/winwin-demo/beforehand.py`."""
    kept = json.loads((space.beforehand.FOLDER / "results.json").read_text())
    names = {"flow": "winwin-flow", "depth": "winwin-depth", "segmentation": "winwin-seg"}
    assert kept["weights"] == space.beforehand.digests(names)
    pictures = {name for outputs in kept["outputs"].values() for value in outputs for name in np.ravel(value)}
    files = {path.name for path in space.beforehand.FOLDER.iterdir()}
    assert files == {name for name in pictures if str(name).endswith(".webp")} | {"results.json", "depth.png"}
    assert sum((space.beforehand.FOLDER / name).stat().st_size for name in files) < 1_000_000


def test_the_page_opens_with_results_of_its_weights_only(
    space: types.SimpleNamespace, networks: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    assert space.beforehand.load(networks) == {}  # random weights
    kept = json.loads((space.beforehand.FOLDER / "results.json").read_text())
    now = {**kept["weights"], "segmentation": "another"}
    monkeypatch.setattr(space.beforehand, "digests", lambda names: now)
    ready = space.beforehand.load(networks)
    assert set(ready) == {"flow", "compare_with_tiles", "depth"}
    page = space.app.build(networks)
    values = {block.elem_id: block.value for block in page.blocks.values() if getattr(block, "elem_id", None)}
    assert values["flow-picture"] and values["compare-tiled"] and values["depth-model"] and values["flow-frame2"]
    assert not values["segmentation-picture"] and not values["segmentation-input"]
    assert "Computed beforehand" in ready["flow"][7] and " s<" not in ready["flow"][7]
    read_glb(Path(ready["depth"][2]).read_bytes())
