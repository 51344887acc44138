"""Flow: tables of the place and the number of windows.

Windows of the second frame follow the true motion, and their place is an input of the network. A score on windows therefore includes
what the place says about the motion; it stands beside the score on full frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from research.drawing import Bar, dots
from research.experiments.context import RECIPES, Context, Experiment
from research.experiments.fields import Pair, errors_of
from research.experiments.flow_kinds import FRAME, KINDS, SHORT, about, common, held_out, network_text, recipe_of, train
from research.experiments.kinds import seed_of
from research.experiments.logs import curve, time_key
from research.experiments.results import write_result
from research.experiments.scores import score_once
from research.experiments.summaries import median_text, plus_minus, seeds_text
from winwin_hf.data.collator import SecondStrategy
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.training.evaluate import make_collator, open_set
from winwin_hf.training.recipe import Recipe, load_recipe

SECOND_WINDOWS = {
    "windows": "10x10, jitter 2.5 (as in figure 1)",
    **{
        key: KINDS[key].label
        for key in (
            "jitter-0",
            "jitter-0.7",
            "second-6",
            "second-9",
            "second-14",
            "half",
            "anywhere",
            "same-place",
            "symmetric",
        )
    },
}
FLOW_WINDOWS = {
    "one": "1 of 8x9",
    "windows": "2 of 6x6 (as in figure 1)",
    "three": "3 of 5x5",
    "four": "4 of 4x4",
    "many": "18 of 2x2",
}

ABOUT_SECOND = (
    "All trainings have two windows of 6x6 patches in the first frame. Rows name the windows of the second frame: their size in patches, "
    "and the jitter, the largest distance in patches from the place to which the content of the first windows moves. The place of the "
    "windows is an input of the network. With less jitter it says more about the motion; with full frames it says nothing. Windows "
    "placed anywhere rarely show the match, and windows at the same place do not show the match of large motions."
)
ABOUT_COUNT = (
    "All rows have about 72 tokens of the first frame and 200 of the second (18 windows of 2x2: 162). The second frame's windows "
    "follow the flow with a jitter of 2.5 patches, and their sides are about two thirds longer (18 of 2x2: 0.5 patches, half "
    "longer)."
)
NOTE_TABLES = (
    "minutes: of one core, in the training's steps. EPE is in percent of zero flow's, on windows of 64 pairs placed as in "
    "training and on 24 full frames; mean over the seeds ± half their range."
)


def at_step(folder: Path, label: str, step: int) -> dict[str, float] | None:
    """The point of a curve at a step; None if there is none."""
    return next((point for point in curve(folder, label, "epe") if point["step"] == step), None)


def zero_on_windows(recipe: Recipe) -> dict[str, float]:
    """EPE of zero flow on the windows of a training's evaluation."""
    source = open_set(recipe)
    collator = make_collator(recipe, source, WinWinImageProcessor(), recipe.optimization.seed + 1)
    total = np.zeros(2)
    for example in source.examples(recipe.evaluation.windows):
        labels = collator([example])["labels"].permute(0, 1, 3, 4, 2).flatten(0, 3).numpy()
        error, there = errors_of(np.zeros_like(labels)[None], labels[None])
        total += [error.sum(), there.sum()]
    return {"epe": float(total[0] / total[1])}


def zero_on(pairs: Iterator[Pair]) -> dict[str, float]:
    """EPE of zero flow on full frames."""
    total = np.zeros(2)
    for pair in pairs:
        error, there = errors_of(np.zeros_like(pair.flow), pair.flow)
        total += [error.sum(), there.sum()]
    return {"epe": float(total[0] / total[1])}


