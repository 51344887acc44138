"""Before the first step: everything that a recipe names is opened, and one example of each is read as it will be later.

Notable:
- a fault is one error that names the recipe's field. Without this, a wrong held-out folder was found at the first evaluation.
- no random stream moves: readers get generators of their own, so a training has the same losses with and without.
- it stays cheap: one example of each set, also of streams. More are read only where the first one teaches nothing.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from winwin_hf.data.formats import IGNORE
from winwin_hf.data.formats.files import bytes_text
from winwin_hf.data.merging import translation
from winwin_hf.data.readers import WHAT_255_MEANS, FlowFrames
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.sample import Sample
from winwin_hf.data.sources import Source
from winwin_hf.data.streams import Part
from winwin_hf.evaluation.scoring import read_frame
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.pixels_winwin import MAX_INPUT_PIXELS, check_pixels, check_scores, size_text
from winwin_hf.task import TASKS
from winwin_hf.training.evaluate import at_own_size, make_collator, open_set
from winwin_hf.training.recipe import Recipe, in_field
from winwin_hf.training.state import KEPT_STATES, on_main_process, states_in

MOST_READ = 256  # examples of a set that are read where the ones before had no known pixel, or a single class
FLOAT = 4  # bytes
logger = logging.getLogger(__name__)


def rehearse(
    recipe: Recipe,
    parts: list[Part],
    model: Any,
    processor: WinWinImageProcessor,
    folder: Path,
    accelerator: Accelerator,
) -> None:
    """
    Reads one example of each data set of a recipe as the training and the evaluations will, and checks what else would fail late.

    Args:
        parts: the opened training sets.
        model, processor: the ones to train; the labels must be those of the data.
        folder: the output's.
    Raises: ValueError, BrokenExample, FileNotFoundError: the message begins with the recipe's field.
    """
    # by the main process alone: it takes back a folder that is too small, before others have looked
    on_main_process(
        accelerator, lambda: check_space(folder, model, bool(recipe.optimization.ema_decay), recipe.optimization.steps)
    )
    skip = recipe.data.skip_broken
    opened = []
    for i, part in enumerate(parts):
        with in_field(f"data.sets.{i}" if recipe.data.sets else "data"):
            check_labels(part.source, model, merged=False)
            if recipe.task != "pre-training" and part.source.at is None:  # synthetic truth is known everywhere
                look_at(part.source, readings(part.source, partial(stored_target, part.source), skip), classes=2)
            collate_first(recipe, part.source, processor)
        opened.append(part.source.name)
    if recipe.evaluation.windows:
        with in_field("evaluation.windows (of the first data set; 0: none)"):
            source = open_set(recipe)
            check_labels(source, model, recipe.data.labels is not None)
            collate_first(recipe, source, processor)
        opened.append("the held-out examples for evaluation.windows")
    for i, chosen in enumerate(recipe.evaluation.sets if recipe.task != "pre-training" else ()):
        with in_field(f"evaluation.sets.{i} ({chosen.label})"):
            source = open_set(recipe, chosen)
            if source.task != TASKS[recipe.task].data:
                raise ValueError(f"{source.name} is for {source.task}; expected {TASKS[recipe.task].data}")
            check_labels(source, model, recipe.data.labels is not None)
            look_at(source, readings(source, partial(scored_target, source, model, processor), skip))
        opened.append(chosen.label)
    accelerator.print(f"read an example of each: {', '.join(opened)}")


def check_space(folder: Path, model: torch.nn.Module, average: bool, steps: int) -> None:
    """Raises ValueError where the disk has no room for the states that are kept, the next one and the model; at the end, for the model."""
    kept = states_in(folder)[:KEPT_STATES]  # of a training that is resumed
    if kept and int(kept[0].name.partition("-")[2]) >= steps:
        return  # the model alone may be missing; its own writing tells of a full disk
    model_size = FLOAT * sum(p.numel() for p in model.parameters())
    trained = FLOAT * sum(p.numel() for p in model.parameters() if p.requires_grad)
    needed = (KEPT_STATES + 1) * (model_size + trained * (3 if average else 2)) + model_size  # the moments are two
    needed -= sum(path.stat().st_size for state in kept for path in state.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"output: {folder} has {bytes_text(free)} free; expected {bytes_text(needed)}, "
            f"for {KEPT_STATES + 1} states and the model"
        )


def check_labels(source: Source, model: Any, merged: bool) -> None:
    """
    Raises ValueError where a segmentation model can't be scored, or trained, on the classes of the data.

    Classes are found by name. Where no name is shared, or those that are have the same number, as many classes are enough: other names
    are the user's business. merged: the model's classes are those of a mixture, and names decide.
    """
    names = list((model.config.id2label or {}).values())
    if source.labels is None or translation(names, source.labels, model.config.label_synonyms) is not None:
        return
    moved = any(name in names and names.index(name) != i for i, name in enumerate(source.labels))
    if merged or moved or len(source.labels) != len(names):
        raise ValueError(
            f"{source.name} has {len(source.labels)} classes ({', '.join(source.labels)}), and the model {len(names)} "
            f"({', '.join(map(str, names))}); expected the same ones"
        )


def readings(source: Source, read: Callable[[dict[str, Any]], Any], skip_broken: bool) -> Iterator[Any]:
    """What `read` makes of the first examples of a set, of one with random access spread over it. Broken ones raise, or are left out."""
    if source.at is None and hasattr(source.dataset, "__len__"):
        places = sorted({*np.linspace(0, len(source) - 1, MOST_READ).astype(int).tolist()}) if len(source) else []
        examples: Iterator[dict[str, Any]] = ({"index": i, **source.dataset[i]} for i in places)
    else:
        examples = source.examples(MOST_READ)
    reason = f"{source.name} has no examples"
    for example in examples:
        try:
            reading = read(example)
        except BrokenExample as error:
            if not skip_broken:
                raise
            reason = f"no example could be read; {error}"
            continue
        reason = ""
        yield reading
    if reason:
        raise BrokenExample(reason)


def collate_first(recipe: Recipe, source: Source, processor: WinWinImageProcessor) -> None:
    """Makes a batch of the first readable example of a set, through the collator of the training."""
    collator = make_collator(recipe, source, processor, recipe.optimization.seed)
    read = collator.reader

    def checked(example: dict[str, Any], rng: np.random.Generator) -> Sample:
        sample = read(example, rng)
        if recipe.windows.kind == "full":
            check_pixels((sample.height, sample.width), MAX_INPUT_PIXELS, "smaller frames, or windows of them")
        check_windows(recipe, collator.grid(sample), str(example.get("name") or source.name))
        return sample

    collator.reader = checked
    next(readings(source, lambda example: collator([example]), recipe.data.skip_broken))


def check_windows(recipe: Recipe, grid: tuple[int, int], name: str) -> None:
    """
    Raises ValueError, naming the field, where a recipe's windows don't fit into a frame.

    Args:
        grid: the frame's (rows, columns) in patches. name: the example's.
    """
    frame = f"{name}, as it is read for training, has {size_text(grid)} patches"
    try:
        places, size = recipe.windows.sample(np.random.default_rng(0), grid)
    except ValueError as error:
        given = next((key for key in ("size", "tokens", "sizes") if getattr(recipe.windows, key) is not None), "kind")
        raise ValueError(f"windows.{given}: {error} ({frame})") from None
    if recipe.task == "pre-training" and len(places) * size[0] * size[1] < 2:
        raise ValueError("windows: a single token; expected two or more, of which model.config.mask_ratio hides some")
    second = recipe.second_windows.size
    used = TASKS[recipe.task].data == "optical-flow" and recipe.windows.kind == "windows"
    if used and second is not None and (second[0] > grid[0] or second[1] > grid[1]):
        raise ValueError(f"second_windows.size: {size_text(second)} patches; expected at most the frame's ({frame})")


def stored_target(source: Source, example: dict[str, Any]) -> np.ndarray | None:
    """The target of an example as it is stored."""
    decoded = source.reader.decode(example)  # type: ignore[attr-defined]  # all readers of files have it
    return decoded.flow if isinstance(decoded, FlowFrames) else decoded[1]


def scored_target(
    source: Source, model: Any, processor: WinWinImageProcessor, example: dict[str, Any]
) -> np.ndarray | None:
    """The target of a whole frame as it is scored. Raises ValueError where the network won't take the frame."""
    frame = read_frame(source, example)
    size = at_own_size(processor).input_sizes(frame.image.shape[:2])[1]
    check_pixels(size, MAX_INPUT_PIXELS, "smaller frames")
    if source.task == "semantic-segmentation":
        check_scores(size, model.config.num_labels)
    return frame.target


