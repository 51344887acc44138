"""A converted checkpoint's folder, which appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from winwin_hf.data.formats.files import replacing_folder, told_of


@contextmanager
def new_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """
    A temporary folder beside `output` to write to; at the end it is renamed to `output`.

    Args:
        overwrite: replace `output` if it exists and has a config.json.
    Raises: FileExistsError: `output` exists, and isn't to be or can't be replaced.
    """
    check_output(output, overwrite)
    with replacing_folder(output) as new:
        with told_of(output):
            yield new
        for path in new.iterdir():
            path.chmod(0o644)  # save_pretrained writes weights that only their owner may read
        check_output(output, overwrite)  # another program may have made it


def check_output(output: Path, overwrite: bool) -> None:
    """Raises FileExistsError where `output` exists, and isn't to be or can't be replaced."""
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise FileExistsError(f"{output} exists; expected a new folder, or overwrite")
    if output.is_symlink() or not (output / "config.json").is_file():
        raise FileExistsError(f"{output} is no model's folder, and is not overwritten; expected one with a config.json")
