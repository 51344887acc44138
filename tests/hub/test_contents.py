"""Which files are uploaded and which are not, without asking any Hub."""

import json
import os
import re
import shutil
import struct
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.recipes import RECIPE
from support.results import results_json
from transformers import AutoModel
from transformers.dynamic_module_utils import get_relative_import_files

from winwin_hf import WinWinForOpticalFlow
from winwin_hf.checked import build
from winwin_hf.data.shards.opening import LAYOUT
from winwin_hf.evaluation.results import read_results
from winwin_hf.hub import contents
from winwin_hf.hub.contents import CODE, code_files, dataset_contents, model_contents, space_contents
from winwin_hf.hub.facts import FACTS, NOTES
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.training.recipe import Recipe
from winwin_hf.training.state import save_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    recipe = build(Recipe, RECIPE, "test")
    torch.manual_seed(0)
    return save_model(
        WinWinForOpticalFlow(recipe.config()), tmp_path_factory.mktemp("run"), recipe, WinWinImageProcessor()
    )


@pytest.fixture
def checkpoint(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "small")


@pytest.fixture
def contents_of(checkpoint, tmp_path):
    """The contents for the checkpoint, with options."""

    def look(**options):
        folder = tmp_path / f"contents-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return model_contents(checkpoint, "me/small", folder, **{"results": [], "picture": False, **options})

    return look


def test_the_code_beside_weights_is_the_room_model():
    """All files of winwin_hf/model are uploaded, and transformers, which follows relative imports, finds exactly these."""
    classes = ("configuration_winwin", "modeling_winwin", "image_processing_winwin", "pipeline_winwin")
    found = {CODE / f"{name}.py" for name in classes}
    found |= {Path(file).resolve() for path in found for file in get_relative_import_files(path)}
    assert set(code_files()) == found == {path for path in CODE.rglob("*.py") if path.name != "__init__.py"}
    for path in code_files():
        assert not re.search(r"^\s*(import|from) winwin_hf", path.read_text(), re.M), path.name


def test_what_transformers_reads(contents_of, checkpoint):
    config = json.loads(contents_of().files["config.json"].read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_winwin.WinWinConfig",
        "AutoImageProcessor": "image_processing_winwin.WinWinImageProcessor",
        "AutoModel": "modeling_winwin.WinWinForOpticalFlow",
    }
    before = json.loads((checkpoint / "config.json").read_text())
    assert {key: config[key] for key in before} == before
    assert "auto_map" not in before, "the checkpoint itself is as it was"


def test_shards_are_the_same_weights(contents_of, checkpoint, monkeypatch):
    assert contents_of().files["model.safetensors"] == checkpoint / "model.safetensors", "small ones are not copied"
    monkeypatch.setattr(contents, "MAX_WEIGHTS", 30_000)
    found = contents_of()
    shards = {name: path for name, path in found.files.items() if name.endswith(".safetensors")}
    assert len(shards) > 2 and "model.safetensors" not in shards
    together = {key: tensor for path in shards.values() for key, tensor in load_file(path).items()}
    whole = load_file(checkpoint / "model.safetensors")
    assert together.keys() == whole.keys() and all(torch.equal(together[key], whole[key]) for key in whole)
    index = json.loads(found.files["model.safetensors.index.json"].read_text())
    assert set(index["weight_map"].values()) == set(shards)


def test_a_checkpoint_of_shards_goes_as_it_is(contents_of, checkpoint):
    model = AutoModel.from_pretrained(checkpoint)
    model.save_pretrained(checkpoint, max_shard_size="50KB")
    found = contents_of()
    assert {name for name in found.files if "model-" in name} == {path.name for path in checkpoint.glob("model-*")}
    next(checkpoint.glob("model-00002-*")).unlink()
    with pytest.raises(FileNotFoundError, match="missing, though the index names it"):
        contents_of()


def test_only_whole_safetensors_go(contents_of, checkpoint):
    weights = checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-1], whole[:100], b"", b"\0" * 8, struct.pack("<Q", 2) + b"[]", whole + b"x"):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            contents_of()
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        contents_of()
    (checkpoint / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"only a pickle \(pytorch_model\.bin\), which is never pushed"):
        contents_of()
    save_file({}, weights)
    with pytest.raises(ValueError, match=r"\d+ of \d+ tensors are missing"):
        contents_of()
    weights.write_bytes(whole)
    assert "model.safetensors" in contents_of().files


@pytest.mark.parametrize(
    "index",
    ['{"weight_map": {"a": "weights.bin"}}', '{"weight_map": {"a": "../secret.safetensors"}}', "{}", "[]", "nonsense"],
)
def test_an_index_names_safetensors_beside_it(contents_of, checkpoint, index):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "weights.bin").write_bytes(b"pickled")
    (checkpoint.parent / "secret.safetensors").write_bytes(b"secret")
    (checkpoint / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=r"index\.json: names .*expected files such as"):
        contents_of()


