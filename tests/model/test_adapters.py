"""PEFT: adapters on every model train, and are the same after saving, loading and merging."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from support.model_cases import SMALL, arguments, distance, frames, make
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.integrations import peft as peft_integration

from winwin_hf import WinWinBackbone, WinWinConfig, WinWinModel
from winwin_hf.model import heads_winwin

try:
    peft_integration.check_peft_version(min_version=peft_integration.MIN_PEFT_VERSION)
    NEEDED = ""
except ValueError as error:
    NEEDED = str(error)
# `model.add_adapter` and its like are transformers' own; 5.24 asks for a PEFT that wasn't released when it was.
INSIDE = pytest.mark.skipif(bool(NEEDED), reason=f"transformers refuses this PEFT: {NEEDED}")
CASES = [
    ("semantic-segmentation", "conv"),
    ("semantic-segmentation", "linear"),
    ("depth-estimation", "dpt"),
    ("optical-flow", "conv"),
    ("optical-flow", "refinement"),
    ("pre-training", "linear"),
]
PREDICTION = {"optical-flow": "flow", "depth-estimation": "predicted_depth"}


def lora(**options) -> LoraConfig:
    return LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], **options})


def disturb(model: nn.Module) -> nn.Module:
    """Adds noise to everything that is trained: a new adapter changes nothing yet."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@torch.no_grad()
def predicted(task: str, model: nn.Module, base: nn.Module) -> torch.Tensor:
    return model(**arguments(task, base, frames(base)))[PREDICTION.get(task, "logits")]


@pytest.mark.parametrize("head", ["head", "head.layers"])
@pytest.mark.parametrize(("task", "variant"), CASES)
def test_adapters_are_saved_loaded_and_merged(tmp_path, task, variant, head):
    """`modules_to_save=["head"]`, as other models' users write it."""
    if task == "pre-training" and head != "head":
        pytest.skip("its head is one layer")
    base = make(task, variant)
    model = disturb(get_peft_model(make(task, variant), lora(modules_to_save=[head])))
    expected = predicted(task, model, base)
    assert distance(expected, predicted(task, base, base)) > 1e-3
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(make(task, variant), tmp_path / "adapter").eval()
    assert torch.equal(predicted(task, loaded, base), expected)
    merged = model.merge_and_unload()
    assert distance(predicted(task, merged, base), expected) < 1e-4
    merged.save_pretrained(tmp_path / "merged")
    again = type(base).from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(predicted(task, again, base), predicted(task, merged, base))


@INSIDE
@pytest.mark.parametrize(("task", "variant"), CASES)
def test_adapters_inside_a_model_are_saved_and_loaded(tmp_path, task, variant):
    """transformers' own `add_adapter` and `load_adapter`."""
    base, model, loaded = (make(task, variant) for _ in range(3))
    model.add_adapter(lora(modules_to_save=["head"]))
    expected = predicted(task, disturb(model), base)
    model.save_pretrained(tmp_path)
    loaded.load_adapter(str(tmp_path))
    assert torch.equal(predicted(task, loaded.eval(), base), expected)


@pytest.mark.parametrize("options", [{"target_modules": "all-linear"}, {"use_dora": True}, {"use_rslora": True}])
def test_kinds_of_lora(tmp_path, options):
    base = make("optical-flow", "refinement")
    model = disturb(get_peft_model(make("optical-flow", "refinement"), lora(**options)))
    expected = predicted("optical-flow", model, base)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make("optical-flow", "refinement"), tmp_path).eval()
    assert torch.equal(predicted("optical-flow", loaded, base), expected)
    assert distance(predicted("optical-flow", model.merge_and_unload(), base), expected) < 1e-4


@INSIDE
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(("task", "variant"), [*CASES, ("optical-flow", "matching")])
def test_gradient_checkpointing_leaves_gradients_as_they_are(task, variant, reentrant):
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = make(task, variant)
        model.add_adapter(lora())
        disturb(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        inputs = arguments(task, model, frames(model))
        model.train()(**inputs)[PREDICTION.get(task, "logits")].square().mean().backward()
        return {name: p.grad for name, p in model.named_parameters() if "lora" in name}

    expected, found = gradients(False), gradients(True)
    assert expected and all(gradient is not None for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()) + 1e-9)


