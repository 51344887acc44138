"""CroCo's, DUSt3R's and MASt3R's encoders and decoders under our heads: the reference's numbers, every tensor, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.croco_files import PAIRS, SIZES, pair, pair_tensors, public, public_tensors, save
from support.model_cases import TOLERANCE, distance
from support.places import NO_REAL_DATA, REFERENCE

from winwin_hf import WinWinForDepthEstimation, WinWinForOpticalFlow, WinWinForPreTraining, WinWinModel
from winwin_hf.convert.croco import load_croco
from winwin_hf.model.encoders_winwin import read_encoder

REFERENCE = REFERENCE / "croco"
CROCO = public_tensors(SIZES, "pretraining")


@pytest.fixture(params=PAIRS)
def kind(request) -> str:
    return request.param


def make_file(folder: Path, kind: str, change=None) -> str:
    content = pair(kind, pair_tensors(CROCO), SIZES)
    if change is not None:
        change(content)
    return str(save(content, folder / f"{kind}.pth"))


def make_repository(folder: Path, kind: str) -> str:
    """The form on the Hub: the constructor's arguments as JSON, infinities too, and safetensors."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**SIZES, **PAIRS[kind][1], "landscape_only": False}))
    save_file(pair_tensors(CROCO), folder / "model.safetensors")
    return str(folder)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"{NO_REAL_DATA}: {REFERENCE}")
@torch.no_grad()
def test_encoder_and_decoder_compute_what_the_reference_computes(kind, tmp_path):
    """DUSt3R's encoder is CroCo's; its first decoder as ours runs it is CroCo's too."""
    content = torch.load(REFERENCE / "croco_v2.pth", weights_only=True)
    io = load_file(REFERENCE / "croco_v2_io.safetensors")
    path = save(pair(kind, pair_tensors(content["model"]), content["croco_kwargs"]), tmp_path / "pair.pth")
    model = WinWinForPreTraining.from_encoder(str(path)).eval()
    seen = []
    model.decoder.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    nothing = torch.zeros_like(io["mask"]).bool()
    model(io["image1"], io["image2"], bool_masked_pos=nothing)
    assert distance(model.winwin(io["image1"]).last_hidden_state, io["encoder1"]) < TOLERANCE
    assert distance(seen[0], io["decoder"]) < TOLERANCE


def test_the_first_view_s_decoder_arrives(kind, tmp_path):
    model = WinWinForOpticalFlow.from_encoder(make_file(tmp_path, kind), head_type="linear")
    other = WinWinForOpticalFlow.from_encoder(str(save(public("pretraining"), tmp_path / "croco.pth")))
    for part in ("winwin", "decoder"):
        theirs = getattr(other, part).state_dict()
        for name, tensor in getattr(model, part).state_dict().items():
            assert torch.equal(tensor, theirs[name]), name
    assert torch.equal(model.decoder.layers[3].norm_memory.weight, CROCO["dec_blocks.3.norm_y.weight"])
    second = pair_tensors(CROCO)["dec_blocks2.3.norm_y.weight"]
    assert not torch.equal(model.decoder.layers[3].norm_memory.weight, second)


