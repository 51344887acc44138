"""The result of checking a data set: as a table, as lines, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from rich.console import Group
from rich.table import Table
from rich.text import Text

from winwin_hf.data.formats.files import bytes_text
from winwin_hf.task import DataTask

SHOWN = 10  # missing and broken files that a table lists; the JSON has all


@dataclass
class SplitReport:
    """
    The result for one split.

    examples: number of complete ones, including broken ones. missing: path of each missing file. broken: a message for each
    example that can't be decoded; None if nothing was decoded.
    sizes: "HEIGHTxWIDTH" of the images -> number of examples. truth: number of examples with ground truth.
    known: share of their pixels with known ground truth. figures: over those pixels: mean and largest motion (px); smallest, mean
    and largest depth (m). classes: share of each class in them, by its name or id.
    bytes: of all files, each counted once. hints: what looks wrong but may be right. faults: what can't be right.
    """

    name: str
    task: DataTask
    split: str
    examples: int
    missing: list[str] = field(default_factory=list)
    broken: list[str] | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    truth: int = 0
    known: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    classes: dict[str, float] | None = None
    bytes: int = 0
    seconds: float = 0.0
    hints: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.examples > 0 and not self.missing and not self.broken and not self.faults


@dataclass
class Report:
    """The result of `check`. absent: "name:split" of splits that don't exist -> why; these are no faults."""

    root: str
    splits: list[SplitReport]
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, broken or otherwise at fault."""
        return bool(self.splits) and all(split.ok for split in self.splits)

    def json(self) -> str:
        """Everything, as JSON."""
        splits = [{**asdict(split), "ok": split.ok} for split in self.splits]
        return json.dumps({"root": self.root, "ok": self.ok, "splits": splits, "absent": self.absent}, indent=2)

    def lines(self, shown: int = SHOWN) -> list[str]:
        """Plain text, without a table."""
        lines = [
            ": ".join((f"{split.name}:{split.split}", ", ".join(text for text in _cells(split) if text)))
            for split in self.splits
        ]
        return lines + [text for text, _ in self._remarks(shown)]

    def __rich__(self) -> Group:
        table = Table("set", "split", "examples", "files", "image size", "ground truth", "figures", "size, time")
        for split in self.splits:
            style = "green" if split.ok else "red"
            table.add_row(Text(split.name, style), Text(split.split), *map(Text, _cells(split)))
        return Group(table, *(Text(text, style) for text, style in self._remarks(SHOWN)))

    def _remarks(self, shown: int) -> Iterator[tuple[str, str]]:
        """(line, style) of what doesn't fit into a table's row."""
        for split in self.splits:
            for what, messages in (("missing", split.missing), ("broken", split.broken or [])):
                yield from ((f"{what}: {message}", "red") for message in messages[:shown])
                if len(messages) > shown:
                    yield f"{what}: {len(messages) - shown} more in {split.name}:{split.split}", "red"
            yield from ((f"wrong in {split.name}:{split.split}: {fault}", "red") for fault in split.faults)
            yield from ((f"look at {split.name}:{split.split}: {hint}", "yellow") for hint in split.hints)
            if split.classes is not None:
                shares = sorted(split.classes.items(), key=lambda item: -item[1])
                texts = [f"{name} {share:.1%}" for name, share in shares]
                if len(texts) > shown + 2:  # the rarest is what one looks for
                    texts[shown:-1] = [f"{len(texts) - shown - 1} more, the rarest"]
                    texts[-2:] = [" ".join(texts[-2:])]
                yield f"classes of {split.name}:{split.split}: {', '.join(texts)}", "dim"
        for key, reason in self.absent.items():
            yield f"not here: {key} ({reason.partition(': ')[0]})", "dim"


def _cells(split: SplitReport) -> list[str]:
    """The cells of a table's row after the names: examples, files, sizes, ground truth, figures, cost."""
    faults = [f"{len(split.missing)} missing"] if split.missing else []
    if split.broken is not None:
        faults += [f"{len(split.broken)} broken"] if split.broken else ["all decoded"]
    sizes = sorted(split.sizes, key=size_key)
    extent = " to ".join(dict.fromkeys((sizes[0], sizes[-1]))) if sizes else ""
    if len(sizes) > 2:
        extent += f" ({len(sizes)} sizes)"
    truth = "none" if split.broken is not None and not split.truth else ""
    if split.known is not None:
        few = f" in {split.truth}" if split.truth < split.examples - len(split.broken or []) else ""
        truth = f"{split.known:.1%} known{few}"
    unit = "px" if split.task == "optical-flow" else "m"
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.2f} {unit}" for name, value in split.figures.items())
    if split.classes is not None:
        figures = f"{len(split.classes)} classes"
    examples = f"{split.examples} example{'s' * (split.examples != 1)}"
    return [examples, ", ".join(faults), extent, truth, figures, f"{bytes_text(split.bytes)} in {split.seconds:.1f} s"]


def size_key(size: str) -> tuple[int, str]:
    """Sorts texts such as "436x1024" by height."""
    height, _, width = size.partition("x")
    return int(height) * int(width), size
