"""Scores of a model: on windows placed as in training, and on full frames of any size, one pass each.

Notable:
- both are always reported. A score on windows says little about full frames, and for flow the second view's windows tell the
  network the motion; the gap between the two is what to look at.
- full frames go through the image processor and its post-processing, exactly as a user's images do.
- every process scores its share; sums are added exactly.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator

from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.sources import OTHERS, SYNTHETIC, Source, open_source
from winwin_hf.evaluation import report, submission
from winwin_hf.evaluation.methods import load
from winwin_hf.evaluation.report import Line
from winwin_hf.evaluation.scoring import Frame, new_metric, score
from winwin_hf.inference.predictor import Network
from winwin_hf.inference.variational import Refined

# ------------------------------------------------------------------ benchmarks on disk


def parse_data(text: str) -> tuple[str, str | None, str]:
    """ "sintel-clean:train[:10]=/data/Sintel" -> (name, split or None, path). Raises ValueError."""
    name, equals, path = text.partition("=")
    name, colon, split = name.partition(":")
    if not (equals and name and path) or (colon and not split):
        raise ValueError(f"--data {text}: expected NAME=PATH or NAME:SPLIT=PATH, such as sintel-clean=/data/Sintel")
    return name, split or None, path


@dataclass
class Settings:
    """How `evaluate_data` predicts and scores. tile: (height, width) pixels, None: one pass. length: at most so many examples of
    each set. worst: pictures of so many of the worst. submission: write each prediction in its benchmark's format. double,
    align: of the metrics (flow, depth). options: keywords of data sets, by set name; of synthetic scenes their settings. min_pixels: of
    the networks' image processors, None: as their checkpoints say."""

    tile: tuple[int, int] | None = None
    overlap: float = 0.5
    length: int | None = None
    skip_broken: bool = False
    worst: int = 5
    submission: bool = False
    double: Literal["mean", "best"] = "best"
    align: Literal["median", "least-squares"] | None = None
    precision: Literal["no", "bf16", "fp16"] = "no"
    cpu: bool = False
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    min_pixels: int | None = None


def evaluate_data(methods: list[str], data: list[str], output: str | Path | None, settings: Settings) -> list[Line]:
    """
    Scores methods on data sets on disk, one after the other; any number of processes gives the same figures.

    Args:
        methods: checkpoints (a bundled name, a folder, a Hub repository), or baselines of `methods.BASELINES`; of flow also with
            `variational.SUFFIX` behind them.
        data: "NAME=PATH" or "NAME:SPLIT=PATH".
        output: folder for results.json and the rest (see report.py); None: only the table.
    Raises: ValueError, OSError: an unknown name, a folder without the expected layout, a checkpoint for another task or with
        other classes, or a broken file, named.
    """
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=settings.cpu)
    folder = Path(output) if output is not None else None
    # everything is opened before the first frame is predicted, so that a wrong name costs no time
    chosen = [parse_data(text) for text in data]
    unknown = set(settings.options) - {name for name, _, _ in chosen}
    if unknown:
        raise ValueError(f"--option {', '.join(sorted(unknown))}: no such set among --data")
    sources = [_open_scored(name, split, path, settings) for name, split, path in chosen]
    if folder is not None and accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    lines = []
    for method in methods:
        predictor = load(method, accelerator, settings.tile, settings.overlap, settings.min_pixels)
        for (name, _, path), (source, split) in zip(chosen, sources, strict=True):
            lines.append(_evaluate_one(predictor, source, split, path, folder, accelerator, settings, name))
    if accelerator.is_main_process:
        report.show(lines)
        if folder is not None:
            report.write_json(
                folder / "results.json", lines, {**asdict(settings), "processes": accelerator.num_processes}
            )
            report.write_page(folder, lines)
    accelerator.wait_for_everyone()
    return lines


def _open_scored(name: str, split: str | None, path: str, settings: Settings) -> tuple[Source, str]:
    if split is None:
        split = "val" if name in OTHERS else catalog.entry_of(name).scored
    options = settings.options.get(name, {})
    if name in SYNTHETIC:
        if settings.length is None:
            raise ValueError(f"--data {name}={path}: its scenes have no end; expected --length with it")
        return open_source(name, path, split, options, length=settings.length), split
    if name == "shards":
        options = {"streaming": False, **options}
    return open_source(name, path, split, options=options, skip_broken=settings.skip_broken), split


def _evaluate_one(
    predictor: Any,
    source: Source,
    split: str,
    path: str,
    folder: Path | None,
    accelerator: Accelerator,
    settings: Settings,
    name: str,
) -> Line:
    """One method on one set: scored, with its files written."""
    if predictor.task != source.task:
        raise ValueError(f"{predictor.name} is for {predictor.task}, {name} is for {source.task}")
    if predictor.labels is not None and predictor.labels != source.labels:
        raise ValueError(
            f"{predictor.name} knows {len(predictor.labels)} classes ({', '.join(predictor.labels[:4])}, ...), {name} has "
            f"{len(source.labels or ())} ({', '.join((source.labels or ())[:4])}, ...); expected the same"
        )
    place = folder and folder / report.folder_name(predictor.name)
    done = None
    if settings.submission:
        if place is None:
            raise ValueError("--submission needs --output, the folder to write to")
        target = place / "submission"

        def done(frame: Frame, prediction: np.ndarray) -> None:
            submission.write(target, name, source.task, frame.name, prediction)

    result = score(
        predictor,
        source,
        new_metric(source, settings.double, settings.align),
        accelerator,
        settings.length,
        settings.skip_broken,
        settings.worst if place else 0,
        done,
        f"{predictor.name} on {name}",
    )
    inference = "one pass"
    network = predictor.predictor if isinstance(predictor, Refined) else predictor
    if isinstance(network, Network) and settings.tile:
        inference = f"tiles of {settings.tile[0]}x{settings.tile[1]}, overlap {settings.overlap}"
    if place is not None:
        here = place / report.folder_name(f"{name}-{split}")
        if accelerator.is_main_process:
            shutil.rmtree(here / "worst", ignore_errors=True)  # of an earlier evaluation
        accelerator.wait_for_everyone()
        report.write_worst(here / "worst", result, source.task)
        if accelerator.is_main_process:
            report.write_csv(here / "images.csv", result)
        accelerator.wait_for_everyone()
    return Line(
        data=name,
        split=split,
        path=path,
        task=source.task,
        method=predictor.name,
        inference=inference,
        images=len(result.images),
        scored=sum(image.row is not None for image in result.images),
        missing=list(source.missing),
        broken=result.broken,
        seconds=result.seconds(),
        figures=result.figures,
    )
