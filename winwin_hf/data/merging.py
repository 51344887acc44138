"""One set of classes for data sets that name theirs differently, or draw the borders between them elsewhere. Source: ours.

Where a set calls one thing what is several here (its buildings have windows and doors), its pixels get a group: any of the classes
is right, and the loss is that of their common probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from winwin_hf.data.formats import IGNORE

Classes = Mapping[str, str | list[str] | None]  # a set's class -> ours, several of ours, or None where it is ignored


def merge_table(
    theirs: Sequence[str], ours: Sequence[str], classes: Classes, groups: list[tuple[int, ...]]
) -> np.ndarray:
    """
    Label of a set -> label to train with, uint8 (256,): a class of `ours`, len(ours) + n for the group n, or 255.

    Args:
        theirs: the set's names. classes: ours for each of its classes; one that has the same name needn't be there.
        groups: of classes, to which new ones are appended.
    Raises: ValueError for a name that isn't known.
    """
    unknown = sorted(set(classes) - set(theirs))
    if unknown:
        raise ValueError(f"classes: no class {', '.join(unknown)} in the set; it has {', '.join(theirs)}")
    if len(theirs) > IGNORE:
        raise ValueError(f"classes: the set has {len(theirs)}; labels have 8 bits: expected {IGNORE} at most")
    table = np.full(256, IGNORE)
    for i, name in enumerate(theirs):
        if name not in classes and name not in ours:
            raise ValueError(
                f"classes: {name!r} is none of {', '.join(ours)}; expected one of them, a list of them, or null"
            )
        meant = classes.get(name, name)
        if meant is None:
            continue
        names = [meant] if isinstance(meant, str) else list(meant)
        wrong = [n for n in names if n not in ours]
        if wrong or not names:
            raise ValueError(
                f"classes: {name!r} is mapped to {wrong or 'nothing'}; expected classes among {', '.join(ours)}"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"classes: {name!r} is mapped to {names}; expected each class once")
        members = tuple(ours.index(n) for n in names)
        if len(members) > 1 and members not in groups:
            groups.append(members)
        table[i] = members[0] if len(members) == 1 else len(ours) + groups.index(members)
        if len(ours) + len(groups) > IGNORE:
            raise ValueError(
                f"classes: {len(ours)} and {len(groups)} groups of them; labels have 8 bits: expected {IGNORE} at most"
            )
    return table.astype(np.uint8)


def synonyms_of(classes: Sequence[Classes]) -> dict[str, list[str]]:
    """Our class -> what the sets call it, or something of which it is a part."""
    found: dict[str, list[str]] = {}
    for one in classes:
        for theirs, meant in one.items():
            for ours in [meant] if isinstance(meant, str) else meant or []:
                if theirs != ours and theirs not in found.setdefault(ours, []):
                    found[ours].append(theirs)
    return {ours: names for ours, names in found.items() if names}


def translation(
    ours: Sequence[str], theirs: Sequence[str], synonyms: Mapping[str, Sequence[str]] | None
) -> np.ndarray | None:
    """
    Class of a network -> class of a set by their names, int (len(ours),), 255 where the set has no such class. None where some class of
    the set is none of the network's.
    """
    table = np.full(len(ours), IGNORE)
    for i, name in enumerate(ours):
        known = [n for n in (name, *(synonyms or {}).get(name, ())) if n in theirs]
        if known:
            table[i] = list(theirs).index(known[0])
    return table if set(table.tolist()) >= set(range(len(theirs))) else None
