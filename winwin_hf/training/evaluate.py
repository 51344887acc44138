"""Scores of a model by a recipe: on windows placed as in training, and on full frames of any size, one pass each."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from rich.console import Console
from rich.table import Table

from winwin_hf.data.collator import WinWinCollator
from winwin_hf.data.sample import Reader
from winwin_hf.data.skipping import SkippingReader
from winwin_hf.data.sources import SYNTHETIC, Source, open_source
from winwin_hf.evaluation.figures import FIGURE_LABELS, figure_text
from winwin_hf.evaluation.metrics import Metric
from winwin_hf.evaluation.scoring import new_metric, score
from winwin_hf.host_process import unchanged_process
from winwin_hf.inference.loading import load_network, load_processor
from winwin_hf.inference.predictor import Predictor
from winwin_hf.model.half_products_winwin import has_half_products
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.processes import connect, lost_process_named
from winwin_hf.task import TASKS, DoesNotFit
from winwin_hf.training.recipe import EvaluationSet, Recipe, in_field, load_recipe

logger = logging.getLogger(__name__)


def evaluate(
    model: Any, processor: WinWinImageProcessor, recipe: Recipe, accelerator: Accelerator
) -> dict[str, dict[str, Any]]:
    """
    Scores a model on windows and on each of the recipe's full-frame sets. Same result in every process.

    Args:
        processor: of which the normalisation and the patch size are used; no working size or enlargement takes part.
    Returns: "windows" or the set's label -> the metric's figures, "images", "seconds" (mean of a forward pass in this process)
        and, of full frames, "size": (height, width) of the last one.
    """
    results = {}
    was_training, attention = model.training, model.config._attn_implementation
    model.eval()
    if attention == "eager":  # full frames have too many tokens for it
        model.set_attn_implementation("sdpa")
    try:
        if recipe.evaluation.windows:
            results["windows"] = evaluate_windows(model, processor, recipe, accelerator)
        for i, chosen in enumerate(recipe.evaluation.sets if recipe.task != "pre-training" else ()):
            with in_field(f"evaluation.sets.{i} ({chosen.label})"):
                results[chosen.label] = evaluate_frames(model, processor, recipe, chosen, accelerator)
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
    source = open_source(chosen.name or data.name, path, chosen.split, settings, options=options, skip_broken=skip)
    if source.at is not None and chosen.length is None and chosen in recipe.evaluation.sets:
        raise ValueError(f"{source.name} has no end; expected a length, the number of scenes to score")
    return source


@torch.no_grad()
def evaluate_windows(
    model: Any, processor: WinWinImageProcessor, recipe: Recipe, accelerator: Accelerator
) -> dict[str, Any]:
    """
    Scores held-out examples, read by the training's own collator. In pre-training: the mean loss.

    One at a time: a batch's windows have one size, and the scores would depend on which examples share one.
    """
    source, options = open_set(recipe), recipe.optimization
    collator = make_collator(recipe, source, processor, options.seed + 1, None, recipe.data.skip_broken)
    metric, loss, seconds = metric_of(model, source), np.zeros(2), 0.0
    world, rank = accelerator.num_processes, accelerator.process_index
    count = 0
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for example in source.examples(recipe.evaluation.windows, rank, world):
            count += 1
            # masks of pre-training are the same in each evaluation
            torch.manual_seed(options.seed + int(example["index"]))
            batch = collator([example])
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
                metric.update(metric.fitted(prediction.cpu().numpy()), target.numpy())
    images = reduce(np.array([count], dtype=np.float64), accelerator)
    timing = {"images": int(images[0]), "seconds": seconds / max(1, count)}
    if recipe.task == "pre-training":
        total = reduce(loss, accelerator)
        return {"loss": float(total[0] / total[1]), **timing}
    metric.state = reduce(metric.state, accelerator)
    return {**metric.compute(), **timing}


def evaluate_frames(
    model: Any, processor: WinWinImageProcessor, recipe: Recipe, chosen: EvaluationSet, accelerator: Accelerator
) -> dict[str, Any]:
    """
    Scores full frames one at a time, one forward pass each, at the size that the recipe's set gives them.

    No checkpoint's working size or enlargement takes part: how a network does at other sizes is what such sets are for.
    """
    source, skip_broken = open_set(recipe, chosen), recipe.data.skip_broken
    network = Predictor(
        model, at_own_size(processor), source.task, device=accelerator.device, autocast=accelerator.autocast
    )
    title = f"evaluate {chosen.label}"
    result = score(network, source, metric_of(model, source), accelerator, chosen.length, skip_broken, title=title)
    scores = {
        **result.figures,
        "images": len(result.images),
        "seconds": float(np.mean([image.seconds for image in result.images])),
        "size": list(result.images[-1].size),
    }
    return {**scores, "broken": len(result.broken)} if result.broken else scores


def metric_of(model: Any, source: Source) -> Metric:
    """An empty metric for a network, in the classes of the source."""
    names = tuple((model.config.id2label or {}).values())
    return new_metric(source, labels=names, synonyms=getattr(model.config, "label_synonyms", None))


def at_own_size(processor: WinWinImageProcessor) -> WinWinImageProcessor:
    """An image processor that normalises and pads alike, and leaves the size alone."""
    return WinWinImageProcessor(
        patch_size=processor.patch_size, image_mean=processor.image_mean, image_std=processor.image_std
    )


def open_accelerator(recipe: Recipe, fsdp: bool = False, **options: Any) -> Accelerator:
    """
    An `Accelerator` in the recipe's precision, of processes that know of each other. Raises ValueError where they don't.

    fsdp: the caller shards.
    """
    connect(fsdp=fsdp)
    try:
        return Accelerator(mixed_precision=precision_here(recipe), **options)
    except ValueError as error:
        known = sorted(name for name in os.environ if name.startswith("ACCELERATE_"))
        if not known:
            raise
        raise ValueError(f"{error} (Accelerate, by its configuration or {', '.join(known[:8])})") from error


def precision_here(recipe: Recipe) -> str:
    """The recipe's `mixed_precision`; "no" on a CPU that only emulates it, where it would take several times float32's time (ours)."""
    wanted = recipe.optimization.mixed_precision
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(wanted)
    if dtype is None or PartialState().device.type != "cpu" or has_half_products(dtype):
        return wanted
    logger.warning(f"This CPU has no {wanted} products: computing in float32 instead of mixed_precision={wanted}.")
    return "no"


def prediction_of(outputs: Any) -> torch.Tensor:
    """The part of a model's output that is scored: flow, depth, or the class of each pixel. Leading axes are kept."""
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
    recipe: Recipe,
    source: Source,
    processor: WinWinImageProcessor,
    seed: int,
    reader: Reader | None = None,
    skip_broken: bool = False,
) -> WinWinCollator:
    """The collator that a recipe's windows ask for."""
    reader = reader or source.reader
    return WinWinCollator(
        reader=SkippingReader(reader) if skip_broken else reader,
        strategy=recipe.windows,
        task=source.task,
        patch_size=processor.patch_size,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
        seed=seed,
        second=recipe.second_windows,
        guess=recipe.initial_flow,
    )


