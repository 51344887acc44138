"""Tar files that come over a network: read from the beginning to the end, which has to be there."""

from __future__ import annotations

import tarfile
from typing import Any


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
