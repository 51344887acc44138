"""Bundled checkpoints in the Hub cache: found by their bare names, offline; whole or not at all; replaced when they change."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download, scan_cache_dir
from safetensors.torch import save_file
from transformers import AutoConfig

import winwin_hf  # noqa: F401  registers the Auto classes
from winwin_hf import bundled
from winwin_hf.task import TASKS


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundled checkpoints with one in it, and an empty cache."""
    root = tmp_path / "checkpoints"
    folder = root / "winwin-test"
    folder.mkdir(parents=True)
    config = {
        "model_type": "winwin",
        "architectures": ["WinWinForOpticalFlow"],
        "hidden_size": 24,
        "num_attention_heads": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(3, 4), "b": torch.ones((), dtype=torch.bfloat16)}, folder / "model.safetensors")
    (folder / ".hidden").write_text("not part of it")
    (root / "notes.txt").write_text("not a checkpoint")
    monkeypatch.setattr(bundled, "CHECKPOINTS", root)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return root


def test_a_bare_name_resolves_offline(root: Path, tmp_path: Path):
    # The arguments say where: transformers and huggingface_hub bind their default when they are imported.
    cache = tmp_path / "cache"
    with pytest.raises(OSError):
        AutoConfig.from_pretrained("winwin-test", cache_dir=cache)
    folders = bundled.install()
    assert AutoConfig.from_pretrained("winwin-test", cache_dir=cache).hidden_size == 24
    path = hf_hub_download("winwin-test", "model.safetensors", cache_dir=cache, local_files_only=True)
    assert Path(path).parent == folders["winwin-test"]
    assert sorted(item.name for item in folders["winwin-test"].iterdir()) == ["config.json", "model.safetensors"]


