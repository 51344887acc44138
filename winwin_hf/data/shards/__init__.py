"""Data sets as shards that can be streamed: written, opened, described."""

from winwin_hf.data.shards.cached import CACHE_GB, MOST_TRACKS, TRACKS, CachedShards
from winwin_hf.data.shards.opening import SIDECAR, SUFFIXES, check_shards, open_shards, shards_info
from winwin_hf.data.shards.writing import check_shards_folder, write_shards

__all__ = [
    "CACHE_GB",
    "MOST_TRACKS",
    "SIDECAR",
    "SUFFIXES",
    "TRACKS",
    "CachedShards",
    "check_shards",
    "check_shards_folder",
    "open_shards",
    "shards_info",
    "write_shards",
]
