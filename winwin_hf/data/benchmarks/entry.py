"""The catalogue's description of one data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from winwin_hf.data.benchmarks.folders import Origin
from winwin_hf.data.rows import Found
from winwin_hf.task import DataTask


@dataclass(frozen=True)
class DataSet:
    """
    name: in recipes and on the command line, such as "sintel-clean".
    find: (root, split) -> the files of a split. Raises FileNotFoundError with `layout` and `source` where there are none.
    splits: their names; the first is the training split. scored: the split that `winwin evaluate` uses by default.
    origin: where the set comes from, and its folders. terms: its licence, as stated there.
    labels, palette: class names and RGB colours (segmentation).
    depth_range: metres; ground truth outside is not scored (the benchmark's cap).
    crop: the benchmark's, by its name in `DepthMetric` ("eigen", "garg"), or None.
    """

    name: str
    task: DataTask
    find: Callable[[Path, str], Found]
    splits: tuple[str, ...]
    scored: str
    origin: Origin
    terms: str
    labels: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    depth_range: tuple[float, float] = field(default=(1e-3, float("inf")))
    crop: str | None = None

    @property
    def source(self) -> str:
        return self.origin.source

    @property
    def layout(self) -> str:
        return self.origin.layout
