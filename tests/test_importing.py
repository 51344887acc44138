"""`import winwin_hf` is cheap, and registers with transformers whatever is imported first."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

import winwin_hf
from winwin_hf.importing import import_after


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules `leader` and `follower`, of which `follower` imports `leader`."""
    (tmp_path / "leader.py").write_text("value = 1\n")
    (tmp_path / "follower.py").write_text("from leader import value\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield tmp_path
    for name in ("leader", "follower"):
        sys.modules.pop(name, None)


def test_follower_is_imported_right_after_its_leader(packages: Path):
    finders = list(sys.meta_path)
    import_after("leader", "follower")
    import_after("leader", "follower")  # as a reload does
    assert len(sys.meta_path) == len(finders) + 1
    assert importlib.util.find_spec("leader") is not None  # looked up, not imported
    assert "follower" not in sys.modules
    leader = importlib.import_module("leader")
    assert sys.modules["follower"].value == leader.value
    assert sys.meta_path == finders
    assert leader.__spec__.loader.get_data(leader.__file__) == b"value = 1\n"


def test_follower_is_imported_at_once_after_its_leader(packages: Path):
    importlib.import_module("leader")
    finders = list(sys.meta_path)
    import_after("leader", "follower")
    assert "follower" in sys.modules and sys.meta_path == finders


def test_a_leader_that_fails_is_tried_again(packages: Path):
    (packages / "leader.py").write_text("raise ImportError('not today')\n")
    import_after("leader", "follower")
    with pytest.raises(ImportError, match="not today"):
        importlib.import_module("leader")
    assert "follower" not in sys.modules
    (packages / "leader.py").write_text("value = 2\nmore = 1\n")
    importlib.invalidate_caches()
    importlib.import_module("leader")
    assert sys.modules["follower"].value == 2


def test_public_names():
    assert {*winwin_hf.__all__} <= {*dir(winwin_hf)}
    for name in winwin_hf.__all__:
        assert getattr(winwin_hf, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'WinWinForPoetry'"):
        winwin_hf.WinWinForPoetry  # noqa: B018
    with pytest.raises(ImportError, match="WinWinForPoetry"):
        from winwin_hf import WinWinForPoetry  # noqa: F401


def test_import_alone_is_cheap_and_registers_later():
    """In a process of its own; in the other order, in every other test."""
    code = """
import sys
import winwin_hf
assert not {"torch", "transformers", "numpy"} & set(sys.modules)
from transformers import AutoConfig
print(AutoConfig.for_model("winwin").model_type)
"""
    assert python(code).strip() == "winwin"


def test_light_commands_import_neither_torch_nor_transformers():
    code = """
import sys
from winwin_hf.cli.main import app
for command in ("--help", "train --help", "recipes list", "checkpoints list", "data list"):
    try:
        app(command.split())
    except SystemExit as end:
        assert end.code == 0, (command, end.code)
    assert not {"torch", "transformers"} & set(sys.modules), command
"""
    assert "camvid" in python(code)
