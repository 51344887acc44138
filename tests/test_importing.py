"""`import winwin_hf` registers with transformers whatever is imported first; the command line starts without either."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.places import ROOT

import winwin_hf


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names():
    assert {*winwin_hf.__all__} <= {*dir(winwin_hf)}
    for name in winwin_hf.__all__:
        assert getattr(winwin_hf, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'WinWinForPoetry'"):
        winwin_hf.WinWinForPoetry  # noqa: B018
    with pytest.raises(ImportError, match="WinWinForPoetry"):
        from winwin_hf import WinWinForPoetry  # noqa: F401


@pytest.mark.slow  # a fresh process imports everything
@pytest.mark.parametrize("order", ["import winwin_hf, transformers", "import transformers, winwin_hf"])
def test_import_registers_whatever_comes_first(order: str):
    code = f"{order}; from transformers import AutoConfig; print(AutoConfig.for_model('winwin').model_type)"
    assert python(code).strip() == "winwin"


@pytest.mark.slow  # a fresh process imports everything
def test_threads_may_use_transformers_after_the_import():
    code = """
import threading
import winwin_hf
failed = []
def use(line):
    try:
        exec(line)
    except Exception as error:
        failed.append(error)
lines = ("from transformers import AutoModel, pipeline", "winwin_hf.WinWinModel", "from transformers import AutoImageProcessor")
threads = [threading.Thread(target=use, args=(line,)) for line in lines * 2]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
from transformers import AutoConfig
print(AutoConfig.for_model("winwin").model_type)
"""
    assert python(code).strip() == "winwin"


def test_light_commands_import_neither_torch_nor_transformers():
    code = """
import sys
from winwin_command import app
heavy = {"torch", "transformers"}
for command in ("--help", "--version", "train --help", "recipes list", "checkpoints list", "data list"):
    if command == "data list":
        import datasets  # which imports torch itself before version 5
        heavy -= set(sys.modules)
    try:
        app(command.split())
    except SystemExit as end:
        assert end.code == 0, (command, end.code)
    assert not heavy & set(sys.modules), command
"""
    assert "camvid" in python(code)


@pytest.mark.slow  # a fresh process imports everything
def test_after_the_command_the_package_is_whole():
    code = """
import winwin_command, winwin_hf
from winwin_hf import WinWinForOpticalFlow
assert all(getattr(winwin_hf, name).__name__ == name for name in winwin_hf.__all__)
assert not hasattr(winwin_hf, "WinWinForPoetry")
from transformers import AutoConfig
print(AutoConfig.for_model("winwin").model_type)
"""
    assert python(code).strip() == "winwin"
