"""Files that come from a Hub are those that it announced.

huggingface_hub names a large file in its cache by the SHA-256 that the Hub announced, and compares its length alone. A download that broke
off and went on with other bytes would stay in the cache for good.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from winwin_hf.own_files import sha256_of

SHA256 = re.compile(r"[0-9a-f]{64}")


@contextlib.contextmanager
def checked_downloads(name: str | Path, kind: str = "model") -> Iterator[None]:
    """
    Compares what was downloaded within it with its checksum, whether or not the work failed; removes what is wrong.

    Args:
        name: a Hub repository; for a path nothing is done. kind: "model" or "dataset".
    Raises: OSError, which names the repository and the file.
    """
    blobs = _blobs(str(name), kind)
    before = _large(blobs)
    try:
        yield
    finally:
        for blob, state in _large(blobs).items():
            if before.get(blob) != state and sha256_of(blob) != blob.name:
                links = [
                    link
                    for link in blob.parent.parent.glob("snapshots/*/**/*")
                    if link.is_symlink() and link.resolve() == blob
                ]
                for link in links:
                    link.unlink()
                blob.unlink()
                names = ", ".join(sorted({link.name for link in links})) or blob.name
                raise OSError(
                    f"{name}: {names} isn't what the Hub announced, by its SHA-256, and was removed; expected a whole download"
                )


def _blobs(name: str, kind: str) -> Path | None:
    """Where a repository's files lie in the cache; None for what can't be one, such as a path."""
    try:
        return Path(constants.HF_HUB_CACHE).absolute() / repo_folder_name(repo_id=name, repo_type=kind) / "blobs"
    except HFValidationError:
        return None


def _large(blobs: Path | None) -> dict[Path, tuple[int, int]]:
    """The large files of a repository in the cache -> what tells that they changed."""
    if blobs is None or not blobs.is_dir():
        return {}
    found = {}
    for blob in blobs.iterdir():
        if SHA256.fullmatch(blob.name) and blob.is_file():
            status = blob.stat()
            found[blob.resolve()] = status.st_size, status.st_mtime_ns
    return found
