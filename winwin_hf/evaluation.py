"""Scores of a model: on windows placed as in training, and on full frames of any size, one pass each.

Notable:
- both are always reported. A score on windows says little about full frames, and for flow the second view's windows tell the
  network the motion; the gap between the two is what to look at.
- full frames go through the image processor and its post-processing, exactly as a user's images do.
- every process scores its share; sums are added exactly.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from winwin_hf import predictors, report, submission
from winwin_hf.data import catalog
from winwin_hf.data.collator import Reader, WinWinCollator
from winwin_hf.data.sources import OTHERS, SYNTHETIC, Source, open_source
from winwin_hf.image_processing_winwin import WinWinImageProcessor
from winwin_hf.predictors import Network
from winwin_hf.recipe import EvaluationSet, Recipe, load_recipe
from winwin_hf.report import UNITS, Line, number
from winwin_hf.scoring import Frame, new_metric, score
from winwin_hf.variational import Refined


def evaluate(model: Any, recipe: Recipe, accelerator: Accelerator) -> dict[str, dict[str, Any]]:
    """
    The model's scores by name: "windows" first, then each of the recipe's full-frame sets. Same result in every process.

    Each entry holds the metric's figures, "images", "seconds" (mean of a forward pass, this process) and, of full frames,
    "size" (height, width) of the last one.
    """
    results = {}
    was_training, attention = model.training, model.config._attn_implementation
    model.eval()
    if attention == "eager":  # full frames have too many tokens for it
        model.set_attn_implementation("sdpa")
    try:
        sets = list(recipe.evaluation.sets)
        if recipe.task == "pre-training":
            sets = []
        if recipe.evaluation.windows:
            results["windows"] = evaluate_windows(model, recipe, accelerator)
        for chosen in sets:
            skip = recipe.data.skip_broken
            results[chosen.label] = evaluate_frames(model, open_set(recipe, chosen), chosen, accelerator, skip)
    finally:
        model.set_attn_implementation(attention)
        model.train(was_training)
    return results


def open_set(recipe: Recipe, chosen: EvaluationSet | None = None) -> Source:
    """The held-out source of one evaluation set; without one, of the training's own (first) data set."""
    data, chosen = recipe.data.parts()[0], chosen or EvaluationSet(label="windows")
    same = chosen.name in (None, data.name)
    path = chosen.path or (data.path if same else None)
    # An augmentation is for training; how synthetic scenes look is the set itself.
    base = data.settings if same and data.name in SYNTHETIC else {}
    options = chosen.options or (data.options if same else {})
    settings, skip = {**base, **chosen.settings}, recipe.data.skip_broken
    return open_source(chosen.name or data.name, path, chosen.split, settings, options=options, skip_broken=skip)


@torch.no_grad()
def evaluate_windows(model: Any, recipe: Recipe, accelerator: Accelerator) -> dict[str, Any]:
    """Held-out examples through the training's own collator. In pre-training: the mean loss."""
    source, options = open_set(recipe), recipe.optimization
    collator = make_collator(recipe, source, model.config.patch_size, options.seed + 1, None, recipe.data.skip_broken)
    metric, loss, seconds = new_metric(source), np.zeros(2), 0.0
    world, rank = accelerator.num_processes, accelerator.process_index
    examples = list(source.examples(recipe.evaluation.windows, rank, world))
    torch_state = torch.get_rng_state()
    torch.manual_seed(options.seed)  # masks of pre-training are the same in each evaluation
    for i in range(0, len(examples), options.batch_size):
        batch = collator(examples[i : i + options.batch_size])
        targets = batch.pop("labels")
        batch.pop("initial_flow", None)  # made from the truth
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        start = time.perf_counter()
        with accelerator.autocast():
            outputs = model(**batch)
        seconds += time.perf_counter() - start
        if recipe.task == "pre-training":
            loss += [float(outputs.loss) * len(targets), len(targets)]
            continue
        for prediction, target in zip(prediction_of(outputs).flatten(0, 1), targets.flatten(0, 1), strict=True):
            metric.update(prediction.cpu().numpy(), target.numpy())
    torch.set_rng_state(torch_state)
    count = reduce(np.array([len(examples)], dtype=np.float64), accelerator)
    timing = {"images": int(count[0]), "seconds": seconds / max(1, len(examples))}
    if recipe.task == "pre-training":
        total = reduce(loss, accelerator)
        return {"loss": float(total[0] / total[1]), **timing}
    metric.state = reduce(metric.state, accelerator)
    return {**metric.compute(), **timing}


