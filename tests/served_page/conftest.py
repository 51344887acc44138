"""Parts of a guarded page, without Gradio."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from winwin_hf.served_page.files import WorkFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkFolder:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "temporary files"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return WorkFolder("page")
