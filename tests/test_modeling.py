"""The models: the windows' identities, losses, what they return, saving and loading, precision, memory, CroCo's numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from model_cases import (
    BINOCULAR,
    BORDERLESS,
    CASES,
    RELATIVE,
    TASKS,
    TOLERANCE,
    VISIBLE,
    arguments,
    crop,
    distance,
    frames,
    make,
    predict,
)
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoBackbone, AutoModel, AutoModelForDepthEstimation, AutoModelForSemanticSegmentation

from winwin_hf import WinWinBackbone, WinWinConfig, WinWinForOpticalFlow, WinWinForPreTraining, WinWinModel

CROCO = Path(__file__).resolve().parents[2] / "shared" / "reference" / "croco"
APART = torch.tensor([[[0, 0], [2, 3]], [[1, 4], [2, 0]]])  # two windows of 2x2 patches in each frame of 4x6
COVER = torch.tensor([[2, 4], [0, 2], [0, 0], [2, 0], [0, 4], [2, 2]]).expand(2, 6, 2)  # six that cover it, shuffled
each = pytest.mark.parametrize(("task", "variant"), CASES)


def stitch(maps: torch.Tensor, where: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Predictions (B, N, C, h, w) of windows of 2x2 patches put back -> (B, 1, C, H, W); NaN outside them."""
    scale = maps.shape[-1] // 2
    frame = maps.new_full((len(maps), 1, maps.shape[2], shape[0] * scale, shape[1] * scale), torch.nan)
    for target, source, corners in zip(frame, maps, where.tolist(), strict=True):
        for window, (row, column) in zip(source, corners, strict=True):
            top, left = row * scale, column * scale
            target[0, :, top : top + window.shape[-2], left : left + window.shape[-1]] = window
    return frame


# ------------------------------------------------------------------ identities


@each
def test_whole_frame_as_one_window_is_the_plain_image(task, variant):
    model = make(task, variant)
    views, origin = frames(model), torch.zeros(2, 1, 2, dtype=torch.long)
    assert distance(predict(task, model, views, origin, (4, 6)), predict(task, model, views)) < TOLERANCE


@pytest.mark.parametrize(("task", "variant"), BORDERLESS)
def test_windows_that_cover_the_frame_are_the_plain_image(task, variant):
    model = make(task, variant)
    views = frames(model)
    plain = predict(task, model, views)
    assert distance(stitch(predict(task, model, views, COVER), COVER, (4, 6)), plain) < TOLERANCE
    wrong = COVER.flip(1)  # the same windows, said to lie elsewhere: positions do matter
    moved = predict(task, model, views, COVER, shift=wrong - COVER)
    assert distance(stitch(moved, COVER, (4, 6)), plain) > VISIBLE


def test_only_the_second_view_in_windows_that_cover_it():
    """The first view keeps its borders, so any head does; with linear patches the second view's cut is not felt."""
    for variant in ("conv", "dpt"):
        model = make("flow", variant)
        views = frames(model)
        cut = crop(views[1], COVER, (2, 2), model.config.patch_size)
        with torch.no_grad():
            plain = model(*views).flow
            assert distance(model(views[0], cut, second_window_positions=COVER).flow, plain) < TOLERANCE


@pytest.mark.parametrize(("task", "variant"), RELATIVE)
def test_moving_all_windows_together_changes_nothing(task, variant):
    model = make(task, variant)
    views = frames(model)
    still = predict(task, model, views, APART)
    assert distance(predict(task, model, views, APART, shift=torch.tensor([7, 40])), still) < 2 * TOLERANCE
    # Moving one of two windows alone does change the other's prediction.
    one = torch.tensor([[0, 0], [2, 1]])
    assert distance(predict(task, model, views, APART, shift=one)[:, 0], still[:, 0]) > VISIBLE


@pytest.mark.parametrize("task", TASKS)
def test_absolute_positions_feel_the_move(task):
    model = make(task, "sincos")
    views = frames(model)
    moved = predict(task, model, views, APART, shift=torch.tensor([7, 40]))
    assert distance(moved, predict(task, model, views, APART)) > VISIBLE


@each
def test_order_of_windows_does_not_matter(task, variant):
    model = make(task, variant)
    views = frames(model)
    straight = predict(task, model, views, APART, second_where=APART)
    turned = predict(task, model, views, APART.flip(1), second_where=APART)
    assert distance(turned.flip(1), straight) < TOLERANCE
    if task in BINOCULAR:
        turned = predict(task, model, views, APART, second_where=APART.flip(1))
        assert distance(turned, straight) < TOLERANCE


