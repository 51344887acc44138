"""Lists folders of frame pairs; used by the flow and stereo sets.

Notable:
- A pair is two frames that follow one another. The last frame of a sequence has no successor. Users may also keep every second
  sequence, or a few frames of one; then a frame with neither a successor nor ground truth is no example. But a pair without its
  ground truth, or ground truth without the second frame, goes to `Found.missing`.
- Masks of occluded pixels are optional: without their file the row's `occluded` is None.
- Each folder is read once, so opening a set of 300,000 pairs takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from winwin_hf.data.benchmarks.folders import Origin
from winwin_hf.data.rows import Found, cell

Truth = Callable[[int], Path]  # a frame's number -> the file with its flow


class Listing:
    """Collects rows in `found`. Reads each folder once, however many of its files are asked for."""

    def __init__(self) -> None:
        self.found = Found()
        self._names: dict[Path, frozenset[str]] = {}
        self._missing: set[str] = set()

    def names(self, folder: Path) -> frozenset[str]:
        """All names in a folder; empty where there is no such folder."""
        if folder not in self._names:
            there = folder.is_dir()
            self._names[folder] = frozenset(path.name for path in folder.iterdir()) if there else frozenset()
        return self._names[folder]

    def has(self, path: Path) -> bool:
        return path.name in self.names(path.parent)

    def folders(self, folder: Path, pattern: str = "*") -> list[Path]:
        """Sorted; hidden ones (".ipynb_checkpoints", "__MACOSX") are left out."""
        return sorted(path for path in folder.glob(pattern) if path.is_dir() and not path.name.startswith((".", "__")))

    def frames(self, folder: Path, stem: str, suffixes: tuple[str, ...] = (".png",)) -> dict[int, Path]:
        """Number -> file, of the files named by `stem`, such as "frame_{:04d}"; an earlier suffix wins."""
        head, tail = re.split(r"\{.*?\}", stem)
        pattern = re.compile(rf"{re.escape(head)}(\d+){re.escape(tail)}")
        names: dict[int, Path] = {}
        for suffix in suffixes:
            for name in self.names(folder):
                match = pattern.fullmatch(name.removesuffix(suffix)) if name.endswith(suffix) else None
                if match and name == stem.format(int(match[1])) + suffix:
                    names.setdefault(int(match[1]), folder / name)
        return dict(sorted(names.items()))

    def pairs(
        self,
        folder: Path,
        stem: str,
        truth: Truth | None = None,
        step: int = 1,
        truth_at_end: bool = False,
        suffixes: tuple[str, ...] = (".png",),
    ) -> Iterator[tuple[int, Path, Path, Path | None]]:
        """(number, frame, the frame `step` further, ground truth) of each pair in a folder, see the module's docstring.

        truth: a frame's ground truth; None for a split without any.
        truth_at_end: the set has ground truth even for a sequence's last frame, whose second frame never existed.
        """
        frames = self.frames(folder, stem, suffixes)
        ends = (max(frames), min(frames)) if frames else ()
        for number, first in frames.items():
            second = frames.get(number + step, folder / f"{stem.format(number + step)}{first.suffix}")
            target = truth(number) if truth else None
            if not self.has(second):
                known = target is not None and self.has(target)
                if not known or (truth_at_end and number == ends[step < 0]):
                    continue
            yield number, first, second, target

    def add(
        self,
        name: str,
        image1: Path,
        image2: Path,
        flow: Path | None = None,
        flow_format: str | None = None,
        occluded: Path | None = None,
        occluded_format: str | None = None,
    ) -> None:
        """Adds a row if all its files exist (`occluded` is optional), else the paths of the missing ones."""
        gone = [str(path) for path in (image1, image2, flow) if path is not None and not self.has(path)]
        for path in gone:
            if path not in self._missing:
                self._missing.add(path)
                self.found.missing.append(path)
        if gone:
            return
        if occluded is not None and not self.has(occluded):
            occluded = None
        self.found.rows.append(
            {
                "name": name,
                "image1": cell(image1),
                "image2": cell(image2),
                "flow": cell(flow),
                "flow_format": flow_format if flow else None,
                "occluded": cell(occluded),
                "occluded_format": occluded_format if occluded else None,
            }
        )


def base_of(origin: Origin, root: Path, holds: Iterable[str], unpacked: Iterable[str] = ()) -> Path:
    """The folder that contains one of `holds`: the root, one of `unpacked` in it (names that archives unpack to), or the root's
    parent if the root is one of `holds`. Raises FileNotFoundError.
    """
    root, holds = Path(root), tuple(holds)
    near = [root, *(root / name for name in unpacked), *([root.parent] if root.name in holds else [])]
    for folder in near:
        if any((folder / name).exists() for name in holds):
            return folder
    raise origin.absent(root, root / holds[0])


def chosen(argument: str, values: Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """The values as a tuple. Raises ValueError for one that isn't in `known`."""
    values = (values,) if isinstance(values, str) else tuple(values)
    for value in values:
        if value not in known:
            raise ValueError(f"{argument}: {value!r} is unknown, expected {' or '.join(known)}")
    return values


