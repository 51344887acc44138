"""The rooms of winwin_hf: imports point one way, nothing is imported where it isn't seen, and `model/` is all that travels with weights."""

from __future__ import annotations

import ast
import json
import re
from functools import cache

import grimp
import pytest
from support.places import ROOT
from transformers.dynamic_module_utils import custom_object_save

import winwin_hf
from winwin_hf.hub.contents import code_files
from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.pipeline_winwin import OpticalFlowPipeline
from winwin_hf.task import ARCHITECTURES

PACKAGE = ROOT / "winwin_hf"
MOST_LEVELS = 10


# ---- imports (`make lint` proves the layers and that there is no cycle) ----


@pytest.fixture(scope="module")
def rooms() -> grimp.ImportGraph:
    """The package's imports, with every room as one module."""
    graph = grimp.build_graph("winwin_hf", cache_dir=None)
    for child in graph.find_children("winwin_hf"):
        graph.squash_module(child)
    return graph


def levels(graph: grimp.ImportGraph) -> dict[str, int]:
    """Module -> 1 where it imports none of the others, else one more than the highest that it imports."""

    @cache
    def level(module: str) -> int:
        others = graph.find_modules_directly_imported_by(module) - {module}  # a room's own __init__ imports its files
        return 1 + max((level(other) for other in others), default=0)

    return {module: level(module) for module in graph.modules}  # RecursionError where there is a cycle


def test_at_most_ten_levels_of_rooms(rooms, record_property):
    found = levels(rooms)
    record_property("levels", max(found.values()))
    print(*(f"{level:2} {module}" for module, level in sorted(found.items(), key=lambda item: item[1])), sep="\n")
    assert len(found) > 10, "the graph holds every room"
    assert max(found.values()) <= MOST_LEVELS


def imports_of_ours(tree: ast.AST) -> list[int]:
    """The lines below `tree` that import a module of winwin_hf."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["winwin_hf" if node.level else node.module or ""]
        else:
            continue
        lines += [node.lineno for name in names if name.partition(".")[0] == "winwin_hf"]
    return lines


def hidden_imports(code: str) -> list[int]:
    """The lines that import a module of ours in a function or for type checkers only."""
    lines = set()
    for node in ast.walk(ast.parse(code)):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if function or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            lines.update(imports_of_ours(node))
    return sorted(lines)


def test_hidden_imports_are_found():
    function = "import os\nimport winwin_hf.task\ndef f():\n    import torch\n    from winwin_hf.task import TASKS\n    from . import a"
    assert hidden_imports(function) == [5, 6]
    assert hidden_imports("if typing.TYPE_CHECKING:\n    import winwin_hf.task\nimport winwin_hf") == [2]


def test_no_import_of_ours_is_hidden():
    """The command line may: it imports torch only for the commands that need it. So may the package's lazy `__init__`."""
    files = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in ("cli", "__init__.py")]
    assert len(files) > 50
    found = {path: hidden_imports(path.read_text(encoding="utf-8")) for path in files}
    assert not [f"{path.relative_to(ROOT)}:{line}" for path, lines in found.items() for line in lines]


def test_contributing_names_every_room_and_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    cells = " ".join(row.split("|")[1] for row in text.splitlines() if row.startswith("| `"))
    contract = re.search(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M | re.S)
    assert contract and sorted(re.findall(r"`(\w+)(?:/|\.py)`", cells)) == sorted(re.findall(r"\w+", contract[1]))
    paths = re.findall(r"`((?:winwin_hf|tests|scripts|docs)/[\w./*-]*)`", text)
    assert len(paths) > 10 and not [path for path in paths if not [*ROOT.glob(path)]]


# ---- what travels ----


@pytest.fixture(scope="module")
def room() -> set[str]:
    """The files of `winwin_hf/model/` that hold code."""
    names = {path.name for path in (PACKAGE / "model").iterdir() if path.name != "__pycache__"}
    return names - {"__init__.py"}


def test_a_push_takes_all_of_model_and_nothing_else(room):
    assert {path.name for path in code_files()} == room
    assert {path.parent for path in code_files()} == {PACKAGE / "model"}


def test_saving_takes_all_of_model_and_nothing_else(room, tmp_path, monkeypatch):
    """What `save_pretrained` copies after `register_for_auto_class`, for the configuration, every model and the processor."""
    config = WinWinConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=1,
        head_hidden_size=16,
    )
    savable = [config, WinWinImageProcessor()]
    savable += [getattr(winwin_hf, name)(config) for name in ARCHITECTURES if hasattr(winwin_hf, name)]
    for thing in savable:
        kind = type(thing)
        monkeypatch.setattr(kind, "_auto_class", None)  # and is put back after the test
        names = {WinWinConfig: "AutoConfig", WinWinImageProcessor: "AutoImageProcessor"}
        kind.register_for_auto_class(names.get(kind, "AutoModel"))
        thing.save_pretrained(tmp_path)
    custom_object_save(OpticalFlowPipeline, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert {path.name for path in tmp_path.glob("*.py")} == room
    for path in tmp_path.glob("*.py"):
        assert path.read_bytes() == (PACKAGE / "model" / path.name).read_bytes()


def test_what_travels_imports_nothing_of_ours_from_elsewhere(room):
    for name in room:
        tree = ast.parse((PACKAGE / "model" / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and f"{node.module}.py" in room, f"{name}:{node.lineno}"
            elif isinstance(node, ast.ImportFrom | ast.Import):
                assert "winwin_hf" not in ast.unparse(node), f"{name}:{node.lineno}"
