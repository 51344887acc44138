"""Running a network by its name: images, pairs, tiles, videos, exported files."""
