"""Data sets as shards that can be streamed: written, opened, described."""

from winwin_hf.data.shards.shards import open_shards, shards_info, write_shards

__all__ = ["open_shards", "shards_info", "write_shards"]
