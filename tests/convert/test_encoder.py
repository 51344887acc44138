"""Encoders of others as folders: what is written loads by AutoModel, says where it comes from, and appears whole or not at all."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from support.croco_files import PAIRS, SIZES, pair, pair_tensors, public, public_tensors, save
from transformers import AutoImageProcessor, AutoModel
from typer.testing import CliRunner

from winwin_hf import WinWinForOpticalFlow, WinWinForSemanticSegmentation, WinWinModel
from winwin_hf.cli.main import app
from winwin_hf.convert.encoder import convert_encoder, encoder_to_transformers
from winwin_hf.own_files import sha256_of


@pytest.fixture
def source(tmp_path):
    config = transformers.SiglipVisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64
    )
    transformers.SiglipVisionModel(config).save_pretrained(tmp_path / "siglip")
    (tmp_path / "siglip" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    return tmp_path / "siglip"


def test_a_folder_loads_and_says_where_it_comes_from(source, tmp_path):
    done = convert_encoder(str(source), tmp_path / "out")
    model, processor = AutoModel.from_pretrained(tmp_path / "out"), AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert isinstance(model, WinWinModel)
    assert (processor.image_mean[0], processor.patch_size) == (0.5, 16)
    theirs = transformers.SiglipVisionModel.from_pretrained(source)
    pixels = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        expected = theirs(pixels, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(model(pixels).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert done.licence == "CC BY-NC 4.0, not commercial" and done.licence in card and "license: cc-by-nc-4.0" in card
    assert "`head.*` (11 tensors): a head" in card
    assert done.used + done.left_out == len(theirs.state_dict())


def test_the_command_puts_a_new_head_on_it(source, tmp_path):
    result = CliRunner().invoke(
        app, ["convert", str(source), str(tmp_path / "seg"), "--task", "semantic-segmentation"], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    assert "licence of the source: CC BY-NC 4.0, not commercial" in result.output
    assert isinstance(AutoModel.from_pretrained(tmp_path / "seg"), WinWinForSemanticSegmentation)
    assert "is untrained" in (tmp_path / "seg" / "README.md").read_text()


def dinov2(folder: Path, **numbers) -> Path:
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


def rewrite(file: Path, change) -> None:
    values = json.loads(file.read_text()) if file.is_file() else {}
    change(values)
    file.write_text(json.dumps(values))


def retype(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def index(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, name)}))


def large(file: Path) -> None:
    file.touch()
    os.truncate(file, 3 * 10**9)


FOREIGN = {
    "layers without end": (
        lambda f: rewrite(f / "config.json", lambda c: c.update(num_hidden_layers=10**9)),
        r"num_hidden_layers in config.json is 1000000000; expected at most 1000000",
    ),
    "labels without end": (
        lambda f: rewrite(f / "config.json", lambda c: c.update(num_labels=10**400)),
        r"num_labels in config.json is a number of 401 digits or more",
    ),
    "quantised": (
        lambda f: rewrite(f / "config.json", lambda c: c.update(quantization_config={"quant_method": "x"})),
        r"quantised \(quantization_config\)",
    ),
    "integers": (lambda f: retype(f, torch.int8), r"model.safetensors: .* is stored as I8"),
    "booleans": (lambda f: retype(f, torch.bool), r"is stored as BOOL"),
    "complex numbers": (lambda f: retype(f, torch.complex64), r"is stored as C64"),
    "numbers of 8 bits": (lambda f: retype(f, torch.float8_e4m3fn), r"is stored as F8_E4M3"),
    "a pickle of integers": (
        lambda f: (
            torch.save({"x": torch.zeros(3, dtype=torch.int8)}, f / "pytorch_model.bin"),
            (f / "model.safetensors").unlink(),
        ),
        r"pytorch_model.bin: x is no tensor of floating-point numbers",
    ),
    "a pickle of views": (
        lambda f: (
            torch.save({"x": torch.zeros(1).expand(9999)}, f / "pytorch_model.bin"),
            (f / "model.safetensors").unlink(),
        ),
        r"pytorch_model.bin: x has shape \(9999,\), and the file holds less",
    ),
    "an index that leads out": (lambda f: index(f, "../outside.safetensors"), r"index.json: names '../outside"),
    "an index of absolute paths": (lambda f: index(f, str(f.parent / "outside.safetensors")), r"index.json: names '/"),
    "a pipe": (
        lambda f: ((f / "model.safetensors").unlink(), os.mkfifo(f / "model.safetensors")),
        r"model.safetensors: a pipe",
    ),
    "a shard that is a pipe": (
        lambda f: (index(f, "a.safetensors"), os.mkfifo(f / "a.safetensors")),
        r"a.safetensors: a pipe",
    ),
    "an endless config": (lambda f: large(f / "config.json"), r"config.json: 3000000000 bytes; expected a text"),
    "an endless processor": (lambda f: large(f / "preprocessor_config.json"), r"preprocessor_config.json: 3000000000"),
    "an endless card": (lambda f: large(f / "README.md"), r"README.md: 3000000000 bytes"),
    "a processor that is no JSON": (
        lambda f: (f / "preprocessor_config.json").write_text("{"),
        r"its preprocessor_config.json is not readable JSON",
    ),
    "a processor that is nothing": (
        lambda f: (f / "preprocessor_config.json").write_text("null"),
        r"its preprocessor_config.json has no settings of an image processor",
    ),
    "a mean of two numbers": (
        lambda f: rewrite(f / "preprocessor_config.json", lambda c: c.update(image_mean=[0.5, 0.5])),
        r"image_mean is \[0.5, 0.5\]; expected three numbers",
    ),
    "a deviation of nothing": (
        lambda f: rewrite(f / "preprocessor_config.json", lambda c: c.update(image_std=[0, 1, 1])),
        r"image_std is \[0, 1, 1\]; expected three numbers above zero",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_folder_is_refused(case, tmp_path):
    """In one line that names the file, before memory is taken, and nothing is written."""
    change, message = FOREIGN[case]
    change(dinov2(tmp_path / "theirs"))
    with pytest.raises((ValueError, OSError), match=message) as caught:
        convert_encoder(str(tmp_path / "theirs"), tmp_path / "out")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": [0.4, 0.5, 0.6], "image_std": 0.25},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [123, 116, 103], "image_std": [58, 57, 57]},
        {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
    ],
    ids=str,
)
def test_pixels_are_what_the_encoder_was_trained_on(settings, tmp_path):
    source = dinov2(tmp_path / "theirs")
    theirs = transformers.BitImageProcessor(do_resize=False, do_center_crop=False, **settings)
    if not isinstance(settings.get("image_std", 0), float):
        theirs.save_pretrained(source)
    else:  # transformers has no processor of one number for all channels
        rewrite(source / "preprocessor_config.json", lambda c: c.update(settings))
        theirs = transformers.BitImageProcessor(
            do_resize=False, do_center_crop=False, **{**settings, "image_std": [0.25] * 3}
        )
    convert_encoder(str(source), tmp_path / "out")
    ours = AutoImageProcessor.from_pretrained(tmp_path / "out")
    image = np.random.default_rng(0).integers(0, 256, (28, 42, 3), np.uint8)
    expected = theirs(image, return_tensors="np")["pixel_values"]
    found = ours(image, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("license: [mit, apache-2.0]", "mit and apache-2.0"),
        ("license: [mit]", "MIT"),
        ("license: 5", "unknown"),
        ("license: {a: b}", "unknown"),
        ("license: mit\ntitle: caf\xe9", "MIT"),
    ],
)
def test_licences_of_every_form(source, tmp_path, card, licence):
    (source / "README.md").write_text(f"---\n{card}\n---\n", encoding="latin-1")
    assert convert_encoder(str(source), tmp_path / "out").licence == licence
    assert ModelCard.load(tmp_path / "out" / "README.md").data.license in ("mit", "other", None)


def test_overwriting_spares_what_is_not_a_models(source, tmp_path):
    ours = tmp_path / "ours"
    convert_encoder(str(source), ours)
    link = tmp_path / "link"
    link.symlink_to(source)
    for given, output in ((source, source), (link, source), (source, tmp_path)):
        (tmp_path / "config.json").write_text('{"model_type": "winwin"}')
        before = sorted(source.iterdir())
        with pytest.raises(ValueError, match=r"lies in .* which would be replaced"):
            convert_encoder(str(given), output, overwrite=True)
        assert sorted(source.iterdir()) == before
    with pytest.raises(ValueError, match=r"lies in .* which would be replaced"):
        encoder_to_transformers(str(ours), ours, overwrite=True)
    (tmp_path / "linked").symlink_to(ours)
    with pytest.raises(FileExistsError, match=r"linked: a link, which is not replaced; expected .*ours"):
        convert_encoder(str(source), tmp_path / "linked", overwrite=True)
    settings = tmp_path / "editor"
    settings.mkdir()
    (settings / "config.json").write_text('{"editor": "settings"}')
    (settings / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="is no model's folder"):
        convert_encoder(str(source), settings, overwrite=True)
    assert len(list(settings.iterdir())) == 2
    (ours / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"notes\.txt is no file of a model's folder, and would be deleted"):
        convert_encoder(str(source), ours, overwrite=True)
    (ours / "notes.txt").unlink()
    convert_encoder(str(source), ours, overwrite=True)
    encoder_to_transformers(str(ours), tmp_path / "back")
    encoder_to_transformers(str(ours), tmp_path / "back", overwrite=True)


def test_the_command_brings_an_encoder_back(source, tmp_path):
    convert_encoder(str(source), tmp_path / "ours")
    arguments = ["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "transformers"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0 and "siglip_vision_model" in result.output, result.output
    again, before = (transformers.SiglipVisionModel.from_pretrained(folder) for folder in (tmp_path / "theirs", source))
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            again(pixels).last_hidden_state, before(pixels).last_hidden_state, rtol=1e-4, atol=1e-5
        )
    processor = AutoImageProcessor.from_pretrained(tmp_path / "theirs")
    assert processor.image_mean[0] == 0.5 and processor.size["height"] == 64


@pytest.mark.parametrize("kind", PAIRS)
def test_a_file_of_two_decoders(kind, tmp_path):
    """The encoder alone, or with the first view's decoder under a new head of optical flow; the licence comes along."""
    path = save(pair(kind, pair_tensors(public_tensors(SIZES, "pretraining")), SIZES), tmp_path / "pair.pth")
    for task, architecture in ((), WinWinModel), (("--task", "optical-flow"), WinWinForOpticalFlow):
        output = tmp_path / architecture.__name__
        result = CliRunner().invoke(app, ["convert", str(path), str(output), *task], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        assert "licence of the source: CC BY-NC-SA 4.0, not commercial" in result.output
        assert type(AutoModel.from_pretrained(output)) is architecture
        assert AutoImageProcessor.from_pretrained(output).image_mean[0] == 0.5
        card = ModelCard.load(output / "README.md")
        assert card.data.license == "cc-by-nc-sa-4.0" and card.data.tags == ["winwin", kind]
        assert sha256_of(path) in card.text and ("CHECKPOINTS_NOTICE" in card.text) == (kind == "mast3r")
        assert "`dec_blocks2.*` (192 tensors): the second view's decoder" in card.text
        assert ("a start for training only" in card.text) == bool(task)
        assert ("`dec_blocks.*` (192 tensors): the decoder" in card.text) != bool(task)


def test_the_encoder_of_a_croco_under_another_task(tmp_path):
    path = save(public("flow"), tmp_path / "flow.pth")
    arguments = ["convert", str(path), str(tmp_path / "depth"), "--task", "depth-estimation"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0 and "WinWinForDepthEstimation" in result.output, result.output
    model = AutoModel.from_pretrained(tmp_path / "depth")
    assert torch.equal(model.winwin.norm.weight, public_tensors(SIZES, "flow")["enc_norm.weight"])


def test_nothing_is_left_of_a_conversion_that_fails(source, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"hidden_size=64: .* has 32"):
        convert_encoder(str(source), tmp_path / "out", hidden_size=64)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(FileExistsError, match="siglip exists"):
        convert_encoder(str(source), source)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-folder", "out"], "no-such-folder"),
        (["a.pth", "out", "--task", "optical-flow"], "a.pth: no such file"),
        (["siglip", "out", "--task", "flow"], "--task flow: expected optical-flow"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["convert", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code != 0 and message in result.output
    assert "Traceback" not in result.output and not (tmp_path / "out").exists()
