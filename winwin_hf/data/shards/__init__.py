"""Data sets as shards that can be streamed: written, opened, described."""