def numbered(folder: Path, name: str) -> Truth:
    """A folder's files by the number in their name, such as "frame_{:04d}.flo"."""
    return lambda number: folder / name.format(number)


def successive(stems: list[str]) -> list[tuple[str, str]]:
    """
    (name, name of the frame that follows) of a clip's frames, by a number in their names; the latter may not exist.

    Of several numbers it is the one by which the names make the fewest runs, as in 0001_cam2, 0002_cam2; else the last one. The step
    is the smallest one, if it is that of half of the names or more: of 0, 2, 3 the second frame of 0 is 1. Names without such numbers
    (times of a day, say) follow one another in their order.

    Args:
        stems: sorted, of the frames and of the flow.
    """
    runs = _runs(stems)
    return list(pairwise(stems)) if runs is None else [pair for run in runs for pair in run]


def gaps(stems: list[str]) -> list[tuple[str, str]]:
    """(name before, first missing name) of each gap in the numbers of a clip's frames; [] where they have no step, see `successive`."""
    return [pair for run in _runs(sorted(stems)) or () for pair in run[:-1] if pair[1] not in stems]


def _runs(stems: list[str]) -> list[list[tuple[str, str]]] | None:
    """The pairs of `successive` for each text around the number, in the order of the numbers; None where there are none."""
    parts = [re.split(r"(\d{1,18})", stem) for stem in stems]
    counts = {len(part) for part in parts}
    places = range(max(counts) - 2, 0, -2) if len(counts) == 1 else [-2]  # from the end of a name
    ways = [_around(parts, place) for place in places]
    runs = min((way for way in ways if way), key=len, default=None)
    if runs is None:
        return None
    found = []
    for (head, tail), run in runs.items():
        numbers = sorted(run)
        steps = [after - before for before, after in pairwise(numbers)]
        if not steps or 2 * steps.count(min(steps)) < len(steps):
            return None
        digits = [len(run[number]) - len(head) - len(tail) for number in numbers]
        names = [f"{head}{number + min(steps):0{width}}{tail}" for number, width in zip(numbers, digits, strict=True)]
        found.append([(run[n], run.get(n + min(steps), name)) for n, name in zip(numbers, names, strict=True)])
    return found


def _around(parts: list[list[str]], place: int) -> dict[tuple[str, str], dict[int, str]] | None:
    """Names, split at their numbers: text before and after the number at `place` -> number -> name; None where two are the same."""
    runs: dict[tuple[str, str], dict[int, str]] = {}
    for part in parts:
        if len(part) < 3:
            return None
        before, number, after = part[:place], int(part[place]), part[place:][1:]
        run = runs.setdefault(("".join(before), "".join(after)), {})
        if number in run:  # 1 and 01
            return None
        run[number] = "".join(part)
    return runs
