"""Tar files that come over a network: read from the beginning to the end, which has to be there."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from winwin_hf.data.formats.files import read_bounded
from winwin_hf.data.places import open_binary


class _Header(tarfile.TarInfo):
    """Where tarfile takes a damaged header, or the file's end, for the archive's end, this is an error."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Any:
        try:
            found = super().fromtarfile(tar)
            if found.issparse():  # a few bytes that would be read as gigabytes
                raise tarfile.ReadError(f"{found.name} is a sparse file; expected plain ones")
            return found
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            while rest := tar.fileobj.read(2**20):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("data after what looks like its end") from None
            raise
        except tarfile.HeaderError as error:  # of any kind
            raise tarfile.ReadError(f"damaged or cut at byte {tar.offset}: {error}") from None


def open_tar(file: Any) -> tarfile.TarFile:
    """An archive, not compressed, of an open file that need not seek. Raises tarfile.TarError, also while it is read."""
    return tarfile.open(fileobj=file, mode="r|", tarinfo=_Header)


def read_tars(files: list[str], digests: list[str], columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """
    The rows of WebDataset's tar files, in order.

    Args:
        digests: for the key of a cache of `datasets`: files that changed are not read from an old one.
    Raises: ValueError that names the file.
    """
    for file in files:
        try:
            with open_binary(file) as opened, open_tar(opened) as tar:
                yield from _rows(tar, columns)
        except (tarfile.TarError, LookupError) as error:
            raise ValueError(f"{file}: not a readable shard ({error})") from error


def _rows(tar: tarfile.TarFile, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    contents: dict[str, bytes] = {}
    for member in tar:
        content = tar.extractfile(member)
        if content is None:
            continue
        field = PurePosixPath(member.name).name.partition(".")[2]
        if field != "json":
            contents[field.partition(".")[0]] = content.read()
            continue
        texts = json.loads(read_bounded(content))  # the last file of a row
        paths = texts.pop("path")
        cells = {column: {"bytes": contents[column], "path": paths[column]} for column in paths}
        yield {column: cells.get(column, texts.get(column)) for column in columns}
        contents = {}
