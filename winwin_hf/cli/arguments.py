"""Arguments that several commands share, and checks of arguments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from winwin_hf import bundled
from winwin_hf.cli.errors import UsageError
from winwin_hf.recipes import recipe_names

progress = Console(stderr=True)


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


MinPixels = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Flow: enlarge frames with fewer pixels to this number, which is more accurate. Segmentation, depth: the same, in place of "
        "the checkpoint's working size. 0: frames at their own size. Default: what the checkpoint says.",
    ),
]


def check_file(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")


def check_suffix(path: Path, option: str, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} {path}: expected a name that ends in {' or '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: the folder {path.parent} does not exist")


def check_picture(path: Path | None) -> None:
    if path is not None:
        check_suffix(path, "--picture", (".png", ".jpg", ".jpeg"))


def check_overrides(overrides: list[str] | None) -> None:
    for item in overrides or []:
        if not re.fullmatch(r"[^=\s]+=.*", item, flags=re.DOTALL):
            raise UsageError(f"--set {item}: expected KEY=VALUE")


def check_choice(option: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{option} {value}: expected {' or '.join(str(choice) for choice in choices if choice)}")


def parse_options(items: list[str] | None) -> dict[str, dict[str, Any]]:
    """["depth-folder.scale=1000"] -> {"depth-folder": {"scale": 1000}}; values as in YAML."""
    import yaml

    options: dict[str, dict[str, Any]] = {}
    for item in items or []:
        match = re.fullmatch(r"([^.=\s]+)\.([^=\s]+)=(.*)", item, flags=re.DOTALL)
        if match is None:
            raise UsageError(f"--option {item}: expected SET.KEY=VALUE, such as depth-folder.scale=1000")
        options.setdefault(match[1], {})[match[2]] = yaml.safe_load(match[3])
    return options


def read_image(path: Path) -> Any:
    """The picture at `path`, RGB uint8 (H, W, 3)."""
    check_file(path)
    from winwin_hf.data import formats

    return formats.read_image(path)
