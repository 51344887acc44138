"""Encoders of others as folders: what is written loads by AutoModel, says where it comes from, and appears whole or not at all."""

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from support.croco_files import PAIRS, SIZES, pair, pair_tensors, public, public_tensors, save
from transformers import AutoImageProcessor, AutoModel
from typer.testing import CliRunner

from winwin_hf import WinWinForOpticalFlow, WinWinForSemanticSegmentation, WinWinModel
from winwin_hf.cli.main import app
from winwin_hf.convert.encoder import convert_encoder
from winwin_hf.data.formats.files import sha256_of


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
