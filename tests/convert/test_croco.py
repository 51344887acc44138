"""Converting CroCo's checkpoints: every tensor, the reference's numbers, the folder, starting from one."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from support.croco_files import SIZES, public, public_shapes, public_tensors, save
from support.model_cases import TOLERANCE, distance
from support.places import NO_REAL_DATA, REFERENCE
from transformers import AutoImageProcessor, AutoModel
from typer import Typer
from typer.testing import CliRunner

from winwin_hf import (
    WinWinConfig,
    WinWinForDepthEstimation,
    WinWinForOpticalFlow,
    WinWinForPreTraining,
    WinWinImageProcessor,
    WinWinModel,
)
from winwin_hf.checked import build
from winwin_hf.cli.models import convert
from winwin_hf.convert.croco import CrocoCheckpoint, convert_croco, load_croco, read_croco
from winwin_hf.convert.croco.tensors import make_plan, winwin_config
from winwin_hf.inference.flow import predict_flow
from winwin_hf.model.croco_files_winwin import CROCO_DEFAULTS
from winwin_hf.training.build import make_model
from winwin_hf.training.initialise import initialise, read_start
from winwin_hf.training.recipe import Recipe

REFERENCE = REFERENCE / "croco"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"{NO_REAL_DATA}: {REFERENCE}")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("croco")
    return {kind: save(public(kind), folder / f"{kind}.pth") for kind in ("pretraining", "flow", "stereo")}


@pytest.fixture(scope="module")
def converted(files, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("converted")
    return {kind: convert_croco(path, folder / kind).folder for kind, path in files.items()}


# ------------------------------------------------------------------ numbers


@needs_reference
@pytest.mark.parametrize(("name", "kind"), [("croco_v2", "pretraining"), ("crocoflow", "flow")])
def test_the_layout_written_down_here_is_the_reference_s(name, kind):
    checkpoint = read_croco(REFERENCE / f"{name}.pth")
    shapes = public_shapes(checkpoint.sizes, kind, levels=(24, 48, 96, 192), fused=256)
    assert {key: tuple(tensor.shape) for key, tensor in checkpoint.tensors.items()} == shapes


@needs_reference
@torch.no_grad()
def test_decoder_agrees_with_the_reference():
    """What a head reads, which the outputs that tests/model/test_modeling.py compares show only through it."""
    model, io = load_croco(REFERENCE / "croco_v2.pth"), load_file(REFERENCE / "croco_v2_io.safetensors")
    seen = []
    model.decoder.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(io["image1"], io["image2"], bool_masked_pos=torch.zeros_like(io["mask"]).bool())
    assert distance(seen[0], io["decoder"]) < TOLERANCE


@needs_reference
def test_tiled_flow_agrees_with_the_reference():
    """
    Within 1e-3 px of up to 42 but for a handful of pixels: blending by exp(10 c) multiplies float32's rounding. The reference itself
    is 1.1e-3 from this model in float64, and eager and SDPA attention of this model are 1e-3 apart.
    """
    model, io = load_croco(REFERENCE / "crocoflow.pth"), load_file(REFERENCE / "crocoflow_io.safetensors")
    found = predict_flow(model, io["big_image1"], io["big_image2"], tile=(96, 128), overlap=0.5)
    error = (found.flow - io["tiled_flow"]).abs()
    assert error.quantile(0.999) < 5e-4 and error.max() < 2e-3
    torch.testing.assert_close(found.log_scale, io["tiled_conf"], rtol=1e-5, atol=1e-3)


@needs_reference
@torch.no_grad()
def test_stereo_is_the_flow_of_the_disparity(tmp_path):
    """CroCo-Flow's reference with its u taken for a disparity, in the form of CroCo-Stereo's files."""
    content = torch.load(REFERENCE / "crocoflow.pth", weights_only=True)
    for name in ("head.dpt.head.4.weight", "head.dpt.head.4.bias"):
        content["model"][name] = content["model"][name][[0, 2]]
    croco_args = content.pop("croco_args")
    content["args"] = argparse.Namespace(task="stereo", crop=[96, 128], criterion="Loss()", croco_args=croco_args)
    model = load_croco(save(content, tmp_path / "stereo.pth"))
    io = load_file(REFERENCE / "crocoflow_io.safetensors")
    out = model(io["image1"], io["image2"])
    assert distance(out.flow[:, 0], -io["flow"][:, 0]) < 2 * TOLERANCE
    assert (out.flow[:, 1] == 0).all()
    assert distance(out.log_scale, io["log_scale"][:, 0]) < 2 * TOLERANCE


# ------------------------------------------------------------------ tensors


def test_every_tensor_has_its_place():
    """A few by hand; all others follow from strict plans and the reference's numbers."""
    source = public_tensors(SIZES, "flow")
    checkpoint = CrocoCheckpoint(Path("x"), "flow", {**CROCO_DEFAULTS, **SIZES}, {}, source)
    with torch.device("meta"):
        model = WinWinForOpticalFlow(winwin_config(checkpoint))
    plan = make_plan(checkpoint, model)
    assert plan.sources["winwin.layers.1.attention.k_proj.weight"] == ("enc_blocks.1.attn.qkv.weight", 1)
    assert plan.sources["decoder.layers.7.attention.v_proj.bias"] == ("dec_blocks.7.attn.qkv.bias", 2)
    assert plan.sources["decoder.layers.0.norm_memory.weight"] == ("dec_blocks.0.norm_y.weight", None)
    assert plan.sources["head.layers.fusions.3.unit2.conv1.bias"] == (
        "head.dpt.scratch.refinenet4.resConfUnit2.conv1.bias",
        None,
    )
    used = {name for name, _ in plan.sources.values()}
    assert used | plan.dropped.keys() == source.keys() and not used & plan.dropped.keys()
    assert set(plan.sources) == set(model.state_dict())
    # refinenet4.resConfUnit1: 2 convolutions; second names: 7 convolutions of the taps, all but 4 with a bias
    assert len(plan.dropped) == 4 + 14 + 4


