"""Encoders of other families: ours computes what transformers' own classes compute, block by block."""

import io
import json
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.model_cases import SMALL
from transformers import AutoModel

from winwin_hf import WinWinConfig, WinWinForDepthEstimation, WinWinForOpticalFlow, WinWinModel
from winwin_hf.model.encoders_winwin import FAMILIES, read_encoder, reorder, to_transformers
from winwin_hf.model.weights_winwin import reason_of

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56, "patch_size": 8}
ENCODERS = {
    "dinov3": ("DINOv3ViT", {"intermediate_size": 64, "num_register_tokens": 4}),
    "dinov3-plus": ("DINOv3ViT", {"intermediate_size": 48, "use_gated_mlp": True, "hidden_act": "silu"}),
    "dinov2": ("Dinov2", {"mlp_ratio": 2, "patch_size": 14}),
    "dinov2-giant": ("Dinov2", {"use_swiglu_ffn": True}),
    "dinov2-registers": ("Dinov2WithRegisters", {"mlp_ratio": 2, "patch_size": 14}),
    "vit": ("ViT", {"intermediate_size": 64}),
    "mae": ("ViTMAE", {"intermediate_size": 64, "mask_ratio": 0.0}),
    "siglip": ("SiglipVision", {"intermediate_size": 64}),
}
HEAD = {"dpt_layer_sizes": [8, 8, 8, 8], "dpt_hidden_size": 8}
FRAMES = {"training's": (4, 4), "wide": (5, 11), "large": (12, 9)}  # in patches


def make(name: str) -> transformers.PreTrainedModel:
    """transformers' own model with random weights, none of them zero or one by its initialisation."""
    family, options = ENCODERS[name]
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **options})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="module", params=ENCODERS)
def pair(request, tmp_path_factory):
    theirs, folder = make(request.param), tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    encoder = read_encoder(str(folder))
    head = "dpt" if encoder.config["patch_size"] % 4 else "conv"
    ours = WinWinModel(WinWinConfig(**encoder.config, head_type=head)).eval()
    ours.load_state_dict(encoder.tensors)
    return theirs, ours


