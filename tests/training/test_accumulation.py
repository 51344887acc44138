"""One optimiser step on four examples is the same in one batch, in four accumulated, and in two processes: loss, gradient, weights.

The reference is plain PyTorch. Where numbers of known pixels differ, our loop still takes the mean over all pixels of the step.
`Trainer` lets each batch of a process weigh alike, as any DDP training does.
"""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.model_cases import SMALL, VARIANTS, make
from support.places import FRAMES
from support.two_processes import in_two_processes
from torch.nn import functional as F
from transformers import AutoModel, Trainer, TrainingArguments

from winwin_hf import WinWinForPreTraining
from winwin_hf.training import loop
from winwin_hf.training.batches import EXAMPLES
from winwin_hf.training.recipe import load_recipe

RATE = 0.1
CASES = [
    ("semantic-segmentation", "conv"),
    ("depth-estimation", "conv"),
    ("optical-flow", "conv"),
    ("optical-flow", "refinement"),
    ("pre-training", "linear"),
]
UNKNOWN = [CASES[0], CASES[1], CASES[2], CASES[3], ("optical-flow", "matching")]
TOLERANCE = 1e-4  # relative, of float32 sums in another order


def four_examples(task: str, model, unknown: bool = False) -> dict[str, torch.Tensor]:
    """Arguments for four random images; with `unknown` the first image's left half and the second's upper three quarters are unknown."""
    generator = torch.Generator().manual_seed(0)
    p, rows, columns = model.config.patch_size, 2, 3
    height, width = rows * p, columns * p
    batch = {"pixel_values": torch.randn(4, 3, height, width, generator=generator)}
    if task in ("optical-flow", "pre-training"):
        batch["second_pixel_values"] = torch.randn(4, 3, height, width, generator=generator)
    if task == "semantic-segmentation":
        labels = torch.randint(0, model.config.num_labels, (4, height, width), generator=generator)
    elif task == "depth-estimation":
        labels = 1 + 4 * torch.rand(4, height, width, generator=generator)
    else:
        channels = 2 if task == "optical-flow" else 3
        labels = 3 * torch.randn(4, channels, height, width, generator=generator)
    if unknown:
        value = model.config.semantic_loss_ignore_index if task == "semantic-segmentation" else float("nan")
        labels[0, ..., : width // 2] = value
        labels[1, ..., : 3 * height // 4, :] = value
    if task == "pre-training":
        batch["bool_masked_pos"] = torch.tensor([[True, False] * 3, [False, True] * 3] * 2)
    return {**batch, "labels": labels}


def split(batch: dict[str, torch.Tensor], size: int) -> list[dict[str, torch.Tensor]]:
    parts = {name: tensor.split(size) for name, tensor in batch.items()}
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]


def reference(model, batches: list[dict[str, torch.Tensor]]) -> dict:
    """A step of SGD on the mean of the batches' losses."""
    loss = torch.stack([model(**batch).loss for batch in batches]).mean()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    torch.optim.SGD(model.parameters(), lr=RATE).step()
    return {
        "loss": float(loss.detach()),
        "norm": float(torch.stack([g.norm() for g in gradients]).norm()),
        **weights(model),
    }


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same_step(found: dict, expected: dict, start: dict[str, torch.Tensor]) -> None:
    assert found["loss"] == pytest.approx(expected["loss"], rel=TOLERANCE)
    assert found["norm"] == pytest.approx(expected["norm"], rel=TOLERANCE)
    change = {name: expected[name] - tensor for name, tensor in start.items()}
    length = torch.stack([tensor.norm() for tensor in change.values()]).norm()
    error = torch.stack([(found[name] - expected[name]).norm() for name in start]).norm()
    assert length > 0 and error < TOLERANCE * length + 1e-6  # weights of about 1 are stored with an error of 6e-8 each


# --------------------------------------------------------------------------------------------------------------------- Trainer


def new_model(task: str, variant: str):
    return make(task, variant).train()


def step_of_trainer(model, examples: dict[str, torch.Tensor], size: int, accumulation: int, folder, **options) -> dict:
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=1,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=1e9,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **options,
    )

    def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    rows = [{name: tensor[i] for name, tensor in examples.items()} for i in range(4)]
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collate)
    trainer.train()
    log = trainer.state.log_history[0]
    return {"loss": log["loss"], "norm": log["grad_norm"], **weights(model)}


@pytest.mark.parametrize(("task", "variant"), CASES)
def test_trainer_accumulates_as_one_batch(tmp_path, task, variant):
    examples = four_examples(task, make(task, variant))
    start = weights(new_model(task, variant))
    expected = reference(new_model(task, variant), [examples])
    found = step_of_trainer(new_model(task, variant), examples, 1, 4, tmp_path)
    assert_same_step(found, expected, start)