def test_what_stays_and_why(contents_of, checkpoint):
    (checkpoint / "logs").mkdir()
    for name in ("optimizer.safetensors", "logs/x.log", ".token", "scheduler.json", "mine.txt", "a.py"):
        (checkpoint / name).write_text("x")
    assert contents_of().left_out == {
        ".token": "hidden",
        "a.py": "not part of a published checkpoint",
        "logs/x.log": "temporary",
        "mine.txt": "not part of a published checkpoint",
        "optimizer.safetensors": "state of a training",
        "scheduler.json": "state of a training",
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(evaluation={"windows": {"epe": "x", "images": 1}}),
        lambda c: c.update(evaluation={"windows": "x"}),
        lambda c: c.update(evaluation={"windows": []}),
        lambda c: c["results"][0].update(lines=None),
        lambda c: c["results"][0].update(lines=["x"]),
        lambda c: c["results"][0].update(versions=5),
        lambda c: c.update(hours=10**400),
        lambda c: c.update(hours="x"),
    ],
)
def test_a_card_json_of_wrong_values_is_named(checkpoint, contents_of, tmp_path, change):
    scored = asdict(read_results(results_json(tmp_path, "small"), {"small"}))
    record = {**dict.fromkeys(NOTES), "evaluation": {}, "results": [scored]}
    (checkpoint / FACTS).write_text(json.dumps(record))
    contents_of()
    change(record)
    (checkpoint / FACTS).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"card\.json: ") as error:
        contents_of()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["card.json", "recipe.yaml", "README.md"])
def test_what_is_no_file_is_named(checkpoint, contents_of, name):
    path = checkpoint / name
    for make, message in (
        (lambda: path.symlink_to(path), "links that lead in a circle"),
        (lambda: os.mkfifo(path), "a pipe; expected a file"),
        (path.mkdir, "a folder; expected a file"),
    ):
        path.unlink(missing_ok=True)
        make()
        with pytest.raises(OSError, match=message):
            contents_of()
    path.rmdir()


def test_a_card_that_is_replaced_is_told(checkpoint, contents_of):
    assert not any("stays here" in warning for warning in contents_of().warnings)
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    found = contents_of()
    assert any("README.md stays here" in warning for warning in found.warnings)
    assert "Mine" not in found.files["README.md"].read_text()


def test_a_training_is_its_model(trained, tmp_path):
    found = model_contents(trained.parent, "me/x", tmp_path, [], picture=False)
    assert found.files["model.safetensors"] == trained / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint or a finished training"):
        model_contents(tmp_path, "me/x", tmp_path, [], picture=False)


def test_no_processor(contents_of, checkpoint):
    (checkpoint / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json"):
        contents_of()


def test_a_card_that_came_with_converted_weights(contents_of, checkpoint):
    (checkpoint / "recipe.yaml").unlink()
    assert any("no recipe.yaml" in warning for warning in contents_of().warnings)
    (checkpoint / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n# CroCo\n")
    found = contents_of()
    assert found.files["README.md"].read_text().endswith("# CroCo\n") and "card.json" not in found.files
    assert [warning for warning in found.warnings if "not commercial" in warning]
    (checkpoint / "README.md").write_text("# CroCo\n")
    assert [
        warning for warning in contents_of().warnings if "licence of the weights" in warning and "unknown" in warning
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"files": []}', '{"layout": 1, "format": "csv"}'])
def test_a_sidecar_that_is_something_else(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset\.json: (not readable|expected layout)"):
        dataset_contents(tmp_path)


def test_shards_outside_of_the_folder(tmp_path):
    shard = {"file": "../x-00000-of-00001.parquet", "rows": 1, "bytes": 1, "sha256": "0" * 64}
    info = {"layout": LAYOUT, "format": "parquet", "files": [shard], "name": "x", "terms": "", "split": "train"}
    info["task"] = "optical-flow"
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    (tmp_path.parent / "x-00000-of-00001.parquet").write_text("x")
    with pytest.raises(ValueError, match=r"dataset\.json: files has .*\.\./x"):
        dataset_contents(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none: no dataset\.json"):
        dataset_contents(tmp_path / "none")
    with pytest.raises(ValueError, match=r"none: expected a README\.md"):
        space_contents(tmp_path / "none")


def test_our_spaces(examples):
    for folder in sorted(examples.parents[1].iterdir()):
        if (folder / "README.md").is_file():
            found = space_contents(folder)
            assert found.sdk == "gradio" and {"README.md", "app.py"} <= set(found.files)
            assert not [path for path in found.left_out if not path.startswith("__pycache__")]
