"""`winwin evaluate`: methods by name, scored on data sets on disk, with everything written to one folder."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator

from winwin_hf import bundled
from winwin_hf.checked import few
from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.merging import translation
from winwin_hf.data.shards import shards_info
from winwin_hf.data.sources import OTHERS, SYNTHETIC, Source, check_set, open_source
from winwin_hf.evaluation import publishing, report, submission, worst
from winwin_hf.evaluation.methods import load, network_of
from winwin_hf.evaluation.report import Line
from winwin_hf.evaluation.scoring import Frame, new_metric, score
from winwin_hf.host_process import unchanged_process
from winwin_hf.inference.predictor import Method
from winwin_hf.model.pixels_winwin import shortened
from winwin_hf.processes import connect, lost_process_named
from winwin_hf.task import TASKS, DoesNotFit


@dataclass
class Settings:
    """
    How `evaluate_data` predicts and scores.

    Attributes:
        tile: (height, width) in pixels; None: one pass over the whole frame. overlap: share of a tile that its neighbour repeats.
        length: use the first `length` examples of each set; None: all.
        skip_broken: leave out examples that can't be read, count and name them.
        worst: number of pictures of the worst images of each set.
        submission: also write each prediction in its benchmark's format.
        double: of flow, see `FlowMetric`; None: "best". align: of depth, see `DepthMetric`.
        options: by name of the set, its reader's options; of synthetic scenes their settings.
        quality: of networks of flow, see `Predictor.load`.
        min_pixels: networks enlarge images with fewer pixels to so many; 0: images at their own size; None: as the checkpoint says.
        overwrite: replace an earlier evaluation in the same folder.
    """

    tile: tuple[int, int] | None = None
    overlap: float = 0.5
    length: int | None = None
    skip_broken: bool = False
    worst: int = 5
    submission: bool = False
    double: Literal["mean", "best"] | None = None
    align: Literal["median", "least-squares"] | None = None
    precision: Literal["no", "bf16", "fp16"] = "no"
    cpu: bool = False
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    quality: str | None = None
    min_pixels: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class _DataSet:
    name: str
    split: str
    path: str
    source: Source


def parse_data(text: str, option: str = "--data ") -> tuple[str, str | None, str]:
    """ "sintel-clean:train[:10]=/data/Sintel" -> (name, split or None, path). Raises ValueError."""
    name, equals, path = text.partition("=")
    name, colon, split = name.partition(":")
    if not (equals and name and path) or (colon and not split):
        raise ValueError(f"{option}{text}: expected NAME=PATH or NAME:SPLIT=PATH, such as sintel-clean=/data/Sintel")
    return name, split or None, path


def check_data(
    data: list[str], options: dict[str, dict[str, Any]], length: int | None
) -> list[tuple[str, str | None, str]]:
    """The (name, split or None, path) of each of `data`. Raises ValueError where they are wrong by themselves; no file is looked at."""
    chosen = [parse_data(text) for text in data]
    if twice := next((text for text in data if data.count(text) > 1), None):
        raise ValueError(f"--data {twice}: given twice; expected each set and split once")
    if unknown := set(options) - {name for name, _, _ in chosen}:
        raise ValueError(f"--option {', '.join(sorted(unknown))}: no such set among --data")
    for name, split, path in chosen:
        if name in SYNTHETIC and length is None:
            raise ValueError(f"--data {name}={path}: its scenes have no end; expected --length with it")
        kind = "settings" if name in SYNTHETIC else "options"  # what --option sets
        check_set(name, split, **{kind: options.get(name)})
    return chosen


@unchanged_process()
@lost_process_named()
def evaluate_data(methods: list[str], data: list[str], output: str | Path | None, settings: Settings) -> list[Line]:
    """
    Scores each method on each data set and prints a table; any number of processes gives the same figures.

    Args:
        methods: checkpoints or baselines, by the names of methods.py.
        data: "NAME=PATH" or "NAME:SPLIT=PATH".
        output: folder for results.json and the rest (see report.py), which appear at the end, all of them or none; with `overwrite`
            in the place of an earlier evaluation's. Other files there stay. None: only the table.
    Raises:
        ValueError, OSError: an unknown name, a folder without the expected layout, a checkpoint for another task or with other
            classes, or a broken file; the message names it.
    """
    connect(settings.cpu)
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=settings.cpu)
    folder = Path(output) if output is not None else None
    if folder is not None:
        if accelerator.is_main_process:
            publishing.finish_killed(folder)
        accelerator.wait_for_everyone()
        publishing.refuse_others(folder, settings.overwrite)
    # All sets are opened before the first frame is predicted, so that a wrong name fails at once.
    chosen = check_data(data, settings.options, settings.length)
    data_sets = [_open(name, split, path, settings) for name, split, path in chosen]
    places = [(each.name, each.split, os.path.realpath(each.path)) for each in data_sets]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise DoesNotFit(f"--data {twice[0]}:{twice[1]}: given twice; expected each set and split once")
    if folder is not None:
        _check_folders("--data", [f"{each.name}-{each.split}" for each in data_sets])
    for option, given, task in (
        ("align", settings.align is not None, "depth-estimation"),
        ("double", settings.double is not None, "optical-flow"),
    ):
        if given and all(data_set.source.task != task for data_set in data_sets):
            raise DoesNotFit(f"--{option} is for {TASKS[task].title}; expected such a set among --data")

    def loaded(method: str) -> Method:
        return load(method, accelerator, settings.tile, settings.overlap, settings.min_pixels, settings.quality)

    lines = []
    with publishing.staged(folder, accelerator) as new:
        names = []
        for method in methods:  # all of them before the first runs, one at a time: several may not fit into the memory
            predictor = loaded(method)
            names.append(predictor.name)
            for data_set in data_sets:
                _check_fits(predictor, data_set)
        names = told_apart(methods, names)
        if folder is not None:
            _check_folders("methods", names)
        if folder is not None and settings.submission:
            for name, data_set in itertools.product(names, data_sets):
                _refuse_submission(folder / report.folder_name(name) / "submission", data_set.name)
        for method, name in zip(methods, names, strict=True):
            predictor = loaded(method) if len(methods) > 1 else predictor
            lines += [_evaluate_one(predictor, name, data_set, new, accelerator, settings) for data_set in data_sets]
        if accelerator.is_main_process:
            report.show(lines)
            if folder is not None and new is not None:
                processes = accelerator.num_processes
                report.write_json(
                    new / report.RESULTS,
                    lines,
                    {**asdict(settings), "double": settings.double or "best", "processes": processes},
                )
                worst.write_page(new, lines)
                publishing.refuse_others(folder, settings.overwrite)  # of another evaluation, meanwhile
                publishing.publish(new)
        accelerator.wait_for_everyone()
    return lines


def _refuse_submission(folder: Path, name: str) -> None:
    """Raises FileExistsError where an earlier submission would be mixed with a new one."""
    place = folder / name
    if place.is_dir() and any(place.iterdir()):
        raise FileExistsError(f"{place} has an earlier submission; expected another folder, or this one removed")


def _open(name: str, split: str | None, path: str, settings: Settings) -> _DataSet:
    options = settings.options.get(name, {})
    if name == "shards":
        options = {"streaming": False, "cached": False, **options}
        split = options.pop("split", None) or split or shards_info(path)["split"]
    if split is None:
        split = "val" if name in OTHERS else catalog.entry_of(name).scored
    if name in SYNTHETIC:
        return _DataSet(name, split, path, open_source(name, path, split, options, length=settings.length))
    source = open_source(name, path, split, options=options, skip_broken=settings.skip_broken)
    return _DataSet(name, split, path, source)


def _check_folders(what: str, names: list[str]) -> None:
    """Raises DoesNotFit where two names have the same folder in the output."""
    folders = [report.folder_name(name) for name in names]
    if same := next((folder for folder in folders if folders.count(folder) > 1), None):
        both = " and ".join(name for name, folder in zip(names, folders, strict=True) if folder == same)
        raise DoesNotFit(f"{what} {both}: the same folder in the output ({same}); expected an output for each")


def told_apart(methods: list[str], names: list[str]) -> list[str]:
    """
    A name for each method: its own, or for networks whose folders have the same name as much of the path as tells them apart.

    Raises: DoesNotFit where a method is there twice.
    """
    found = list(names)
    for name in {name for name in names if names.count(name) > 1}:
        same = [number for number, other in enumerate(names) if other == name]
        numbers = [number for number in same if network_of(methods[number]) is not None]  # others keep their names
        paths = [Path(os.path.realpath(bundled.resolve(network_of(methods[number]) or ""))).parts for number in numbers]
        if len(set(paths)) < len(paths) or len(same) > len(numbers) + 1:
            raise DoesNotFit(f"{methods[same[-1]]}: given twice; expected each method once")
        depth = next(k for k in itertools.count(2) if len({path[-k:] for path in paths}) == len(paths))
        for number, path in zip(numbers, paths, strict=True):
            found[number] = "/".join((*path[-depth:-1], name))
    return found


def _evaluate_one(
    predictor: Method,
    method: str,
    data_set: _DataSet,
    folder: Path | None,
    accelerator: Accelerator,
    settings: Settings,
) -> Line:
    """Scores one method, under a name, on one set and writes its files below `folder`."""
    name, source = data_set.name, data_set.source
    method_folder = folder and folder / report.folder_name(method)
    result = score(
        predictor,
        source,
        new_metric(source, settings.double or "best", settings.align, predictor.labels, predictor.synonyms),
        accelerator,
        settings.length,
        settings.skip_broken,
        settings.worst if method_folder else 0,
        _submission_writer(method_folder, data_set) if settings.submission else None,
        f"{method} on {name}",
    )
    if method_folder is not None:
        set_folder = method_folder / report.folder_name(f"{name}-{data_set.split}")
        if accelerator.is_main_process:
            report.write_csv(set_folder / "images.csv", result)
        accelerator.wait_for_everyone()
        worst.write_pictures(set_folder / "worst", result, source.task)
        accelerator.wait_for_everyone()
    tiled = predictor.tile
    return Line(
        data=name,
        split=data_set.split,
        path=data_set.path,
        task=source.task,
        method=method,
        inference=f"tiles of {tiled[0]}x{tiled[1]}, overlap {settings.overlap}" if tiled else "one pass",
        images=len(result.images),
        scored=sum(image.row is not None and bool(image.row.any()) for image in result.images),
        missing=list(source.missing),
        broken=result.broken,
        seconds=result.seconds(),
        figures=result.figures,
    )


def _check_fits(predictor: Method, data_set: _DataSet) -> None:
    """Raises DoesNotFit if the method is for another task or for other classes than the set's."""
    name, source = data_set.name, data_set.source
    if predictor.task != source.task:
        raise DoesNotFit(
            f"{predictor.name} is for {TASKS[predictor.task].title}, {name} is for {TASKS[source.task].title}"
        )
    if (
        predictor.labels is not None
        and predictor.labels != source.labels
        and translation(predictor.labels, source.labels or (), predictor.synonyms) is None
    ):
        known = {*predictor.labels, *itertools.chain(*(predictor.synonyms or {}).values())}
        others = [label for label in source.labels or () if label not in known] or list(source.labels or ())
        raise DoesNotFit(
            f"{predictor.name} doesn't know {few(others)} of {name}'s {len(source.labels or ())} classes; expected classes that it has, "
            f"by their names ({few(list(predictor.labels))}). If only the names differ, rename them in the data's names.txt"
        )


def _submission_writer(folder: Path | None, data_set: _DataSet) -> Callable[[Frame, np.ndarray], None]:
    if folder is None:
        raise ValueError("--submission needs --output, the folder to write to")

    def write(frame: Frame, prediction: np.ndarray) -> None:
        path = submission.path_of(folder / "submission", data_set.name, data_set.source.task, frame.name)
        if path.exists():
            raise ValueError(
                f"{data_set.name}: {shortened(frame.name)} would be {path.name} as another example; expected names that differ"
            )
        submission.write(folder / "submission", data_set.name, data_set.source.task, frame.name, prediction)

    return write
