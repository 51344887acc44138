"""Shared by the tests of the experiments: small fields, scenes and networks, invented trainings, and one tiny real recipe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from research.experiments import flow_kinds
from research.experiments.context import RECIPES, Context
from research.experiments.fields import Pair
from research.experiments.predicting import FlowSet
from rich.console import Console

from support.model_cases import make
from support.places import FRAMES
from winwin_hf import WinWinForOpticalFlow
from winwin_hf.data.sources import open_source
from winwin_hf.inference.predictor import Predictor
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.training.recipe import dump_recipe, load_recipe
from winwin_hf.training.state import save_model

CAMVID = FRAMES / "CamVid"
RECIPE = {
    "task": "semantic-segmentation",
    "model": {"config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_hidden_size": 32}},
    "data": {"name": "camvid", "path": str(CAMVID), "settings": {"scale": [1.0, 1.0]}},
    "windows": {"kind": "windows", "count": 2, "size": [2, 2]},
    "optimization": {"steps": 4, "batch_size": 2, "warmup_steps": 1, "final_share": 1.0, "num_workers": 0},
    "evaluation": {"every": 2, "windows": 0, "sets": [{"label": "frames"}]},
    "save_every": 2,
    "log_every": 1,
    "trackers": [],
}


def constant(u: float, v: float, size=(16, 16)) -> np.ndarray:
    return np.tile(np.array([u, v], np.float32), (*size, 1))


def pair_of(truth: np.ndarray, occluded=None) -> Pair:
    image = np.random.default_rng(0).integers(0, 255, (*truth.shape[:2], 3), np.uint8)
    return Pair("hand-made", image, image[::-1].copy(), truth, occluded)


def network_of(variant: str = "matching") -> Predictor:
    model = make("optical-flow", variant)
    return Predictor(model, WinWinImageProcessor(patch_size=model.config.patch_size), "optical-flow")


def scenes(size=(48, 64), count=2) -> FlowSet:
    settings = {"sizes": [list(size)], "texture_count": 2, "motion": 30.0}
    return FlowSet("scenes", "scenes", open_source("synthetic-flow", split="val", settings=settings), count)


def context_of(folder: Path, **options) -> Context:
    """A context with one seed and CamVid's tiny frames; what is printed goes to folder/console.txt."""
    quiet = Console(file=(folder / "console.txt").open("a"), width=200)
    options = {"data": {"camvid": str(CAMVID)}, "seeds": 1, **options}
    return Context(folder / "work", folder / "results", console=quiet, **options)


def printed(folder: Path) -> str:
    return (folder / "console.txt").read_text()


def recipe_file(folder: Path) -> Path:
    """A recipe of four steps of a tiny network on CamVid's tiny frames."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def write_metrics(folder: Path, lines: list[dict], end: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return folder


def finish(context: Context, key: str, seed: int = 0) -> Path:
    """A finished training's folder, its network random, its curve falling."""
    kind = flow_kinds.KINDS[key]
    recipe = load_recipe(RECIPES / kind.recipe, [*kind.overrides, f"optimization.seed={seed}"])
    folder = context.work / "flow" / f"{key}-{seed}"
    folder.mkdir(parents=True)
    model = WinWinForOpticalFlow(recipe.config())
    save_model(model, folder, recipe, WinWinImageProcessor())
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    (folder / "machine.json").write_text(json.dumps({"accelerator": None, "threads": 1}))
    lines = [{"step": 1, "loss": 9.0, "gb": 1.5, "seconds": 1.0, "cpu_seconds": 1.0}]
    for step in range(recipe.evaluation.every, recipe.optimization.steps + 1, recipe.evaluation.every):
        spent = {"seconds": 0.5 * step, "cpu_seconds": 0.4 * step}
        scores = {"windows": {"epe": 20 - step / 200}, "frames": {"epe": 30 - step / 100 + seed}}
        lines.append({"step": step, **scores, **spent})
    return write_metrics(folder, lines)


def result(context: Context, name: str) -> tuple[dict, str]:
    for suffix in (".png", ".md", ".json"):
        assert (context.output / f"{name}{suffix}").stat().st_size > 100
    return json.loads((context.output / f"{name}.json").read_text()), (context.output / f"{name}.md").read_text()