def test_a_bare_name_resolves_in_the_default_cache(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The cache that HF_HOME names (tests/conftest.py sets it), without anybody handing over a folder."""
    default = Path(constants.HF_HOME) / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(default))
    folder = bundled.install(["winwin-test"])["winwin-test"]
    try:
        assert folder.is_relative_to(default)
        assert AutoConfig.from_pretrained("winwin-test").hidden_size == 24
    finally:
        shutil.rmtree(default / "models--winwin-test")


def test_the_layout_is_huggingface_hubs(root: Path, tmp_path: Path):
    snapshot = bundled.install()["winwin-test"]
    repository = tmp_path / "cache" / "models--winwin-test"
    assert re.fullmatch("[0-9a-f]{40}", snapshot.name)
    assert (repository / "refs" / "main").read_text() == snapshot.name
    (repository / "refs" / "main").write_bytes(b"\xff\xfe")  # damaged: written again
    assert bundled.install()["winwin-test"] == snapshot
    assert (repository / "refs" / "main").read_text() == snapshot.name
    assert sorted(item.name for item in repository.iterdir()) == [".no_exist", "refs", "snapshots"], (
        "temporary files were left"
    )
    info = scan_cache_dir(tmp_path / "cache")
    assert not info.warnings
    assert [repo.repo_id for repo in info.repos] == ["winwin-test"]


def test_installing_again_changes_nothing(root: Path):
    snapshot = bundled.install()["winwin-test"]
    before = {path: path.stat().st_mtime_ns for path in snapshot.parents[1].rglob("*")}
    assert bundled.install()["winwin-test"] == snapshot
    assert {path: path.stat().st_mtime_ns for path in snapshot.parents[1].rglob("*")} == before


def test_a_new_version_replaces_the_old_one(root: Path):
    old = bundled.install()["winwin-test"]
    (root / "winwin-test" / "README.md").write_text("second version")
    assert not bundled.checkpoints()[0].installed
    new = bundled.install()["winwin-test"]
    assert new != old
    assert [item.name for item in new.parent.iterdir()] == [new.name]
    assert (new / "README.md").read_text() == "second version"
    assert bundled.checkpoints()[0].installed


def test_what_is_not_ours_stays(root: Path, tmp_path: Path):
    snapshot = bundled.install()["winwin-test"]
    for name in ("abc/mine", f"{'a' * 40}/config.json"):
        (snapshot.parent / name).parent.mkdir()
        (snapshot.parent / name).write_text("mine")
    (root / "winwin-test" / "README.md").write_text("second version")
    new = bundled.install()["winwin-test"]
    assert sorted(path.name for path in new.parent.iterdir()) == sorted(["abc", "a" * 40, new.name])
    outside = tmp_path / "outside"
    new.parent.rename(outside)
    new.parent.symlink_to(outside)
    before = sorted(outside.rglob("*"))
    with pytest.raises(ValueError, match=r"snapshots: a link or a file; expected a folder of the Hub's cache"):
        bundled.install()
    assert sorted(outside.rglob("*")) == before
    new.parent.unlink()
    outside.rename(new.parent)
    (new.parents[1] / "refs" / "main").unlink()
    (new.parents[1] / "refs" / "main").mkdir()
    with pytest.raises(ValueError, match=r"main: a folder; expected a file"):
        bundled.install()


def test_a_damaged_snapshot_is_noticed_and_mended(root: Path):
    snapshot = bundled.install()["winwin-test"]
    whole = (snapshot / "model.safetensors").read_bytes()
    (snapshot / "model.safetensors").write_bytes(whole[:-1])
    assert not bundled.checkpoints()[0].installed
    assert bundled.install()["winwin-test"] == snapshot
    assert (snapshot / "model.safetensors").read_bytes() == whole


def test_a_copy_that_fails_leaves_the_old_version(root: Path, monkeypatch: pytest.MonkeyPatch):
    old = bundled.install()["winwin-test"]
    (root / "winwin-test" / "README.md").write_text("second version")

    def no_space(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(shutil, "copyfile", no_space)
    with pytest.raises(OSError, match="no space"):
        bundled.install()
    repository = old.parents[1]
    assert (repository / "refs" / "main").read_text() == old.name
    assert sorted(item.name for item in repository.iterdir()) == [".no_exist", "refs", "snapshots"]
    assert [item.name for item in old.parent.iterdir()] == [old.name]
    with pytest.raises(OSError, match="no space"):
        bundled.install(cache_dir=root / "new")
    assert not (root / "new").exists()


def test_what_is_listed(root: Path):
    (item,) = bundled.checkpoints()
    assert (item.name, item.task, item.parameters, item.installed) == ("winwin-test", "optical flow", 13, False)
    assert item.licence == "unknown"
    assert item.size == sum(
        (root / "winwin-test" / name).stat().st_size for name in ("config.json", "model.safetensors")
    )
    bundled.install()
    assert bundled.checkpoints()[0].installed


def test_an_unknown_name_is_an_error_that_lists_the_known(root: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"'winwin-tset'.*winwin-test"):
        bundled.install(["winwin-test", "winwin-tset"])
    assert not (tmp_path / "cache").exists(), "nothing is installed if one name is wrong"


def test_resolve(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert bundled.resolve("winwin-test") == str(root / "winwin-test")
    assert bundled.resolve("somebody/model") == "somebody/model"
    assert bundled.resolve(str(tmp_path)) == str(tmp_path)
    (tmp_path / "here" / "winwin-test").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert bundled.resolve("winwin-test") == "winwin-test", "a folder of that name comes first, as in from_pretrained"


def test_a_package_without_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundled, "CHECKPOINTS", tmp_path / "none")
    assert bundled.folders() == {}
    assert bundled.install() == {}
    assert bundled.checkpoints() == []


def test_the_checkpoints_of_this_package_are_complete():
    for name, folder in bundled.folders().items():
        files = {path.name for path in folder.iterdir()}
        assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= files, name
        assert (folder / "model.safetensors").stat().st_size < 40e6, name
    for item in bundled.checkpoints():
        assert item.task in {task.title for task in TASKS.values()}
        assert item.parameters > 0
        assert item.licence != "unknown"


@pytest.mark.parametrize(
    ("metadata", "label"),
    [
        ("license: apache-2.0", "Apache-2.0"),
        ("license: cc-by-nc-4.0", "CC BY-NC 4.0, not commercial"),
        ("license: cc-by-sa-3.0", "CC BY-SA 3.0"),
        ("license: other\nlicense_name: rooms-non-commercial", "rooms, not commercial"),
        ("license: other\nlicense_name: as-the-training-data", "as-the-training-data"),
        ("tags: [winwin]", "unknown"),
    ],
)
def test_licences_in_words(root: Path, metadata: str, label: str):
    (root / "winwin-test" / "README.md").write_text(f"---\n{metadata}\n---\n# Title\n")
    assert bundled.checkpoints()[0].licence == label


def test_a_card_with_broken_metadata_is_named(root: Path):
    (root / "winwin-test" / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(ValueError, match=r"README\.md: expected YAML between two lines of ---"):
        bundled.checkpoints()
