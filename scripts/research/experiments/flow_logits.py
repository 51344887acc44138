"""Flow with logits scaled by the number of tokens at test time: figure 1's Win-Win and the bundled winwin-flow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from research.drawing import figure, headings
from research.experiments.context import Context, Experiment
from research.experiments.flow_kinds import recipe_of, tokens
from research.experiments.logs import is_finished
from research.experiments.predicting import CHECKPOINT, FlowSet, Way, load, place_of, score, synthetic
from research.experiments.results import write_result
from research.experiments.scores import score_once
from research.sizes import grid_of
from winwin_hf import bundled
from winwin_hf.model.layers_winwin import WinWinAttention
from winwin_hf.training.recipe import Recipe, load_recipe

LOGIT_SIZES = ((192, 256), (384, 512), (768, 1024), (960, 1280))
LOGIT_PAIRS = 8

VARIANTS: dict[str, tuple[str, float, float]] = {  # key -> label, exponent of the attention's factor, of the matching's
    "none": ("as trained", 0.0, 0.0),
    "attention": ("attention scaled", 1.0, 0.0),
    "attention-half": ("attention, square root", 0.5, 0.0),
    "attention-inverse": ("attention, inverse root", -0.5, 0.0),
    "matching": ("matching scaled", 0.0, 1.0),
    "matching-half": ("matching, square root", 0.0, 0.5),
    "matching-inverse": ("matching, inverse root", 0.0, -0.5),
    "both": ("both scaled", 1.0, 1.0),
}
DRAWN = {
    "none": "#000000",
    "attention": "#0072B2",
    "attention-half": "#56B4E9",
    "matching": "#D55E00",
    "both": "#CC79A7",
}

ABOUT_LOGITS = (
    "With more tokens at test than in training, logits can be multiplied by log(keys at test) / log(keys in training) without "
    "training anew. The factor is applied to all attention layers of encoder and decoder (each with its own number of keys in "
    'training), to the feature logits of the global matching, or to both. "Square root" applies the root of the factor, '
    '"inverse root" the inverse of the root. Data: held-out synthetic pairs.'
)


def log_ratios(model: Any, recipe: Recipe, tokens_now: int) -> dict[str, float]:
    """
    log(keys at test) / log(keys in training) of each attention: the encoder's, the decoder's two, the matching's.

    The encoder sees the windows of either view in training; the mean of both logarithms counts.
    """
    first, second = tokens(recipe)
    trained = {"encoder": (first, second), "self": (first,), "cross": (second,)}
    ratios = {
        name: math.log(tokens_now) / (sum(math.log(count) for count in counts) / len(counts))
        for name, counts in trained.items()
    }
    if model.config.matching_stride:
        finer = (model.config.patch_size // model.config.matching_stride) ** 2
        ratios["matching"] = math.log(finer * tokens_now) / math.log(finer * second)
    return ratios


@contextmanager
def scaled_logits(model: Any, ratios: dict[str, float], attention: float, matching: float) -> Iterator[None]:
    """
    Within, multiplies the logits of each attention by ratio ** attention, and of the global matching's features by ratio ** matching.

    The matching's queries are scaled, because its temperature has a bound that the bundled network has reached.
    """
    before = {}
    for name, module in model.named_modules():
        if isinstance(module, WinWinAttention):
            where = "encoder" if name.startswith("winwin.") else "cross" if name.endswith("cross_attention") else "self"
            before[module] = module.scaling
            module.scaling = module.scaling * ratios[where] ** attention
    matcher: Any = getattr(model, "matching", None)
    attend = getattr(matcher, "attend", None)
    if attend is not None and matching:
        factor = ratios["matching"] ** matching
        calls = iter(range(10**9))

        def scaled_attend(query: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
            is_global = next(calls) % 2 == 0  # the second call of each forward is the local one
            return attend(query * factor if is_global else query, *rest, **options)

        matcher.attend = scaled_attend
    try:
        yield
    finally:
        for module, scaling in before.items():
            module.scaling = scaling
        if attend is not None:
            matcher.attend = attend


def scale_logits(model_folder: str | Path, recipe: Recipe, frames: FlowSet) -> dict[str, Any]:
    """EPE of all variants on one set of frames: "zero", "tokens", "ratios", and "variants" with "epe" and "relative" by key."""
    network = load(model_folder)
    pairs = list(frames.read())
    patch = network.model.config.patch_size
    height, width = pairs[0].size
    rows, columns = grid_of(height, width, patch)
    count = rows * columns
    ratios = log_ratios(network.model, recipe, count)
    found = {}
    for key, (_, attention, matching) in VARIANTS.items():
        with scaled_logits(network.model, ratios, attention, matching):
            found[key] = score(network, pairs, Way(), (0.0,))
    return {
        "tokens": count,
        "ratios": ratios,
        "zero": found["none"]["zero"],
        "variants": {key: {"epe": one["epe"], "relative": one["relative"]} for key, one in found.items()},
    }


def logit_scaling(context: Context) -> None:
    """Logits times log(keys at test) / log(keys in training), in the transformer and in the matching."""
    name = "logit-scaling-flow"
    folder = bundled.folders()[CHECKPOINT]
    networks: dict[str, tuple[str, Path, Path, float]] = {  # label, model, where scores are kept, motion
        CHECKPOINT: (f"{CHECKPOINT} (bundled)", folder, place_of(context), 15.0)
    }
    own = context.work / "flow" / "windows-0"
    if is_finished(own):
        motion = float(recipe_of("windows").data.settings["motion"])
        networks["figure1"] = ("figure 1's Win-Win, first seed", own / "model", own, motion)
    results: dict[str, dict[str, Any]] = {}
    for key, (label, model, place, motion) in networks.items():
        recipe = load_recipe(model / "recipe.yaml")
        sizes = {}
        for size in LOGIT_SIZES:
            compute = partial(scale_logits, model, recipe, synthetic(size, motion, LOGIT_PAIRS))
            one = score_once(context, f"logits-{size[0]}x{size[1]}", place, compute)
            if one:
                sizes[f"{size[0]}x{size[1]}"] = one
        if sizes:
            results[key] = {"label": label, "tokens_in_training": list(tokens(recipe)), "sizes": sizes}
    if not results:
        return context.console.print(f"{name}: nothing is scored yet")
    draw_changes(context.output / f"{name}.png", results)
    rows = [
        [
            f"{result['label']}: {VARIANTS[variant][0]}",
            *(one["variants"][variant]["epe"] for one in result["sizes"].values()),
        ]
        for result in results.values()
        for variant in VARIANTS
    ]
    rows += [
        [f"{result['label']}: zero flow", *(one["zero"] for one in result["sizes"].values())]
        for result in results.values()
    ]
    write_result(
        context,
        name,
        {
            "title": "Attention logits scaled with the number of tokens at test time",
            "about": ABOUT_LOGITS,
            "results": results,
            "tables": [
                {
                    "columns": ["network and scaling", *(f"{height}x{width}" for height, width in LOGIT_SIZES)],
                    "rows": rows,
                    "note": "EPE in pixels.",
                }
            ],
        },
    )
    return None


def draw_changes(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """Draws the change of the EPE against the size of test frames, a plot for each network."""
    with figure(path, 0.6 + 5.2 * len(results), 4.6, ncols=len(results), squeeze=False) as (sheet, grid):
        for axes, result in zip(grid[0], results.values(), strict=True):
            sizes = result["sizes"]
            for variant, colour in DRAWN.items():
                values = [one["variants"][variant]["epe"] / one["variants"]["none"]["epe"] for one in sizes.values()]
                changes = [100 * value - 100 for value in values]
                style = "-" if variant == "none" else "--"
                label = VARIANTS[variant][0]
                axes.plot(range(len(values)), changes, style, marker="o", markersize=4.5, color=colour, label=label)
            axes.set_xticks(range(len(sizes)), list(sizes))
            axes.set_xlabel("test frames, px")
            axes.set_ylabel("change of the EPE, %")
            headings(axes, result["label"], f"{LOGIT_PAIRS} pairs a size; below 0: better")
        sheet.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


EXPERIMENTS: dict[str, Experiment] = {
    "logit-scaling-flow": Experiment(
        logit_scaling, "Logits scaled with the number of tokens at test time, flow", hours=0.2
    ),
}
