"""A training finds what is wrong with its recipe before the first step, and an evaluation that fails costs nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from support.places import FRAMES

from winwin_hf.cli.errors import MISUSE
from winwin_hf.evaluation.metrics.segmentation import SegmentationMetric
from winwin_hf.processes import LOCK
from winwin_hf.training import loop
from winwin_hf.training.loop import train
from winwin_hf.training.recipe import DataRecipe, Recipe
from winwin_hf.training.rehearsal import check_space, check_windows
from winwin_hf.training.state import latest_state
from winwin_hf.windows import Strategy

CONFIG = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "head_hidden_size": 16}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 1}
SCENES = {"height": 64, "width": 96, "texture_count": 2}


@pytest.fixture
def segmentation(tmp_path):
    """A recipe on a copy of the tiny CamVid, with two evaluation sets."""
    shutil.copytree(FRAMES / "CamVid", tmp_path / "CamVid")
    return {
        "task": "semantic-segmentation",
        "data": {"name": "camvid", "path": str(tmp_path / "CamVid")},
        "model": {"config": dict(CONFIG)},
        "windows": {"kind": "windows", "size": [2, 2]},
        "optimization": {"steps": 6, "batch_size": 2, "warmup_steps": 2, "num_workers": 0},
        "evaluation": {"every": 2, "windows": 2, "sets": [{"label": "val"}, {"label": "seen", "split": "train"}]},
        "save_every": 100,
        "log_every": 1,
        "trackers": [],
    }


@pytest.fixture
def flow():
    """A recipe on synthetic scenes."""
    return {
        "task": "optical-flow",
        "data": {"name": "synthetic-flow", "settings": SCENES},
        "model": {"config": {**CONFIG, **DECODER}},
        "windows": {"kind": "windows", "size": [2, 2]},
        "optimization": {"steps": 6, "batch_size": 2, "warmup_steps": 2, "num_workers": 0},
        "evaluation": {"every": 2, "windows": 2, "sets": [{"label": "frames", "length": 1}]},
        "save_every": 100,
        "log_every": 1,
        "trackers": [],
    }


@pytest.fixture
def run(tmp_path):
    """Trains by a recipe that is given as a dict."""

    def start(recipe: dict, resume: bool = False, name: str = "run"):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return train(path, tmp_path / name, resume)

    return start


@pytest.fixture
def no_step(monkeypatch):
    """A training step is an error."""

    def refuse(*_):
        raise AssertionError("a step was trained")

    monkeypatch.setattr(loop.Training, "train_step", refuse)


def images(folder, count: int, masks: tuple[int, ...], names: str = "background\nlesion\n") -> None:
    """images/ and masks/ of random pixels with those values."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)).save(folder / f"images/{split}/{i}.png")
            mask = rng.choice(masks, (32, 48)).astype(np.uint8)
            Image.fromarray(mask).save(folder / f"masks/{split}/{i}.png")
    (folder / "names.txt").write_text(names)


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": {"path": "nowhere"}}, r"^data: nowhere/train"),
        ({"evaluation": {"sets": [{"label": "val", "path": "nowhere"}]}}, r"^evaluation.sets.0 \(val\): nowhere/val"),
        ({"evaluation": {"sets": [{"label": "x", "split": "vall"}]}}, r"^evaluation.sets.0 \(x\): .*no split 'vall'"),
        ({"evaluation": {"sets": [{"label": "x", "name": "camvids"}]}}, r"^evaluation.sets.0 \(x\): .*did you mean"),
        ({"evaluation": {"sets": [{"label": "x", "options": {"scale": 2}}]}}, r"^evaluation.sets.0 \(x\): options of"),
        (
            {"evaluation": {"sets": [{"label": "x", "name": "synthetic-depth", "length": 1}]}},
            r"^evaluation.sets.0.*depth-estimation",
        ),
        ({"evaluation": {"sets": [{"label": "x", "name": "synthetic-depth"}]}}, "has no end; expected a length"),
        (
            {"evaluation": {"sets": [{"label": "x", "settings": {"scale": [100, 100]}}]}},
            r"^evaluation.sets.0 \(x\): .* pixels .* more than the limit of 40,000,000; expected smaller frames",
        ),
        (
            {"evaluation": {"sets": [{"label": "x", "settings": {"least": [16384, 16384]}}]}},
            r"^evaluation.sets.0 \(x\): .* pixels .* more than the limit of 40,000,000; expected smaller frames",
        ),
        (
            {"data": {"settings": {"scale": [100, 100]}}, "windows": {"kind": "full", "size": None}},
            r"^data: .* pixels .* more than the limit of 40,000,000; expected smaller frames, or windows",
        ),
        ({"evaluation": {"every": -1}}, "evaluation.every"),
        ({"evaluation": {"windows": -1}}, "evaluation.windows"),
        ({"evaluation": {"sets": [{"label": "x\ny"}]}}, "evaluation.sets.0.label"),
        ({"evaluation": {"sets": [{"label": "x", "length": 0}]}}, "evaluation.sets.0.length"),
        ({"evaluation": {"sets": [{"label": "x"}, {"label": "x"}]}}, "label 'x' stands twice"),
        ({"evaluation": {"evry": 5}}, "evry"),
        ({"model": {"init": "nobody/nothing"}}, "^model.init: nobody/nothing: "),
        (
            {"model": {"config": {**CONFIG, "id2label": {0: "a", 1: "b"}}}},
            "^model.config: unknown id2label",
        ),
        ({"trackers": ["wandb"]}, "^trackers: wandb is unknown or not installed"),
    ],
)
def test_what_a_recipe_names_is_opened_before_the_first_step(segmentation, run, monkeypatch, tmp_path, change, says):
    monkeypatch.setattr("winwin_hf.training.loop.get_available_trackers", lambda: ["tensorboard"])
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard"])
    for section, values in change.items():
        segmentation[section] = {**segmentation[section], **values} if isinstance(values, dict) else values
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        run(segmentation)
    assert not list(tmp_path.rglob(LOCK)), "a folder of a training that never began"


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize("windows", [0, 2])
def test_a_held_out_file_that_is_broken_or_missing(segmentation, run, tmp_path, windows):
    segmentation["evaluation"]["windows"] = windows
    field = "windows" if windows else "sets.0"
    first = min((tmp_path / "CamVid" / "val").glob("*.png"))
    first.write_bytes(first.read_bytes()[:-40])
    with pytest.raises(ValueError, match=rf"^evaluation\.{field}.*{first.name}"):
        run(segmentation)
    shutil.rmtree(tmp_path / "CamVid" / "val")
    with pytest.raises(FileNotFoundError, match=rf"^evaluation\.{field}.*CamVid/val"):
        run(segmentation)