def test_weights_arrive(files):
    source, model = public_tensors(SIZES, "pretraining"), load_croco(files["pretraining"])
    state = model.state_dict()
    assert isinstance(model, WinWinForPreTraining) and not model.training
    thirds = [state[f"winwin.layers.1.attention.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(thirds), source["enc_blocks.1.attn.qkv.weight"])
    assert torch.equal(
        state["decoder.layers.3.cross_attention.k_proj.bias"], source["dec_blocks.3.cross_attn.projk.bias"]
    )
    assert torch.equal(state["mask_token"], source["mask_token"])
    assert torch.equal(state["head.bias"], source["prediction_head.bias"])


def test_half_precision_is_read_as_float32(tmp_path):
    content = public("pretraining")
    content["model"] = {name: tensor.half() for name, tensor in content["model"].items()}
    model = load_croco(save(content, tmp_path / "half.pth"))
    assert model.dtype == torch.float32
    assert torch.equal(model.mask_token, content["model"]["mask_token"].float())


LARGE = {"enc_embed_dim": 1024, "enc_depth": 24, "enc_num_heads": 16}
BASE_DECODER = {"dec_embed_dim": 768, "dec_depth": 12, "dec_num_heads": 12}


@pytest.mark.parametrize(
    ("sizes", "preset", "taps"),
    [
        (LARGE | BASE_DECODER, "large", [23, 27, 31, 35]),
        (BASE_DECODER, "base", [11, 15, 19, 23]),
        ({}, None, [10, 13, 16, 19]),  # ViT-B with CroCo's small decoder: its defaults
    ],
)
@pytest.mark.parametrize("kind", ["pretraining", "flow", "stereo"])
def test_public_sizes(sizes, preset, taps, kind):
    """Shapes only, no memory: each tensor is one number, repeated."""
    sizes = {**CROCO_DEFAULTS, "pos_embed": "RoPE100", **sizes}
    shapes = public_shapes(sizes, kind, levels=(96, 192, 384, 768), fused=256)
    tensors = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    checkpoint = CrocoCheckpoint(Path("x"), kind, sizes, {}, tensors)
    config = winwin_config(checkpoint)
    model_class = WinWinForPreTraining if kind == "pretraining" else WinWinForOpticalFlow
    with torch.device("meta"):
        model = model_class(config)
        expected = model_class(WinWinConfig.from_preset(preset)) if preset else model
    make_plan(checkpoint, model)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in expected.state_dict().items()}
    if kind != "pretraining":
        assert config.head_taps == taps == WinWinConfig(**config.to_diff_dict() | {"head_taps": None}).taps(True)


def test_sizes_of_a_pre_training_by_the_public_code(tmp_path):
    """It keeps the call that made the network, beside its optimiser; the call is parsed, not evaluated."""
    text = ", ".join(f"{key}={value!r}" for key, value in SIZES.items())
    args = argparse.Namespace(model=f"CroCoNet({text})", epochs=400)
    content = {"args": args, "epoch": 3, "optimizer": {"state": {}}, "model": public_tensors(SIZES, "pretraining")}
    model = load_croco(save(content, tmp_path / "checkpoint-last.pth"))
    assert model.config.hidden_size == 32 and model.config.decoder_num_hidden_layers == 8


# ------------------------------------------------------------------ the folder


@pytest.mark.parametrize("kind", ["pretraining", "flow", "stereo"])
@torch.no_grad()
def test_folder_loads_with_the_auto_classes(files, converted, kind):
    folder = converted[kind]
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]
    model, direct = AutoModel.from_pretrained(folder), load_croco(files[kind])
    assert type(model) is type(direct)
    for (name, ours), theirs in zip(model.state_dict().items(), direct.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    processor = AutoImageProcessor.from_pretrained(folder)
    assert list(processor.image_mean) == pytest.approx([0.485, 0.456, 0.406])
    assert list(processor.image_std) == pytest.approx([0.229, 0.224, 0.225])
    if kind != "pretraining":
        images = torch.randn(2, 1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
        assert torch.equal(model(*images).flow, direct(*images).flow)


@pytest.mark.parametrize("kind", ["pretraining", "flow", "stereo"])
def test_card_says_where_the_weights_come_from(files, converted, kind):
    card = ModelCard.load(converted[kind] / "README.md", ignore_metadata_errors=False)
    assert card.data.license == "cc-by-nc-sa-4.0" and card.data.library_name == "transformers"
    assert f"`{kind}.pth`" in card.text and hashlib.sha256(files[kind].read_bytes()).hexdigest() in card.text
    if kind == "pretraining":
        assert "Left out: none." in card.text
    else:
        assert "`head.dpt.scratch.refinenet4.resConfUnit1.conv1.weight`" in card.text
        assert "`head.dpt.act_1_postprocess.0.bias`" in card.text
    tiles = {"flow": "(320, 384), overlap=0.9, beta=10, beta_sigmoid=5", "stereo": "(352, 704), overlap=0.9, beta=15"}
    assert tiles.get(kind, "224 x 224") in card.text
    assert ("another scale in pixels" in card.text) == (kind == "stereo")


def test_bounds_of_the_scale_are_the_criterion_s(tmp_path):
    content = public("flow")
    content["args"].criterion = "LaplacianLossBounded(a=0.5, b=8)"
    config = load_croco(save(content, tmp_path / "flow.pth")).config
    assert (config.min_flow_scale, config.max_flow_scale) == (0.5, 8)


def test_large_weights_are_sharded(files, tmp_path):
    folder = convert_croco(files["flow"], tmp_path / "sharded", max_shard_size="100KB").folder
    assert len(list(folder.glob("model-*.safetensors"))) > 1 and (folder / "model.safetensors.index.json").is_file()
    model, direct = AutoModel.from_pretrained(folder), load_croco(files["flow"])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), direct.parameters(), strict=True))


