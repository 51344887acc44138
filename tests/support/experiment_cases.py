"""What the tests of the flow experiments share: hand-made fields, small scenes and networks, trainings that never were, results.

Importing it makes scripts/experiments importable.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from research.experiments import flow_kinds
from research.experiments.fields import Pair
from research.experiments.predicting import FlowSet
from research.experiments.runs import RECIPES, Context
from rich.console import Console

from support.model_cases import make
from winwin_hf import WinWinForOpticalFlow
from winwin_hf.data.sources import open_source
from winwin_hf.inference.predictor import Network
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.training.recipe import dump_recipe, load_recipe
from winwin_hf.training.state import save_model


def constant(u: float, v: float, size=(16, 16)) -> np.ndarray:
    return np.tile(np.array([u, v], np.float32), (*size, 1))


def pair_of(truth: np.ndarray, occluded=None) -> Pair:
    image = np.random.default_rng(0).integers(0, 255, (*truth.shape[:2], 3), np.uint8)
    return Pair("hand-made", image, image[::-1].copy(), truth, occluded)


def network_of(variant: str = "matching") -> Network:
    model = make("optical-flow", variant)
    return Network(model, WinWinImageProcessor(patch_size=model.config.patch_size), Accelerator(), "flow")


def scenes(size=(48, 64), count=2) -> FlowSet:
    settings = {"sizes": [list(size)], "texture_count": 2, "motion": 30.0}
    return FlowSet("scenes", "scenes", open_source("synthetic-flow", split="val", settings=settings), count)


def context_of(folder: Path) -> Context:
    """No training: folders are made by `finish`. What is said is in the console's file."""
    quiet = Console(file=io.StringIO())
    return Context(folder / "work", folder / "results", draw_only=False, seeds=1, console=quiet)


def finish(context: Context, key: str, seed: int = 0) -> Path:
    """A finished training's folder, its network random, its curve falling."""
    kind = flow_kinds.KINDS[key]
    recipe = load_recipe(RECIPES / kind.recipe, [*kind.overrides, f"optimization.seed={seed}"])
    folder = context.work / "flow" / f"{key}-{seed}"
    folder.mkdir(parents=True)
    model = WinWinForOpticalFlow(recipe.config())
    save_model(model, folder, recipe)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    (folder / "machine.json").write_text(json.dumps({"accelerator": None, "threads": 1}))
    lines = [{"step": 1, "loss": 9.0, "gb": 1.5, "seconds": 1.0, "cpu_seconds": 1.0}]
    for step in range(recipe.evaluation.every, recipe.optimization.steps + 1, recipe.evaluation.every):
        spent = {"seconds": 0.5 * step, "cpu_seconds": 0.4 * step}
        scores = {"windows": {"epe": 20 - step / 200}, "frames": {"epe": 30 - step / 100 + seed}}
        lines.append({"step": step, **scores, **spent})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def result(context: Context, name: str) -> tuple[dict, str]:
    for suffix in (".png", ".md", ".json"):
        assert (context.output / f"{name}{suffix}").stat().st_size > 100
    return json.loads((context.output / f"{name}.json").read_text()), (context.output / f"{name}.md").read_text()
