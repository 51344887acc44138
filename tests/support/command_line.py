"""The command line in process: a result, or one line on standard error."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from winwin_hf.cli.main import app


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(result: Result, code: int, *words: str) -> None:
    """Ended with `code` and one line that has all `words`, on standard error, and nothing that looks like a traceback."""
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("winwin: "), result.stderr
    for word in words:
        assert word in lines[0]
    assert result.stdout == ""
