"""scripts/research/input_size.py: scores at each working size, and of photographs that were saved at another one."""

from __future__ import annotations

import json

import numpy as np
from research import input_size
from support.model_cases import make
from support.places import FRAMES

from winwin_hf import WinWinImageProcessor
from winwin_hf.data.worlds.kinds import CLASSES


def test_a_row_for_each_size(tmp_path):
    model = make("depth-estimation", "linear", num_hidden_layers=1)
    model.save_pretrained(tmp_path)
    WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(tmp_path)
    data = [f"middlebury-depth={FRAMES / 'depth' / 'motorcycle'}"]
    input_size.main(str(tmp_path), data, edge=[0, 24], saved=[0, 16], output=tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(row["saved"], row["edge"]) for row in rows] == [(0, 0), (0, 24), (16, 0), (16, 24)]
    assert all(row["abs_rel"] > 0 and 0.1 < row["median_m"] < 100 and row["scale"] > 0 for row in rows)
    assert len({row["abs_rel"] for row in rows}) == 4


def test_classes_may_be_others_than_the_sets(tmp_path):
    """A network that tells doors from walls is scored on a set that doesn't."""
    labels = CLASSES[:12]  # without windows
    model = make(
        "semantic-segmentation", "linear", num_hidden_layers=1, num_labels=None, id2label=dict(enumerate(labels))
    )
    model.config.label_synonyms = {"door": ["building"]}
    model.save_pretrained(tmp_path)
    WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(tmp_path)
    input_size.main(str(tmp_path), [f"camvid={FRAMES / 'CamVid'}"], edge=[0], output=tmp_path / "rows.json")
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert 0 <= row["miou"] <= 100 and set(row["iou"]) <= set(labels[:-1])


def test_an_image_at_its_own_size_is_untouched():
    image = np.zeros((20, 30, 3), np.uint8)
    assert input_size.with_longest_edge(image, 0) is image and input_size.with_longest_edge(image, 30) is image
    assert input_size.with_longest_edge(image, 15).shape == (10, 15, 3)
    assert input_size.with_longest_edge(image, 60).shape == (40, 60, 3)