@pytest.mark.parametrize(("task", "variant"), RELATIVE)
def test_one_window_alone_is_the_crop_as_its_own_image(task, variant):
    model = make(task, variant)
    views, p = frames(model), model.config.patch_size
    where = torch.tensor([[[2, 3]], [[2, 3]]])  # odd: the chess board of hidden patches differs from the one at the origin
    inputs = arguments(task, model, views, where)
    crops = [crop(v, where, (2, 2), p)[:, 0] for v in views]
    plain = arguments(task, model, crops)
    if "bool_masked_pos" in inputs:
        plain["bool_masked_pos"] = inputs["bool_masked_pos"]
    with torch.no_grad():
        window, image = (next(v for k, v in model(**i).items() if k != "loss") for i in (inputs, plain))
    assert distance(window.reshape(image.shape), image) < TOLERANCE


@each
def test_sdpa_is_eager(task, variant):
    model = make(task, variant)
    views = frames(model)
    model.set_attn_implementation("sdpa")
    sdpa = predict(task, model, views, APART)
    model.set_attn_implementation("eager")
    assert distance(predict(task, model, views, APART), sdpa) < TOLERANCE


@each
def test_a_batch_is_one_by_one(task, variant):
    model = make(task, variant)
    views = frames(model)
    together = predict(task, model, views, APART)
    single = [predict(task, model, [v[i : i + 1] for v in views], APART[i : i + 1]) for i in range(2)]
    assert distance(torch.cat(single), together) < TOLERANCE


@pytest.mark.parametrize("variant", [v for t, v in CASES if t == "flow"])
def test_second_view_with_other_windows(variant):
    """Three windows of 2x4 patches against two of 2x2; the second view's place and pixels both reach the prediction."""
    model = make("flow", variant)
    views = frames(model)
    second = torch.tensor([[0, 2], [2, 0], [2, 2]]).expand(2, 3, 2)
    flow = predict("flow", model, views, APART, second_where=second, second_size=(2, 4))
    assert flow.shape[:2] == (2, 2)
    elsewhere = predict("flow", model, views, APART, second_where=second.flip(1), second_size=(2, 4))
    assert distance(elsewhere, flow) < TOLERANCE or variant != "linear"
    other = predict("flow", model, (views[0], views[1].flip(-1)), APART, second_where=second, second_size=(2, 4))
    assert distance(other, flow) > VISIBLE


@each
def test_windows_see_each_other(task, variant):
    """What the second window shows changes the first one's prediction: two windows are more than two crops."""
    model = make(task, variant)
    first, second = frames(model)
    p = model.config.patch_size
    changed = first.clone()
    changed[:, :, 2 * p :] += 1.0 * torch.randn(changed[:, :, 2 * p :].shape, generator=torch.Generator().manual_seed(3))
    where = torch.tensor([[0, 0], [2, 3]]).expand(2, 2, 2)
    before, after = (predict(task, model, (f, second), where) for f in (first, changed))
    assert distance(after[:, 0], before[:, 0]) > VISIBLE


# ------------------------------------------------------------------ losses


