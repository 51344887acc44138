"""The training loop: it ends with a loadable model, and resumes exactly, even from a kill."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.forked_training import ForkedTraining, same_weights
from support.model_cases import small_device
from support.places import FRAMES, HANGS_AFTER, ROOT
from transformers import AutoImageProcessor, AutoModel

from winwin_hf import WinWinForOpticalFlow
from winwin_hf.cli.train import RESUMABLE
from winwin_hf.data.formats import save_image
from winwin_hf.data.rows import BrokenExample
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.training import log
from winwin_hf.training.batches import StoppedWaiting
from winwin_hf.training.build import learning_rate, make_loader
from winwin_hf.training.loop import Training, TrainingStopped, train
from winwin_hf.training.recipe import OptimizationRecipe, load_recipe
from winwin_hf.training.state import latest_state

TINY = {
    "task": "optical-flow",
    "model": {
        "config": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 2,
            "head_hidden_size": 32,
            "patch_embedding": "conv_stem",
            "matching_stride": 8,
            "matching_size": 16,
        }
    },
    "data": {"name": "synthetic-flow", "settings": {"height": 96, "width": 128, "texture_count": 4}},
    "windows": {"kind": "windows", "count": 2, "size": [2, 2]},
    "second_windows": {"size": [3, 3]},
    "optimization": {"steps": 6, "batch_size": 2, "warmup_steps": 2, "num_workers": 0},
    "evaluation": {"every": 0, "windows": 2, "sets": [{"label": "frames", "length": 1}]},
    "save_every": 2,
    "log_every": 1,
    "trackers": [],
}


def write(folder: Path, **changes) -> Path:
    recipe = json.loads(json.dumps(TINY))
    for section, values in changes.items():
        recipe[section] = {**recipe[section], **values} if isinstance(values, dict) else values
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """An uninterrupted training."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    train(write(folder), output=folder / "run")
    return folder / "run"


def test_ends_with_a_folder_that_auto_classes_take(trained):
    model = AutoModel.from_pretrained(trained / "model")
    processor = AutoImageProcessor.from_pretrained(trained / "model")
    assert isinstance(model, WinWinForOpticalFlow)
    assert processor.patch_size == model.config.patch_size
    assert (trained / "model" / "recipe.yaml").exists()


def test_windows_and_full_frames_are_both_scored(trained):
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 6
    assert last["windows"]["epe"] > 0 and last["frames"]["epe"] > 0
    assert last["frames"]["size"] == [96, 128]


def test_every_step_is_logged_once(trained):
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps if "loss" in s] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("pays", [True, False])
def test_a_training_in_bf16_says_where_bf16_gains_nothing(tmp_path, monkeypatch, capsys, pays):
    monkeypatch.setattr(log, "bf16_pays", lambda: pays)
    monkeypatch.setattr("winwin_hf.training.evaluate.has_half_products", lambda _: True)
    evaluation = {"every": 0, "windows": 0, "sets": []}
    train(
        write(tmp_path, optimization={"steps": 1, "mixed_precision": "bf16"}, evaluation=evaluation),
        output=tmp_path / "run",
    )
    assert ("mixed_precision=no may take less time" in capsys.readouterr().out) == (not pays)


def test_killed_training_resumes_with_the_same_weights(trained, tmp_path):
    """SIGKILL at an arbitrary moment after the first state."""
    output = tmp_path / "run"
    process = ForkedTraining(write(tmp_path), output)
    process.wait_until(lambda: latest_state(output))
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.text
    assert not (output / "model").exists(), "it had ended before it was killed"
    resumed = ForkedTraining(write(tmp_path), output)
    assert resumed.wait() == 0, resumed.text
    assert same_weights(trained, output)


def test_terminated_training_saves_before_it_ends(tmp_path):
    output = tmp_path / "run"
    process = ForkedTraining(write(tmp_path, optimization={"steps": 100000}, save_every=100000), output)
    log = output / "metrics.jsonl"
    process.wait_until(lambda: log.exists() and log.read_text())
    process.signal(signal.SIGTERM)
    assert process.wait() == RESUMABLE and "--resume" in process.text, process.text
    assert latest_state(output) is not None