def look_at(source: Source, targets: Iterable[np.ndarray | None], classes: int = 1) -> None:
    """
    Raises ValueError where no target has a known pixel, or all of them fewer than so many `classes`. Stops at the first that has.

    A rare class may not be among the examples that are read; that alone is no error.
    """
    seen: set[int] = set()
    count, unknown = 0, False
    for target in targets:
        count += 1
        if target is None:
            raise ValueError(f"an example of {source.name} has no ground truth; expected a split that has")
        if source.task == "semantic-segmentation":
            ids = set(np.unique(target).tolist())
            unknown |= IGNORE in ids
            seen |= ids - {IGNORE}
            if len(seen) >= classes:
                return
        elif np.isfinite(target).any():
            return
    if not seen:
        raise ValueError(f"{source.name}: no pixel of {count} examples has a known value; is this the right format?")
    labels = source.labels or ()
    least = min(seen)
    name = labels[least] if least < len(labels) else f"group {least - len(labels)}"
    text = f"{source.name}: the masks of {count} examples hold a single class ({name})"
    if unknown:
        raise ValueError(f"{text}, from which nothing can be learnt: {WHAT_255_MEANS}")
    if len(labels) == 1 or (source.at is None and hasattr(source.dataset, "__len__") and count == len(source)):
        raise ValueError(f"{text}, from which nothing can be learnt; expected two or more, background among them")
    logger.warning("%s", text)