def labels_for(task, model, kind: str, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels for APART windows and which of them are unknown."""
    p, generator = model.config.patch_size, torch.Generator().manual_seed(seed)
    unknown = torch.rand(2, 2, 2 * p, 2 * p, generator=generator) < (1.1 if kind == "all" else 0.3)
    if task == "segmentation":
        labels = torch.randint(0, 5, unknown.shape, generator=generator)
        return labels.masked_fill(unknown, 255), unknown
    values = torch.rand(unknown.shape, generator=generator) * 5 + 1
    if task == "flow":
        values, unknown = values[:, :, None].repeat(1, 1, 2, 1, 1), unknown[:, :, None].expand(-1, -1, 2, -1, -1)
    if kind == "huge":  # what Middlebury writes for "unknown"; no depth camera does
        return values.masked_fill(unknown, 1.67e9 if task == "flow" else 0.0), unknown
    return values.masked_fill(unknown, float("inf") if kind == "inf" else float("nan")), unknown


@pytest.mark.parametrize("kind", ["nan", "inf", "huge", "all"])
@pytest.mark.parametrize(
    ("task", "variant"), [("segmentation", "conv"), ("depth", "conv"), ("flow", "conv"), ("flow", "matching")]
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
            sign = 255 if task == "segmentation" else float("nan")
            same = model(**inputs, labels=labels.masked_fill(unknown, sign)).loss
            moved = torch.where(unknown, labels, (labels + 1) % 5 if task == "segmentation" else labels + 1)
            other = model(**inputs, labels=moved).loss
        assert same.item() == pytest.approx(loss.item(), rel=1e-6)
        assert other.item() != pytest.approx(loss.item(), rel=1e-3)


@each
def test_every_parameter_is_trained(task, variant):
    model = make(task, variant).train()
    inputs = arguments(task, model, frames(model), APART)
    model(**inputs, **({} if task == "pretraining" else {"labels": labels_for(task, model, "nan")[0]})).loss.backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    # A key's bias adds the same to all logits of a query; the coarsest level of DPT has nothing to fuse; its taps that are
    # not the last block bypass the final norm.
    silent = {n for n in silent if not re.search(r"(k_proj|fine_key)\.bias$|fusions\.3\.unit1", n)}
    assert not silent


def test_pretraining_paints_only_what_it_hid():
    model = make("pretraining")
    views = frames(model)
    inputs = arguments("pretraining", model, views)
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
        make("pretraining", "vitdet")(*views)


# ------------------------------------------------------------------ what they return


@each
def test_hidden_states_attentions_and_tuples(task, variant):
    model = make(task, variant, attn_implementation="eager")
    inputs = arguments(task, model, frames(model), APART)
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True, output_attentions=True)
        short = model(**inputs, return_dict=False)
    tokens = 4 if task == "pretraining" else 8
    assert [t.shape for t in out.hidden_states] == [(2, tokens, 32)] * 5
    assert len(out.attentions) >= 4
    if variant != "vitdet":
        assert [t.shape for t in out.attentions] == [(2, 2, tokens, tokens)] * 4
    for weights in out.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    if task == "flow":
        assert [t.shape for t in out.decoder_hidden_states] == [(2, 8, 24)] * 3
        assert [t.shape for t in out.decoder_attentions] == [t.shape for t in out.cross_attentions] == [(2, 2, 8, 8)] * 2
        assert not torch.equal(out.decoder_attentions[0], out.cross_attentions[0])
    assert isinstance(short, tuple)
    for a, b in zip(short, [v for v in model(**inputs).values()], strict=True):
        assert torch.equal(a, b)


def test_backbone():
    model = make("segmentation", "stem")
    config = make("segmentation", "stem", out_features=["stem", "stage2", "stage4"]).config
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
    make("pretraining").save_pretrained(tmp_path)
    for auto, task in ((AutoModelForDepthEstimation, "depth"), (AutoModelForSemanticSegmentation, "segmentation")):
        model, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert type(model) is TASKS[task]
        assert info["missing_keys"] and all(key.startswith("head.") for key in info["missing_keys"])
        assert all(torch.isfinite(p).all() for p in model.parameters())
        assert model.head.head.blocks[0].layer_scale.unique().item() == pytest.approx(0.1)
    assert isinstance(WinWinModel.from_pretrained(tmp_path), WinWinModel)


@pytest.mark.parametrize(("task", "variant"), [(t, v) for t, v in CASES if v in ("conv", "vitdet", "dpt", "matching", "stem")])
def test_gradient_checkpointing(task, variant):
    gradients = []
    for checkpointing in (False, True):
        model = make(task, variant).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        inputs = arguments(task, model, frames(model), APART)
        labels = {} if task == "pretraining" else {"labels": labels_for(task, model, "nan")[0]}
        model(**inputs, **labels).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(g, gradients[1][n], atol=1e-6) for n, g in gradients[0].items())


# ------------------------------------------------------------------ precision, compilation, memory


@pytest.mark.parametrize("mode", ["bfloat16", "float16", "autocast"])
@each
def test_half_precision(task, variant, mode):
    """Half weights take float32 images, give finite float32 results near those of float32; autocast too."""
    model = make(task, variant)
    views = frames(model)
    full = predict(task, model, views, APART)
    if mode == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = predict(task, model, views, APART)
    else:
        half = predict(task, model.to(getattr(torch, mode)), views, APART)
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    error = (half - full).square().mean().sqrt() / full.std()
    assert error < (0.01 if mode == "float16" else 0.1), error


@pytest.mark.parametrize("variant", ["stem", "vitdet"])
@torch.no_grad()
def test_encoder_compiles_without_graph_breaks(variant):
    model = make("segmentation", variant, num_hidden_layers=2, global_attention_indices=[1]).winwin
    windows = crop(frames(model)[0], APART, (2, 2), 8)
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    expected = model(windows, APART).last_hidden_state
    assert distance(compiled(windows, APART).last_hidden_state, expected) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["dpt", "matching"])
@torch.no_grad()
def test_flow_compiles_without_graph_breaks(variant):
    model = make("flow", variant)
    views = frames(model)
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


@pytest.mark.parametrize(("variant", "overrides"), [("linear", {}), ("matching", {"patch_size": 16, "matching_stride": 8})])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_of_tokens_by_tokens_is_held(variant, overrides, training):
    """6000 positions of 8 pixels in each view: the tokens of one model, what the other one matches."""
    model = make("flow", variant, num_hidden_layers=1, decoder_num_hidden_layers=1, **overrides).train(training)
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

# The public checkpoints' names -> ours, in this order.
CROCO_NAMES = [
    (r"^patch_embed\.proj", "winwin.embeddings.projection"),
    (r"^enc_blocks", "winwin.layers"),
    (r"^enc_norm", "winwin.norm"),
    (r"^decoder_embed", "decoder.embed"),
    (r"^dec_blocks", "decoder.layers"),
    (r"^dec_norm", "decoder.norm"),
    (r"^prediction_head", "head"),
    (r"\.cross_attn\.proj([qkv])", r".cross_attention.\1_proj"),
    (r"\.cross_attn\.proj", ".cross_attention.o_proj"),
    (r"\.attn\.proj", ".attention.o_proj"),
    (r"\.attn\.", ".attention."),
    (r"\.norm_y", ".norm_memory"),
    (r"mlp\.fc1", "mlp.up_proj"),
    (r"mlp\.fc2", "mlp.down_proj"),
    (r"^head\.dpt\.head\.0", "head.head.conv1"),
    (r"^head\.dpt\.head\.2", "head.head.conv2"),
    (r"^head\.dpt\.head\.4", "head.head.out"),
    (r"^head\.dpt\.act_postprocess\.(\d)\.0", r"head.head.projections.\1"),
    (r"^head\.dpt\.act_postprocess\.(\d)\.1", r"head.head.resamples.\1"),
    (r"^head\.dpt\.scratch\.layer_rn", "head.head.levels"),
    (r"^head\.dpt\.scratch\.refinenet(\d)\.", lambda m: f"head.head.fusions.{int(m[1]) - 1}."),
    (r"resConfUnit", "unit"),
    (r"out_conv", "projection"),
]


def croco(name: str, model_class, **overrides):
    """One of the reference checkpoints in our model, and its recorded inputs and outputs."""
    checkpoint = torch.load(CROCO / f"{name}.pth", map_location="cpu", weights_only=True)
    sizes = checkpoint.get("croco_kwargs") or checkpoint["croco_args"]
    sides = {"": "enc", "decoder_": "dec"}
    config = {f"{ours}hidden_size": sizes[f"{theirs}_embed_dim"] for ours, theirs in sides.items()}
    config |= {f"{ours}num_hidden_layers": sizes[f"{theirs}_depth"] for ours, theirs in sides.items()}
    config |= {f"{ours}num_attention_heads": sizes[f"{theirs}_num_heads"] for ours, theirs in sides.items()}
    state = {}
    for key, value in checkpoint["model"].items():
        if re.search(r"dpt\.(act_\d_postprocess|scratch\.layer\d_rn)", key):
            continue  # the same tensors under a second name
        for pattern, replacement in CROCO_NAMES:
            key = re.sub(pattern, replacement, key)
        parts = zip("qkv", value.float().chunk(3), strict=True) if ".qkv." in key else [("", value.float())]
        state |= {key.replace("qkv", f"{part}_proj"): tensor for part, tensor in parts}
    model = model_class(WinWinConfig(**config, **overrides))
    model.load_state_dict(state)  # strict: every tensor has its place, on both sides
    return model.eval(), load_file(CROCO / f"{name}_io.safetensors")


@pytest.mark.skipif(not CROCO.is_dir(), reason="needs the reference checkpoints in shared/reference beside the repository")
@torch.no_grad()
def test_agrees_with_croco_reference():
    model, io = croco("croco_v2", WinWinForPreTraining)
    encoded = [model.winwin(io[f"image{i}"]).last_hidden_state for i in (1, 2)]
    out = model(io["image1"], io["image2"], bool_masked_pos=io["mask"].bool())
    close = {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(encoded[0], io["encoder1"], **close)
    torch.testing.assert_close(encoded[1], io["encoder2"], **close)
    torch.testing.assert_close(out.logits, io["reconstruction"], **close)
    model, io = croco("crocoflow", WinWinForOpticalFlow, head_type="dpt", dpt_layer_sizes=[24, 48, 96, 192])
    out = model(io["image1"], io["image2"])
    torch.testing.assert_close(out.flow, io["flow"], **close)
    torch.testing.assert_close(out.log_scale, io["log_scale"][:, 0], **close)
