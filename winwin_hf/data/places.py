"""Folders and files on disk or behind an address that fsspec knows (s3://, gs://, hf://, memory://, ...), by one set of functions.

Notable:
- A path is never taken for an address: whatever letters it has, it is a file of this machine.
- Whatever a library below fsspec raises becomes an OSError that names the address.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from winwin_hf.data.formats.files import Blob, Source, bytes_text
from winwin_hf.model.pixels_winwin import check_regular
from winwin_hf.redaction import redact

SILENCE = 60.0  # seconds that a server may say nothing
MAX_FILE = 2**30  # bytes of one picture, or of a list


def is_remote(address: str) -> bool:
    return "://" in address


def plain(address: str) -> str:
    """An address; of this machine's own disk (file://, local://) the path."""
    return str(LocalFileSystem._strip_protocol(address)) if address.startswith(("file://", "local://")) else address


def filesystem(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it. Raises ValueError for one that fsspec doesn't know."""
    if not is_remote(address):
        return LocalFileSystem(), Path(address).absolute().as_posix()
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(address, **_options(address))
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"{redact(address)}: {error}; expected a path, or an address of a protocol that fsspec has"
        ) from error
    except Exception as error:  # such as an archive behind zip:// that isn't there
        raise _told(address, error) from error
    return found


def _options(address: str) -> dict[str, Any]:
    if not address.startswith(("http://", "https://")):
        return {}  # other libraries have limits of their own
    from aiohttp import ClientTimeout

    return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)}}


@contextlib.contextmanager
def reaching(address: str) -> Iterator[None]:
    """Errors of what reads or writes an address name it. Those of paths name them already."""
    try:
        yield
    except Exception as error:
        if not is_remote(address) or isinstance(error, MemoryError):
            raise
        raise _told(address, error) from error


def _told(address: str, error: Exception) -> OSError:
    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
    reason = " ".join(redact(str(error)).split())[:300] or type(error).__name__
    return kind(f"{redact(address)}: could not be reached ({reason})")


def joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


@contextlib.contextmanager
def open_binary(address: str) -> Iterator[Any]:
    """A file for reading. Raises OSError, which names it; at once for what isn't a file and would never end."""
    system, path = filesystem(address)
    if not is_remote(address):
        check_regular(address)
    with contextlib.ExitStack() as stack:
        with reaching(address):
            file = stack.enter_context(system.open(path, "rb"))
        yield file


def content(address: str, most: int = MAX_FILE) -> bytes:
    """The bytes of a file. Raises ValueError for more than `most`, FileNotFoundError, OSError."""
    with open_binary(address) as file, reaching(address):
        found: bytes = file.read(most + 1)
    if len(found) > most:
        raise ValueError(f"{redact(address)}: more than {bytes_text(most)}; expected a smaller file")
    return found


def source_of(address: str) -> Source:
    """What a reader of the package takes: a path, or the bytes of what lies behind an address."""
    return Blob(content(address), redact(address)) if is_remote(address) else address


def public_path(address: str) -> str:
    """An address without the name and password of a user, and without what follows the path; for names that are made of it."""
    _, _, rest = address.partition("://")
    if not rest:
        return address
    host, _, path = rest.partition("/")
    return posixpath.join(host.rpartition("@")[2], path.partition("?")[0].partition("#")[0])
