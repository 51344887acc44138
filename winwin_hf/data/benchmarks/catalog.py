"""The catalogue of all data sets by name, and opening one of them."""

from __future__ import annotations

import bisect
import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import datasets

from winwin_hf.checked import checked_value
from winwin_hf.data.benchmarks import depth as depth_sets
from winwin_hf.data.benchmarks import flow as flow_sets
from winwin_hf.data.benchmarks import segmentation as segmentation_sets
from winwin_hf.data.benchmarks import stereo as stereo_sets
from winwin_hf.data.benchmarks.entry import DataSet
from winwin_hf.data.rows import Found, in_text, paths_of, table
from winwin_hf.task import DataTask, DoesNotFit

SETS: dict[str, DataSet] = {
    entry.name: entry for entry in (*flow_sets.SETS, *stereo_sets.SETS, *depth_sets.SETS, *segmentation_sets.SETS)
}


def entry_of(name: str) -> DataSet:
    """Raises ValueError for an unknown name, with the nearest known ones."""
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(sorted(SETS))}"
        raise ValueError(f"unknown data set {name!r}: {hint}")
    return SETS[name]


def check_split(name: str, split: str) -> None:
    """Raises ValueError where a set has no such split, with or without a slice; no file is looked at."""
    splits, base = entry_of(name).splits, split.partition("[")[0]
    if base not in splits:
        raise ValueError(f"{name} has no split {base!r}: expected {' or '.join(splits)}")


def options_of(entry: DataSet) -> list[str]:
    """Keywords of a set's function that `options` may hold, without those that its name fixes."""
    fixed = getattr(entry.find, "keywords", {})
    return [name for name in inspect.signature(entry.find).parameters if name not in ("root", "split", *fixed)]


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as their types are. Raises ValueError where a set has no such options, or of other values; no file is looked at."""
    entry = entry_of(name)
    known = options_of(entry)
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ValueError(f"options of {name}: unknown {', '.join(unknown)}; expected {' or '.join(known) or 'none'}")
    hints = get_type_hints(getattr(entry.find, "func", entry.find), include_extras=True)
    made = {key: checked_value(hints[key], value, f"options of {name}: {key}") for key, value in options.items()}
    for key, value in made.items():
        if isinstance(value, list | tuple) and len(set(value)) < len(value):
            raise ValueError(f"options of {name}: {key}: expected each value once, got {list(value)}")
    return made


def find(name: str, root: str | Path, split: str | None = None, **options: Any) -> Found:
    """The files of a split, without its slice. `options`: keywords of the set's own function, such as a scale."""
    entry = entry_of(name)
    split = (split or entry.scored).partition("[")[0]
    check_split(name, split)
    options = check_options(name, options)
    return in_text(entry.find(Path(root), split, **options), entry.task)


def load(
    name: str, root: str | Path, split: str | None = None, skip_missing: bool = False, **options: Any
) -> datasets.Dataset:
    """
    The examples of a data set on disk, with the columns of `rows.COLUMNS`; files are decoded on access.

    Args:
        split: one of the set's (default: the scored one), or a part of it as in `datasets`: "train[:80%]".
        skip_missing: leave out examples of which a file is missing, instead of raising.
        options: keywords of the set's own function.
    Raises: ValueError for an unknown name, split or option; FileNotFoundError for a folder without the expected layout, or a
        missing file.
    """
    split = split or entry_of(name).scored
    return table_of(find(name, root, split, **options), name, root, split, skip_missing)


def table_of(found: Found, name: str, root: str | Path, split: str, skip_missing: bool = False) -> datasets.Dataset:
    """The found rows as a Dataset; see `load`."""
    entry = entry_of(name)
    if found.missing and not skip_missing:
        found, split = part_of(found, split, entry.task), split.partition("[")[0]
    if found.missing and not skip_missing:
        more = f" and {len(found.missing) - 1} more files are" if len(found.missing) > 1 else " is"
        raise FileNotFoundError(
            f"{found.missing[0]}{more} missing: {len(found.rows)} examples of {name}, split {split}, are complete "
            "(`winwin data check` lists all; --skip-broken, in a recipe skip_broken, leaves the others out)"
        )
    if not found.rows:
        raise FileNotFoundError(
            f"{root}: no example of {name}, split {split}; expected {entry.layout} from {entry.source}"
        )
    return sliced(table(found.rows, entry.task), split)


def part_of(found: Found, split: str, task: DataTask) -> Found:
    """
    The rows and missing files of a split's slice, such as "train[:80%]", which counts incomplete examples too; all without brackets.

    An incomplete example's place is that of its missing file among the files of the same folder; where there are none, the end.
    """
    if "[" not in split:
        return found
    places: dict[str, list[tuple[str, int]]] = {}  # folder -> its files, each with the number of its row
    for number, row in enumerate(found.rows):
        for path in paths_of(row, task):
            folder, _, file = path.rpartition("/")
            places.setdefault(folder, []).append((file, number))
    for listed in places.values():
        listed.sort()
    entries: list[tuple[float, int, dict[str, Any] | str]] = [(float(i), 1, row) for i, row in enumerate(found.rows)]
    for path in found.missing:
        folder, _, file = path.rpartition("/")
        listed = places.get(folder, [])
        k = bisect.bisect(listed, (file, 0))
        entries.append((listed[k][1] if k < len(listed) else len(found.rows), 0, path))
    entries.sort(key=lambda entry: entry[:2])
    kept = [entries[place][2] for place in places_of(split, len(entries))]
    return Found([e for e in kept if not isinstance(e, str)], [e for e in kept if isinstance(e, str)])


def labels_of(name: str, root: str | Path) -> tuple[str, ...] | None:
    """Class names in the order of their ids; for your own folder, those of its names.txt. None for other tasks."""
    entry = entry_of(name)
    if entry.labels is None and entry.task == "semantic-segmentation":
        return segmentation_sets.folder_names(Path(root))
    return entry.labels


def sliced(dataset: datasets.Dataset, split: str) -> datasets.Dataset:
    """The part of a data set that a split such as "train[10:20]" or "train[:80%]" names; all of it without brackets."""
    if "[" not in split:
        return dataset
    return dataset.select(places_of(split, len(dataset)))


def places_of(split: str, length: int) -> list[int]:
    """
    The places, of `length`, that a split such as "train[10:20]" or "train[:80%]" names; all without brackets.

    Raises: DoesNotFit for another text, and for a slice without examples.
    """
    if "[" not in split:
        return list(range(length))
    base = split.partition("[")[0]
    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute({base: length})
    except (AssertionError, ValueError, ArithmeticError) as error:
        raise DoesNotFit(
            f"split {split!r}: expected a slice such as {base}[:80%] or {base}[100:200] of {length} examples; {error}"
        ) from None
    places = [i for part in parts for i in range(part.from_ or 0, part.to if part.to is not None else length)]
    if not places:
        raise DoesNotFit(
            f"split {split!r} holds none of the {length} examples of {base}; expected a slice that holds some"
        )
    return places
