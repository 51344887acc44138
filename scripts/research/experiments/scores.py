"""Scores of finished models, each computed once and kept beside the model as scores/KEY.json."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from research.experiments.context import Context
from research.files import write_json
from winwin_hf.pools import process_pool


@dataclass(frozen=True)
class Score:
    """
    A score of the model in `folder`.

    function: computes it. To run in another process it must be a function of a module, or a `functools.partial` of one.
    """

    key: str
    folder: Path
    function: Callable[[], dict[str, Any]]

    @property
    def path(self) -> Path:
        return self.folder / "scores" / f"{self.key}.json"

    def read(self) -> dict[str, Any] | None:
        """The figures, those that aren't finite as None; None where the score wasn't computed."""
        return json.loads(self.path.read_text()) if self.path.is_file() else None


def score_once(
    context: Context, key: str, folder: Path, function: Callable[[], dict[str, Any]]
) -> dict[str, Any] | None:
    """`score_all` of one score."""
    return score_all(context, [Score(key, folder, function)])[0]


def score_all(context: Context, scores: Sequence[Score]) -> list[dict[str, Any] | None]:
    """
    Computes the scores that are not kept yet, `context.jobs` at a time, and reads all of them.

    None stands for a score that isn't kept, with `context.draw_only`. Each process has `context.threads` threads: more threads
    would wait for one another where other programs run.
    """
    console = context.console
    missing = [] if context.draw_only else [score for score in scores if not score.path.is_file()]

    def keep(score: Score, figures: dict[str, Any], start: float) -> None:
        write_json(score.path, figures, indent=None)
        console.print(f"{score.folder.name}: {score.key} scored after {time.monotonic() - start:.0f} s")

    start = time.monotonic()
    if len(missing) < 2 or context.jobs == 1:
        torch.set_num_threads(context.threads)
        for score in missing:
            start = time.monotonic()
            keep(score, score.function(), start)
    else:
        console.print(f"scoring: {', '.join(f'{score.folder.name} {score.key}' for score in missing)}")
        # a fork of a process with threads may hang
        with process_pool(min(context.jobs, len(missing)), "spawn", _start_process, (context.threads,)) as pool:
            futures = {pool.submit(score.function): score for score in missing}
            for future in as_completed(futures):
                keep(futures[future], future.result(), start)
    return [score.read() for score in scores]


def _start_process(threads: int) -> None:
    """Sets a scoring process's threads, and hides its progress bars. Errors are raised in the program."""
    torch.set_num_threads(threads)
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  for as long as the process lives
