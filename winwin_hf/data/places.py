"""Folders and files on disk or behind an address that fsspec knows (s3://, gs://, hf://, memory://, ...), by one set of functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec

from winwin_hf.data.formats.files import Blob, Source
from winwin_hf.redaction import redact


def is_remote(address: str) -> bool:
    return "://" in address


def filesystem(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it. Raises ValueError for one that fsspec doesn't know."""
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(address)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{address}: {error}; expected a path, or an address of a protocol that fsspec has") from error
    return found


def joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


def open_binary(address: str) -> Any:
    """A file for reading, as a context manager."""
    return fsspec.open(address, "rb") if is_remote(address) else Path(address).open("rb")


def source_of(address: str) -> Source:
    """What a reader of the package takes: a path, or the bytes of what lies behind an address."""
    if not is_remote(address):
        return address
    system, path = filesystem(address)
    return Blob(system.cat_file(path), redact(address))
