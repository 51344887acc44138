"""The bundled checkpoints: by their bare names, offline, and as good as their cards say."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline

from winwin_hf import bundled
from winwin_hf.data.formats import read_flo, read_image
from winwin_hf.data.synthetic.scenes import SyntheticFlow, scene_seed
from winwin_hf.data.synthetic.settings import SceneSettings
from winwin_hf.evaluation.metrics import FlowMetric
from winwin_hf.inference.predictor import Predictor

LIMIT = 40e6  # bytes; a repository is not a weight store


@pytest.fixture(scope="module", autouse=True)
def installed():
    bundled.install()


def load(name: str):
    """Model and image processor. Frames are taken as they are: enlarging them costs the most time and isn't what is tested here."""
    if name not in bundled.folders():
        pytest.skip(f"{name} is not bundled")
    return AutoModel.from_pretrained(name).eval(), AutoImageProcessor.from_pretrained(name, min_pixels=None)


@torch.no_grad()
def flow_of(model, processor, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    inputs = processor(images=first, second_images=second, return_tensors="pt")
    outputs = model(**inputs)
    return processor.post_process_optical_flow(outputs, target_sizes=[first.shape[:2]])[0]["flow"].numpy()


@pytest.mark.parametrize("name", sorted(bundled.folders()))
def test_loads_by_its_bare_name_as_float32(name):
    model, _ = load(name)
    assert model.dtype == torch.float32
    assert type(model).__name__ == json.loads((bundled.folders()[name] / "config.json").read_text())["architectures"][0]


@pytest.mark.parametrize("name", sorted(bundled.folders()))
def test_is_small_and_complete(name):
    folder = bundled.folders()[name]
    assert sum(path.stat().st_size for path in folder.iterdir()) < LIMIT
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= {
        path.name for path in folder.iterdir()
    }


def score(model, processor, size: tuple[int, int], scenes: int) -> tuple[float, float]:
    """EPE of the network and of zero flow on held-out scenes."""
    reader = SyntheticFlow(SceneSettings(sizes=(size,), texture_seed=77, texture_count=16))
    found, zero = FlowMetric(), FlowMetric()
    for index in range(scenes):
        scene = reader({"seed": scene_seed(4242, index)})
        box = (0, 0, *size)
        first, target = scene.first(box)
        target = target.transpose(2, 0, 1)
        found.update(flow_of(model, processor, first, scene.second(box)), target)
        zero.update(np.zeros_like(target), target)
    return found.compute()["epe"], zero.compute()["epe"]


@pytest.mark.slow
def test_flow_does_not_fall_apart_when_the_frame_grows():
    """Trained on windows, the network is as good on frames four times as large, relative to their motion."""
    model, processor = load("winwin-flow")
    small, small_zero = score(model, processor, (320, 448), 4)
    large, large_zero = score(model, processor, (640, 896), 2)
    assert small < 0.6 * small_zero
    assert large < 0.6 * large_zero
    assert large / large_zero < 1.5 * small / small_zero


def test_flow_on_real_frames(real_data):
    """Middlebury: well below the motion itself, with both frames as anybody would give them."""
    model, processor = load("winwin-flow")
    found, zero = FlowMetric(), FlowMetric()
    for name in ("RubberWhale", "Venus"):
        folder = next(real_data("middlebury-flow").rglob(f"{name}/frame10.png")).parent
        truth = next(real_data("middlebury-flow").rglob(f"{name}/flow10.flo"))
        target = read_flo(truth).transpose(2, 0, 1)
        flow = flow_of(model, processor, read_image(folder / "frame10.png"), read_image(folder / "frame11.png"))
        found.update(flow, target)
        zero.update(np.zeros_like(target), target)
    assert found.compute()["epe"] < 0.7 * zero.compute()["epe"]


def test_segmentation_finds_the_sky(examples):
    if "winwin-seg" not in bundled.folders():
        pytest.skip("winwin-seg is not bundled")
    results = pipeline("image-segmentation", model="winwin-seg")(str(examples / "street.jpg"))
    assert {"building"} <= {r["label"] for r in results}


def test_depth_is_in_the_range_of_a_room(examples):
    if "winwin-depth" not in bundled.folders():
        pytest.skip("winwin-depth is not bundled")
    depth = pipeline("depth-estimation", model="winwin-depth")(str(examples / "room.jpg"))["predicted_depth"]
    assert depth.min() >= 0.2 and depth.max() <= 10


def saved_at(edges: tuple[int, ...], photograph: Path) -> list[Image.Image]:
    """The photograph as somebody would save it with each of these longest edges."""
    picture = Image.open(photograph).convert("RGB")
    scales = [edge / max(picture.size) for edge in edges]
    return [
        picture.resize((round(picture.width * s), round(picture.height * s)), Image.Resampling.LANCZOS) for s in scales
    ]


@pytest.mark.parametrize("photograph", bundled.MEASURED)
def test_metres_do_not_depend_on_how_many_pixels_a_photograph_has(examples, photograph):
    """Without a working size, the median of bedroom_1.jpg goes from 18.3 m at 336x189 to 1.92 m at 1920x1080."""
    pictures = saved_at((336, 960, 1920), examples / photograph)
    estimate = pipeline("depth-estimation", model="winwin-depth")
    maps = [estimate(picture)["predicted_depth"].numpy() for picture in pictures]
    assert [depth.shape for depth in maps] == [(picture.height, picture.width) for picture in pictures]
    medians = [float(np.median(depth)) for depth in maps]
    assert medians[1] == pytest.approx(medians[2], rel=0.02)
    assert max(medians) < 1.1 * min(medians), medians  # small photographs lack detail
    np.testing.assert_array_equal(Predictor.load("winwin-depth", device="cpu")(pictures[-1]).values, maps[-1])


def test_classes_do_not_depend_on_how_many_pixels_a_photograph_has(examples):
    """Without a working size, a quarter of the pixels of street.jpg change their class between 640 and 1920 pixels of width."""
    pictures = saved_at((640, 1920), examples / "street.jpg")
    predictor = Predictor.load("winwin-seg", device="cpu")
    first, second = (
        np.asarray(Image.fromarray(predictor(picture).values).resize((320, 211), 0)) for picture in pictures
    )
    assert (first == second).mean() > 0.95


@pytest.mark.slow  # a fresh process imports everything
def test_stock_pipelines_do_not_complain():
    """In a fresh process, since transformers' log doesn't reach pytest's capture: nothing says "not supported"."""
    code = (
        "import winwin_hf; from transformers import pipeline\n"
        "for task, name in (('image-segmentation', 'winwin-seg'), ('depth-estimation', 'winwin-depth')):\n"
        "    pipeline(task, model=name); print('made', name)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "made winwin-seg" in result.stdout and "made winwin-depth" in result.stdout, result.stderr
    assert "not supported" not in result.stderr


@pytest.mark.slow
def test_bare_name_in_a_fresh_process_offline():
    """In a script of its own, with nothing but the import and the name."""
    if "winwin-flow" not in bundled.folders():
        pytest.skip("winwin-flow is not bundled")
    code = "import winwin_hf; from transformers import AutoModel; print(type(AutoModel.from_pretrained('winwin-flow')))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "WinWinForOpticalFlow" in result.stdout, result.stderr


class UnknownRepository(BaseHTTPRequestHandler):
    """A Hub that knows no repository, as the real one knows none of a bare name."""

    def do_HEAD(self):
        self.send_response(401)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


@pytest.mark.slow  # a fresh process imports everything
@pytest.mark.parametrize(
    ("peft", "options"),
    [
        pytest.param("sys.modules['peft'] = None", "", id="without-peft"),
        # with it, transformers asks for an adapter first, and takes the Hub's word that there is no such repository
        pytest.param("import peft", ", local_files_only=True", id="with-peft"),
    ],
)
def test_bare_names_where_the_hub_knows_no_such_repository(peft, options):
    """With a network: the model and its image processor, from the cache."""
    if "import" in peft:
        pytest.importorskip("peft")
    server = ThreadingHTTPServer(("127.0.0.1", 0), UnknownRepository)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        f"import sys; {peft}; import winwin_hf; from transformers import AutoImageProcessor, AutoModel\n"
        f"AutoModel.from_pretrained('winwin-depth'{options}); print(AutoImageProcessor.from_pretrained('winwin-flow').min_pixels)"
    )
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
    try:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    finally:
        server.shutdown()
    assert result.stdout.split() == ["921600"], result.stderr