def show(results: dict[str, dict[str, Any]], title: str) -> None:
    """Prints the scores as a table, one row a set."""
    figures = [key for key in next(iter(results.values())) if key in (*FIGURE_LABELS, "loss")]
    shown = [key for key in figures if any(np.isfinite(scores.get(key, np.nan)) for scores in results.values())]
    table = Table("set", "size", "images", *(FIGURE_LABELS.get(key, key) for key in shown), "s / image", title=title)
    for name, scores in results.items():
        size = " x ".join(map(str, scores["size"])) if "size" in scores else "windows"
        values = [figure_text(scores.get(key)) for key in shown]
        table.add_row(name, size, str(scores["images"]), *values, f"{scores['seconds']:.2f}")
    Console(width=160, markup=False, emoji=False).print(table)


@unchanged_process()
@lost_process_named()
def evaluate_by_recipe(
    checkpoint: str | Path, recipe_path: str | Path, overrides: list[str] | None = None
) -> dict[str, Any]:
    """Scores a checkpoint by the evaluation section of a recipe and prints the table. Returns what `evaluate` does."""
    recipe = load_recipe(recipe_path, overrides)
    if not recipe.scores_anything():
        raise DoesNotFit(f"{recipe_path}: its evaluation scores nothing; expected windows above 0, or sets of frames")
    accelerator = open_accelerator(recipe)
    model = load_network(checkpoint).to(accelerator.device)
    expected = TASKS[recipe.task].architecture
    if type(model).__name__ != expected:
        raise ValueError(f"{checkpoint} is a {type(model).__name__}; expected a {expected}, for {recipe_path}")
    results = evaluate(model, load_processor(checkpoint, model), recipe, accelerator)
    if accelerator.is_main_process:
        show(results, f"{checkpoint} by {recipe_path}")
    return results