def trainer_there(task: str, variant: str, folder: str, unknown: bool) -> None:
    """Two processes with two examples each; the first writes what came out."""
    model = new_model(task, variant)
    found = step_of_trainer(model, four_examples(task, model, unknown), 2, 1, folder)
    if torch.distributed.get_rank() == 0:
        torch.save({**found, "world": torch.distributed.get_world_size()}, f"{folder}/found.pt")


@pytest.mark.parametrize(("task", "variant"), [CASES[0], CASES[3]])
def test_trainer_in_two_processes_is_as_one_batch(tmp_path, task, variant):
    start = weights(new_model(task, variant))
    expected = reference(new_model(task, variant), [four_examples(task, make(task, variant))])
    in_two_processes(trainer_there, task, variant, str(tmp_path), False)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert found["world"] == 2
    assert_same_step(found, expected, start)


@pytest.mark.parametrize("task", ["semantic-segmentation", "optical-flow"])
def test_trainer_lets_the_batches_of_a_step_weigh_alike_however_much_is_known(tmp_path, task):
    examples = four_examples(task, make(task), unknown=True)
    start = weights(new_model(task, "conv"))
    expected = reference(new_model(task, "conv"), split(examples, 1))
    assert_same_step(step_of_trainer(new_model(task, "conv"), examples, 1, 4, tmp_path), expected, start)


def test_trainer_knows_it_of_a_compiled_model(tmp_path):
    model = torch.compile(new_model("semantic-segmentation", "linear"))
    trainer = Trainer(model, TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[]))
    assert trainer.model_accepts_loss_kwargs is False


# -------------------------------------------------------------------------------------------------------------------- our loop


