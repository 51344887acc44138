"""Sizes of frames: read from the command line, and in patches."""

from __future__ import annotations

import typer

from winwin_hf.windows import Size


def parse_size(option: str, text: str) -> Size:
    """ "1080x1920" -> (1080, 1920). Raises typer.BadParameter that names the option."""
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise typer.BadParameter(f"{option} {text}: expected HEIGHTxWIDTH in pixels, such as 1080x1920")
    return int(height), int(width)


def grid_of(height: int, width: int, patch_size: int = 16) -> Size:
    """Rows and columns of patches of a frame that is padded to whole patches."""
    return -(-height // patch_size), -(-width // patch_size)