@pytest.mark.usefixtures("no_step")
def test_every_set_of_a_mixture_is_named(flow, run):
    flow["data"] = {
        "sets": [{"name": "synthetic-flow", "length": 4, "settings": SCENES}, {"name": "sintel-clean", "path": "no"}]
    }
    with pytest.raises(FileNotFoundError, match=r"^data\.sets\.1: no"):
        run(flow)


@pytest.mark.usefixtures("no_step")
def test_an_output_without_room(flow, run, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(ValueError, match=r"^output: .*run has 1 kB free; expected .* for 3 states and the model"):
        run(flow)


def test_room_is_asked_for_what_is_written_beside_what_is_there(tmp_path, monkeypatch):
    """Three states of 16 bytes a parameter and a model of 4; of a resumed training, two of the states are there."""
    model = torch.nn.Linear(999, 1)
    needed = 3 * 16000 + 4000

    def free(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, size))

    free(needed)
    check_space(tmp_path, model, average=True, steps=9)
    free(needed - 1)
    with pytest.raises(ValueError, match="expected 52 kB"):
        check_space(tmp_path, model, average=True, steps=9)
    for step in (1, 2, 3):
        (tmp_path / f"state-{step:08d}").mkdir()
        (tmp_path / f"state-{step:08d}" / "optimizer.bin").write_bytes(bytes(16000))
    free(needed - 2 * 16000)
    check_space(tmp_path, model, average=True, steps=9)
    free(needed - 2 * 16000 - 1)
    with pytest.raises(ValueError, match="expected 20 kB"):
        check_space(tmp_path, model, average=True, steps=9)
    check_space(tmp_path, model, average=True, steps=3)  # at its end no state is written


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize(
    ("masks", "names", "says"),
    [
        ((0, 255), "background\nlesion\n", r"^data: .*single class \(background\).*255 means unknown here.*names.txt"),
        ((0,), "background\nlesion\n", r"^data: .*single class \(background\).*expected two or more"),
        ((0,), "lesion\n", r"^data: .*single class \(lesion\)"),
        ((255,), "background\nlesion\n", r"^data: .*no pixel of 3 examples has a known value"),
        ((0, 1, 2), "background\nlesion\n", r"^data: .*ids \[2\]; expected 0 to 1"),
    ],
)
def test_masks_of_which_nothing_can_be_learnt(segmentation, run, tmp_path, masks, names, says):
    images(tmp_path / "own", 3, masks, names)
    segmentation["data"] = {"name": "masks-folder", "path": str(tmp_path / "own")}
    segmentation["evaluation"] = {"windows": 0, "sets": []}
    with pytest.raises(ValueError, match=f"(?s){says}"):
        run(segmentation)


