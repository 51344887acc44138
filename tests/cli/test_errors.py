"""How a command ends when something is wrong."""

from __future__ import annotations

import sys

import pytest
import typer

from winwin_hf.cli.errors import one_line_errors


def test_what_fails_to_import_is_not_imported_again(monkeypatch, capsys):
    """As with NumPy 1.26 and PyArrow 26: the readers can't be imported, and this is what the command says."""
    monkeypatch.delitem(sys.modules, "winwin_hf.data.rows", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)  # its import raises ImportError

    @one_line_errors
    def command() -> None:
        from winwin_hf.data.rows import BrokenExample  # noqa: F401

    with pytest.raises(typer.Exit) as end:
        command()
    assert end.value.exit_code == 1
    assert capsys.readouterr().err == "winwin: import of datasets halted; None in sys.modules\n"