def window_table(context: Context, name: str, title: str, text: str, rows: dict[str, str]) -> None:
    """Writes a table of trainings at the same step, scored on their own windows and on full frames. rows: key -> label."""
    folders = train(context, list(rows))
    options = load_recipe(RECIPES / SHORT).optimization
    step, batch = options.steps, options.batch_size
    frames_zero = score_once(context, "zero", common(context), lambda: zero_on(held_out().read()))
    kinds: dict[str, dict[str, Any]] = {}
    for key, label in rows.items():
        recipe = recipe_of(key)
        zero = score_once(
            context,
            f"zero-{recipe.windows.count}x{'x'.join(map(str, recipe.windows.size or ()))}",
            common(context),
            partial(zero_on_windows, recipe),
        )
        runs = []
        for folder in folders[key]:
            windows, frames = at_step(folder, "windows", step), at_step(folder, "frames", step)
            if windows and frames and zero and frames_zero:
                runs.append(
                    {
                        "seed": seed_of(folder),
                        "seconds": frames[time_key(folder)],
                        "windows_epe": windows["value"],
                        "frames_epe": frames["value"],
                        "windows": 100 * windows["value"] / zero["epe"],
                        "frames": 100 * frames["value"] / frames_zero["epe"],
                    }
                )
        kinds[key] = {**about(key), "label": label, "second_windows": second_of(recipe.second_windows), "runs": runs}
    counts = [len(kind["runs"]) for kind in kinds.values()]
    if not any(counts):
        return context.console.print(f"{name}: nothing is trained yet")
    groups = [
        (
            text,
            [Bar(kind["label"], [run[what] for run in kind["runs"]], key == "windows") for key, kind in kinds.items()],
        )
        for what, text in (("windows", "on windows, placed as in training"), ("frames", "on full frames"))
    ]
    dots(
        context.output / f"{name}.png",
        groups,
        "EPE, % of zero flow's",
        title,
        f"synthetic pairs of {FRAME[0]}x{FRAME[1]}, step {step}, {seeds_text(counts)}; dots: seeds, strokes: mean",
    )
    shown = [
        [
            kind["label"],
            f"{kind['tokens'][0]} + {kind['tokens'][1]}",
            median_text([run["seconds"] / 60 for run in kind["runs"]], 1),
            len(kind["runs"]),
            plus_minus([run["windows"] for run in kind["runs"]]),
            plus_minus([run["frames"] for run in kind["runs"]]),
            plus_minus([run["frames"] / run["windows"] for run in kind["runs"]], 2),
            plus_minus([run["frames_epe"] for run in kind["runs"]], 2),
        ]
        for kind in kinds.values()
    ]
    write_result(
        context,
        name,
        {
            "title": title,
            "about": f"{network_text()} {text}",
            "step": step,
            "zero_epe": frames_zero,
            "kinds": kinds,
            "tables": [
                {
                    "columns": [
                        "windows",
                        "tokens of both frames",
                        "minutes",
                        "seeds",
                        "on windows, % of zero",
                        "on full frames, % of zero",
                        "frames / windows",
                        "EPE on full frames, px",
                    ],
                    "rows": shown,
                    "note": f"After {step} steps of {batch} pairs. {NOTE_TABLES}",
                }
            ],
        },
    )
    return None


def second_of(rule: SecondStrategy) -> dict[str, Any]:
    return {
        "size": list(rule.size) if rule.size else None,
        "jitter": rule.jitter,
        "follow_probability": rule.follow_probability,
        "motion_share": rule.motion_share,
    }


def table_second_windows(context: Context) -> None:
    """The second frame's windows: following the flow or not, jitter, size."""
    window_table(
        context,
        "table-second-windows",
        "Windows of the second frame: following the flow or symmetric",
        ABOUT_SECOND,
        SECOND_WINDOWS,
    )


def table_flow_windows(context: Context) -> None:
    """The number of windows, at about the same number of tokens."""
    window_table(context, "table-flow-windows", "Number of windows, flow", ABOUT_COUNT, FLOW_WINDOWS)


EXPERIMENTS: dict[str, Experiment] = {
    "table-second-windows": Experiment(
        table_second_windows, "Second frame's windows: following or symmetric, jitter, size", hours=1.4
    ),
    "table-flow-windows": Experiment(
        table_flow_windows, "1, 2, 3, 4 and 18 windows at about the same number of tokens, flow", hours=0.7
    ),
}