def test_output_in_use_is_refused(trained, tmp_path):
    with pytest.raises(FileExistsError, match="--resume"):
        train(write(tmp_path), output=trained)


@pytest.mark.parametrize("resume", [False, True])
def test_a_model_without_states_is_not_replaced(trained, tmp_path, resume):
    """Somebody may have deleted the states to save room."""
    output = shutil.copytree(trained, tmp_path / "out")
    for state in output.glob("state-*"):
        shutil.rmtree(state)

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in output.rglob("*") if path.is_file() and path.name != ".lock"}

    before = files()
    with pytest.raises(FileExistsError, match="holds a model, and no state of its training"):
        train(write(tmp_path), output=output, resume=resume)
    assert files() == before


def test_resuming_another_recipe_is_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="windows"):
        train(write(tmp_path, windows={"size": [1, 2]}), output=trained, resume=True)


def test_data_that_have_changed_since_a_state_are_told(tmp_path, caplog):
    """The photographs of synthetic scenes: one more between a stop and its resume."""
    for name in "ab":
        (tmp_path / "photographs").mkdir(exist_ok=True)
        save_image(tmp_path / "photographs" / f"{name}.png", np.full((64, 64, 3), 90, np.uint8))
    recipe, output = write(tmp_path, data={"path": str(tmp_path / "photographs")}), tmp_path / "run"
    train(recipe, output=output)
    train(recipe, output=output, resume=True)
    assert "has changed" not in caplog.text
    save_image(tmp_path / "photographs" / "c.png", np.full((64, 64, 3), 90, np.uint8))
    train(recipe, output=output, resume=True)
    assert "synthetic-flow has changed since state-" in caplog.text
    assert "2 files" in caplog.text and "now 3 files" in caplog.text


def test_resuming_a_finished_training_changes_nothing(trained, tmp_path):
    before = (trained / "model" / "model.safetensors").read_bytes()
    train(write(tmp_path), output=trained, resume=True)
    assert (trained / "model" / "model.safetensors").read_bytes() == before


