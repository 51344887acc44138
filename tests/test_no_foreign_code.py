"""No argument lets a file or a repository run code. The functions that run code themselves are ruff's business (its S rules)."""

from __future__ import annotations

import ast
import re

import pytest
from support.places import ROOT

FORBIDDEN = {"trust_remote_code": True, "allow_pickle": True, "shell": True, "weights_only": False}
PICKLES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
FOLDERS = ("winwin_hf", "scripts", "spaces")


def findings(source: str) -> list[str]:
    """What a module does that it must not."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else "computed"
                if keyword.arg in FORBIDDEN and value in (FORBIDDEN[keyword.arg], "computed"):
                    found.append(f"line {node.lineno}: {keyword.arg}={value}")
            name = ast.unparse(node.func)
            given = [keyword.arg for keyword in node.keywords]
            if re.fullmatch(r"Auto\w+\.from_pretrained", name) and "trust_remote_code" not in given:
                found.append(f"line {node.lineno}: {name} asks whether it may run code")
            if name.endswith("torch.load") and "weights_only" not in given:
                found.append(f"line {node.lineno}: {name} may unpickle")
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"line {node.lineno}: imports {name}" for name in names if name.split(".")[0] in PICKLES]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "load(x, trust_remote_code=y)",
        "np.load(x, allow_pickle=True)",
        "torch.load(x)",
        "AutoConfig.from_pretrained(x)",
        "torch.load(x, weights_only=False)",
        "import pickle",
        "from joblib import load",
        "subprocess.run(x, shell=True)",
    ],
)
def test_each_is_found(source: str) -> None:
    assert len(findings(source)) >= 1


def test_nothing_runs_foreign_code() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    found = {
        str(path.relative_to(ROOT)): lines for path in files if (lines := findings(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_the_linter_looks_for_the_rest() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    select, ignore = (re.search(rf"^{name} = \[(.*?)\]$", text, re.M | re.S)[1] for name in ("select", "ignore"))
    assert '"S"' in select
    for rule in (
        "S102",
        "S301",
        "S307",
        "S506",
        "S602",
        "S604",
        "S605",
        "S614",
    ):  # exec, pickle, eval, YAML, shells, torch.load
        assert rule not in ignore
    places = re.findall(r'^"([\w/*.]+)" = \[.*"S\w*".*\]', text, re.M)
    assert all(place.startswith("tests/") for place in places)
