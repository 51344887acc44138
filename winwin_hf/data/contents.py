"""What a data set holds, in a line, so that a training that goes on can tell that it has changed meanwhile. Source: ours."""

from __future__ import annotations

import hashlib

import datasets

from winwin_hf.data.shards import CachedShards
from winwin_hf.data.sources import Source


def contents_of(source: Source) -> str:
    """
    Number of examples or files of a set, and a checksum of their names (of files also of their sizes), without their contents.

    "" for a stream, of which nothing is known before it is read, and for scenes without files.
    """
    files = getattr(source.reader, "files", None)
    if files is not None:
        found = sorted(f"{path.name} {path.stat().st_size}" for path in files)
        return f"{len(found):,} files, {_sum(found)}" if found else ""
    rows = source.dataset
    if isinstance(rows, CachedShards):
        return f"{len(rows):,} examples, {_sum([shard.sha256 for shard in rows.shards])}"
    if isinstance(rows, datasets.Dataset):
        names = rows["name"] if "name" in rows.column_names else []
        return f"{len(rows):,} examples, {_sum([str(name) for name in names])}"
    return ""


def _sum(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:12]