def examples(recipe, count: int, rank: int = 0, world: int = 1, step: int = 0) -> list[torch.Tensor]:
    start = step * recipe.optimization.examples_per_step(world)
    loader = make_loader(recipe, rank, world, start, WinWinImageProcessor())
    batches = iter(loader)
    return [next(batches)["pixel_values"] for _ in range(count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_resumes_in_the_middle(tmp_path, workers):
    recipe = load_recipe(write(tmp_path, optimization={"num_workers": workers}))
    whole = examples(recipe, 6)
    for a, b in zip(whole[2:], examples(recipe, 4, step=2), strict=True):
        assert torch.equal(a, b)


def test_processes_see_different_examples(tmp_path):
    recipe = load_recipe(write(tmp_path))
    batches = torch.cat([*examples(recipe, 2, rank=0, world=2), *examples(recipe, 2, rank=1, world=2)])
    assert len({x.numpy().tobytes() for x in batches}) == len(batches)


def test_pre_training_needs_no_labels(tmp_path):
    """Cross-view completion in windows; its encoder and decoder then start a flow network."""
    model = {"config": {**TINY["model"]["config"], "patch_embedding": "linear", "matching_stride": None}}
    recipe = write(tmp_path, task="pre-training", model=model, optimization={"steps": 2})
    folder = train(recipe, output=tmp_path / "run")
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["windows"]["loss"] > 0
    started, info = WinWinForOpticalFlow.from_pretrained(folder, output_loading_info=True)
    assert all(key.startswith("head.") for key in info["missing_keys"])
    encoder = AutoModel.from_pretrained(folder).winwin.state_dict()
    for name, tensor in started.winwin.state_dict().items():
        assert torch.equal(tensor, encoder[name]), name


@pytest.mark.slow
def test_frozen_parts_stay_as_they_start(tmp_path):
    """A finished network is given a refinement, which alone is trained."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    start = train(write(tmp_path / "first", optimization={"steps": 1}), output=tmp_path / "start")
    parts = ["winwin", "decoder", "features", "matching", "embed_match", "head"]
    config = {**TINY["model"]["config"], "refinement_sizes": [8]}
    model = {"config": config, "init": str(start), "frozen": parts}
    folder = train(write(tmp_path / "second", model=model, optimization={"steps": 2}), output=tmp_path / "run")
    before, after = (AutoModel.from_pretrained(path).state_dict() for path in (start, folder))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(
        name.startswith("refinement.") and name.endswith("out.weight") and tensor.any()
        for name, tensor in after.items()
    )
    with pytest.raises(ValueError, match=r"model.frozen: nothing in a WinWinForOpticalFlow is called 'neck'"):
        train(write(tmp_path, model={**model, "frozen": ["neck"]}), output=tmp_path / "other")


def test_learning_rate_warms_up_and_ends():
    options = OptimizationRecipe(steps=100, warmup_steps=10, learning_rate=2.0, final_share=0.25)
    rates = [learning_rate(options, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[100] == pytest.approx(0.5) and all(a >= b for a, b in itertools.pairwise(rates[10:]))


@pytest.fixture
def camvid(tmp_path) -> tuple[Path, dict]:
    """A copy of the tiny CamVid whose second of three frames is torn, and the sections of a recipe that trains on it."""
    root = shutil.copytree(FRAMES / "CamVid", tmp_path / "CamVid")
    path = root / "train" / "0001TP_000060.png"
    path.write_bytes(path.read_bytes()[:-40])
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "head_hidden_size": 32}
    sections = {
        "task": "semantic-segmentation",
        "model": {"config": config},
        "evaluation": {"sets": [], "windows": 0},
        "optimization": {"num_workers": 1, "batch_size": 3},
    }
    return root, sections


def recipe_on(folder: Path, sections: dict, data: dict) -> Path:
    path = write(folder, **{key: value for key, value in sections.items() if key != "model"})
    recipe = yaml.safe_load(path.read_text())
    recipe["data"], recipe["model"] = data, sections["model"]
    if recipe["task"] != "optical-flow":
        del recipe["second_windows"]
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_broken_file_ends_a_training_with_its_name(tmp_path, camvid):
    root, sections = camvid
    with pytest.raises(BrokenExample, match=r"^0001TP_000060: .*train/0001TP_000060\.png"):
        train(recipe_on(tmp_path, sections, {"name": "camvid", "path": str(root)}), output=tmp_path / "run")


def test_broken_file_is_left_out_and_counted(tmp_path, camvid):
    root, sections = camvid
    data = {"name": "camvid", "path": str(root), "skip_broken": True}
    train(recipe_on(tmp_path, sections, data), output=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    assert lines[-1]["broken"] >= 6  # one in each epoch of three; the loader is ahead of the training
    assert len(lines) == 6 and all(np.isfinite(line["loss"]) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["synthetic-flow", "synthetic-worlds"])
def test_mixture_with_synthetic_scenes_resumes_exactly(tmp_path, name):
    """Real pairs, twice each, and rendered ones: killed between two steps, it ends with the same weights."""
    flow, settings = FRAMES / "flow", TINY["data"]["settings"]
    if name == "synthetic-worlds":
        pytest.importorskip("embreex", reason="needs winwin-hf[worlds]")
        settings = {"height": 96, "width": 128, "texture_count": 2}
    sets = [
        {"name": "sintel-clean", "path": str(flow / "Sintel"), "weight": 2, "settings": {"least": [96, 128]}},
        {"name": name, "length": 4, "settings": settings},
    ]
    recipe = recipe_on(tmp_path, {"model": TINY["model"], "evaluation": {"windows": 0, "sets": []}}, {"sets": sets})
    whole = train(recipe, output=tmp_path / "whole")
    first = tmp_path / "first"
    before = load_file(whole / "model.safetensors")
    stopped = ForkedTraining(recipe, first)
    stopped.wait_until(lambda: list(first.glob("state-*2")))
    stopped.signal(signal.SIGKILL)
    stopped.wait()
    train(recipe, output=first, resume=True)
    after = load_file(first / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_batch_that_does_not_fit_names_the_one_that_does(tmp_path, monkeypatch):
    """With it, and more accumulation, the training goes on: it makes the same steps."""
    recipe = write(
        tmp_path, optimization={"batch_size": 4, "steps": 3}, evaluation={"windows": 0, "sets": []}, save_every=1
    )
    output, pixels = tmp_path / "run", 2 * 32 * 32  # of an example, in two windows
    short = {"optimization.batch_size": 2, "optimization.accumulation": 2}
    with monkeypatch.context() as patch:
        small_device(patch, WinWinForOpticalFlow, 2 * pixels)
        says = "^at step 1 a batch of 4 takes more memory than cpu has; 2 would fit: expected optimization.batch_size=2 and "
        says += "optimization.accumulation=2, which make the same step; or optimization.gradient_checkpointing=true, "
        with pytest.raises(torch.OutOfMemoryError, match=says):
            train(recipe, output=output)
        train(recipe, output=output, resume=True, overrides=[f"{key}={value}" for key, value in short.items()])
    whole = load_file(train(recipe, output=tmp_path / "whole") / "model.safetensors")
    found = load_file(output / "model" / "model.safetensors")
    assert all(torch.allclose(found[name], tensor, atol=1e-5) for name, tensor in whole.items())


@pytest.mark.slow
def test_a_compiled_training_is_resumed_without_compiling(trained, tmp_path, monkeypatch):
    """As docs/performance.md says, by a backend that traces and computes as before: the weights are those of the plain training."""
    recipe, output = write(tmp_path), tmp_path / "run"
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "aot_eager")
    train(recipe, output=output)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    expected, compiled = (load_file(folder / "model" / "model.safetensors") for folder in (trained, output))
    assert all(torch.allclose(compiled[name], tensor, atol=1e-6) for name, tensor in expected.items())
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND")
    for later in (output / "state-00000006", output / "model"):
        shutil.rmtree(later)
    train(recipe, output=output, resume=True)
    resumed = load_file(output / "model" / "model.safetensors")
    assert all(torch.allclose(resumed[name], tensor, atol=1e-6) for name, tensor in expected.items())


@pytest.mark.slow
def test_accelerate_launch(tmp_path):
    """The README's command."""
    script = ROOT / "scripts" / "train.py"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", str(script), str(write(tmp_path))]
    result = subprocess.run(
        [*command, "--output", str(tmp_path / "run")], capture_output=True, text=True, timeout=HANGS_AFTER
    )
    assert result.returncode == 0, result.stdout + result.stderr
    AutoModel.from_pretrained(tmp_path / "run" / "model")


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Two gloo processes take part, say so, and end with one model."""
    script = ROOT / "scripts" / "train.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611"]
    command += [str(script), str(write(tmp_path)), "--output", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANGS_AFTER)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 process(es)" in result.stdout
    AutoModel.from_pretrained(tmp_path / "run" / "model")


@pytest.mark.parametrize(("step", "workers"), [(3, 0), (2, 2), (3, 2), (0, 0)])
def test_a_stop_while_no_batch_comes_saves_where_it_can(trained, tmp_path, monkeypatch, step, workers):
    """It waited for minutes, until the shard had failed, and ended with 1."""
    recipe, output = write(tmp_path, optimization={"num_workers": workers}), tmp_path / "run"
    learn = Training.train_step

    def stalled(training, batches):
        if training.step == step:
            assert batches.gives_up() is False
            training.names.append([])
            raise StoppedWaiting
        learn(training, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", stalled)
        with pytest.raises(TrainingStopped, match=rf"stopped at step {step}; "):
            train(recipe, output=output)
    last = latest_state(output)
    saved = step and (not workers or step % workers == 0)
    assert (
        (last is not None and last.name == f"state-{step:08d}")
        if saved
        else last is None or last.name != "state-00000003"
    )
    train(recipe, output=output, resume=True)
    assert same_weights(output, trained)
