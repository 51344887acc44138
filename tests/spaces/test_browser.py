"""The demo as a person meets it: a real browser that can reach nothing but this machine, on tiny random checkpoints."""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs gradio (winwin-hf[demo])")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("needs chromium (apt-get install chromium)", allow_module_level=True)

from support import space_server  # noqa: E402
from support.places import HANGS_AFTER  # noqa: E402

from winwin_hf.data import formats  # noqa: E402
from winwin_hf.inference import clips  # noqa: E402

FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--autoplay-policy=no-user-gesture-required",
]
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
expect = playwright.expect
expect.set_options(timeout=1000 * HANGS_AFTER)


@pytest.fixture(scope="module")
def server() -> space_server.Server:
    return space_server.start()


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, OFFLINE])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: playwright.Browser, server: space_server.Server) -> Iterator[playwright.Page]:
    """The page just opened. What it asks of other machines, and what it logs as an error, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = opened(context, server)
    yield page
    context.close()
    assert not page.asked_elsewhere  # type: ignore[attr-defined]


def opened(context: playwright.BrowserContext, server: space_server.Server, query: str = "") -> playwright.Page:
    page = context.new_page()
    page.set_default_timeout(1000 * HANGS_AFTER)
    page.asked_elsewhere = []  # type: ignore[attr-defined]
    own = (server.url, "data:", "blob:")
    page.on(
        "request", lambda request: None if request.url.startswith(own) else page.asked_elsewhere.append(request.url)
    )
    page.goto(server.url + query)
    page.wait_for_selector("#flow-run")
    return page


@pytest.fixture
def frames(tmp_path: Path, examples: Path) -> list[str]:
    paths = []
    for number in (1, 2):
        paths.append(str(tmp_path / f"frame{number}.png"))
        Image.open(examples / f"bedroom_{number}.jpg").resize((160, 96)).save(paths[-1])
    return paths


def tab(page: playwright.Page, name: str) -> None:
    page.get_by_role("tab", name=name).first.click()


def upload(page: playwright.Page, where: str, path: str | Path) -> None:
    with page.expect_response(re.compile("/upload")):
        page.set_input_files(f"{where} input[type=file]", str(path))
    page.wait_for_selector(f"{where} [aria-label='Remove Image'], {where} video")


def shown(page: playwright.Page, where: str) -> np.ndarray:
    """The picture that a box shows, once it is there, as the server sent it."""
    image = page.locator(f"{where} img").first
    expect(image).to_be_visible()
    return np.asarray(Image.open(io.BytesIO(page.request.get(image.get_attribute("src")).body())).convert("RGB"))


def toast(page: playwright.Page) -> str:
    """The message that came up; it is closed again."""
    message = page.get_by_test_id("toast-text").first
    expect(message).to_be_visible()
    text = message.inner_text()
    page.get_by_test_id("toast-close").first.click()
    expect(page.get_by_test_id("toast-text")).to_have_count(0)
    return text


@pytest.mark.parametrize(
    ("width", "height", "theme"),
    [
        (1280, 900, "light"),
        (390, 844, "dark"),
        pytest.param(1280, 900, "dark", marks=pytest.mark.slow),
        pytest.param(390, 844, "light", marks=pytest.mark.slow),
    ],
)
def test_it_fits_and_needs_no_network(
    browser: playwright.Browser, server: space_server.Server, width: int, height: int, theme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=width < 500)
    page = opened(context, server, f"/?__theme={theme}")
    for name in ("Depth", "Segmentation", "Optical flow"):
        tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.get_by_role("button", name=re.compile("Compute|Measure|Name")).first.is_visible()
    corner = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))[:10, :10]
    assert (corner.mean() > 128) == (theme == "light")
    loaded = page.evaluate("[...document.fonts].filter(font => font.status == 'loaded').map(font => font.family)")
    assert any("Source Sans Pro" in family for family in loaded)
    assert not page.asked_elsewhere  # type: ignore[attr-defined]
    context.close()


def test_flow_from_upload_to_download(page: playwright.Page, frames: list[str], tmp_path: Path) -> None:
    for number, frame in enumerate(frames, start=1):
        upload(page, f"#flow-frame{number}", frame)
    page.click("#flow-run")
    assert shown(page, "#flow-picture").shape == (96, 160, 3)
    expect(page.get_by_text("160 x 96 pixels").first).to_be_visible()
    for box in ("#flow-arrows", "#flow-confidence"):
        assert shown(page, box).size
    with page.expect_download() as download:
        page.get_by_role("button", name="Download .flo").or_(
            page.get_by_role("link", name="Download .flo")
        ).first.click()
    assert download.value.suggested_filename == "flow.flo"
    download.value.save_as(tmp_path / "flow.flo")
    assert formats.read_flo(tmp_path / "flow.flo").shape == (96, 160, 2)

    # The slider's handle moves, and with it the border between the two pictures.
    box = page.locator("#flow-slider")
    box.scroll_into_view_if_needed()
    expect(box.locator("img").first).to_be_visible()
    before = box.screenshot()
    handle = box.locator(".outer, [role=slider], .icon-wrap").first.bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 100, y, steps=4)
    page.mouse.up()
    assert box.locator(".outer, [role=slider], .icon-wrap").first.bounding_box()["x"] < handle["x"] - 60
    assert box.screenshot() != before

    page.click("#compare-run")
    assert "fit into one tile" in toast(page)


def test_comparison_with_tiles(page: playwright.Page, tmp_path: Path, examples: Path) -> None:
    for number in (1, 2):
        Image.open(examples / f"bedroom_{number}.jpg").resize((720, 405)).save(tmp_path / f"{number}.jpg")
        upload(page, f"#flow-frame{number}", tmp_path / f"{number}.jpg")
    page.click("#compare-run")
    pictures = [shown(page, f"#compare-{name}") for name in ("direct", "tiled", "apart")]
    assert {picture.shape for picture in pictures} == {(405, 720, 3)}
    expect(page.get_by_text(re.compile(r"\d+ tiles: [\d.]+ s")).first).to_be_visible()


@pytest.mark.slow
def test_odd_files(page: playwright.Page, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    space_server.write_header(tmp_path / "huge.png", 30000, 30000)
    # Each of another size, so that no answer can be taken for the next one.
    noise = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)
    gif, cmyk, alpha, phone = (Image.fromarray(noise[:, :width]) for width in (64, 66, 70, 72))
    gif.save(tmp_path / "moving.gif", save_all=True, append_images=[gif.transpose(Image.Transpose.ROTATE_180)])
    cmyk.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.linspace(0, 65535, 48 * 68).reshape(48, 68).astype(np.uint16)).save(tmp_path / "deep.png")
    alpha.convert("RGBA").save(tmp_path / "alpha.png")
    exif = Image.Exif()
    exif[274] = 6
    phone.save(tmp_path / "phone.jpg", exif=exif)
    tab(page, "Depth")
    for name, said in (
        ("text.png", "text.png is not a picture"),
        ("dot.png", "at least 32"),
        ("huge.png", "far too many pixels"),
        ("moving.gif", "its first frame was taken"),
        ("cmyk.jpg", "66 x 48 pixels"),
        ("deep.png", "68 x 48 pixels"),
        ("alpha.png", "70 x 48 pixels"),
        ("phone.jpg", "48 x 72 pixels"),
    ):
        upload(page, "#depth-input", tmp_path / name)
        page.click("#depth-run")
        if name in ("text.png", "dot.png", "huge.png"):
            assert said in toast(page), name
        else:
            expect(page.get_by_role("tabpanel").get_by_text(said).first).to_be_visible()
        page.locator("#depth-input [aria-label='Remove Image']").click()
        expect(page.locator("#depth-input img")).to_have_count(0)
    page.click("#depth-run")
    assert "Choose a picture first" in toast(page)


def test_reload_in_mid_run(page: playwright.Page, tmp_path: Path, frames: list[str]) -> None:
    rng = np.random.default_rng(5)
    for number in (1, 2):
        Image.fromarray(rng.integers(0, 255, (720, 1280, 3), np.uint8)).save(tmp_path / f"{number}.png")
        upload(page, f"#flow-frame{number}", tmp_path / f"{number}.png")
    with page.expect_request(re.compile("queue/join")):
        page.click("#flow-run")
    time.sleep(0.3)
    page.reload()
    page.wait_for_selector("#flow-run")
    for number, frame in enumerate(frames, start=1):
        upload(page, f"#flow-frame{number}", frame)
    page.click("#flow-run")
    assert shown(page, "#flow-picture").shape == (96, 160, 3)


def test_depth_in_space(page: playwright.Page, frames: list[str]) -> None:
    tab(page, "Depth")
    upload(page, "#depth-input", frames[0])
    page.click("#depth-run")
    assert shown(page, "#depth-slider").shape == (96, 160, 3)
    canvas = page.locator("#depth-model canvas").first
    expect(canvas).to_be_visible()
    canvas.scroll_into_view_if_needed()
    for _ in range(4 * HANGS_AFTER):  # until the surface is drawn
        picture = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).reshape(-1, 3)
        if len(np.unique(picture, axis=0)) > 200:
            break
        time.sleep(0.25)
    else:
        pytest.fail("the surface isn't drawn")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download .npy (metres)").or_(
            page.get_by_role("link", name="Download .npy (metres)")
        ).first.click()
    assert formats.read_npy(download.value.path().rename(download.value.path().with_suffix(".npy"))).shape == (96, 160)


def test_segmentation_opacity(page: playwright.Page, frames: list[str]) -> None:
    tab(page, "Segmentation")
    upload(page, "#segmentation-input", frames[0])
    page.click("#segmentation-run")
    mixed = shown(page, "#segmentation-picture")
    expect(page.get_by_text(re.compile("tree & <b>bush</b>|road|sky")).first).to_be_visible()
    source = page.locator("#segmentation-picture img").first.get_attribute("src")
    slider = page.locator("#segmentation-opacity input[type=range]")
    slider.focus()
    for _ in range(4):
        slider.press("PageDown")
    slider.press("Home")
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    expect(page.locator("#segmentation-picture img").first).not_to_have_attribute("src", source)
    plain, photograph = shown(page, "#segmentation-picture").astype(float), formats.read_image(frames[0])
    assert np.abs(plain - photograph).mean() < 12 < np.abs(mixed.astype(float) - photograph).mean()


def test_video(page: playwright.Page, frames: list[str], tmp_path: Path) -> None:
    tab(page, "A short video")
    images = [formats.read_image(frame) for frame in frames]
    clips.write_video(tmp_path / "clip.mp4", [*images, *images], 8)
    upload(page, "#video-input", tmp_path / "clip.mp4")
    page.click("#video-run")
    film = page.locator("#video-flow video").first
    expect(film).to_be_visible()
    page.wait_for_function("document.querySelector('#video-flow video').readyState >= 2")
    assert film.evaluate("film => [film.videoWidth, film.videoHeight]") == [160, 192]
    expect(page.get_by_text("3 pairs").first).to_be_visible()


def test_examples_run_on_a_click(page: playwright.Page) -> None:
    tab(page, "Segmentation")
    page.get_by_role("tabpanel").locator("button.gallery-item:visible").nth(1).click()
    assert shown(page, "#segmentation-picture").shape == (496, 752, 3)
