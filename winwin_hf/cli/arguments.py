"""Arguments that several commands share, and checks of arguments."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from winwin_hf import bundled
from winwin_hf.cli.errors import UsageError
from winwin_hf.recipes import recipe_names

progress = Console(stderr=True, markup=False, emoji=False)


def complete_recipe(incomplete: str) -> list[str]:
    """Names of the package's recipes for shell completion; files are completed where none fits."""
    return [name for name in recipe_names() if name.startswith(incomplete)]


def complete_checkpoint(incomplete: str) -> list[str]:
    """Names of the bundled checkpoints for shell completion."""
    return [name for name in bundled.folders() if name.startswith(incomplete)]


Model = Annotated[
    str,
    typer.Option(
        help="A bundled name, a folder, a Hub repository or an exported file.", autocompletion=complete_checkpoint
    ),
]


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]


Picture = Annotated[Path | None, typer.Option(help="Also write the result in colours (PNG or JPEG).")]


Quality = Annotated[
    str,
    typer.Option(
        help="fast: frames at their own size, one pass, in bf16 on a CPU that is faster in it. best: small frames are enlarged, and passes "
        "at smaller sizes come first, which find longer motions; 1.2 to 4.5 times the seconds."
    ),
]


Coarse = Annotated[
    bool | None,
    typer.Option(
        "--coarse/--no-coarse",
        help="Start from passes at half and, for large frames, a quarter of the size. Default: with --quality best.",
    ),
]


MinPixels = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=10**9,
        help="Flow: enlarge frames with fewer pixels to this number, which is more accurate. Segmentation, depth: the same, in place of "
        "the checkpoint's working size. 0: frames at their own size. Default: what --quality or the checkpoint says.",
    ),
]


def check_file(path: Path) -> None:
    """Raises UsageError, which says what lies there, unless it is a file."""
    from winwin_hf.model.pixels_winwin import check_regular

    try:
        check_regular(path)
    except OSError as error:
        raise UsageError(str(error)) from None


def check_output(option: str, path: Path, suffixes: tuple[str, ...] = (), others: Iterable[Path | None] = ()) -> None:
    """
    Raises UsageError where a file can't be written, before anything is computed.

    Args:
        suffixes: one of which the name must have, if there are any. others: inputs and other outputs, which it would overwrite.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} {path}: expected a name that ends in {' or '.join(suffixes)}")
    folder = path.absolute().parent
    if not folder.is_dir():
        what = "is no folder" if os.path.lexists(folder) else "does not exist"
        raise UsageError(f"{option} {path}: the folder {path.parent} {what}")
    check_writable(option, path, folder)
    if path.is_dir():
        raise UsageError(f"{option} {path}: a folder; expected the name of a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path}: a device or a pipe; expected the name of a file")
    for other in others:
        if other is not None and (
            os.path.realpath(path) == os.path.realpath(other)
            or (path.exists() and other.exists() and path.samefile(other))  # hard links, disks that know no upper case
        ):
            raise UsageError(f"{option} {path}: would overwrite {other}; expected another name")


def check_output_folder(option: str, path: Path | None) -> None:
    """Raises UsageError where a folder can't be made or written to, before anything is computed."""
    if path is None:
        return
    there = path.absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UsageError(
            f"{option} {path}: {'a file' if there.is_file() else f'{there} is no folder'}; expected a folder"
        )
    check_writable(option, path, there)


def check_writable(option: str, path: Path, folder: Path) -> None:
    for place, needed in ((folder, os.W_OK | os.X_OK), (path, os.W_OK)):
        if place.exists() and not os.access(place, needed):
            raise UsageError(
                f"{option} {path}: {'' if place == path else f'the folder {folder} '}may not be written to"
            )


def check_picture(path: Path | None, others: Iterable[Path | None] = ()) -> None:
    if path is not None:
        check_output("--picture", path, (".png", ".jpg", ".jpeg"), others)


def check_overrides(overrides: list[str] | None) -> None:
    for item in overrides or []:
        if not re.fullmatch(r"[^=\s]+=.*", item, flags=re.DOTALL):
            raise UsageError(f"--set {item}: expected KEY=VALUE")


def check_device(device: str) -> None:
    """Raises UsageError where this machine hasn't got the device. Imports torch."""
    from winwin_hf.inference.predictor import device_of

    try:
        device_of(device)
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def check_tile(tile: tuple[int, int] | None, model: str) -> None:
    """Raises UsageError where a tile isn't made of whole patches of the network `model`. Whether there is such a network isn't checked."""
    if tile is None:
        return
    from winwin_hf.inference.loading import load_config

    try:
        patch = getattr(load_config(model), "patch_size", 1)
    except (OSError, ValueError):  # told of when it is loaded
        return
    if any(side % patch for side in tile):
        raise UsageError(f"--tile {tile[0]}x{tile[1]}: expected whole patches of {patch} pixels, as {model} has")


def check_between(option: str, value: float | None, low: float, high: float) -> None:
    """Raises UsageError for a number outside the range, and for NaN."""
    if value is not None and not low <= value <= high:
        raise UsageError(f"{option} {value:g}: expected a number from {low:g} to {high:g}")


def check_quality(quality: str | None) -> None:
    check_choice("--quality", quality, (None, "fast", "best"))


def check_choice(option: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        from winwin_hf.model.pixels_winwin import shortened

        raise UsageError(
            f"{option} {shortened(str(value))}: expected {' or '.join(str(choice) for choice in choices if choice)}"
        )


def parse_options(items: list[str] | None) -> dict[str, dict[str, Any]]:
    """["depth-folder.scale=1000"] -> {"depth-folder": {"scale": 1000}}; values as in YAML."""
    from winwin_hf.checked import plain_yaml

    options: dict[str, dict[str, Any]] = {}
    for item in items or []:
        match = re.fullmatch(r"([^.=\s]+)\.([^=\s]+)=(.*)", item, flags=re.DOTALL)
        if match is None:
            raise UsageError(f"--option {item}: expected SET.KEY=VALUE, such as depth-folder.scale=1000")
        options.setdefault(match[1], {})[match[2]] = plain_yaml(match[3], f"--option {item}")
    return options


def read_image(path: Path) -> Any:
    """The picture at `path`, RGB uint8 (H, W, 3)."""
    check_file(path)
    from winwin_hf.data import formats

    return formats.read_image(path)
