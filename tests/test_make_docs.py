"""Pages made from the code (`scripts/make_docs.py`) say what the code says, and every setting and command is in them."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from typing import Annotated, Any

import pydantic
import pytest
from support.places import ROOT
from typer.testing import CliRunner

from winwin_hf.cli.main import app


@pytest.fixture(scope="module")
def make_docs() -> Any:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_what_the_code_says(make_docs: Any):
    stale = [str(path) for path, text in make_docs.pages().items() if (ROOT / path).read_text() != text]
    assert not stale, "run python scripts/make_docs.py"


def test_a_docstring_is_taken_apart(make_docs: Any):
    doc = """steps: how many. min_size, max_size: at least one; None: any. blur: how likely, and
    blur_sigma: how far. Learning rate: up to `end_share`, at
    least: never. scale (`int`, defaults to 3), size (`int`): both.

    Other words. least: see above."""
    names = [
        "steps",
        "min_size",
        "max_size",
        "blur",
        "blur_sigma",
        "learning_rate",
        "end_share",
        "scale",
        "size",
        "least",
    ]
    found = make_docs.described(doc, names)
    assert found["steps"] == "how many."
    assert found["min_size"] == found["max_size"] == "at least one; None: any."
    assert (found["blur"], found["blur_sigma"]) == ("how likely", "how far.")
    assert found["learning_rate"] == "up to `end_share`, at least: never."
    assert found["scale"] == found["size"] == "both."
    assert found["least"] == "see above."
    assert "end_share" not in found
    assert make_docs.mentioned(doc, ["end_share"])["end_share"] == "Learning rate: up to `end_share`, at least: never."


def test_every_key_of_a_recipe_has_a_row(make_docs: Any):
    page = make_docs.recipes_page()
    for kind in (*make_docs.SECTIONS.values(), *make_docs.SETTINGS.values(), make_docs.WinWinConfig):
        for field in make_docs.fields(kind):
            assert re.search(
                rf"^\| `{field.name}` \| [^|]+ \| [^|]* \| [^|]*\w", page.replace("\\|", ""), flags=re.MULTILINE
            )
    assert "| `betas` | pair of float | `[0.9, 0.95]` |" in page
    assert "| `mixed_precision` | `no`, `bf16`, `fp16` |" in page


def test_a_key_without_a_meaning_is_an_error(make_docs: Any):
    Section = dataclasses.make_dataclass(
        "Section", [("known", Annotated[int, pydantic.Field(description="A number.")], 0), ("forgotten", int, 1)]
    )
    with pytest.raises(ValueError, match="Section has no description of forgotten"):
        make_docs.descriptions(Section)


def test_every_data_set_and_command_has_a_section(make_docs: Any):
    data, cli = make_docs.data_page(), make_docs.cli_page()
    for name in make_docs.catalog.SETS:
        assert f"\n### {name}\n" in data and f"| [{name}](#{name}) |" in data
    help_text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for name in re.findall(r"^│ (\w+) ", help_text[help_text.index("Commands") :], flags=re.MULTILINE):
        assert f"## `winwin {name}" in cli, name
    for option in re.findall(
        r"--[a-z-]+", CliRunner().invoke(app, ["evaluate", "--help"], env={"COLUMNS": "200"}).output
    ):
        assert option == "--help" or f"`{option}" in cli, option
