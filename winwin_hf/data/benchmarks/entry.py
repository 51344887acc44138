"""What the package knows of one data set before anybody has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from winwin_hf.data.rows import Found
from winwin_hf.task import DataTask


@dataclass(frozen=True)
class DataSet:
    """
    name: in recipes and on the command line, such as "sintel-clean".
    find: (root, split) -> the files of a split; raises with `layout` and `source` where they aren't.
    splits: their names; the first is the training split. scored: the one that `winwin evaluate` takes by default.
    source: where it comes from. layout: the folders expected under the root, in one line. terms: its licence, as stated there.
    labels, palette: class names and RGB colours (segmentation).
    depth_range: metres; ground truth outside is not scored (the benchmark's cap). crop: of the benchmark, as a name that
        `metrics.DepthMetric` knows ("eigen", "garg"), or None.
    """

    name: str
    task: DataTask
    find: Callable[[Path, str], Found]
    splits: tuple[str, ...]
    scored: str
    source: str
    layout: str
    terms: str
    labels: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    depth_range: tuple[float, float] = field(default=(1e-3, float("inf")))
    crop: str | None = None