def hidden_states(model: transformers.PreTrainedModel, pixels: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Tokens before and after every block, and after the final norm."""
    name, options = model.config.model_type, {}
    if name in ("vit", "vit_mae", "siglip_vision_model"):
        options["interpolate_pos_encoding"] = True
    if name == "vit_mae":  # its "random" masking sorts the tokens by this noise, and hides none here
        options["noise"] = torch.arange(pixels.shape[-2] * pixels.shape[-1] // 64).expand(len(pixels), -1).float()
    output = model(pixels, output_hidden_states=True, **options)
    return list(output.hidden_states), output.last_hidden_state


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@torch.no_grad()
def test_every_block_is_theirs(pair, frame):
    theirs, ours = pair
    patch = ours.config.patch_size
    pixels = torch.randn(2, 3, frame[0] * patch, frame[1] * patch)
    expected, expected_last = hidden_states(theirs, pixels)
    output = ours(pixels, output_hidden_states=True)
    assert len(output.hidden_states) == 1 + ours.config.num_hidden_layers
    for mine, other in zip(output.hidden_states, expected, strict=False):
        assert_equal(mine, other)
    assert_equal(output.last_hidden_state, expected_last)


@torch.no_grad()
def test_windows_that_cover_the_frame_are_the_frame(pair):
    """Prefix tokens attend with all windows' tokens once, and every token has the frame's position."""
    _, ours = pair
    patch, prefix = ours.config.patch_size, ours.config.num_prefix_tokens
    pixels = torch.randn(2, 3, 6 * patch, 8 * patch)
    whole = ours(pixels).last_hidden_state
    windows = torch.stack([pixels[..., 4 * patch :], pixels[..., : 4 * patch]], dim=1)
    where = torch.tensor([[0, 4], [0, 0]]).expand(2, -1, -1)
    sizes = torch.tensor([[6, 8], [6, 8]])
    parts = ours(windows, where, frame_sizes=sizes).last_hidden_state
    right, left = parts[:, prefix:].unflatten(1, (2, 6, 4)).unbind(1)
    joined = torch.cat([left, right], dim=2).flatten(1, 2)
    assert_equal(torch.cat([parts[:, :prefix], joined], dim=1), whole)


@torch.no_grad()
def test_a_window_needs_to_know_its_frame(pair):
    _, ours = pair
    patch = ours.config.patch_size
    window = torch.randn(1, 1, 3, 2 * patch, 2 * patch)
    with pytest.raises(ValueError, match="frame_sizes is missing"):
        ours(window, torch.tensor([[[1, 2]]]))
    small, large = (
        ours(window, torch.tensor([[[1, 2]]]), frame_sizes=torch.tensor([size])).last_hidden_state
        for size in ([4, 5], [9, 9])
    )
    assert not torch.allclose(small, large, rtol=1e-3)
    with pytest.raises(ValueError, match=r"frame_sizes has shape \(2, 2\)"):
        ours(window, torch.tensor([[[1, 2]]]), frame_sizes=torch.ones(2, 2, dtype=torch.long))


@torch.no_grad()
def test_frames_that_do_not_hold_their_windows(pair):
    """Each of them would give numbers too, of other positions."""
    _, ours = pair
    side = 2 * ours.config.patch_size
    windows, where = torch.randn(1, 2, 3, side, side), torch.tensor([[[0, 0], [4, 3]]])
    wrong = {"small": (5, 9), "turned": (5, 6), "nothing": (0, 0), "negative": (-9, -9)}
    if not ours.config.needs_frame_sizes:
        return
    for name, size in wrong.items():
        with pytest.raises(ValueError, match=r"frame_sizes is .* expected frames, in patches"):
            ours(windows, where, frame_sizes=torch.tensor([size]))
            pytest.fail(name)
    with pytest.raises(ValueError, match=r"frame_sizes is of torch\.float32: expected integers"):
        ours(windows, where, frame_sizes=torch.tensor([[9.0, 9.0]]))
    with pytest.raises(TypeError, match=r"frame_sizes is a list: expected a torch\.Tensor"):
        ours(windows, where, frame_sizes=[[9, 9]])
    with pytest.raises(ValueError, match="hold their windows"):
        ours(windows, where - 1, frame_sizes=torch.tensor([[9, 9]]))
    with pytest.raises(ValueError, match="a whole image is its own frame"):
        ours(windows[:, 0], frame_sizes=torch.tensor([[9, 9]]))
    ours(windows, where, frame_sizes=torch.tensor([[6, 5]]))


@torch.no_grad()
def test_moving_all_windows_changes_something_under_positions_of_the_frame(pair):
    """Unlike under relative positions; the loss of that identity is what these encoders cost."""
    _, ours = pair
    patch = ours.config.patch_size
    windows, sizes = torch.randn(1, 2, 3, 2 * patch, 2 * patch), torch.tensor([[9, 9]])
    where = torch.tensor([[[0, 0], [4, 3]]])
    here, there = (ours(windows, w, frame_sizes=sizes).last_hidden_state for w in (where, where + 2))
    assert not torch.allclose(here, there, rtol=1e-3)


@torch.no_grad()
def test_bfloat16_agrees_within_its_rounding(pair):
    _, ours = pair
    patch = ours.config.patch_size
    pixels = torch.randn(1, 3, 5 * patch, 7 * patch)
    exact = ours(pixels).last_hidden_state
    state = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    half = type(ours)(ours.config).eval()
    half.load_state_dict(state)
    rounded = half.to(torch.bfloat16)(pixels.to(torch.bfloat16)).last_hidden_state
    assert_equal(rounded.float(), exact, tolerance=0.06)


def test_every_tensor_is_accounted_for(tmp_path):
    for name in ENCODERS:
        model = make(name)
        model.save_pretrained(tmp_path / name)
        encoder = read_encoder(str(tmp_path / name))
        assert encoder.family in FAMILIES
        theirs = sum(tensor.numel() for tensor in model.state_dict().values())
        left = sum(model.state_dict()[key].numel() for key in encoder.left_out)
        folded = model.config.hidden_size if "positions" in " ".join(encoder.tensors) and name != "siglip" else 0
        assert sum(t.numel() for t in encoder.tensors.values()) == theirs - left - folded
        again = reorder(reorder(encoder.tensors, encoder.config), encoder.config)
        assert all(torch.equal(again[key], tensor) for key, tensor in encoder.tensors.items())


def test_what_is_no_encoder_of_these_is_named(tmp_path):
    transformers.BertConfig(hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="an encoder of type 'bert'; expected one of dinov3_vit"):
        read_encoder(str(tmp_path))


def test_a_task_model_starts_from_an_encoder(tmp_path):
    theirs = make("dinov2-registers")
    theirs.save_pretrained(tmp_path / "dino")
    model = WinWinForDepthEstimation.from_encoder(str(tmp_path / "dino"), readout_type="project", **HEAD).eval()
    pixels = torch.randn(1, 3, 56, 70)
    with torch.no_grad():
        expected = hidden_states(theirs, pixels)[1]
        assert_equal(model.winwin(pixels).last_hidden_state, expected)
        depth = model(pixels).predicted_depth
    model.save_pretrained(tmp_path / "ours")
    again = AutoModel.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(again(pixels).predicted_depth, depth)
    assert depth.shape == (1, 56, 70)


def test_flow_on_an_encoder_with_prefix_tokens_is_trained_on_windows(tmp_path):
    make("dinov3").save_pretrained(tmp_path)
    decoder = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    model = WinWinForOpticalFlow.from_encoder(str(tmp_path), **decoder, head_type="linear", drop_path_rate=0.5).train()
    windows, where, sizes = (
        torch.randn(2, 2, 3, 16, 16),
        torch.tensor([[[0, 1], [3, 3]]] * 2),
        torch.tensor([[6, 7]] * 2),
    )
    output = model(
        windows, windows, where, where, labels=torch.zeros(2, 2, 2, 16, 16), frame_sizes=sizes, second_frame_sizes=sizes
    )
    output.loss.backward()
    assert model.winwin.embeddings.prefix_tokens.grad.abs().sum() > 0
    assert output.flow.shape == (2, 2, 2, 16, 16)


def test_an_option_of_another_encoder_is_an_error(tmp_path):
    make("siglip").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"patch_size=16: .* has 8"):
        WinWinForDepthEstimation.from_encoder(str(tmp_path), patch_size=16)


@pytest.mark.parametrize(("name", "mean"), [("siglip", 0.5), ("vit", 0.5), ("dinov3", 0.485)])
def test_images_are_normalised_as_the_source_does(name, mean, tmp_path):
    make(name).save_pretrained(tmp_path)
    assert read_encoder(str(tmp_path)).image_processor().image_mean[0] == mean
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    processor = read_encoder(str(tmp_path)).image_processor()
    assert (processor.image_mean, processor.patch_size) == ((0.1, 0.2, 0.3), 8)


@torch.no_grad()
def test_an_encoder_goes_back(pair, tmp_path):
    """Into a folder that transformers loads, with equal numbers at another frame size."""
    theirs, ours = pair
    to_transformers(ours).save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert again.config.model_type == theirs.config.model_type.replace("vit_mae", "vit")
    patch = ours.config.patch_size
    pixels = torch.randn(2, 3, 5 * patch, 9 * patch)
    expected, expected_last = hidden_states(theirs, pixels)
    found, found_last = hidden_states(again, pixels)
    for mine, other in zip(found, expected, strict=True):
        assert_equal(mine, other)
    assert_equal(found_last, expected_last)


def test_an_encoder_that_no_family_has_does_not_go_back():
    with pytest.raises(ValueError, match="position_embedding='rope'"):
        to_transformers(WinWinModel(WinWinConfig(**{k: v for k, v in SIZES.items() if k != "image_size"})))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"layerscale_value": 0.1}, "layerscale_value=0.1"),  # siglip would leave it out, and give other numbers
        ({"attention_pattern": "vitdet", "num_hidden_layers": 6}, "global_blocks"),
        ({"qkv_bias": False}, "qkv_bias=False"),
        ({"patch_embedding": "conv_stem"}, "patch_embedding='conv_stem'"),
        ({"num_prefix_tokens": 5, "layerscale_value": 0.1}, "position_antialias=False"),
        (
            {"num_prefix_tokens": 1, "layerscale_value": 0.1, "use_gated_mlp": True, "mlp_ratio": 2.75},
            "hidden_act='gelu'",
        ),
    ],
)
def test_an_encoder_that_differs_from_its_nearest_family_does_not_go_back(option, message):
    sizes = {key: value for key, value in SIZES.items() if key != "image_size"}
    config = WinWinConfig(**{**sizes, "position_embedding": "learned", "position_grid": [4, 4], **option})
    with pytest.raises(ValueError, match=message):
        to_transformers(WinWinModel(config))


@pytest.mark.parametrize(
    "name", ["dinov3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dinov2", "siglip"))]
)
@torch.no_grad()
def test_an_exported_encoder_takes_any_size(name, tmp_path):
    make(name).save_pretrained(tmp_path)
    model = WinWinForDepthEstimation.from_encoder(str(tmp_path), head_type="linear").eval().requires_grad_(False)
    patch = model.config.patch_size
    image, other = torch.randn(1, 3, 4 * patch, 6 * patch), torch.randn(1, 3, 7 * patch, 5 * patch)
    rows, columns = (torch.export.Dim(side, min=2, max=99) for side in ("rows", "columns"))
    sizes = {"pixel_values": {2: patch * rows, 3: patch * columns}}
    program = torch.export.export(model, (), {"pixel_values": image}, dynamic_shapes=sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is compared in Python, and that export is newer
        traced = torch.jit.trace(lambda pixels: model(pixels).predicted_depth, image, check_trace=False)
    expected = model(other).predicted_depth
    assert_equal(program.module()(pixel_values=other).predicted_depth, expected, tolerance=1e-4)
    assert_equal(traced(other), expected, tolerance=1e-4)


def test_sources_that_do_not_fit_are_named(tmp_path):
    make("dinov3").save_pretrained(tmp_path / "dino")
    weights, config = tmp_path / "dino" / "model.safetensors", tmp_path / "dino" / "config.json"
    config.write_text(config.read_text().replace('"patch_size": 8', '"patch_size": 16'))
    with pytest.raises(ValueError, match=r"dino: its tensors have other shapes than its config\.json says"):
        read_encoder(str(tmp_path / "dino"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"dino.*: no safetensors file"):
        read_encoder(str(tmp_path / "dino"))
    (tmp_path / "empty").mkdir()
    with pytest.raises((OSError, ValueError), match=r"empty: no .*config\.json"):
        read_encoder(str(tmp_path / "empty"))
    WinWinModel(WinWinConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        tmp_path / "ours"
    )
    with pytest.raises(ValueError, match=r"ours: this package's own; `from_pretrained` takes it"):
        read_encoder(str(tmp_path / "ours"))
    with pytest.raises(ValueError, match=r"a config of type 'dinov3_vit': `from_encoder` takes such weights"):
        WinWinForDepthEstimation.from_pretrained(tmp_path / "dino")


def test_tensors_of_blocks_that_the_config_does_not_have_are_no_secret(tmp_path):
    make("dinov2-registers").save_pretrained(tmp_path / "dino")
    path = tmp_path / "dino" / "config.json"
    config = {
        name: value for name, value in json.loads(path.read_text()).items() if not name.startswith(("out_", "stage"))
    }
    path.write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(
        ValueError, match=r"dino: \d+ tensors are of blocks that its config\.json doesn't have, such as .*2\."
    ):
        read_encoder(str(tmp_path / "dino"))


@pytest.mark.parametrize("family", ["Dinov2", "Dinov2WithRegisters", "ViT"])
@pytest.mark.parametrize("change", [{"num_hidden_layers": 1}, {"qkv_bias": False}])
def test_tensors_of_blocks_within_another_model_are_no_secret(tmp_path, family, change):
    """Under the name that it gives the encoder, digits and all."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32}
    config = getattr(transformers, f"{family}Config")(**sizes)
    getattr(transformers, f"{family}ForImageClassification")(config).save_pretrained(tmp_path / "classifier")
    path = tmp_path / "classifier" / "config.json"
    whole = json.loads(path.read_text())
    read_encoder(str(tmp_path / "classifier"))
    kept = {name: value for name, value in whole.items() if not name.startswith(("out_", "stage", "_out"))}
    path.write_text(json.dumps({**kept, **change}))
    with pytest.raises(ValueError, match=r"classifier: \d+ tensors are of blocks that its config\.json doesn't have"):
        read_encoder(str(tmp_path / "classifier"))


def test_what_other_models_have_beside_the_encoder_is_listed(tmp_path):
    sizes = {**SIZES, "intermediate_size": 64, "num_labels": 3}
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).save_pretrained(tmp_path / "classifier")
    assert set(read_encoder(str(tmp_path / "classifier")).left_out) >= {"classifier.weight", "classifier.bias"}
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    mae = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**sizes, **decoder, decoder_intermediate_size=16))
    mae.save_pretrained(tmp_path / "mae")
    assert any(name.startswith("decoder.decoder_layers.0.") for name in read_encoder(str(tmp_path / "mae")).left_out)