def test_a_repository_is_the_file(kind, tmp_path):
    file, folder = (
        read_encoder(source) for source in (make_file(tmp_path, kind), make_repository(tmp_path / "hub", kind))
    )
    assert (folder.family, folder.config, folder.left_out) == (kind, file.config, file.left_out)
    for ours, theirs in ((folder.tensors, file.tensors), (folder.decoder, file.decoder)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_every_tensor_is_accounted_for(kind, tmp_path):
    source = pair_tensors(CROCO)
    encoder = read_encoder(make_file(tmp_path, kind))
    for some in (encoder, encoder.without_decoder()):
        assert sorted([*some.names, *some.decoder_names, *some.left_out]) == sorted(source)
        used = sum(tensor.numel() for tensor in [*some.tensors.values(), *some.decoder.values()])
        assert used == sum(source[name].numel() for name in [*some.names, *some.decoder_names])
    assert {name for name in encoder.left_out if name.startswith("dec_")} == {
        name for name in source if name.startswith("dec_blocks2.")
    }
    assert encoder.left_out["mask_token"] == "pre-training only"
    assert encoder.without_decoder().left_out["dec_norm.weight"].startswith("the decoder")


def test_images_are_normalised_as_the_source_does(kind, tmp_path):
    assert read_encoder(make_file(tmp_path, kind)).image_processor().image_mean == (0.5, 0.5, 0.5)
    croco = read_encoder(str(save(public("flow"), tmp_path / "croco.pth")))
    assert croco.image_processor().image_mean[0] == 0.485
    assert croco.family == "croco" and "head.dpt.head.4.bias" in croco.left_out


@torch.no_grad()
def test_windows_anywhere_give_the_same(tmp_path):
    """Relative RoPE: without `frame_sizes`, and moved together."""
    model = WinWinForDepthEstimation.from_encoder(make_file(tmp_path, "dust3r")).winwin.eval()
    windows, where = torch.randn(1, 2, 3, 32, 32), torch.tensor([[[0, 0], [4, 3]]])
    here, there = (model(windows, place).last_hidden_state for place in (where, where + 5))
    assert distance(there, here) < TOLERANCE


def with_tensor(name: str, tensor: torch.Tensor):
    return lambda content: content["model"].update({name: tensor})


def with_call(old: str, new: str):
    return lambda content: setattr(content["args"], "model", content["args"].model.replace(old, new))


REFUSED = {
    "a missing tensor": (
        lambda content: content["model"].pop("enc_blocks.1.mlp.fc1.bias"),
        r"layers\.1\.mlp\.up_proj\.bias \(our name\) is missing; expected \(128,\)",
    ),
    "another shape": (
        with_tensor("dec_norm.bias", torch.zeros(17)),
        r"norm\.bias \(our name\) has shape \(17,\); expected \(16,\)",
    ),
    "an unknown tensor": (with_tensor("enc_norm2.bias", torch.zeros(3)), "enc_norm2.bias has no place"),
    "NaN": (with_tensor("enc_norm.bias", torch.full((32,), torch.nan)), "enc_norm.bias holds NaN"),
    "another depth": (with_call("enc_depth=2", "enc_depth=3"), "enc_depth is 3, but the tensors have 2 blocks"),
    "absolute positions": (with_call("RoPE100", "cosine"), "pos_embed='cosine'"),
    "an unknown argument": (with_call("head_type=", "registers="), "args.model has registers; expected only img_size"),
    "another class": (
        with_call("Asymmetric", "Symmetric"),
        r"args.model is .Symmetric.*expected AsymmetricCroCo3DStereo",
    ),
    "no literal": (
        with_call("(512, 512)", "__import__('os').mkdir('x')"),
        "args.model is .Asymmetric.* of plain values",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, kind, tmp_path):
    """Each in one line that names the file."""
    change, message = REFUSED[case]
    path = make_file(tmp_path, kind, change)
    with pytest.raises(ValueError, match=rf"^\S*{kind}\.pth: .*{message}") as caught:
        WinWinForOpticalFlow.from_encoder(path)
    assert "\n" not in str(caught.value)
    assert [found.name for found in tmp_path.iterdir()] == [f"{kind}.pth"]


def test_a_repository_without_weights(kind, tmp_path):
    folder = make_repository(tmp_path / "hub", kind)
    (Path(folder) / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        WinWinModel.from_encoder(folder)


def test_it_is_no_croco_with_a_head(kind, tmp_path):
    with pytest.raises(
        ValueError, match=rf"{kind}\.pth: a (DUSt3R|MASt3R), whose heads ours don't have; expected .*from_encoder"
    ):
        load_croco(make_file(tmp_path, kind))


def test_an_option_of_another_decoder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"decoder_num_hidden_layers=2: .*dust3r\.pth has 8"):
        WinWinForOpticalFlow.from_encoder(make_file(tmp_path, "dust3r"), decoder_num_hidden_layers=2)