@INSIDE
def test_an_encoder_alone_and_a_backbone_take_adapters(tmp_path):
    for model_class in (WinWinModel, WinWinBackbone):
        torch.manual_seed(0)
        model = model_class(WinWinConfig(**SMALL)).train()
        model.add_adapter(lora())
        model.enable_input_require_grads()
        outputs = disturb(model)(torch.randn(1, 3, 16, 16))
        tokens = outputs.last_hidden_state if model_class is WinWinModel else outputs.feature_maps[0]
        tokens.sum().backward()
        assert all(p.grad is not None for name, p in model.named_parameters() if "lora" in name)
        model.save_pretrained(tmp_path / model_class.__name__)
        other = model_class(model.config)
        other.load_adapter(str(tmp_path / model_class.__name__))
        for name, parameter in model.named_parameters():
            if "lora" in name:
                assert torch.equal(other.get_parameter(name), parameter), name


@pytest.mark.parametrize("variant", ["linear", "stem"])
def test_input_embeddings_are_one_tensor_and_can_be_replaced(variant):
    model = make("semantic-segmentation", variant)
    embedding = model.get_input_embeddings()
    seen = []
    handle = embedding.register_forward_hook(lambda module, inputs, output: seen.append(output))
    before = predicted("semantic-segmentation", model, model)
    assert isinstance(seen[0], torch.Tensor) and seen[0].shape[1] == model.config.hidden_size
    handle.remove()
    new = nn.Conv2d(embedding.in_channels, embedding.out_channels, 3, 2, 1)
    if variant == "linear":
        new = nn.Conv2d(3, embedding.out_channels, embedding.kernel_size, embedding.stride)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new
    assert distance(predicted("semantic-segmentation", model, model), before) > 1e-3


@pytest.mark.parametrize(
    ("task", "variant", "layer"),
    [("optical-flow", "matching", "head.layers.skips.0"), ("depth-estimation", "dpt", "head.layers.conv2")],
)
def test_adapters_of_convolutions_count(monkeypatch, task, variant, layer):
    """PEFT's convolution is no `nn.Conv2d`, and its own weight is only a part of it."""
    monkeypatch.setattr(heads_winwin, "STRIP_ROWS", 4)
    base = make(task, variant)
    model = disturb(get_peft_model(make(task, variant), lora(target_modules=[layer])))
    found = predicted(task, model, base)
    assert distance(found, predicted(task, base, base)) > 1e-4
    assert distance(predicted(task, model.merge_and_unload(), base), found) < 1e-4


def test_files_keep_their_names(tmp_path):
    """Checkpoints of before load, and what is saved now is called the same."""
    model = make("semantic-segmentation")
    model.save_pretrained(tmp_path)
    names = {name for name in load_file(tmp_path / "model.safetensors") if name.startswith("head.")}
    assert names and all(name.startswith("head.head.") for name in names)
    _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_trainer_trains_an_adapter(tmp_path):
    """Four examples of one batch or accumulated are the same step, and what Trainer saves can be loaded."""
    losses, base = [], make("semantic-segmentation")
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "pixel_values": torch.randn(3, 16, 16, generator=generator),
            "labels": torch.randint(0, 5, (16, 16), generator=generator),
        }
        for _ in range(4)
    ]
    for size in (4, 1):
        torch.manual_seed(0)
        model = get_peft_model(make("semantic-segmentation"), lora(modules_to_save=["head"]))
        arguments = TrainingArguments(
            output_dir=str(tmp_path / str(size)),
            use_cpu=True,
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
            gradient_checkpointing=True,
            learning_rate=1e-2,
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            label_names=["labels"],
        )
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        losses.append([trainer.state.log_history[0][name] for name in ("loss", "grad_norm")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    loaded = PeftModel.from_pretrained(make("semantic-segmentation"), tmp_path / "1" / "checkpoint-1").eval()
    expected = predicted("semantic-segmentation", model.eval(), base)
    assert torch.equal(predicted("semantic-segmentation", loaded, base), expected)
