"""What the command line says, and what an experiment is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[3]
RECIPES = ROOT / "scripts" / "research" / "recipes"


@dataclass(frozen=True)
class Context:
    """
    The options of scripts/reproduce.py.

    Attributes:
        work: holds the folders of trainings.
        output: receives NAME.json, NAME.md and NAME.png.
        data: name of a data set -> its folder.
        seeds: trainings of each kind, with the seeds 0, 1, ...
        jobs: trainings at a time. threads: of each.
        draw_only: neither train nor score; write results from what there is.
    """

    work: Path = Path("runs/reproduce")
    output: Path = Path("docs/results")
    data: dict[str, str] = field(default_factory=dict)
    seeds: int = 3
    jobs: int = 1
    threads: int = 1
    draw_only: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True))


@dataclass(frozen=True)
class Experiment:
    """
    One figure or table.

    Attributes:
        function: trains, scores and writes the results.
        title: one line that names the paper's figure or table.
        needs: data sets that --data must give.
        hours: on two cores with `--jobs 2` and three seeds.
    """

    function: Callable[[Context], None]
    title: str
    needs: tuple[str, ...] = ()
    hours: float = 1.0
