"""The plain `Trainer` takes every model: labels in, loss out, windows from the collator."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Subset
from transformers import Trainer, TrainingArguments

from winwin_hf import WinWinConfig, WinWinForDepthEstimation, WinWinForOpticalFlow, WinWinForSemanticSegmentation
from winwin_hf.data.collator import SecondStrategy, WinWinCollator
from winwin_hf.data.sample import FlowSample, ImageSample
from winwin_hf.data.sources import open_source
from winwin_hf.data.streams import Mixture, Part
from winwin_hf.windows import Strategy

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 1,
    "head_hidden_size": 16,
    "num_labels": 3,
}
COMMON = {
    "use_cpu": True,
    "per_device_train_batch_size": 2,
    "report_to": [],
    "remove_unused_columns": False,
    "label_names": ["labels"],
    "disable_tqdm": True,
}


def read(task: str):
    def reader(example, rng):
        image = np.full((64, 80, 3), example["index"] * 20, np.uint8)
        if task == "optical-flow":
            return FlowSample(image, image, np.zeros((64, 80, 2), np.float32))
        if task == "depth-estimation":
            return ImageSample(image, np.full((64, 80), 2.0, np.float32))
        return ImageSample(image, np.full((64, 80), 1, np.uint8))

    return reader


@pytest.mark.parametrize(
    ("task", "model_class"),
    [
        ("optical-flow", WinWinForOpticalFlow),
        ("semantic-segmentation", WinWinForSemanticSegmentation),
        ("depth-estimation", WinWinForDepthEstimation),
    ],
)
def test_trains(tmp_path, task, model_class):
    torch.manual_seed(0)
    model = model_class(WinWinConfig(**TINY))
    collator = WinWinCollator(read(task), Strategy("windows", size=(2, 2)), task, second=SecondStrategy(size=(3, 3)))
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=8,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        eval_strategy="steps",
        eval_steps=8,
        **COMMON,
    )
    examples = [{"index": i} for i in range(6)]
    trainer = Trainer(model, arguments, data_collator=collator, train_dataset=examples, eval_dataset=examples)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.isfinite(losses).all()
    assert min(losses[-3:]) < losses[0]
    assert np.isfinite(trainer.state.log_history[-2].get("eval_loss", 0.0))


@pytest.mark.parametrize("model_class", [WinWinForOpticalFlow, WinWinForSemanticSegmentation, WinWinForDepthEstimation])
def test_a_resumed_training_and_the_best_model_have_their_heads(tmp_path, model_class):
    """Trainer loads a checkpoint's tensors by the names that they have in the file."""
    task = {WinWinForOpticalFlow: "optical-flow", WinWinForDepthEstimation: "depth-estimation"}.get(
        model_class, "semantic-segmentation"
    )
    second = SecondStrategy(size=(3, 3)) if task == "optical-flow" else None

    def trainer(output, steps, **options):
        torch.manual_seed(steps)
        arguments = TrainingArguments(
            output_dir=str(output),
            max_steps=steps,
            lr_scheduler_type="constant",
            save_steps=3,
            eval_strategy="steps",
            eval_steps=3,
            **COMMON,
            **options,
        )
        collator = WinWinCollator(read(task), Strategy("windows", size=(2, 2)), task, second=second)
        examples = [{"index": i} for i in range(6)]
        model = model_class(WinWinConfig(**TINY))
        return Trainer(model, arguments, data_collator=collator, train_dataset=examples, eval_dataset=examples)

    first = trainer(tmp_path / "a", 3)
    first.train()
    saved = load_file(tmp_path / "a" / "checkpoint-3" / "model.safetensors")
    assert any(name.startswith("head.head.") for name in saved)
    other = trainer(tmp_path / "b", 3)
    other.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))  # which has no step left
    best = trainer(tmp_path / "c", 6, learning_rate=10.0, load_best_model_at_end=True, save_strategy="steps")
    best.train()
    chosen = load_file(f"{best.state.best_model_checkpoint}/model.safetensors")
    for found, expected in ((other.model, saved), (best.model, chosen)):
        tensors = {name.replace("head.layers.", "head.head."): value for name, value in found.state_dict().items()}
        assert tensors.keys() == expected.keys()
        for name, value in tensors.items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_of_a_mixture_resume_exactly(tmp_path, workers):
    source = open_source("synthetic-flow", settings={"sizes": [[96, 128]]}, length=4)
    examples = Subset(Mixture([Part(source, length=4)], seed=0), range(12))

    def trainer():
        torch.manual_seed(0)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            save_steps=2,
            dataloader_num_workers=workers,
            **COMMON,
        )
        collator = WinWinCollator(source.reader, Strategy("windows", size=(2, 2)), source.task)
        return Trainer(
            WinWinForOpticalFlow(WinWinConfig(**TINY)), arguments, data_collator=collator, train_dataset=examples
        )

    trainer().train()
    whole = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    shutil.rmtree(tmp_path / "checkpoint-6")
    trainer().train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    again = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