def write_recipe(folder, task: str, variant: str, size: int, accumulation: int, steps: int = 1):
    """One step, or two, on data that come with the tests, or are made."""
    scenes = {"settings": {"height": 48, "width": 64, "texture_count": 2}}
    data = {
        "semantic-segmentation": {"name": "camvid", "path": str(FRAMES / "CamVid")},
        "depth-estimation": {"name": "synthetic-depth", "settings": {"height": 48, "width": 64}},
    }
    config = {**SMALL, **VARIANTS[variant]}
    del config["num_labels"]  # the data's
    recipe = {
        "task": task,
        "model": {"config": config},
        "data": data.get(task, {"name": "synthetic-flow", **scenes}),
        "windows": {"kind": "windows", "count": 2, "size": [2, 2]},
        "optimization": {
            "steps": steps,
            "batch_size": size,
            "accumulation": accumulation,
            "clip_norm": 1e9,
            "ema_decay": 0,
            "num_workers": 0,
        },
        "evaluation": {"windows": 0, "sets": []},
        "trackers": [],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture
def plain_sgd(monkeypatch):
    """AdamW's first step is the gradient's sign, so rounding errors of small gradients would be felt in full."""

    def make_sgd(model: torch.nn.Module, _: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": list(model.parameters()), "scale": 1.0}], lr=RATE)

    monkeypatch.setattr(loop, "make_optimizer", make_sgd)
    monkeypatch.setattr(loop, "learning_rate", lambda *_: RATE)


def step_of_loop(folder, task: str, variant: str, batches: list[dict[str, torch.Tensor]]) -> dict:
    """One step on `batches` instead of the loader's."""
    path = write_recipe(folder, task, variant, len(batches[0]["labels"]), len(batches))
    recipe, run = load_recipe(path), folder / f"run-{len(batches)}"
    run.mkdir()
    training = loop.Training(recipe, run, resume=False, accelerator=loop.make_accelerator(recipe, run))
    start = copy.deepcopy(training.best())
    with training.loading():
        training.train_step(iter([{**batch, EXAMPLES: []} for batch in batches]))
        training.report()
    log = json.loads((training.folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {"start": start, "loss": log["loss"], "norm": log["norm"], **weights(training.best())}


@pytest.mark.parametrize(("task", "variant"), [*UNKNOWN, CASES[-1]])
@pytest.mark.parametrize("sizes", [[1, 1, 2], [3, 1]])
def test_parts_of_a_batch_weighted_by_their_counts_have_its_loss(task, variant, sizes):
    """So no count drifts from what its loss divides by. The first part alone has pixels that nobody knows."""
    weights = {"semantic_loss_weights": [0.5, 2.0, 1.0, 3.0, 0.1]} if task == "semantic-segmentation" else {}
    model = make(task, variant, **weights).train()
    examples = four_examples(task, model, unknown=task != "pre-training")
    if task == "depth-estimation":
        examples["labels"][1] = 0  # an image without any truth
    expected = model(**examples).loss
    parts = [
        dict(zip(examples, values, strict=True))
        for values in zip(*(t.split(sizes) for t in examples.values()), strict=True)
    ]
    counts = torch.stack([model.loss_counts(**part) for part in parts])
    torch.testing.assert_close(counts.sum(0), model.loss_counts(**examples))
    shares = counts / counts.sum(0)
    found = sum(model(**part, loss_weights=share).loss for part, share in zip(parts, shares, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    plain = torch.stack([model(**part).loss for part in parts]).mean()
    assert task == "pre-training" or abs(plain - expected) > 1e-3 * abs(expected)  # else the weights would do nothing


@pytest.mark.usefixtures("plain_sgd")
@pytest.mark.parametrize(
    ("task", "variant", "unknown"), [*((*case, False) for case in CASES), *((*case, True) for case in UNKNOWN)]
)
def test_loop_accumulates_as_one_batch(tmp_path, task, variant, unknown):
    examples = four_examples(task, make(task, variant), unknown)
    if task == "pre-training":
        del examples["labels"]  # the loop paints the first view
    found = step_of_loop(tmp_path, task, variant, split({"labels": torch.zeros(4), **examples}, 1))
    start = found.pop("start")
    expected = reference(copy.deepcopy(start).train(), [examples])
    assert_same_step(found, expected, weights(start))


@pytest.mark.usefixtures("plain_sgd")
@pytest.mark.parametrize("task", ["semantic-segmentation", "optical-flow"])
def test_batches_without_any_known_pixel_change_nothing(tmp_path, task):
    examples = four_examples(task, make(task, "conv"))
    examples["labels"][:] = 255 if task == "semantic-segmentation" else torch.nan
    found = step_of_loop(tmp_path, task, "conv", split(examples, 1))
    start = weights(found.pop("start"))
    assert found.pop("loss") == found.pop("norm") == 0
    assert all(torch.equal(found[name], tensor) for name, tensor in start.items())


def loop_there(recipe: str, folder: str) -> None:
    """A training in one of the processes."""
    loop.train(recipe, folder)


@pytest.mark.usefixtures("plain_sgd")
@pytest.mark.parametrize(
    ("task", "variant"),
    [*(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[:2]), ("optical-flow", "matching")],
)
def test_loop_in_two_processes_is_as_one_batch(tmp_path, task, variant):
    """The loader's own examples: together, the processes read the same four in each step. Pixels outside the frame are unknown."""
    found = []
    loop.train(write_recipe(tmp_path, task, variant, 4, 1, steps=2), tmp_path / "one")
    in_two_processes(loop_there, str(write_recipe(tmp_path, task, variant, 2, 1, steps=2)), str(tmp_path / "two"))
    loop.train(write_recipe(tmp_path, task, variant, 1, 4, steps=2), tmp_path / "accumulated")
    for name in ("one", "two", "accumulated"):
        log = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
        found.append(
            {"loss": log["loss"], "norm": log["norm"], **weights(AutoModel.from_pretrained(tmp_path / name / "model"))}
        )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    torch.manual_seed(recipe.optimization.seed)  # as the loop does
    start = weights(loop.make_model(recipe, loop.open_parts(recipe)[0].source)[0])
    for other in found[1:]:
        assert_same_step(other, found[0], start)


def pre_train_there(recipe: str, folder: str, by_content: bool) -> None:
    """A pre-training in one of the processes, which notes the windows that it reads. by_content: the darkest patches are hidden."""
    forward, seen = WinWinForPreTraining.forward, Path(folder).with_name(f"{Path(folder).name}-{os.getpid()}.txt")

    def noting(self: Any, pixel_values: torch.Tensor, *more: Any, **options: Any) -> Any:
        for name in ("window_positions", "second_window_positions"):
            with seen.open("a") as file:
                file.writelines(f"{name} {example.tolist()}\n" for example in options[name])
        if by_content:
            # (B, N, C, h, w) -> the mean of each patch, in the order of the model's tokens
            patch = self.config.patch_size
            means = F.avg_pool2d(pixel_values.flatten(0, 1), patch).mean(1).reshape(len(pixel_values), -1)
            options["bool_masked_pos"] = means.argsort(1).argsort(1) < self._num_masked(means.shape[1])
        return forward(self, pixel_values, *more, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WinWinForPreTraining, "forward", noting)
        loop.train(recipe, folder)


@pytest.mark.usefixtures("plain_sgd")
@pytest.mark.parametrize("by_content", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_pre_training_in_two_processes_has_the_same_windows_and_with_the_same_masks_the_same_loss(tmp_path, by_content):
    """Which patches are hidden, each process draws for itself, so otherwise losses agree in the mean alone."""
    pre_train_there(str(write_recipe(tmp_path, "pre-training", "linear", 4, 1, 2)), str(tmp_path / "one"), by_content)
    two = str(write_recipe(tmp_path, "pre-training", "linear", 2, 1, 2))
    in_two_processes(pre_train_there, two, str(tmp_path / "two"), by_content)
    windows = [
        sorted(line for path in tmp_path.glob(f"{name}-*.txt") for line in path.read_text().splitlines())
        for name in ("one", "two")
    ]
    assert len(windows[0]) == 16 and windows[0] == windows[1]
    one, two = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    print(one, two)
    assert (one == pytest.approx(two, rel=TOLERANCE)) == by_content