@pytest.mark.parametrize("name", ["vit", "siglip", "dinov2", "dinov3"])
@torch.no_grad()
def test_mixed_precision_is_as_exact_as_theirs(name, tmp_path):
    """The residual stream stays in float32 under autocast where theirs does."""
    theirs = make(name)
    theirs.save_pretrained(tmp_path)
    encoder = read_encoder(str(tmp_path))
    ours = WinWinModel.on_encoder(encoder).eval()
    pixels = torch.randn(2, 3, 4 * encoder.config["patch_size"], 6 * encoder.config["patch_size"])
    _, exact_last = hidden_states(theirs, pixels)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(pixels, output_hidden_states=True)
        other, other_last = hidden_states(theirs, pixels)
    assert [x.dtype for x in found.hidden_states] == [x.dtype for x in other[: len(found.hidden_states)]]

    def error(x: torch.Tensor) -> float:
        return float((x.float() - exact_last).norm() / exact_last.norm())

    assert error(found.last_hidden_state) < 2 * error(other_last)


def test_a_dinov2_without_registers_that_resizes_as_one_with_goes_back(tmp_path):
    config = transformers.Dinov2WithRegistersConfig(**SIZES, num_register_tokens=0)
    transformers.Dinov2WithRegistersModel(config).save_pretrained(tmp_path)
    back = to_transformers(WinWinModel.on_encoder(read_encoder(str(tmp_path))))
    assert (back.config.model_type, back.config.num_register_tokens) == ("dinov2_with_registers", 0)


class Foreign:
    def __reduce__(self):
        return os.mkdir, ("planted",)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(pickle.dumps(Foreign())),
        lambda path: torch.save({"a": Foreign()}, path),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save([1, 2], path),
    ],
    ids=["pickle", "torch.save", "empty", "a list"],
)
def test_a_pickle_is_named_and_no_message_advises_to_run_it(tmp_path, write):
    make("vit").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: not readable as tensors, and nothing else is read$"):
        read_encoder(str(tmp_path))
    assert not Path("planted").exists()


def test_our_own_weights_are_never_read_from_a_pickle(tmp_path):
    """torch's message would advise to run it."""
    WinWinModel(WinWinConfig(**SMALL)).save_pretrained(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        WinWinModel.from_pretrained(tmp_path)
    with pytest.raises(pickle.UnpicklingError) as caught:
        torch.load(io.BytesIO(pickle.dumps(Foreign(), 2)), weights_only=True)
    assert "weights_only" in str(caught.value)
    assert "weights_only" not in reason_of(caught.value) and "only tensors are" in reason_of(caught.value)
