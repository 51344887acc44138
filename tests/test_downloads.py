"""A file in the Hub's cache that isn't what the Hub announced is told of and removed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import constants

from winwin_hf import downloads
from winwin_hf.downloads import checked_downloads, downloaded

WHOLE = b"weights" * 99
NAME = hashlib.sha256(WHOLE).hexdigest()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--me--flow" / "blobs").mkdir(parents=True)
    return tmp_path / "models--me--flow"


def download(repository: Path, content: bytes, name: str = NAME) -> Path:
    """What huggingface_hub leaves: a file named by its checksum, and links to it."""
    blob = repository / "blobs" / name
    blob.write_bytes(content)
    for commit in ("one", "two"):
        link = repository / "snapshots" / commit / "sub" / "model.safetensors"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../../blobs/{name}")
    return link


def test_a_whole_download_stays(repository: Path) -> None:
    with checked_downloads("me/flow"):
        link = download(repository, WHOLE)
    assert link.read_bytes() == WHOLE


@pytest.mark.parametrize("fails", [False, True])
def test_a_wrong_download_goes(repository: Path, fails: bool) -> None:
    with pytest.raises(OSError, match=r"^me/flow: model\.safetensors isn't what the Hub announced"):  # noqa: SIM117
        with checked_downloads("me/flow"):
            download(repository, WHOLE[:-1] + b"?")
            if fails:
                raise ValueError("of whoever read it")
    assert not [path for path in repository.rglob("*") if path.is_file() or path.is_symlink()]


def test_small_files_have_checksums_of_git_or_of_their_bytes(repository: Path) -> None:
    content = b'{"max_depth": 10}'
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    for name in (git, hashlib.sha1(content).hexdigest()):
        with checked_downloads("me/flow"):
            link = download(repository, content, name)
        assert link.read_bytes() == content
        with pytest.raises(OSError, match="isn't what the Hub announced"), checked_downloads("me/flow"):
            download(repository, content.replace(b"10", b"99"), name)
        assert not link.exists()


def test_what_was_there_is_left(repository: Path) -> None:
    """Files of hours ago aren't read again."""
    link = download(repository, b"damaged before")
    with checked_downloads("me/flow"):
        download(repository, b"{}", "not-a-checksum")
    with checked_downloads("me/other"), checked_downloads("/a/folder"), checked_downloads("a\0b"):
        download(repository, b"of another", "1" * 64)
    assert link.exists() and len(list((repository / "blobs").iterdir())) == 3


@pytest.mark.parametrize("error", [RuntimeError("peer closed connection"), OSError("peer closed connection")])
def test_a_repository_that_does_not_come_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch, error) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(downloads, "snapshot_download", fails)
    with pytest.raises(
        OSError, match=r"^me/flow: could not be downloaded \((RuntimeError: )?peer closed connection\)$"
    ):
        downloaded("me/flow", ["*"])
