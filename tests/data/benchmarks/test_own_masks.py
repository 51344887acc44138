"""Masks as people have them: 0 and 255, colours, JPEG. They are read by a list of values, or refused with the way out."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from winwin_hf.cli.main import app
from winwin_hf.data import formats
from winwin_hf.data.benchmarks.check import check
from winwin_hf.data.benchmarks.segmentation import folder_classes
from winwin_hf.data.sources import open_source

TWO = "background\nlesion\n"


@pytest.fixture
def own(tmp_path):
    """own(masks, names) -> a folder of two frames, each with one of the masks' values a pixel, at random."""

    def make(values, names: str | None = TWO, mode: str | None = None, suffix: str = ".png"):
        rng = np.random.default_rng(0)
        for kind in ("images", "masks"):
            (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 255, (16, 24, 3), dtype=np.uint8)).save(tmp_path / f"images/train/{i}.png")
            mask = np.asarray(values, np.uint8)[rng.integers(0, len(values), (16, 24))]
            picture = Image.fromarray(mask)
            (picture.convert(mode) if mode else picture).save(tmp_path / f"masks/train/{i}{suffix}")
        if names is not None:
            (tmp_path / "names.txt").write_text(names)
        return tmp_path

    return make


def verdict(folder, *arguments: str):
    result = CliRunner().invoke(app, ["data", "check", str(folder), *arguments, "--workers", "0"])
    return result.exit_code, re.sub(r"\s+", " ", result.output)


@pytest.mark.parametrize("names", [TWO, None, "lesion\n"])
def test_binary_masks_of_0_and_255_are_a_fault(own, names):
    """It said "lesion 0.0 %" and exit code 0."""
    code, text = verdict(own((0, 255), names))
    assert code == 1
    assert "wrong in masks-folder:train: its masks hold only the class" in text
    assert "255 means unknown here" in text and "`lesion = 255`" in text


def test_binary_masks_with_their_values_listed(own):
    folder = own((0, 255), "background = 0\nlesion = 255\n")
    code, text = verdict(folder)
    assert code == 0 and "lesion 5" in text, text  # about half of the pixels
    source = open_source("masks-folder", str(folder), "train")
    assert source.labels == ("background", "lesion")
    label = source.reader.decode(source.dataset[0])[1]
    stored = np.asarray(Image.open(folder / "masks/train/0.png"))
    assert np.array_equal(label, stored // 255)


def test_a_trimap(own):
    """0, 128 and 255: without a list 128 is no id; with one it is ignored by option, or a class."""
    folder = own((0, 128, 255))
    code, text = verdict(folder)
    assert code == 1 and "ids [128]; expected 0 to 1" in text and "give each class its stored value there" in text
    (folder / "names.txt").write_text("background = 0\nlesion = 255\n")
    code, text = verdict(folder)
    assert code == 1 and "it holds 128, of which 'values:0,255' knows no class" in text
    code, text = verdict(folder, "--name", "masks-folder", "--option", "ignored=[128]")
    assert code == 0 and "% known" in text and "100.0% known" not in text
    (folder / "names.txt").write_text("background = 0\nborder = 128\nlesion = 255\n")
    code, text = verdict(folder)
    assert code == 0 and "border 3" in text and "100.0% known" in text


@pytest.mark.parametrize("values", [(0, 1), (False, True)])
def test_masks_of_0_and_1(own, values):
    assert verdict(own(values))[0] == 0


def test_masks_of_one_bit(own):
    folder = own((0, 255), mode="1")
    assert Image.open(folder / "masks/train/0.png").mode == "1"
    code, text = verdict(folder)
    assert code == 0 and "lesion 5" in text


def test_palette_masks(own):
    folder = own((0, 1))
    for path in (folder / "masks/train").iterdir():
        formats.write_labels(path, np.asarray(Image.open(path)), palette=[(0, 0, 0), (128, 0, 0)])
    assert verdict(folder)[0] == 0


@pytest.mark.parametrize(
    "listed", ["background = #000000\nlesion = #ff0000\n", "background = 0 0 0\nlesion = 255, 0, 0\n"]
)
def test_masks_in_colours(own, listed):
    folder = own([(0, 0, 0), (255, 0, 0)])
    code, text = verdict(folder)
    assert code == 1 and "channels 'RGB'; in names.txt each class may have its colour" in text
    (folder / "names.txt").write_text(listed)
    code, text = verdict(folder)
    assert code == 0 and "lesion 5" in text
    label = formats.decode_label(str(folder / "masks/train/0.png"), "colours:000000,ff0000")
    assert np.array_equal(label, np.asarray(Image.open(folder / "masks/train/0.png"))[..., 0] // 255)
    (folder / "names.txt").write_text(listed.replace("ff", "fe").replace("255", "254"))
    code, text = verdict(folder)
    assert code == 1 and "it holds #ff0000" in text


def test_jpeg_masks_are_refused(own):
    code, text = verdict(own((0, 1), suffix=".jpg"))
    assert code == 1 and "a JPEG, which changes the ids along every edge; expected PNG" in text


def test_classes_that_never_occur_or_are_not_listed(own):
    folder = own((0, 1), "background\nlesion\nvessel\n")
    code, text = verdict(folder)
    assert code == 0 and "no pixel is of vessel" in text
    (folder / "names.txt").write_text(TWO)
    own((0, 1, 2))
    code, text = verdict(folder)
    assert code == 1 and "ids [2]; expected 0 to 1" in text and "names.txt" in text


def test_a_split_of_background_alone_is_a_hint(own):
    report = check(own((0,)), "masks-folder", ["train"])
    assert report.ok and "single class (background)" in report.splits[0].hints[0]
    assert json.loads(report.json())["splits"][0]["faults"] == []


@pytest.mark.parametrize(
    "wrong", ["background = 0\nlesion\n", "a = 0\nb = 0\n", "a = 0\nb = #ff0000\n", "a = 0 0 0\nb = 300 0 0\n"]
)
def test_lists_that_are_wrong(tmp_path, wrong):
    (tmp_path / "names.txt").write_text(wrong)
    with pytest.raises(ValueError, match=r"names\.txt: expected a value .* in every line, each once, or in none"):
        folder_classes(tmp_path)


@pytest.mark.parametrize("wrong", ["values:", "values:0,0", "values:0;0", "values:a,b", "colours:red"])
def test_formats_that_are_wrong(own, wrong):
    path = own((0, 1)) / "masks/train/0.png"
    with pytest.raises(ValueError, match=r"expected (values|colours): and each value once"):
        formats.decode_label(str(path), wrong)


def test_values_above_8_bits(tmp_path):
    Image.fromarray(np.array([[0, 1000], [1000, 255]], np.uint16)).save(tmp_path / "a.png")
    assert formats.decode_label(str(tmp_path / "a.png"), "values:0,1000").tolist() == [[0, 1], [1, 255]]
