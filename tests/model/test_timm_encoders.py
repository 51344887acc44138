"""timm's encoders: ours computes what timm's own classes compute, block by block; what isn't known is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.places import FRAMES as FILES
from support.timm_encoders import ARCHITECTURES, FRAMES, make, save, tokens_of

from winwin_hf import WinWinConfig, WinWinForDepthEstimation, WinWinForSemanticSegmentation, WinWinModel
from winwin_hf.model import timm_encoders_winwin as timm_encoders
from winwin_hf.model.encoders_winwin import read_encoder, to_transformers

FILES = FILES / "timm"
HEAD = {"dpt_layer_sizes": [8, 8, 8, 8], "dpt_hidden_size": 8, "head_hidden_size": 8}


@pytest.fixture(params=ARCHITECTURES)
def name(request) -> str:
    return request.param


def load(folder: Path) -> WinWinModel:
    return WinWinModel.from_encoder(str(folder)).eval()


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def assert_same_tokens(ours: WinWinModel, pixels: torch.Tensor, blocks: list[torch.Tensor], last: torch.Tensor) -> None:
    """After every block and at the end. transformers records what enters each block, and what leaves the last."""
    with torch.no_grad():
        output = ours(pixels, output_hidden_states=True)
    for mine, theirs in zip(output.hidden_states[1:], blocks, strict=True):
        assert_equal(mine, theirs)
    assert_equal(output.last_hidden_state, last)


@pytest.mark.parametrize("frame", FRAMES)
def test_every_block_is_what_timm_computed(name, frame):
    expected = load_file(FILES / name / "expected.safetensors")
    blocks = [expected[f"{frame}.block{i}"] for i in range(2)]
    assert_same_tokens(load(FILES / name), expected[f"{frame}.pixels"], blocks, expected[f"{frame}.last"])


def test_every_block_is_what_timm_computes(name, tmp_path):
    """The same with the timm that is installed, at other sizes."""
    pytest.importorskip("timm", reason="needs timm and torchvision")
    theirs = make(name)
    save(theirs, tmp_path)
    ours = load(tmp_path)
    for rows, columns in ((4, 4), (5, 11), (12, 9)):
        pixels = torch.randn(2, 3, 4 * rows, 4 * columns)
        assert_same_tokens(ours, pixels, *tokens_of(theirs, pixels))


@torch.no_grad()
def test_windows_that_cover_the_frame_are_the_frame(name):
    ours = load(FILES / name)
    prefix, pixels = ours.config.num_prefix_tokens, torch.randn(2, 3, 24, 32)
    whole = ours(pixels).last_hidden_state
    windows = torch.stack([pixels[..., 16:], pixels[..., :16]], dim=1)
    where, sizes = torch.tensor([[0, 4], [0, 0]]).expand(2, -1, -1), torch.tensor([[6, 8]] * 2)
    parts = ours(windows, where, frame_sizes=sizes).last_hidden_state
    right, left = parts[:, prefix:].unflatten(1, (2, 6, 4)).unbind(1)
    joined = torch.cat([left, right], dim=2).flatten(1, 2)
    assert_equal(torch.cat([parts[:, :prefix], joined], dim=1), whole)


def test_every_tensor_is_accounted_for(name):
    """Each number of the source is in ours, or left out with a reason; the prefix tokens hold their positions."""
    theirs, encoder = load_file(FILES / name / "model.safetensors"), read_encoder(str(FILES / name))
    assert sorted([*encoder.names, *encoder.left_out]) == sorted(theirs)
    count = sum(tensor.numel() for tensor in encoder.tensors.values())
    used = sum(theirs[key].numel() for key in encoder.names)
    width, grid = encoder.config["hidden_size"], encoder.config["position_grid"]
    folded = theirs["pos_embed"].shape[1] - grid[0] * grid[1] if grid else 0
    added = width if name.startswith("perception") else 0  # a bias of zeros
    assert count == used - folded * width + added
    assert set(encoder.left_out.values()) == {"a head"}
    assert encoder.left_out.keys() >= {"head.weight", "head.bias"}


def test_what_the_config_says(name):
    encoder = read_encoder(str(FILES / name))
    known = json.loads((FILES / name / "config.json").read_text())["pretrained_cfg"]
    processor = encoder.image_processor()
    assert list(processor.image_mean) == known["mean"] and list(processor.image_std) == known["std"]
    assert (encoder.family, encoder.licence, processor.patch_size) == ("timm", known["license"], 4)


@pytest.mark.parametrize(
    ("name", "architecture", "expected"),
    [
        ("eva02-base", "eva02_large_patch14_448", {"rope_reference": [16, 16], "rope_offset": 0.0, "final_norm": True}),
        ("perception-core", "vit_pe_core_large_patch14_336", {"rope_reference": [24, 24], "rope_offset": 1.0}),
        ("perception-spatial", "vit_pe_spatial_gigantic_patch14_448", {"rope_offset": 0.0, "final_norm": False}),
        ("rope-axial", "vit_large_patch16_rope_224", {"position_embedding": "rope", "rope_theta": 100.0}),
        ("dinov3", "vit_7b_patch16_dinov3", {"rope_reference": None, "position_embedding": "rope_frame"}),
    ],
)
def test_what_the_architecture_s_name_says(name, architecture, expected, tmp_path):
    folder = copy(name, tmp_path, lambda settings: settings.update(architecture=architecture))
    config = read_encoder(str(folder)).config
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [("vit_pe_lang_gigantic_patch14_448", 16), ("vit_7b_patch16_dinov3", 32), ("eva02_base_patch14_448", None)],
)
def test_heads_without_arguments_are_the_architecture_s(architecture, heads):
    """64 channels wide, but those of the largest encoders."""
    assert timm_encoders.arguments_of("x", {"architecture": architecture})["num_heads"] == heads


def test_the_table_is_timm_s():
    """Of every architecture that timm has and the table knows, at one block on the meta device."""
    timm = pytest.importorskip("timm", reason="needs timm and torchvision")
    names = [
        name
        for name in timm.list_models()
        if any(re.fullmatch(pattern, name) for pattern, _ in timm_encoders.ARCHITECTURES)
    ]
    assert len(names) >= 51
    for name in names:
        with torch.device("meta"):
            theirs = timm.create_model(name, depth=1)
        rope, block = theirs.rope, theirs.blocks[0]
        arguments = timm_encoders.arguments_of(name, {"architecture": name})
        tensors, _ = timm_encoders.rename(theirs.state_dict(), arguments, name)
        fields = timm_encoders.fields_of(tensors, arguments)
        reference = getattr(rope, "ref_feat_shape", None)
        assert fields["num_attention_heads"] == block.attn.num_heads, name
        assert fields["layer_norm_eps"] == block.norm1.eps, name
        assert fields["rope_theta"] == (100 if arguments["rope_type"] == "mixed" else rope.temperature), name
        assert fields["rope_offset"] == getattr(rope, "grid_offset", 0.0), name
        assert fields["rope_reference"] == (None if reference is None else list(reference)), name
        assert arguments["rope_grid_indexing"] == rope.grid_indexing, name
        assert arguments["rope_rotate_half"] == block.attn.rotate_half, name
        with torch.device("meta"):
            ours = WinWinModel(WinWinConfig(**fields, head_type="linear")).state_dict()
        assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in tensors.items()}, name


def copy(name: str, folder: Path, change=None) -> Path:
    shutil.copytree(FILES / name, folder / "timm")
    config = folder / "timm" / "config.json"
    settings = json.loads(config.read_text())
    if change is not None:
        change(settings)
    config.write_text(json.dumps(settings))
    return folder / "timm"


@pytest.mark.parametrize(
    ("source", "repository"),
    [
        ("eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", "timm/eva02_base_patch14_448.mim_in22k_ft_in22k_in1k"),
        ("hf-hub:timm/vit_pe_core_base_patch16_224.fb", "timm/vit_pe_core_base_patch16_224.fb"),
        ("hf_hub:someone/vit_pe", "someone/vit_pe"),
        ("timm/vit_small_patch16_dinov3.lvd1689m", "timm/vit_small_patch16_dinov3.lvd1689m"),
        ("winwin-seg", "winwin-seg"),
        ("facebook/dinov2-base", "facebook/dinov2-base"),
    ],
)
def test_names_of_timm_s(source, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert timm_encoders.timm_repository(source) == repository
    (tmp_path / source).mkdir(parents=True)
    assert timm_encoders.timm_repository(source) == source  # a folder of that name


def test_the_weights_file_itself(tmp_path):
    encoder = read_encoder(str(FILES / "eva02-tiny" / "model.safetensors"))
    assert encoder.config == read_encoder(str(FILES / "eva02-tiny")).config


def test_a_task_model_starts_from_an_encoder_and_is_saved(tmp_path):
    model = WinWinForDepthEstimation.from_encoder(
        str(FILES / "eva02-base"), head_type="dpt", readout_type="project", **HEAD
    )
    model.eval().save_pretrained(tmp_path)
    again = WinWinForDepthEstimation.from_pretrained(tmp_path).eval()
    pixels = torch.randn(1, 3, 12, 20)
    with torch.no_grad():
        assert torch.equal(again(pixels).predicted_depth, model(pixels).predicted_depth)


def test_an_encoder_is_trained_on_windows(name):
    model = WinWinForSemanticSegmentation.from_encoder(str(FILES / name), head_type="linear").train()
    windows, where = torch.randn(2, 2, 3, 8, 8), torch.tensor([[[0, 1], [3, 3]]] * 2)
    labels = torch.ones(2, 2, 8, 8, dtype=torch.long)
    model(windows, where, labels=labels, frame_sizes=torch.tensor([[6, 7]] * 2)).loss.backward()
    unused = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused


@torch.no_grad()
def test_learnt_frequencies_are_relative_positions(tmp_path):
    """Moving all windows changes nothing, moving one does; a new network starts with frequencies, turned in each head."""
    config = WinWinConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        patch_size=4,
        position_embedding="rope_mixed",
        head_type="linear",
    )
    model = WinWinModel(config).eval()
    frequencies = model.layers[1].attention.frequencies
    lengths = (frequencies**2).sum(0).sqrt()
    torch.testing.assert_close(lengths, (100.0 ** -(torch.arange(4) / 4)).repeat(2).expand(2, -1), rtol=1e-5, atol=0)
    assert not torch.allclose(frequencies[:, 0], frequencies[:, 1], rtol=1e-2)
    for layer in model.layers:  # attention of a new network hardly sees where a token is
        layer.attention.q_proj.weight.mul_(20)
        layer.attention.k_proj.weight.mul_(20)
    windows, where = torch.randn(1, 2, 3, 8, 8), torch.tensor([[[0, 0], [4, 3]]])
    here, moved, apart = (
        model(windows, place).last_hidden_state
        for place in (where, where + 5, where + torch.tensor([[[0, 0], [1, 0]]]))
    )
    assert_equal(moved, here, tolerance=1e-4)
    assert not torch.allclose(apart, here, rtol=1e-2)
    model.save_pretrained(tmp_path)
    again = WinWinModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again(windows, where).last_hidden_state, here)
    in_cells = WinWinModel.from_pretrained(
        tmp_path, attention_pattern="vitdet", attention_cell_size=9, global_attention_indices=[]
    )
    image = torch.randn(1, 3, 24, 32)
    assert_equal(in_cells.eval()(image).last_hidden_state, model(image).last_hidden_state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eva02-base", "perception-core", "rope-mixed", "perception-spatial"])
@torch.no_grad()
def test_an_exported_encoder_takes_any_size(name):
    model = load(FILES / name).requires_grad_(False)
    image, other = torch.randn(1, 3, 16, 24), torch.randn(1, 3, 28, 20)
    rows, columns = (torch.export.Dim(side, min=2, max=99) for side in ("rows", "columns"))
    program = torch.export.export(
        model, (), {"pixel_values": image}, dynamic_shapes={"pixel_values": {2: 4 * rows, 3: 4 * columns}}
    )
    expected = model(other).last_hidden_state
    assert_equal(program.module()(pixel_values=other).last_hidden_state, expected, tolerance=1e-4)


@pytest.mark.parametrize("name", ["eva02-base", "perception-core", "rope-axial-absolute", "rope-mixed"])
def test_they_do_not_go_back_as_another_encoder(name):
    with pytest.raises(ValueError, match=r"an encoder with "):
        to_transformers(load(FILES / name))


def test_timm_s_dinov3_goes_to_transformers():
    """Its names differ and its numbers don't, so it is transformers' DINOv3 too."""
    model = load(FILES / "dinov3")
    theirs, pixels = to_transformers(model), torch.randn(1, 3, 20, 28)
    with torch.no_grad():
        assert_equal(theirs(pixels).last_hidden_state, model(pixels).last_hidden_state)


def with_tensor(key: str, tensor: torch.Tensor):
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, key: tensor}, folder / "model.safetensors")

    return change


def without(key: str):
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file({name: tensor for name, tensor in tensors.items() if name != key}, folder / "model.safetensors")

    return change


def with_settings(**values):
    def change(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**settings, **values}))

    return change


REFUSED = {
    "another architecture": (
        with_settings(architecture="resnet50"),
        r"timm's resnet50; expected eva02_\* \(but enormous\), vit_pe_\*",
    ),
    "norms behind": (with_settings(architecture="eva02_enormous_patch14_clip_224"), "eva02_enormous.*but enormous"),
    "no frequencies": (
        with_settings(architecture="vit_small_patch16_rope_mixed_224"),
        r"layers\.0\.attention\.frequencies \(our name\) is missing",
    ),
    "an unknown argument": (with_settings(model_args={"use_post_norm": True}), "model_args .* have use_post_norm"),
    "another RoPE": (with_settings(model_args={"rope_type": "mrope"}), "rope_type is 'mrope'; expected 'cat'"),
    "heads that don't fit": (
        with_settings(model_args={"num_heads": 3}),
        "16 channels and 3 heads; expected heads of equal width",
    ),
    "a missing tensor": (without("blocks.1.mlp.fc2.bias"), r"layers\.1\.mlp\.down_proj\.bias \(our name\) is missing"),
    "a missing block": (without("blocks.0.norm1.weight"), r"layers\.0\.norm1\.weight \(our name\) is missing"),
    "an unknown tensor": (with_tensor("blocks.0.attn.q_norm.weight", torch.ones(8)), "q_norm.weight has no place"),
    "frequencies of RoPE-mixed": (with_tensor("rope.freqs", torch.ones(2, 2, 2, 4)), "rope.freqs has no place"),
    "a fused MLP and a split one": (
        with_tensor("blocks.0.mlp.norm.scale", torch.ones(2)),
        r"layers\.0\.mlp\.norm\.scale \(our name\) has no place",
    ),
    "another shape": (with_tensor("blocks.0.norm1.bias", torch.ones(8)), r"has shape \(8,\); expected \(16,\)"),
    "no square": (with_tensor("pos_embed", torch.zeros(1, 13, 16)), "13 positions; expected those of a square"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    """Each in one line that names the source."""
    change, message = REFUSED[case]
    folder = copy("eva02-base", tmp_path)
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        WinWinModel.from_encoder(str(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_folder_of_other_weights(tmp_path):
    folder = copy("eva02-base", tmp_path)
    save_file({"conv1.weight": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"conv1\.weight has no place"):
        read_encoder(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        read_encoder(str(folder))
