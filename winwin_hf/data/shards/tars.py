"""Rows of tar files, as WebDataset has them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from winwin_hf.data.formats.files import read_bounded
from winwin_hf.data.places import open_binary


def read_tars(files: list[str], digests: list[str], columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """
    The rows, in order. It never seeks back, so the files may come over a network.

    Args:
        digests: for the key of a cache of `datasets`: files that changed are not read from an old one.
    """
    for file in files:
        with open_binary(file) as opened, tarfile.open(fileobj=opened, mode="r|") as tar:
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
