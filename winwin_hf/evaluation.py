"""Scores of a model: on windows placed as in training, and on full frames of any size, one pass each.

Notable:
- both are always reported. A score on windows says little about full frames, and for flow the second view's windows tell the
  network the motion; the gap between the two is what to look at.
- full frames go through the image processor and its post-processing, exactly as a user's images do.
- every process scores its share; sums are added exactly.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from winwin_hf.data.collator import WinWinCollator
from winwin_hf.data.sources import Source, open_source
from winwin_hf.image_processing_winwin import WinWinImageProcessor
from winwin_hf.metrics import DepthMetric, FlowMetric, SegmentationMetric
from winwin_hf.recipe import EvaluationSet, Recipe, load_recipe


def new_metric(source: Source) -> FlowMetric | SegmentationMetric | DepthMetric:
    """The metric of a source's task, empty."""
    if source.task == "flow":
        return FlowMetric()
    if source.task == "segmentation":
        labels = source.labels or ()
        return SegmentationMetric(len(labels), names=labels)
    return DepthMetric()


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
            results[chosen.label] = evaluate_frames(model, open_set(recipe, chosen), chosen, accelerator)
    finally:
        model.set_attn_implementation(attention)
        model.train(was_training)
    return results


def open_set(recipe: Recipe, chosen: EvaluationSet | None = None) -> Source:
    """The held-out source of one evaluation set; without one, of the training's own data."""
    data, chosen = recipe.data, chosen or EvaluationSet(label="windows")
    same = chosen.name in (None, data.name)
    path = chosen.path or (data.path if same else None)
    # An augmentation is for training; how synthetic scenes look is the set itself.
    base = data.settings if same and data.name == "synthetic-flow" else {}
    return open_source(chosen.name or data.name, path, chosen.split, {**base, **chosen.settings})


@torch.no_grad()
def evaluate_windows(model: Any, recipe: Recipe, accelerator: Accelerator) -> dict[str, Any]:
    """Held-out examples through the training's own collator. In pre-training: the mean loss."""
    source, options = open_set(recipe), recipe.optimization
    collator = make_collator(recipe, source, patch_size=model.config.patch_size, seed=options.seed + 1)
    metric, loss, seconds = new_metric(source), np.zeros(2), 0.0
    world, rank = accelerator.num_processes, accelerator.process_index
    examples = list(source.examples(recipe.evaluation.windows, rank, world))
    torch_state = torch.get_rng_state()
    torch.manual_seed(options.seed)  # masks of pre-training are the same in each evaluation
    for i in range(0, len(examples), options.batch_size):
        batch = collator(examples[i : i + options.batch_size])
        targets = batch.pop("labels")
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


@torch.no_grad()
def evaluate_frames(model: Any, source: Source, chosen: EvaluationSet, accelerator: Accelerator) -> dict[str, Any]:
    """Full frames, one at a time, through the image processor as a user would; one forward pass each."""
    processor = WinWinImageProcessor(patch_size=model.config.patch_size)
    metric, seconds, size, count = new_metric(source), 0.0, (0, 0), 0
    world, rank = accelerator.num_processes, accelerator.process_index
    bar = tqdm(desc=f"evaluate {chosen.label}", disable=not accelerator.is_main_process, leave=False, mininterval=1)
    for example in source.examples(chosen.length, rank, world):
        sample = source.reader(example, np.random.default_rng(int(example["index"])))
        size = (sample.height, sample.width)
        box = (0, 0, *size)
        image, target = sample.first(box)
        second = sample.second(box) if source.task == "flow" else None
        inputs = processor.preprocess(image, second, return_tensors="pt").to(accelerator.device)
        start = time.perf_counter()
        with accelerator.autocast():
            outputs = model(**inputs)
        seconds += time.perf_counter() - start
        prediction = post_process(processor, outputs, size)
        metric.update(prediction, target.transpose(2, 0, 1) if source.task == "flow" else target)
        count += 1
        bar.update()
    bar.close()
    metric.state = reduce(metric.state, accelerator)
    total = reduce(np.array([count], dtype=np.float64), accelerator)
    return {**metric.compute(), "images": int(total[0]), "seconds": seconds / max(1, count), "size": list(size)}


def prediction_of(outputs: Any) -> torch.Tensor:
    """What is scored of a model's output: flow, depth, or the class of each pixel; axes before it are kept."""
    if "flow" in outputs:
        return outputs.flow
    if "predicted_depth" in outputs:
        return outputs.predicted_depth
    return outputs.logits.argmax(dim=-3)


def post_process(processor: WinWinImageProcessor, outputs: Any, size: tuple[int, int]) -> np.ndarray:
    """A whole frame's prediction without the padding: flow (2, H, W), depth (H, W) or classes (H, W)."""
    if "flow" in outputs:
        result = processor.post_process_optical_flow(outputs, target_sizes=[size])[0]["flow"]
    elif "predicted_depth" in outputs:
        result = processor.post_process_depth_estimation(outputs, target_sizes=[size])[0]["predicted_depth"]
    else:
        result = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
    return result.cpu().numpy()


def reduce(state: np.ndarray, accelerator: Accelerator) -> np.ndarray:
    """The sum over all processes, in float64 so that counts stay exact."""
    if accelerator.num_processes == 1:
        return state
    return accelerator.reduce(torch.from_numpy(state).to(accelerator.device), "sum").cpu().numpy()


def make_collator(recipe: Recipe, source: Source, patch_size: int, seed: int) -> WinWinCollator:
    """The collator that a recipe's windows ask for."""
    return WinWinCollator(
        reader=source.reader,
        strategy=recipe.windows,
        task=source.task,
        patch_size=patch_size,
        seed=seed,
        second=recipe.second_windows,
    )


def show(results: dict[str, dict[str, Any]], title: str) -> None:
    """Prints the scores as a table, one row a set."""
    columns = [key for key in next(iter(results.values())) if key not in ("iou", "size", "seconds", "images")]
    table = Table("set", "size", "images", *columns, "s / image", title=title)
    for name, scores in results.items():
        size = " x ".join(map(str, scores["size"])) if "size" in scores else "windows"
        figures = [f"{scores.get(c, float('nan')):.2f}" for c in columns]
        table.add_row(name, size, str(scores["images"]), *figures, f"{scores['seconds']:.2f}")
    Console(width=120).print(table)


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