def test_what_is_there_is_kept_unless_overwritten(files, converted, tmp_path):
    output = tmp_path / "model"
    convert_croco(files["flow"], output)
    with pytest.raises(FileExistsError, match=r"model exists; expected a new folder, or overwrite"):
        convert_croco(files["stereo"], output)
    assert AutoModel.from_pretrained(output).config.max_flow_scale == 4.0
    done = convert_croco(files["pretraining"], output, overwrite=True)
    assert done.architecture == "WinWinForPreTraining"
    assert isinstance(AutoModel.from_pretrained(output), WinWinForPreTraining)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_overwriting_spares_other_folders_and_the_source(files, tmp_path):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    (photographs / "1.jpg").touch()
    with pytest.raises(FileExistsError, match=r"photographs is no model's folder"):
        convert_croco(files["flow"], photographs, overwrite=True)
    assert (photographs / "1.jpg").exists()
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "config.json").touch()
    source = save(public("flow"), inside / "flow.pth")
    with pytest.raises(ValueError, match=r"flow.pth lies in"):
        convert_croco(source, inside, overwrite=True)
    assert source.exists()


def test_failing_half_way_leaves_everything_as_it_was(files, tmp_path, monkeypatch):
    output = tmp_path / "model"
    convert_croco(files["flow"], output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def no_space(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(WinWinImageProcessor, "save_pretrained", no_space)
    for target in (output, tmp_path / "new"):
        with pytest.raises(OSError, match="No space"):
            convert_croco(files["stereo"], target, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


# ------------------------------------------------------------------ as a start


OURS = {  # SIZES in our words
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 2,
}


def recipe_of(task: str, init: Path) -> Recipe:
    model = {"preset": "tiny", "init": str(init), "config": OURS}
    return build(Recipe, {"task": task, "data": {"name": "synthetic-flow"}, "model": model}, "here")


@pytest.mark.parametrize("source", ["pretraining", "flow"])
@pytest.mark.parametrize(
    ("task", "data", "parts"),
    [
        ("optical-flow", "optical-flow", ("winwin.", "decoder.")),
        ("semantic-segmentation", "semantic-segmentation", ("winwin.",)),
        ("depth-estimation", "depth-estimation", ("winwin.",)),
        ("pre-training", "optical-flow", ("winwin.", "decoder.")),
    ],
)
def test_a_recipe_starts_from_a_converted_folder(converted, source, task, data, parts):
    """`model.init`: encoder and decoder really arrive, and the head is new where it is another one."""
    torch.manual_seed(0)
    labels = ["a", "b"] if data == "semantic-segmentation" else None
    model, _ = make_model(recipe_of(task, converted[source]), SimpleNamespace(task=data, labels=labels, name="x"))
    expected = AutoModel.from_pretrained(converted[source]).state_dict()
    arrived = {
        name for name, tensor in model.state_dict().items() if torch.equal(tensor, expected.get(name, tensor + 1))
    }
    shared = {name for name in expected if name.startswith(parts)}
    assert shared and shared <= arrived
    assert shared == {name for name in model.state_dict() if name.startswith(parts)}
    if (source, task) == ("pretraining", "pre-training"):
        assert arrived == set(expected)
    else:
        assert not any(name.startswith("head.") for name in arrived)


def test_the_encoder_alone_and_a_new_head_as_the_card_says(converted):
    expected = AutoModel.from_pretrained(converted["pretraining"]).state_dict()
    encoder = WinWinModel.from_pretrained(converted["pretraining"])
    assert all(torch.equal(tensor, expected[f"winwin.{name}"]) for name, tensor in encoder.state_dict().items())
    flow = WinWinForOpticalFlow.from_pretrained(converted["pretraining"], head_type="dpt")
    assert torch.equal(flow.decoder.layers[7].norm_memory.weight, expected["decoder.layers.7.norm_memory.weight"])


def test_initialise(files, converted):
    torch.manual_seed(0)
    direct = load_croco(files["pretraining"]).state_dict()
    for source in (files["pretraining"], converted["pretraining"]):
        model = WinWinForOpticalFlow(WinWinConfig(**OURS))
        head = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith("head.")}
        left = initialise(model, read_start(source))
        assert set(left) == set(head)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, head[name] if name in head else direct[name]), name
    encoder = WinWinModel(WinWinConfig(**OURS))
    assert initialise(encoder, read_start(converted["flow"])) == []
    depth = WinWinForDepthEstimation(WinWinConfig(**OURS))
    assert all(name.startswith("head.") for name in initialise(depth, read_start(converted["flow"])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 4}, r"num_attention_heads is 2; expected 4"),
        ({"num_hidden_layers": 1}, r"num_hidden_layers is 2; expected 1"),
        ({"decoder_num_hidden_layers": 4}, r"decoder_num_hidden_layers is 8; expected 4"),
        ({"rope_theta": 50.0}, r"rope_theta is 100.0; expected 50.0"),
        ({"hidden_size": 64}, r"winwin\.\S+ has shape .*expected .*, as in the model to start"),
        ({"patch_embedding": "conv_stem"}, r"winwin.embeddings\S+ is missing"),
    ],
)
def test_initialise_never_passes_over_an_encoder_that_does_not_fit(converted, change, message):
    model = WinWinForOpticalFlow(WinWinConfig(**{**OURS, **change}))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        initialise(model, read_start(converted["pretraining"], pairs=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# ------------------------------------------------------------------ the command


def test_command(files, tmp_path):
    app = Typer()
    app.command()(convert)
    output = tmp_path / "flow"
    done = CliRunner().invoke(app, [str(files["flow"]), str(output)])
    assert done.exit_code == 0 and "WinWinForOpticalFlow" in done.output and "22 dropped" in done.output
    assert (output / "model.safetensors").is_file()
    again = CliRunner().invoke(app, [str(files["flow"]), str(output)])
    assert again.exit_code == 1 and again.output.startswith("winwin: ") and again.output.count("\n") == 1
    assert CliRunner().invoke(app, [str(files["flow"]), str(output), "--overwrite"]).exit_code == 0
    assert CliRunner().invoke(app, [str(tmp_path / "absent.pth"), str(tmp_path / "x")]).exit_code == 2