def evaluate_frames(
    model: Any, source: Source, chosen: EvaluationSet, accelerator: Accelerator, skip_broken: bool = False
) -> dict[str, Any]:
    """Full frames, one at a time, through the image processor as a user would; one forward pass each."""
    processor = WinWinImageProcessor(patch_size=model.config.patch_size)
    network = Network(model, processor, accelerator, source.task)
    title = f"evaluate {chosen.label}"
    result = score(network, source, new_metric(source), accelerator, chosen.length, skip_broken, title=title)
    seconds = float(np.mean([image.seconds for image in result.images]))
    broken = {"broken": len(result.broken)} if result.broken else {}
    return {
        **result.figures,
        "images": len(result.images),
        "seconds": seconds,
        "size": list(result.images[-1].size),
    } | broken


def prediction_of(outputs: Any) -> torch.Tensor:
    """What is scored of a model's output: flow, depth, or the class of each pixel; axes before it are kept."""
    if "flow" in outputs:
        return outputs.flow
    if "predicted_depth" in outputs:
        return outputs.predicted_depth
    return outputs.logits.argmax(dim=-3)


def reduce(state: np.ndarray, accelerator: Accelerator) -> np.ndarray:
    """The sum over all processes, in float64 so that counts stay exact."""
    if accelerator.num_processes == 1:
        return state
    return accelerator.reduce(torch.from_numpy(state).to(accelerator.device), "sum").cpu().numpy()


def make_collator(
    recipe: Recipe, source: Source, patch_size: int, seed: int, reader: Reader | None = None, skip_broken: bool = False
) -> WinWinCollator:
    """The collator that a recipe's windows ask for."""
    return WinWinCollator(
        reader=reader or source.reader,
        strategy=recipe.windows,
        task=source.task,
        patch_size=patch_size,
        seed=seed,
        second=recipe.second_windows,
        guess=recipe.initial_flow,
        skip_broken=skip_broken,
    )


def show(results: dict[str, dict[str, Any]], title: str) -> None:
    """Prints the scores as a table, one row a set."""
    figures = [key for key in next(iter(results.values())) if key in (*UNITS, "loss")]
    shown = [key for key in figures if any(np.isfinite(scores.get(key, np.nan)) for scores in results.values())]
    table = Table("set", "size", "images", *(UNITS.get(key, key) for key in shown), "s / image", title=title)
    for name, scores in results.items():
        size = " x ".join(map(str, scores["size"])) if "size" in scores else "windows"
        values = [number(scores.get(key)) for key in shown]
        table.add_row(name, size, str(scores["images"]), *values, f"{scores['seconds']:.2f}")
    Console(width=160).print(table)


def main(checkpoint: str | Path, recipe_path: str | Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Scores a checkpoint by a recipe's evaluation section and prints the table."""
    from transformers import AutoModel

    recipe = load_recipe(recipe_path, overrides)
    accelerator = Accelerator(mixed_precision=recipe.optimization.mixed_precision)
    model = AutoModel.from_pretrained(checkpoint).to(accelerator.device)
    results = evaluate(model, recipe, accelerator)
    if accelerator.is_main_process:
        show(results, f"{checkpoint} by {recipe_path}")
    return results


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
        methods: checkpoints (a bundled name, a folder, a Hub repository), or baselines of `predictors.BASELINES`; of flow also with
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
        predictor = predictors.load(method, accelerator, settings.tile, settings.overlap, settings.min_pixels)
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
    if isinstance(network, predictors.Network) and settings.tile:
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
