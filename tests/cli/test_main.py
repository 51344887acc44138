"""The command line, in process, on tiny random checkpoints: right files for right arguments, one line for wrong ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.command_line import refused, run
from support.locks import holding
from support.places import ROOT

from winwin_hf import (
    WinWinConfig,
    WinWinForDepthEstimation,
    WinWinForOpticalFlow,
    WinWinForSemanticSegmentation,
    WinWinImageProcessor,
    __version__,
    bundled,
)
from winwin_hf.data import formats
from winwin_hf.inference.figures import photometric_errors
from winwin_hf.inference.predictor import Predictor
from winwin_hf.processes import LOCK

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "head_hidden_size": 16,
}
MODELS = {
    "winwin-flow": WinWinForOpticalFlow,
    "winwin-seg": WinWinForSemanticSegmentation,
    "winwin-depth": WinWinForDepthEstimation,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for name, cls in MODELS.items():
        labels = {"id2label": {0: "sky", 1: "road", 2: "tree"}} if name == "winwin-seg" else {}
        cls(WinWinConfig(**SIZES, **labels)).to(torch.bfloat16).save_pretrained(root / name)
        WinWinImageProcessor().save_pretrained(root / name)
    return root


@pytest.fixture
def here(working_folder: Path) -> Path:
    """A working folder with two frames whose size is no multiple of the patch."""
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(generator.integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(working_folder / name)
    return working_folder


def test_flow(here: Path):
    result = run("flow", "a.png", "b.png", "-o", "out.flo", "--picture", "out.png")
    assert result.exit_code == 0, result.output
    flow = formats.read_flo(here / "out.flo")
    assert flow.shape == (50, 70, 2)
    assert Image.open(here / "out.png").size == (70, 50)
    assert "out.flo  70 x 50" in result.stdout
    assert f"out.png  full colour is {np.hypot(flow[..., 0], flow[..., 1]).max():.1f} px" in result.stdout
    predictor = Predictor.load("winwin-flow", "optical-flow")
    images = [formats.read_image(here / name) for name in ("a.png", "b.png")]
    assert predictor.model.dtype == torch.float32
    np.testing.assert_array_equal(predictor(*images).values.transpose(1, 2, 0), flow)


def test_flow_in_tiles_differs_from_flow_at_once(here: Path):
    assert run("flow", "a.png", "b.png", "-o", "whole.flo").exit_code == 0
    assert run("flow", "a.png", "b.png", "-o", "one.flo", "--tile", "64x80").exit_code == 0
    assert run("flow", "a.png", "b.png", "-o", "tiles.flo", "--tile", "32x48").exit_code == 0
    whole, one, tiles = (formats.read_flo(here / f"{name}.flo") for name in ("whole", "one", "tiles"))
    np.testing.assert_array_equal(whole, one)
    assert np.abs(whole - tiles).max() > 0


@pytest.mark.parametrize("name", ["depth.npy", "depth.png"])
def test_depth(here: Path, name: str):
    result = run("depth", "a.png", "-o", name, "--picture", "picture.jpg")
    assert result.exit_code == 0, result.output
    if name.endswith(".npy"):
        depth = np.load(here / name)
        assert depth.dtype == np.float32
    else:
        depth = formats.read_depth_png(here / name, scale=1000)
    expected = Predictor.load("winwin-depth")(here / "a.png").values
    np.testing.assert_allclose(depth, expected, atol=5.01e-4 if name.endswith(".png") else 0)
    assert Image.open(here / "picture.jpg").size == (70, 50)
    low, high = np.percentile(expected, (1, 99))
    assert f"picture.jpg  pale is {low:.2f} m, dark is {high:.2f} m" in result.stdout


def test_depth_beyond_what_a_png_holds_is_told(here: Path):
    model = WinWinForDepthEstimation(WinWinConfig(**SIZES, min_depth=70.0, max_depth=900.0))
    model.save_pretrained(here / "far")
    WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(here / "far")
    result = run("depth", "a.png", "-o", "far.png", "--model", "far")
    assert result.exit_code == 0 and "100.0% lie beyond the 65.535 m that a .png holds" in result.output
    assert "beyond" not in run("depth", "a.png", "-o", "far.npy", "--model", "far").output


def test_segment(here: Path):
    result = run("segment", "a.png", "-o", "labels.png", "--picture", "picture.png")
    assert result.exit_code == 0, result.output
    labels = np.asarray(Image.open(here / "labels.png"))
    assert labels.shape == (50, 70)
    assert labels.dtype == np.uint8
    assert labels.max() <= 2
    most = np.array(["sky", "road", "tree"])[np.bincount(labels.ravel(), minlength=3).argmax()]
    assert most in result.stdout
    assert (here / "picture.png").is_file()


def test_nothing_but_the_outputs_is_left(here: Path):
    run("flow", "a.png", "b.png", "-o", "out.flo")
    assert sorted(path.name for path in here.iterdir()) == ["a.png", "b.png", "out.flo"]


def test_wrong_arguments_are_one_line(here: Path):
    refused(run("flow", "a.png", "missing.png"), 2, "missing.png", "no such file")
    refused(run("flow", "a.png", "b.png", "-o", "out.txt"), 2, "out.txt", ".flo")
    refused(run("flow", "a.png", "b.png", "-o", "nowhere/out.flo"), 2, "nowhere")
    refused(run("flow", "a.png", "b.png", "--picture", "x.gif"), 2, "x.gif", ".png")
    refused(run("flow", "a.png", "b.png", "--tile", "32"), 2, "--tile 32", "HEIGHTxWIDTH")
    refused(run("flow", "a.png", "b.png", "--tile", "0x32"), 2, "--tile 0x32")
    refused(run("flow", "a.png", "b.png", "--device", "abacus"), 2, "--device 'abacus'")
    refused(run("depth", "a.png", "-o", "depth.jpg"), 2, ".npy", ".png")
    assert not list(here.glob("*.flo"))


def test_a_tile_of_broken_patches_is_one_line(here: Path):
    refused(run("flow", "a.png", "b.png", "--tile", "30x48"), 2, "30", "16")


def test_wrong_files_are_one_line(here: Path):
    (here / "text.png").write_text("not a picture")
    refused(run("depth", "text.png"), 1, "text.png")
    Image.new("RGB", (70, 51)).save(here / "taller.png")
    refused(run("flow", "a.png", "taller.png"), 2, "a.png is 50 x 70", "taller.png is 51 x 70")


def test_wrong_models_are_one_line(here: Path):
    refused(
        run("flow", "a.png", "b.png", "--model", "winwin-seg"), 2, "winwin-seg", "semantic segmentation", "optical flow"
    )
    refused(run("flow", "a.png", "b.png", "--model", "nobody/nothing"), 1, "nobody/nothing")
    (here / "empty").mkdir()
    refused(run("flow", "a.png", "b.png", "--model", "./empty"), 1, "empty")


def test_traceback_on_demand(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WINWIN_TRACEBACK", "1")
    result = run("flow", "a.png", "b.png", "--model", "winwin-seg")
    assert result.exit_code == 2  # as without it
    assert result.stderr.startswith("Traceback") and "DoesNotFit: winwin-seg is" in result.stderr


def test_checkpoints(here: Path):
    before = run("checkpoints", "list")
    assert before.exit_code == 0
    assert before.stdout.count(" no ") == 3
    assert run("checkpoints", "install", "winwin-flow").exit_code == 0
    after = run("checkpoints", "list")
    assert after.stdout.count(" no ") == 2
    assert run("checkpoints", "install").exit_code == 0
    assert run("checkpoints", "list").stdout.count(" yes ") == 3
    refused(run("checkpoints", "install", "winwin-flwo"), 2, "winwin-flwo", "winwin-flow")


def test_train_and_evaluate_hand_their_arguments_over(here: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    training, evaluation = types.ModuleType("winwin_hf.training.loop"), types.ModuleType("winwin_hf.training.evaluate")
    training.TrainingStopped = KeyboardInterrupt  # type: ignore[attr-defined]
    training.train = lambda recipe, **options: calls.append((recipe, options))  # type: ignore[attr-defined]
    evaluation.evaluate_by_recipe = lambda *arguments, **options: calls.append((*arguments, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "winwin_hf.training.loop", training)
    monkeypatch.setitem(sys.modules, "winwin_hf.training.evaluate", evaluation)
    monkeypatch.setattr("winwin_hf.cli.train.check_recipe", lambda *_: None)  # this one is none
    recipe = here / "recipe.yaml"
    recipe.write_text("seed: 0\n")
    arguments = ["--output", "runs/x", "--resume", "--skip-broken", "--set", "steps=3", "--set", "data.name=a=b"]
    assert run("train", "recipe.yaml", *arguments).exit_code == 0
    assert run("evaluate", "winwin-flow", "--recipe", "recipe.yaml", "--set", "steps=3").exit_code == 0
    expected = {
        "output": Path("runs/x"),
        "resume": True,
        "overrides": ["steps=3", "data.name=a=b", "data.skip_broken=true"],
    }
    assert calls == [
        (Path("recipe.yaml"), expected),
        (str(bundle / "winwin-flow"), Path("recipe.yaml"), {"overrides": ["steps=3"]}),
    ]
    refused(run("train", "missing.yaml"), 2, "missing.yaml", "recipes list")
    refused(run("train", "recipe.yaml", "--set", "steps"), 2, "--set steps", "KEY=VALUE")


def test_demo(here: Path, examples: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    small = tmp_path / "small"
    small.mkdir()
    for path in examples.glob("*.jpg"):
        image = Image.open(path)
        image.resize((image.width // 6, image.height // 6)).save(small / path.name)
    result = run("demo", "--output", "shown", "--frames", str(small))
    assert result.exit_code == 0, result.output
    figures = json.loads((here / "shown" / "figures.json").read_text())
    assert [row["size"] for row in figures["winwin-flow"]] == [[160, 90]] * 2
    for rows in (figures[name] for name in MODELS):
        for row in rows:
            assert all((here / "shown" / file).stat().st_size for file in row["files"])
    assert "| barn.jpg | 125x82 |" in (here / "shown" / "figures.md").read_text()


def test_demo_says_which_checkpoints_are_absent(
    here: Path, examples: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(bundled, "CHECKPOINTS", tmp_path / "none")
    result = run("demo", "--output", "shown")
    assert result.exit_code == 0, result.output
    assert "winwin-flow: not in this package" in result.stderr
    assert json.loads((here / "shown" / "figures.json").read_text())["winwin-flow"] is None
    refused(run("demo", "--frames", str(tmp_path)), 2, "bedroom_1.jpg")
    (here / "mine").mkdir()
    (here / "mine" / "flow.flo").write_text("mine")
    refused(run("demo", "--output", "mine"), 1, "mine: holds files", "expected a new folder")
    assert [path.read_text() for path in (here / "mine").iterdir()] == ["mine"]
    assert run("demo", "--output", "shown").exit_code == 0  # once more
    with holding(here / "shown" / LOCK) as process:
        refused(run("demo", "--output", "shown"), 1, f"process {process}", "is writing a demo into it")
    assert not [path for path in (here / "shown").iterdir() if path.name.startswith(".") and path.name != LOCK]


def test_photometric_errors_know_a_true_flow():
    frame1 = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    frame2 = np.roll(frame1, (3, 5), axis=(0, 1))
    flow = np.broadcast_to(np.float32([[[5]], [[3]]]), (2, 40, 60))
    errors = photometric_errors(frame1, frame2, flow)
    assert errors["warped"] == 0
    assert errors["unwarped"] > 50
    assert errors["inside"] == pytest.approx(37 * 55 / (40 * 60))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "words", [[], ["--help"], ["--version"], ["recipes", "--help"], ["flow", "--help"], ["recipes", "list"]]
)
def test_standard_output_that_is_full_is_one_line(words: list[str]):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "winwin_command", *words], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert "standard output" in done.stderr and done.stderr.count("\n") == 1


def test_the_command_as_a_module():
    found = subprocess.run(
        [sys.executable, "-m", "winwin_command", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert (found.returncode, found.stdout.strip()) == (0, f"winwin {__version__}")


@pytest.mark.parametrize("encoding", ["ascii", "ascii:surrogateescape", "cp1252", "utf-8"])
def test_a_terminal_without_our_letters(tmp_path: Path, encoding: str) -> None:
    """And a name that isn't Unicode: the command ends as it does elsewhere."""
    name = os.fsdecode(b"\xe6\x95\xb0\xff")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for command, code in ((["recipes", "list"], 0), (["train", "--help"], 0), (["segment", name], 2)):
        words = [sys.executable, "-m", "winwin_command", *command]
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == code and b"codec" not in done.stderr
