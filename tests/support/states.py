"""States on disk that somebody changed."""

from __future__ import annotations

import json
from pathlib import Path

from winwin_hf.training.state import MANIFEST, _write_manifest


def sign(state: Path, **changes) -> None:
    """Writes checksums of what is there now."""
    contents = json.loads((state / MANIFEST).read_text())
    (state / MANIFEST).unlink()
    del contents["sha256"], contents["files"]
    _write_manifest(state, {**contents, **changes})
