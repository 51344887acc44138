"""Files that come from a Hub are those that it announced.

huggingface_hub names a file in its cache by the checksum that the Hub announced, and compares its length alone. A download that broke
off and went on with other bytes would stay in the cache for good.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from winwin_hf.model.weights_winwin import reason_of
from winwin_hf.own_files import sha256_of

CHECKSUM = re.compile(
    r"[0-9a-f]{64}|[0-9a-f]{40}"
)  # SHA-256 of large files; of others git's SHA-1, or a proxy's of the bytes alone


@contextlib.contextmanager
def checked_downloads(name: str | Path, kind: str = "model") -> Iterator[None]:
    """
    Compares what was downloaded within it with its checksum, whether or not the work failed; removes what is wrong.

    Args:
        name: a Hub repository; for a path nothing is done. kind: "model" or "dataset".
    Raises: OSError, which names the repository and the file.
    """
    blobs = _blobs(str(name), kind)
    before = _named(blobs)
    try:
        yield
    finally:
        for blob, state in _named(blobs).items():
            if before.get(blob) != state and not _is_what_it_is_called(blob):
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
                    f"{name}: {names} isn't what the Hub announced, by its checksum, and was removed; expected a whole download"
                )


def downloaded(name: str, patterns: list[str]) -> Path:
    """The folder of a Hub repository's files of these names, which are downloaded and compared. Raises: OSError, which names it."""
    with checked_downloads(name):
        try:
            return Path(snapshot_download(name, allow_patterns=patterns))
        except Exception as error:  # of huggingface_hub, and whatever its connections raise
            raise OSError(f"{name}: could not be downloaded ({reason_of(error)})") from error


def _blobs(name: str, kind: str) -> Path | None:
    """Where a repository's files lie in the cache; None for what can't be one, such as a path."""
    try:
        return Path(constants.HF_HUB_CACHE).absolute() / repo_folder_name(repo_id=name, repo_type=kind) / "blobs"
    except HFValidationError:
        return None


def _is_what_it_is_called(blob: Path) -> bool:
    if len(blob.name) == 64:
        return sha256_of(blob) == blob.name
    plain = hashlib.sha1(usedforsecurity=False)
    git = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    with blob.open("rb") as file:
        while block := file.read(2**20):
            plain.update(block)
            git.update(block)
    return blob.name in (plain.hexdigest(), git.hexdigest())


def _named(blobs: Path | None) -> dict[Path, tuple[int, int]]:
    """The files of a repository in the cache that are called by a checksum -> what tells that they changed."""
    if blobs is None or not blobs.is_dir():
        return {}
    found = {}
    for blob in blobs.iterdir():
        if CHECKSUM.fullmatch(blob.name) and blob.is_file():
            status = blob.stat()
            found[blob.resolve()] = status.st_size, status.st_mtime_ns
    return found
