"""The models: losses, what they return, saving and loading, precision, memory, CroCo's numbers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from support.model_cases import (
    APART,
    CASES,
    TASKS,
    TOLERANCE,
    arguments,
    crop,
    distance,
    frames,
    labels_for,
    make,
    predict,
)
from support.places import NO_REAL_DATA, REFERENCE
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoBackbone, AutoModel, AutoModelForDepthEstimation, AutoModelForSemanticSegmentation
from transformers.utils.output_capturing import OutputRecorder

from winwin_hf import WinWinBackbone, WinWinConfig, WinWinModel
from winwin_hf.convert.croco import load_croco

CROCO = REFERENCE / "croco"
each = pytest.mark.parametrize(("task", "variant"), CASES)
on_each_device = pytest.mark.usefixtures("device")


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize("kind", ["nan", "inf", "huge", "all"])
@pytest.mark.parametrize(
    ("task", "variant"),
    [
        ("semantic-segmentation", "conv"),
        ("depth-estimation", "conv"),
        ("optical-flow", "conv"),
        ("optical-flow", "matching"),
    ],
)
def test_unknown_labels_never_reach_the_loss(task, variant, kind):
    model = make(task, variant).train()
    inputs = arguments(task, model, frames(model), APART)
    labels, unknown = labels_for(task, model, kind)
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    if kind == "all":
        assert loss.item() == 0
        assert all(p.grad.abs().max() == 0 for p in model.parameters() if p.grad is not None)
    else:
        with torch.no_grad():  # another sign of "unknown" gives the same loss, another known label doesn't
            sign = 255 if task == "semantic-segmentation" else float("nan")
            same = model(**inputs, labels=labels.masked_fill(unknown, sign)).loss
            moved = torch.where(unknown, labels, (labels + 1) % 5 if task == "semantic-segmentation" else labels + 1)
            other = model(**inputs, labels=moved).loss
        assert same.item() == pytest.approx(loss.item(), rel=1e-6)
        assert other.item() != pytest.approx(loss.item(), rel=1e-3)


@each
def test_every_parameter_is_trained(task, variant):
    model = make(task, variant).train()
    inputs = arguments(task, model, frames(model), APART)
    model(**inputs, **({} if task == "pre-training" else {"labels": labels_for(task, model, "nan")[0]})).loss.backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert not unused  # distributed training would refuse them
    silent = [n for n, p in model.named_parameters() if not p.grad.abs().max() > 0]
    # A key's bias adds the same to all of a query's logits: rounding decides whether its gradient is zero.
    assert all("k_proj.bias" in n for n in silent), silent


def test_pretraining_paints_only_what_it_hid():
    model = make("pre-training")
    views = frames(model)
    inputs = arguments("pre-training", model, views)
    first = inputs["pixel_values"].clone()
    pixels = inputs["bool_masked_pos"].unflatten(1, (4, 6)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    with torch.no_grad():
        out = model(**inputs)
        inputs["pixel_values"] = torch.where(pixels[:, None], 9.0, first)  # what is hidden doesn't reach the prediction
        assert torch.equal(model(**inputs).logits, out.logits)
        inputs["labels"] = torch.where(pixels[:, None], first, 9.0)  # what is seen isn't in the loss
        assert model(**inputs).loss.item() == pytest.approx(out.loss.item(), rel=1e-6)
        drawn = model(*views).bool_masked_pos
        assert drawn.sum(1).tolist() == [22, 22]  # 90 % of 24 tokens
        assert model(views[0][..., :8, :16], views[1]).bool_masked_pos.sum(1).tolist() == [1, 1]
        inputs["bool_masked_pos"] = inputs["bool_masked_pos"].clone()
        inputs["bool_masked_pos"][0] = True
        with pytest.raises(ValueError, match="different number"):
            model(**inputs)
    with pytest.raises(ValueError, match="attention_pattern"):
        make("pre-training", "vitdet")(*views)


# ------------------------------------------------------------------ what they return


@each
def test_hidden_states_attentions_and_tuples(task, variant):
    model = make(task, variant, attn_implementation="eager")
    inputs = arguments(task, model, frames(model), APART)
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True, output_attentions=True)
        short = model(**inputs, return_dict=False)
        model.config.return_dict = False  # as users of torchscript set it
        assert type(model(**inputs)) is tuple
        model.config.return_dict = True
        again = model(**inputs)
    tokens = 4 if task == "pre-training" else 8
    assert [t.shape for t in out.hidden_states] == [(2, tokens, 32)] * 5
    assert len(out.attentions) >= 4
    if variant != "vitdet":
        assert [t.shape for t in out.attentions] == [(2, 2, tokens, tokens)] * 4
    for weights in out.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    if task == "optical-flow":
        assert [t.shape for t in out.decoder_hidden_states] == [(2, 8, 24)] * 3
        assert (
            [t.shape for t in out.decoder_attentions] == [t.shape for t in out.cross_attentions] == [(2, 2, 8, 8)] * 2
        )
        assert not torch.equal(out.decoder_attentions[0], out.cross_attentions[0])
    assert isinstance(short, tuple)
    for a, b in zip(short, again.values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(
    "num_hidden_layers_key" not in OutputRecorder.__dataclass_fields__,
    reason="transformers selects hidden states from the end since 5.23",
)
def test_the_last_hidden_state_alone_is_the_decoders_own_too():
    model = make("optical-flow", "conv")
    views = frames(model)
    with torch.no_grad():
        every = model(*views, output_hidden_states=True)
        last = model(*views, output_hidden_states=[-1])
    for all_states, states in (
        (every.hidden_states, last.hidden_states),
        (every.decoder_hidden_states, last.decoder_hidden_states),
    ):
        assert states[:-1] == (None,) * (len(all_states) - 1)
        assert torch.equal(states[-1], all_states[-1])


def test_backbone():
    model = make("semantic-segmentation", "stem")
    config = make("semantic-segmentation", "stem", out_features=["stem", "stage2", "stage4"]).config
    backbone = AutoBackbone.from_config(config).eval()
    assert isinstance(backbone, WinWinBackbone) and backbone.channels == [32, 32, 32]
    backbone.winwin.load_state_dict(model.winwin.state_dict())
    image = frames(model)[0]
    with torch.no_grad():
        maps = backbone(image).feature_maps
        last = model.winwin(image).last_hidden_state.unflatten(1, (4, 6)).permute(0, 3, 1, 2)
        windows = backbone(crop(image, APART, (2, 2), 8), APART).feature_maps
    assert [m.shape for m in maps] == [(2, 32, 4, 6)] * 3 and [m.shape for m in windows] == [(2, 2, 32, 2, 2)] * 3
    torch.testing.assert_close(maps[-1], last)


# ------------------------------------------------------------------ saving, loading, gradients


@each
def test_save_and_load(task, variant, tmp_path):
    model = make(task, variant)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)  # the class that `architectures` names
    assert type(loaded) is TASKS[task] and not loaded.training
    assert loaded.config.to_diff_dict() == WinWinConfig.from_pretrained(tmp_path).to_diff_dict()
    for key, value in model.config.to_dict().items():
        if key not in ("_name_or_path", "transformers_version", "dtype"):
            assert getattr(loaded.config, key, value) == value, key
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    views = frames(model)
    assert torch.equal(predict(task, loaded, views, APART), predict(task, model, views, APART))


def test_auto_classes_and_a_fresh_head(tmp_path):
    make("pre-training").save_pretrained(tmp_path)
    for auto, task in (
        (AutoModelForDepthEstimation, "depth-estimation"),
        (AutoModelForSemanticSegmentation, "semantic-segmentation"),
    ):
        model, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert type(model) is TASKS[task]
        assert info["missing_keys"] and all(key.startswith("head.") for key in info["missing_keys"])
        assert all(torch.isfinite(p).all() for p in model.parameters())
        assert model.head.layers.blocks[0].layer_scale.unique().item() == pytest.approx(0.1)
    assert isinstance(WinWinModel.from_pretrained(tmp_path), WinWinModel)


@on_each_device
@pytest.mark.parametrize(
    ("task", "variant"), [(t, v) for t, v in CASES if v in ("conv", "vitdet", "dpt", "matching", "stem")]
)
def test_gradient_checkpointing(task, variant):
    gradients = []
    for checkpointing in (False, True):
        model = make(task, variant).train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable()  # the first name is the newer one
        inputs = arguments(task, model, frames(model), APART)
        labels = {} if task == "pre-training" else {"labels": labels_for(task, model, "nan")[0]}
        model(**inputs, **labels).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    # a GPU sums gradients in any order
    atol = 1e-6 if model.device.type == "cpu" else 1e-5 * max(g.abs().max().item() for g in gradients[0].values())
    assert all(torch.allclose(g, gradients[1][n], atol=atol) for n, g in gradients[0].items())


# ------------------------------------------------------------------ precision, compilation, memory


@on_each_device
@pytest.mark.parametrize("mode", ["bfloat16", "float16", "autocast"])
@each
def test_half_precision(task, variant, mode):
    """Half weights take float32 images, give finite float32 results near those of float32; autocast too."""
    model = make(task, variant)
    views = frames(model)
    full = predict(task, model, views, APART)
    if mode == "autocast":
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            half = predict(task, model, views, APART)
    else:
        half = predict(task, model.to(getattr(torch, mode)), views, APART)
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    error = (half - full).square().mean().sqrt() / full.std()
    assert error < (0.01 if mode == "float16" else 0.1), error


@on_each_device
@pytest.mark.parametrize("variant", ["stem", "vitdet"])
@torch.no_grad()
def test_encoder_compiles_without_graph_breaks(variant):
    model = make("semantic-segmentation", variant, num_hidden_layers=2, global_attention_indices=[1]).winwin
    windows, where = crop(frames(model)[0], APART, (2, 2), 8), APART.to(model.device)
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    expected = model(windows, where).last_hidden_state
    assert distance(compiled(windows, where).last_hidden_state, expected) < TOLERANCE


@on_each_device
@pytest.mark.slow
@pytest.mark.parametrize("variant", ["dpt", "matching"])
@torch.no_grad()
def test_flow_compiles_without_graph_breaks(variant):
    model = make("optical-flow", variant, num_hidden_layers=2, decoder_num_hidden_layers=2)
    views = frames(model, batch=1, rows=2, columns=2)
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)(*views)
    assert distance(compiled.flow, model(*views).flow) < TOLERANCE


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(t, torch.Tensor):
                self.numel = max(self.numel, t.numel())
        return result


@pytest.mark.parametrize(
    ("variant", "overrides"), [("linear", {}), ("matching", {"patch_size": 16, "matching_stride": 8})]
)
@pytest.mark.parametrize("training", [False, True])
def test_nothing_of_tokens_by_tokens_is_held(variant, overrides, training):
    """6000 positions of 8 pixels in each view: the tokens of one model, what the other one matches."""
    model = make("optical-flow", variant, num_hidden_layers=1, decoder_num_hidden_layers=1, **overrides).train(training)
    views = [torch.randn(1, 3, 480, 800, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    with torch.set_grad_enabled(training), LargestTensor() as largest:
        flow = model(*views).flow
        if training:
            flow.mean().backward()
    assert flow.numel() <= largest.numel < 6000**2 / 4
    if variant == "linear" and not training:
        model.set_attn_implementation("eager")
        with torch.no_grad(), LargestTensor() as largest:
            model.winwin(views[0])
        assert largest.numel >= 6000**2


# ------------------------------------------------------------------ the ancestor's numbers


@pytest.mark.skipif(not CROCO.is_dir(), reason=f"{NO_REAL_DATA}: {CROCO}")
@torch.no_grad()
def test_agrees_with_croco_reference():
    model, io = load_croco(CROCO / "croco_v2.pth"), load_file(CROCO / "croco_v2_io.safetensors")
    encoded = [model.winwin(io[f"image{i}"]).last_hidden_state for i in (1, 2)]
    out = model(io["image1"], io["image2"], bool_masked_pos=io["mask"].bool())
    assert distance(encoded[0], io["encoder1"]) < TOLERANCE
    assert distance(encoded[1], io["encoder2"]) < TOLERANCE
    assert distance(out.logits, io["reconstruction"]) < TOLERANCE
    model, io = load_croco(CROCO / "crocoflow.pth"), load_file(CROCO / "crocoflow_io.safetensors")
    out = model(io["image1"], io["image2"])
    assert distance(out.flow, io["flow"]) < 2 * TOLERANCE
    assert distance(out.log_scale, io["log_scale"][:, 0]) < 2 * TOLERANCE


@pytest.mark.parametrize("keyword", ["label", "window_position", "initial_flows", "second_pixel_value"])
@pytest.mark.parametrize("task", TASKS)
def test_a_misspelt_keyword_is_refused(task, keyword):
    model = make(task, "linear")
    inputs = arguments(task, model, frames(model))
    with pytest.raises(TypeError, match=keyword):
        model(**inputs, **{keyword: None})
    model(**inputs, output_attentions=True, return_dict=True, num_items_in_batch=3, use_cache=False, mine=1)