def test_a_rare_class_is_no_error(segmentation, run, tmp_path):
    images(tmp_path / "own", 5, (0,))
    Image.fromarray(np.ones((32, 48), np.uint8)).save(tmp_path / "own/masks/train/4.png")
    segmentation["data"] = {"name": "masks-folder", "path": str(tmp_path / "own")}
    segmentation["evaluation"] = {"windows": 0, "sets": []}
    segmentation["optimization"]["steps"] = 1
    run(segmentation)


@pytest.mark.usefixtures("no_step")
def test_held_out_masks_without_a_known_pixel(segmentation, run, tmp_path):
    images(tmp_path / "own", 3, (0, 1))
    for path in (tmp_path / "own/masks/val").iterdir():
        Image.fromarray(np.full((32, 48), 255, np.uint8)).save(path)
    segmentation["data"] = {"name": "masks-folder", "path": str(tmp_path / "own")}
    segmentation["evaluation"] = {"windows": 0, "sets": [{"label": "val"}]}
    with pytest.raises(ValueError, match=r"^evaluation.sets.0 \(val\): .*no pixel of 3 examples has a known value"):
        run(segmentation)


def records(folder) -> list[dict]:
    """The log without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    slow = ("seconds", "cpu_seconds", "rate", "wait", "gb", "idle_gb")
    return [
        {
            k: {n: x for n, x in v.items() if n not in slow} if isinstance(v, dict) else v
            for k, v in line.items()
            if k not in slow
        }
        for line in lines
    ]


@pytest.mark.slow
def test_an_evaluation_that_fails_costs_nothing(segmentation, run, tmp_path, monkeypatch):
    """The first, a middle and the last one; --resume continues with the same weights and the same scores."""
    whole = load_file(run(segmentation, name="whole") / "model.safetensors")
    evaluate, step = loop.evaluate, []

    def failing(model, processor, recipe, accelerator):
        step.append(fails)
        if step.count(fails) == fails // 2:
            raise torch.OutOfMemoryError("no memory left")
        return evaluate(model, processor, recipe, accelerator)

    monkeypatch.setattr(loop, "evaluate", failing)
    for fails in (2, 4, 6):
        folder = tmp_path / f"fails-{fails}"
        with pytest.raises(torch.OutOfMemoryError):
            run(segmentation, name=folder.name)
        assert latest_state(folder).name == f"state-{fails:08d}"
        assert (folder / "model").exists() == (fails == 6)
        resumed = load_file(run(segmentation, resume=True, name=folder.name) / "model.safetensors")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
        assert records(folder) == records(tmp_path / "whole")
        assert step.count(fails) == 4  # nothing is scored twice but what failed


def torn(frame: Path, mask: Path) -> None:
    frame.write_bytes(frame.read_bytes()[:-40])


def gone(frame: Path, mask: Path) -> None:
    mask.unlink()


def folder_gone(frame: Path, mask: Path) -> None:
    shutil.rmtree(mask.parent)


def smaller(frame: Path, mask: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(mask)


def unknown_class(frame: Path, mask: Path) -> None:
    Image.fromarray(np.full_like(np.asarray(Image.open(mask)), 200)).save(mask)


def failing_metric(*_: object) -> None:
    raise ZeroDivisionError("of a metric")


@pytest.mark.parametrize(
    ("harm", "every"),
    [
        (torn, 0),
        (gone, 2),
        (folder_gone, 2),
        (smaller, 0),
        (unknown_class, 2),
        (failing_metric, 0),
        (failing_metric, 2),
    ],
)
def test_a_mistake_that_only_an_evaluation_shows_costs_nothing(
    segmentation, run, tmp_path, monkeypatch, harm, every, capsys
):
    """The second held-out frame, which nothing reads before; found at the end, or on the way. With another `evaluation` it goes on."""
    segmentation["evaluation"] = {"every": every, "windows": 0, "sets": [{"label": "val"}]}
    segmentation["optimization"]["steps"] = 4
    evaluate, row = loop.evaluate, SegmentationMetric.row
    name = "0016E5_000060.png"

    def late(*arguments):
        if harm is failing_metric:
            monkeypatch.setattr(SegmentationMetric, "row", failing_metric)
        else:
            harm(tmp_path / "CamVid/val" / name, tmp_path / "CamVid/valannot" / name)
        return evaluate(*arguments)

    monkeypatch.setattr(loop, "evaluate", late)
    with pytest.raises((ValueError, OSError, ZeroDivisionError)) as caught:
        run(segmentation)
    assert not isinstance(caught.value, MISUSE)  # of the command line: a scheduler would give up
    step = every or 4
    assert f"the evaluation at step {step} failed; continue from state-{step:08d}" in capsys.readouterr().out
    assert latest_state(tmp_path / "run").name == f"state-{step:08d}"
    assert (tmp_path / "run" / "model" / "model.safetensors").exists() == (step == 4)
    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(SegmentationMetric, "row", row)
    segmentation["evaluation"]["sets"] = [{"label": "seen", "split": "train"}]
    run(segmentation, resume=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "seen" in line] == ([2, 4] if every else [4])


def test_a_state_is_saved_before_an_evaluation_that_comes_between_two_of_them(segmentation, run, tmp_path, monkeypatch):
    """With two loader processes a training resumes from even steps only: the state of step 2 is that of the evaluation at 3."""
    segmentation["optimization"]["num_workers"], segmentation["evaluation"]["every"] = 2, 3
    monkeypatch.setattr(loop, "evaluate", lambda *_: pytest.fail("an evaluation"))
    with pytest.raises(pytest.fail.Exception):
        run(segmentation)
    assert latest_state(tmp_path / "run").name == "state-00000002"


@pytest.mark.parametrize("task", ["segmentation", "flow"])
def test_the_rehearsal_moves_no_random_stream(task, run, tmp_path, monkeypatch, request):
    recipe = request.getfixturevalue(task)
    recipe["optimization"]["steps"], recipe["evaluation"]["windows"] = 2, 0
    with_it = run(recipe, name="with")
    monkeypatch.setattr(loop, "rehearse", lambda *_: None)
    without = run(recipe, name="without")
    before, after = (load_file(folder / "model.safetensors") for folder in (with_it, without))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert records(tmp_path / "with") == records(tmp_path / "without")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"windows": {"kind": "windows", "size": [2, 7]}},
            r"^data: windows\.size: 2 windows of 2x7 patches do not fit .*4 x 6",
        ),
        ({"windows": {"kind": "crop", "size": [5, 2]}}, r"^data: windows\.size: .*4 x 6 patches"),
        ({"windows": {"kind": "tokens", "tokens": 25}}, r"^data: windows\.tokens: .*4 x 6 patches"),
        ({"windows": {"kind": "windows", "tokens": 8, "min_side": 5}}, r"^data: windows\.tokens: .*4 x 6 patches"),
        ({"windows": {"kind": "windows", "sizes": [[5, 2], [1, 2]]}}, r"^data: windows\.sizes: .*4 x 6 patches"),
        (
            {"second_windows": {"size": [5, 6]}},
            r"^data: second_windows\.size: 5 x 6 patches; expected at most .*4 x 6 patches",
        ),
        ({"second_windows": {"size": [4, 6]}}, None),
        ({"second_windows": {"factor": 9.0}}, None),  # as large as the frame
        (
            {"task": "pre-training", "windows": {"kind": "windows", "size": [2, 7]}},
            r"^data: windows\.size: .*4 x 6 patches",
        ),
        ({"task": "pre-training", "second_windows": {"size": [1, 7]}}, r"^data: second_windows\.size: 1 x 7 patches"),
    ],
)
def test_windows_larger_than_the_frame_are_refused_before_the_first_step(flow, run, tmp_path, changes, says):
    flow["evaluation"] = {"every": 0, "windows": 0, "sets": []}
    flow["optimization"]["steps"] = 1
    recipe = {**flow, **changes}
    if says is None:
        run(recipe)
        return
    with pytest.raises(ValueError, match=says):
        run(recipe)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("windows", "refused"),
    [
        (Strategy("full"), False),
        (Strategy("crop", size=(2, 2)), False),
        (Strategy("windows", size=(1, 1)), False),
        (Strategy("crop", size=(1, 1)), True),
        (Strategy("tokens", tokens=1), True),
    ],
)
def test_pre_training_hides_some_of_several_tokens(windows, refused):
    recipe = Recipe("pre-training", DataRecipe("synthetic-flow"), windows=windows)
    with pytest.raises(ValueError, match="a single token") if refused else contextlib.nullcontext():
        check_windows(recipe, (12, 16), "a frame")
