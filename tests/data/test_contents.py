"""What a set holds, in a line: the same for the same files, another one for other files."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from support.places import FRAMES
from support.shards import make_rows

from winwin_hf.data.contents import contents_of
from winwin_hf.data.rows import table
from winwin_hf.data.shards import write_shards
from winwin_hf.data.sources import open_source


def photograph(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(path)


def test_of_a_table(tmp_path):
    shutil.copytree(FRAMES / "CamVid", tmp_path / "CamVid")
    before = contents_of(open_source("camvid", tmp_path / "CamVid", "train"))
    assert before.partition(" examples, ")[0].isdigit()
    assert contents_of(open_source("camvid", tmp_path / "CamVid", "train")) == before
    for kind in ("train", "trainannot"):
        first = sorted((tmp_path / "CamVid" / kind).iterdir())[0]
        shutil.copy(first, first.with_name(f"z{first.name}"))
    assert contents_of(open_source("camvid", tmp_path / "CamVid", "train")) != before


def test_of_scenes_and_worlds(tmp_path):
    assert contents_of(open_source("synthetic-flow", None)) == ""
    photograph(tmp_path / "photographs" / "a.png")
    before = contents_of(open_source("synthetic-flow", str(tmp_path / "photographs")))
    assert before.startswith("1 files, ")
    photograph(tmp_path / "photographs" / "b.png")
    assert contents_of(open_source("synthetic-flow", str(tmp_path / "photographs"))) not in ("", before)

    trimesh = pytest.importorskip("trimesh", reason="needs winwin-hf[worlds]")
    (tmp_path / "meshes").mkdir()
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "meshes" / "car.ply")
    before = contents_of(open_source("synthetic-worlds", str(tmp_path / "meshes")))
    trimesh.creation.icosphere(2).export(tmp_path / "meshes" / "car.ply")  # the same name, another size
    assert contents_of(open_source("synthetic-worlds", str(tmp_path / "meshes"))) not in ("", before)


def test_of_shards_that_are_cached_and_of_a_stream(tmp_path):
    rows = make_rows(tmp_path / "rows", "optical-flow", 4)
    write_shards(table(rows, "optical-flow"), tmp_path / "shards", task="optical-flow", name="test", split="train")
    path, options = str(tmp_path / "shards"), {"cached": True, "cache": str(tmp_path / "cache")}
    assert contents_of(open_source("shards", path, options=options)).startswith("4 examples, ")
    assert contents_of(open_source("shards", path)) == ""
