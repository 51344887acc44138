"""What goes into a parcel and what stays, without asking any Hub."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.recipes import RECIPE
from transformers import AutoModel

from winwin_hf import WinWinForOpticalFlow
from winwin_hf.checked import build
from winwin_hf.hub import parcels
from winwin_hf.hub.parcels import code_files, pack_dataset, pack_model, pack_space
from winwin_hf.training.recipe import Recipe
from winwin_hf.training.state import save_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    recipe = build(Recipe, RECIPE, "test")
    torch.manual_seed(0)
    return save_model(WinWinForOpticalFlow(recipe.config()), tmp_path_factory.mktemp("run"), recipe)


@pytest.fixture
def checkpoint(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "small")


@pytest.fixture
def packed(checkpoint, tmp_path):
    """Packs the checkpoint, with options."""

    def pack(**options):
        folder = tmp_path / f"parcel-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return pack_model(checkpoint, "me/small", folder, **{"results": [], "picture": False, **options})

    return pack


def test_code_is_flat_and_closed():
    names = {path.stem for path in code_files()}
    assert {
        "modeling_winwin",
        "configuration_winwin",
        "image_processing_winwin",
        "pipeline_winwin",
        "losses_winwin",
    } <= names
    for path in code_files():
        lines = path.read_text().splitlines()
        needed = {line.split()[1][1:] for line in lines if line.startswith("from .")}
        assert needed <= names, f"{path.name} needs {needed - names}"
        assert not any(line.strip().startswith(("import winwin_hf", "from winwin_hf")) for line in lines), path.name


def test_what_transformers_reads(packed, checkpoint):
    config = json.loads(packed().files["config.json"].read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_winwin.WinWinConfig",
        "AutoImageProcessor": "image_processing_winwin.WinWinImageProcessor",
        "AutoModel": "modeling_winwin.WinWinForOpticalFlow",
    }
    before = json.loads((checkpoint / "config.json").read_text())
    assert {key: config[key] for key in before} == before
    assert "auto_map" not in before, "the checkpoint itself is as it was"


def test_shards_are_the_same_weights(packed, checkpoint, monkeypatch):
    assert packed().files["model.safetensors"] == checkpoint / "model.safetensors", "small ones are not copied"
    monkeypatch.setattr(parcels, "SHARD", 30_000)
    parcel = packed()
    shards = {name: path for name, path in parcel.files.items() if name.endswith(".safetensors")}
    assert len(shards) > 2 and "model.safetensors" not in shards
    together = {key: tensor for path in shards.values() for key, tensor in load_file(path).items()}
    whole = load_file(checkpoint / "model.safetensors")
    assert together.keys() == whole.keys() and all(torch.equal(together[key], whole[key]) for key in whole)
    index = json.loads(parcel.files["model.safetensors.index.json"].read_text())
    assert set(index["weight_map"].values()) == set(shards)


def test_a_checkpoint_of_shards_goes_as_it_is(packed, checkpoint):
    model = AutoModel.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="50KB")
    parcel = packed()
    assert {name for name in parcel.files if "model-" in name} == {path.name for path in checkpoint.glob("model-*")}
    next(checkpoint.glob("model-00002-*")).unlink()
    with pytest.raises(FileNotFoundError, match="missing, though the index names it"):
        packed()


def test_only_whole_safetensors_go(packed, checkpoint):
    weights = checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-1], whole[:100], b"", b"\0" * 8, struct.pack("<Q", 2) + b"[]", whole + b"x"):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            packed()
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        packed()
    (checkpoint / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"only as a pickle \(pytorch_model\.bin\), which is never pushed"):
        packed()
    save_file({}, weights)
    assert "model.safetensors" in packed().files


def test_what_stays_and_why(packed, checkpoint):
    (checkpoint / "logs").mkdir()
    for name in ("optimizer.safetensors", "logs/x.log", ".token", "scheduler.json", "mine.txt", "a.py"):
        (checkpoint / name).write_text("x")
    assert packed().left_out == {
        ".token": "hidden",
        "a.py": "not part of a published checkpoint",
        "logs/x.log": "temporary",
        "mine.txt": "not part of a published checkpoint",
        "optimizer.safetensors": "a training's state",
        "scheduler.json": "a training's state",
    }


def test_a_training_is_its_model(trained, tmp_path):
    parcel = pack_model(trained.parent, "me/x", tmp_path, [], picture=False)
    assert parcel.files["model.safetensors"] == trained / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint or a finished training"):
        pack_model(tmp_path, "me/x", tmp_path, [], picture=False)


def test_no_processor(packed, checkpoint):
    (checkpoint / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json"):
        packed()


def test_a_card_that_came_with_converted_weights(packed, checkpoint):
    (checkpoint / "recipe.yaml").unlink()
    assert any("no recipe.yaml" in warning for warning in packed().warnings)
    (checkpoint / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n# CroCo\n")
    parcel = packed()
    assert parcel.files["README.md"].read_text().endswith("# CroCo\n") and "card.json" not in parcel.files
    assert [warning for warning in parcel.warnings if "not for commercial use" in warning]
    (checkpoint / "README.md").write_text("# CroCo\n")
    assert [warning for warning in packed().warnings if "names no licence" in warning]


@pytest.mark.parametrize("content", ["", "[]", '{"files": []}', '{"files": [{"file": "../x"}], "format": "parquet"}'])
def test_a_sidecar_that_is_something_else(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset\.json: expected what `winwin data shards` wrote"):
        pack_dataset(tmp_path)


def test_shards_outside_of_the_folder(tmp_path):
    info = {"files": [{"file": "../x-00000-of-00001.parquet", "bytes": 1, "sha256": "0"}], "name": "x", "terms": ""}
    (tmp_path / "dataset.json").write_text(json.dumps({**info, "format": "parquet"}))
    with pytest.raises(FileNotFoundError, match=r"\.\./x"):
        pack_dataset(tmp_path)


def test_our_spaces(examples):
    for folder in sorted(examples.parents[1].iterdir()):
        if (folder / "README.md").is_file():
            parcel = pack_space(folder)
            assert parcel.sdk == "gradio" and {"README.md", "app.py"} <= set(parcel.files)
            assert not [path for path in parcel.left_out if not path.startswith("__pycache__")]
