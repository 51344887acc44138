"""Lists the folders of unpacked data sets: files by their keys, pairs of an image and its target, errors for a wrong folder.

Folders are listed once and nothing is opened, so a set of 100 000 files on a slow disk is found in a few seconds.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winwin_hf.data.rows import Found, cell


@dataclass(frozen=True)
class Origin:
    """Where a data set comes from, and its folders once unpacked (in one line); for the catalogue and for messages."""

    title: str
    source: str
    layout: str

    def check(self, split: str, splits: Iterable[str]) -> None:
        """Raises ValueError for a split that isn't one of `splits`."""
        if split not in (splits := tuple(splits)):
            raise ValueError(f"{self.title} has no split {split!r}: expected one of {', '.join(splits)}")

    def absent(self, root: Path, path: Path | str, problem: str = "is missing") -> FileNotFoundError:
        """The error for a `path` that is missing or has another `problem`."""
        return FileNotFoundError(
            f"{path} {problem}: {root} should hold {self.title} ({self.source}), laid out as {self.layout}"
        )

    def first(self, root: Path, *choices: str) -> Path:
        """The first of the files or folders below root that exists. Raises FileNotFoundError where none does."""
        found = existing(root, *choices)
        if found is None:
            raise self.absent(root, root / choices[0])
        return found

    def halves(self, root: Path, split: str, *kinds: str) -> list[Path]:
        """
        The folders KIND/SPLIT of one's own set; KIND for the split "all". Where one of a split is there, another may not be: all of its
        files are missing then. Raises FileNotFoundError.
        """
        if split != "all" and any((root / kind / split).is_dir() for kind in kinds):
            return [root / kind / split for kind in kinds]
        return [self.first(root, kind if split == "all" else f"{kind}/{split}") for kind in kinds]


def existing(root: Path, *choices: str) -> Path | None:
    """The first of the paths below root that exists, or None."""
    return next((root / choice for choice in choices if (root / choice).exists()), None)


def folders(root: Path, pattern: str = "*") -> list[Path]:
    """The folders below root that match a pattern, sorted; [] where there is no root."""
    return sorted(path for path in root.glob(pattern) if path.is_dir()) if root.is_dir() else []


def name_below(root: Path, path: Path) -> str:
    """A folder's name in rows: its path below root, or root's own name."""
    return path.absolute().name if path == root else path.relative_to(root).as_posix()


@dataclass(frozen=True)
class Files:
    """The files of a folder named prefix + key + suffix: rgb_00045.jpg has the key 00045. With `deep` also those of its
    subfolders, with keys such as street/00045."""

    folder: Path
    suffixes: tuple[str, ...]
    prefix: str = ""
    deep: bool = False

    def found(self) -> dict[str, Path]:
        """{key: path}; {} where there is no folder. Raises ValueError for two files of one key (a.png beside a.jpg)."""
        paths: dict[str, Path] = {}
        if not self.folder.is_dir():
            return paths
        for path in sorted(self.folder.rglob("*") if self.deep else self.folder.iterdir()):
            suffix = next((suffix for suffix in self.suffixes if path.name.lower().endswith(suffix.lower())), None)
            # ._name.png: what macOS leaves on other file systems
            if suffix is None or not path.name.startswith(self.prefix) or path.name.startswith("."):
                continue
            key = path.relative_to(self.folder).with_name(path.name[len(self.prefix) : -len(suffix)]).as_posix()
            if key in paths:
                raise ValueError(f"{path} and {paths[key].name} have one name; expected one file for each")
            paths[key] = path
        return paths

    def expected(self, key: str) -> Path:
        """Where the file of a key would be."""
        path = self.folder / key
        return path.with_name(f"{self.prefix}{path.name}{self.suffixes[0]}")


def pairs(
    images: Files, targets: Files, keys: Container[str] | None = None
) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """
    (complete, missing): [(key, image, target), ...] of the keys that have both, sorted; and the path that would complete each
    other key. keys: only these.
    """
    left, right = images.found(), targets.found()
    complete: list[tuple[str, Path, Path]] = []
    missing: list[str] = []
    for key in sorted({*left, *right}):
        if keys is not None and key not in keys:
            continue
        if key in left and key in right:
            complete.append((key, left[key], right[key]))
        else:
            missing.append(str((targets if key in left else images).expected(key)))
    return complete, missing


def image_row(name: str, image: str | Path, column: str, target: str | Path | None, kind: str | None) -> dict[str, Any]:
    """The row of an image and its target. column: "depth" or "label". kind: the target's format."""
    return {"name": name, "image": cell(image), column: cell(target), f"{column}_format": kind}


def image_rows(
    images: Files, targets: Files, column: str, kind: str, place: str = "", keys: Container[str] | None = None
) -> Found:
    """A row for each pair of an image and its target (see `pairs`), named `place` + key."""
    complete, missing = pairs(images, targets, keys)
    return Found([image_row(f"{place}{key}", image, column, path, kind) for key, image, path in complete], missing)


def images_alone(images: Files, column: str) -> Found:
    """A row without a target for each image, as of a test split."""
    return Found([image_row(key, path, column, None, None) for key, path in images.found().items()])
