"""The recipes that come with the package, by name. Imports neither torch nor yaml, so that the command line starts quickly."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class RecipeInfo:
    """A recipe of the package, as `winwin recipes list` shows it."""

    name: str
    task: str
    summary: str  # the first comment of the file


def recipe_names() -> list[str]:
    """Names of the package's recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_path(name: str | Path) -> Path:
    """The recipe's file: `name` itself if there is such a file, otherwise the package's recipe of that name.

    Raises: FileNotFoundError, with the nearest names.
    """
    if Path(name).is_file():
        return Path(name)
    known = recipe_names()
    if str(name) in known:
        return _FOLDER / f"{name}.yaml"
    if not str(name).strip():
        raise FileNotFoundError("the recipe's name is empty; `winwin recipes list` shows those of the package")
    if Path(name).is_dir():
        raise IsADirectoryError(f"{name}: a folder; expected a YAML file")
    if Path(name).exists() or Path(name).is_symlink():
        what = "a device or a pipe" if Path(name).exists() else "a link to nothing, or in a circle"
        raise FileNotFoundError(f"{name}: {what}; expected a YAML file")
    near = difflib.get_close_matches(str(name).removesuffix(".yaml"), known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`winwin recipes list` shows those of the package"
    raise FileNotFoundError(f"{name}: no such file, and no recipe of this name; {hint}")


def recipe_text(name: str) -> str:
    """The package's recipe of this name, whatever files of this name there are."""
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def list_recipes() -> list[RecipeInfo]:
    """Name, task and summary of the package's recipes, sorted by name."""
    found = []
    for name in recipe_names():
        text = recipe_text(name)
        task = re.search(r"^task: *(\S+)", text, flags=re.MULTILINE)
        summary = re.match(r"# *(.+)", text)
        found.append(RecipeInfo(name, task[1] if task else "", summary[1] if summary else ""))
    return found
