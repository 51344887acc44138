"""Options of scripts that need the standard library alone."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as those of the other scripts, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")


def output_folder(text: str) -> Path:
    """A folder that is there or can be made. Raises argparse.ArgumentTypeError."""
    there = Path(text).absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is no folder; expected a folder, or a name for a new one")
    if not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{there} can't be written to")
    return Path(text)


def input_folder(text: str) -> Path:
    """A folder that is there. Raises argparse.ArgumentTypeError."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)


def positive_seconds(text: str) -> float:
    """A finite number above 0. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of seconds above 0")
    return value
