"""A converted checkpoint's folder, which appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from winwin_hf.data.formats.files import owner, remove_leftovers, told_of


@contextmanager
def new_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """
    A temporary folder beside `output` to write to; at the end it is renamed to `output`.

    Args:
        overwrite: replace `output` if it exists and has a config.json.
    Raises: FileExistsError: `output` exists, and isn't to be or can't be replaced.
    """
    check_output(output, overwrite)
    with told_of(output):
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(output.absolute().parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}-{owner()}", dir=output.absolute().parent))
    try:
        new = temporary / "new"
        new.mkdir()  # not `temporary` itself, which only its owner may read
        with told_of(output):
            yield new
        for path in new.iterdir():
            path.chmod(0o644)  # save_pretrained writes weights that only their owner may read
        if output.exists():
            check_output(output, overwrite)
            output.rename(temporary / "old")
        new.rename(output)
    finally:
        if (temporary / "old").exists() and not output.exists():
            (temporary / "old").rename(output)
        shutil.rmtree(temporary, ignore_errors=True)


def check_output(output: Path, overwrite: bool) -> None:
    """Raises FileExistsError where `output` exists, and isn't to be or can't be replaced."""
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise FileExistsError(f"{output} exists; expected a new folder, or overwrite")
    if output.is_symlink() or not (output / "config.json").is_file():
        raise FileExistsError(f"{output} is no model's folder, and is not overwritten; expected one with a config.json")
