"""Sizes of frames: read from the command line, and in patches."""

from __future__ import annotations

from winwin_hf.cli.errors import UsageError
from winwin_hf.windows import Size


def parse_size(option: str, text: str) -> Size:
    """ "1080x1920" -> (1080, 1920). Raises UsageError that names the option."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"{option} {text}: expected HEIGHTxWIDTH in pixels, such as 1080x1920")
    return int(height), int(width)


def grid_of(height: int, width: int, patch_size: int = 16) -> Size:
    """Rows and columns of patches of a frame that is padded to whole patches."""
    return -(-height // patch_size), -(-width // patch_size)
