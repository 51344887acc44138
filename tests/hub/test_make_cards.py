"""scripts/make_cards.py: bundling a training, and cards that are those which the script would write."""

import json

import numpy as np
import pytest
import torch
from make_cards import app, bundle, bundled_cards
from PIL import Image
from support.results import results_json
from transformers import AutoImageProcessor, AutoModel
from typer.testing import CliRunner

from winwin_hf import bundled
from winwin_hf.data.formats.images import save_image
from winwin_hf.hub.cards import card
from winwin_hf.hub.facts import read_facts


def test_weights_are_half_the_size_and_load_as_float32(run, tmp_path):
    folder = bundle(run, tmp_path / "winwin-x", "Limits.")
    before, after = AutoModel.from_pretrained(run / "model"), AutoModel.from_pretrained(folder)
    assert after.dtype == torch.float32
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, run / "model")]
    assert sizes[0] < 0.6 * sizes[1]
    assert AutoImageProcessor.from_pretrained(folder).patch_size == 16


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("../x", [], "NAME '../x': expected letters"),
        ("", [], "NAME '': expected letters"),
        ("notes", [], "notes is no model's folder, and is not replaced"),
        ("winwin-x", ["--processor", "size"], "--processor size: expected KEY=VALUE"),
        ("winwin-x", ["--processor", "size=[1"], "--processor size: "),
        ("winwin-x", [], "nothing/model: no model there; has the training ended?"),
        ("winwin-x", ["--worst", "/etc/passwd"], "--worst /etc/passwd"),
        ("winwin-x", ["--worst", "nothing.png"], "--worst nothing.png"),
    ],
)
def test_what_is_not_bundled(tmp_path, monkeypatch, name, options, message):
    monkeypatch.setattr(bundled, "CHECKPOINTS", tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "notes").mkdir(parents=True)
    (tmp_path / "checkpoints" / "notes" / "a.txt").touch()
    (tmp_path / "x").mkdir()
    result = CliRunner().invoke(app, ["bundle", *options, str(tmp_path / "nothing"), name, "Limits."])
    assert result.exit_code in (1, 2) and message in result.stderr and result.stderr.count("\n") == 1
    assert len(list(tmp_path.rglob("*"))) == 4


def test_a_checkpoint_is_not_replaced_by_another_kind(run, tmp_path):
    (tmp_path / "winwin-x").mkdir()
    (tmp_path / "winwin-x" / "config.json").write_text('{"architectures": ["WinWinForOther"]}')
    with pytest.raises(ValueError, match=r"winwin-x is a WinWinForOther and .* expected another NAME"):
        bundle(run, tmp_path / "winwin-x", "Limits.")
    with pytest.raises(ValueError, match="processor: unknown x; expected options"):
        bundle(run, tmp_path / "winwin-y", "Limits.", processor={"x": 1, "do_resize": True})
    assert not (tmp_path / "winwin-y").exists()


def test_card_shows_curve_hours_and_worst_cases(run, tmp_path):
    timed = [{"step": n, "loss": 1 / n, "seconds": 90.0 * n} for n in range(1, 9)]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in timed)
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 50:] = 200  # prediction and error; image and truth are black
    cases = [tmp_path / "worst" / f"{n}.png" for n in range(2)]
    for path in cases:
        path.parent.mkdir(exist_ok=True)
        save_image(path, picture)
    folder = bundle(run, tmp_path / "winwin-x", "Limits.", machine="an abacus", worst=("Two of them.", cases))
    text = (folder / "README.md").read_text()
    assert "0.20 hours on an abacus" in text and "Two of them." in text
    assert "](curve.png)" in text and "](worst.jpg)" in text
    shown = np.asarray(Image.open(folder / "worst.jpg"))
    assert shown.shape == (80, 50, 3) and shown.min() > 150
    assert Image.open(folder / "curve.png").size == (640, 320)
    known = read_facts(folder)
    assert (known.hours, known.machine, known.worst) == (0.2, "an abacus", "Two of them.")
    bundle(run, tmp_path / "winwin-y", "Limits.", worst=("Two of them.", cases), publishable=True)
    assert np.asarray(Image.open(tmp_path / "winwin-y" / "worst.jpg")).shape == (80, 100, 3)


def test_the_card_can_be_made_again_from_the_checkpoint_alone(run, tmp_path):
    recipe = run / "model" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: synthetic-flow", f"name: synthetic-flow\n  path: {run}"))
    results = [results_json(tmp_path, "model")]
    folder = bundle(run, tmp_path / "winwin-x", "Only a test.", "photographs of mine (CC0)", results)
    facts, text = read_facts(folder), (folder / "README.md").read_text()
    assert facts.parameters == sum(p.numel() for p in AutoModel.from_pretrained(folder).parameters())
    assert card("winwin-x", facts) == text
    assert "photographs of mine (CC0)" in text and "Only a test." in text and "2.72" in text
    everything = "".join(path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors")
    assert str(tmp_path) not in everything and "/home/me" not in everything


def test_bundled_cards_are_those_that_would_be_made():
    for path, text in bundled_cards().items():
        assert path.read_text() == text, f"{path}: run `python scripts/make_cards.py cards`"


def test_unfinished_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="ended"):
        bundle(tmp_path, tmp_path / "x", "")
