"""
Do two windows teach a pre-trained encoder large frames, whatever its kind of positions? Ours; the paper compares RoPE and absolute ones.

- Three encoders are pre-trained on the same masked images for as many steps. They differ in the kind of their positions alone.
- Each is then fine-tuned on two windows and on full frames of two data sets, and scored at 1, 1.5 and 2 times the training's resolution.
- Full frames come in batches of one, which has about as many tokens as four frames in windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import cv2
import numpy as np

from research import drawing
from research.experiments.context import RECIPES, Context, Experiment
from research.experiments.logs import curve, is_finished, memory_gb, read_metrics, training_seconds
from research.experiments.results import write_result
from research.experiments.summaries import known, mean, median_text, plus_minus, seeds_text
from research.experiments.trainings import Run, train_all
from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.formats import decode_image, save_image, write_npy
from winwin_hf.model.pixels_winwin import IMAGE_SUFFIXES
from winwin_hf.training.recipe import load_recipe

NAME = "positions-pretrained"
SIDE = (192, 256)  # pixels of the images of pre-training
VIEWS = 8  # images that pre-training gets of each photograph
LEAST_SHARE = 0.3  # of a photograph's largest box of that shape that an image shows
SCALES = {"1x": 1.0, "1.5x": 1.5, "2x": 2.0}  # labels of the recipes' evaluation sets -> of the training's resolution


@dataclass(frozen=True)
class Part:
    """A value of one of the experiment's settings. label: in tables. overrides: changes of the recipes."""

    label: str
    overrides: tuple[str, ...] = ()


POSITIONS = {
    "rope": Part("relative RoPE"),
    "rope_frame": Part("RoPE of the frame", ("model.config.position_embedding=rope_frame",)),
    "learned": Part(
        "learnt table",
        ("model.config.position_embedding=learned", f"model.config.position_grid=[{SIDE[0] // 16}, {SIDE[1] // 16}]"),
    ),
}
FULL_FRAMES = ("windows={kind: full}", "optimization.batch_size=1")
TRAININGS = {
    "windows": Part("two windows"),
    "full": Part("full frames", FULL_FRAMES),
    "scratch": Part("two windows, from random weights"),
}
RECIPE = {"camvid": "positions-camvid.yaml", "labelme-facade": "positions-facade.yaml"}
TITLES = {"camvid": "CamVid", "labelme-facade": "LabelMeFacade"}


# ------------------------------------------------------------------ images of pre-training


def photographs(context: Context) -> Iterator[Path]:
    """The photographs at hand: the training frames of both sets, and all images of --data photographs."""
    for name in RECIPE:
        yield from (Path(row["image"]["path"]) for row in catalog.find(name, context.data[name], "train").rows)
    folder = Path(context.data["photographs"])
    yield from (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES)


def cut(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part of the photograph of the images' shape, resized to `SIDE`: uint8 (h, w, 3)."""
    height, width = image.shape[:2]
    largest = min(height / SIDE[0], width / SIDE[1])
    h, w = (max(1, int(side * largest * np.sqrt(share))) for share in [rng.uniform(LEAST_SHARE, 1)] for side in SIDE)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return cv2.resize(image[top : top + h, left : left + w], SIDE[::-1], interpolation=cv2.INTER_AREA)


def make_images(context: Context) -> Path:
    """
    Writes the images of pre-training once, and returns their folder: as pairs of a `flow-folder`, which pre-training reads.

    The second frames are blank and the flow is zero: pre-training is of two views, and these say nothing about the first.
    """
    folder = context.work / "positions" / "images"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(mkdtemp(dir=folder.parent, prefix=".images-"))
    save_image(new / "blank.png", np.full((*SIDE, 3), 127, np.uint8))
    write_npy(new / "zero.npy", np.zeros((*SIDE, 2), np.float16))
    count = 0
    for path in photographs(context):
        image = decode_image(path)
        for _ in range(VIEWS):
            frames, flow = (new / kind / f"{count:05d}" for kind in ("frames", "flow"))
            frames.mkdir(parents=True)
            flow.mkdir(parents=True)
            save_image(frames / "a.jpg", cut(image, np.random.default_rng(count)))
            (frames / "b.png").symlink_to("../../blank.png")
            (flow / "a.npy").symlink_to("../../zero.npy")
            count += 1
    context.console.print(f"{count} images for pre-training in {folder}")
    return new.rename(folder)


# ------------------------------------------------------------------ trainings


def pretraining(context: Context, position: str) -> Run:
    images = [] if context.draw_only else [f"data.path={make_images(context).absolute()}"]
    name = f"positions/pretrain-{position}"
    return Run(name, RECIPES / "positions-pretrain.yaml", (*images, *POSITIONS[position].overrides))


def finetunings(context: Context, data: str, training: str, position: str) -> list[Run]:
    """The same training for each seed."""
    overrides = [*TRAININGS[training].overrides, *POSITIONS[position].overrides]
    overrides.append(f"data.path={Path(context.data.get(data, '')).absolute()}")
    if training != "scratch":
        overrides.append(f"model.init={(context.work / 'positions' / f'pretrain-{position}' / 'model')}")
    return [
        Run(
            f"positions/{data}-{training}-{position}-{seed}",
            RECIPES / RECIPE[data],
            (*overrides, f"optimization.seed={seed}"),
        )
        for seed in range(context.seeds)
    ]


def cells() -> list[tuple[str, str, str]]:
    """(data set, training, position) of every row of the tables, those that matter most first."""
    pairs = [(data, training) for data in RECIPE for training in ("windows", "full")]
    return [(data, training, position) for data, training in (*pairs, ("camvid", "scratch")) for position in POSITIONS]


def priority(cell: tuple[str, str, str], seed: int) -> tuple[int, int, int]:
    """Sorts trainings, so that an interrupted experiment has what matters most: each pre-trained cell once, then CamVid's windows."""
    if seed == 0 and cell[1] != "scratch":
        rank = 0
    elif cell[:2] == ("camvid", "windows"):
        rank = 1
    else:
        rank = 2
    return rank, seed, cells().index(cell)


def describe(cell: tuple[str, str, str], folders: list[Path]) -> dict[str, Any]:
    """A row for the JSON file: its settings, and time, memory and scores of each seed."""
    data, training, position = cell
    recipe = load_recipe(RECIPES / RECIPE[data], [*TRAININGS[training].overrides, *POSITIONS[position].overrides])
    return {
        "key": "-".join(cell),
        "data": data,
        "training": training,
        "positions": position,
        "steps": recipe.optimization.steps,
        "batch_size": recipe.optimization.batch_size,
        "runs": [
            {
                "seed": int(folder.name.rpartition("-")[2]),
                "seconds": training_seconds(folder),
                "memory_gb": memory_gb(folder),
                "miou": {scale: curve(folder, scale, "miou")[-1]["value"] for scale in SCALES},
            }
            for folder in folders
        ],
    }


def describe_pretraining(position: str, folder: Path) -> dict[str, Any]:
    """Steps, time and the loss at the end (mean of the last tenth of the log) of a finished pre-training."""
    losses = [line["loss"] for line in read_metrics(folder) if "loss" in line]
    recipe = load_recipe(folder / "model" / "recipe.yaml")
    return {
        "positions": position,
        "steps": recipe.optimization.steps,
        "seconds": training_seconds(folder),
        "loss": mean(losses[-max(1, len(losses) // 10) :]),
    }


# ------------------------------------------------------------------ table and picture


def positions_pretrained(context: Context) -> None:
    """mIoU of pre-trained encoders that differ in their positions, trained on windows and on full frames."""
    first = [pretraining(context, position) for position in POSITIONS]
    train_all(first, context)
    wanted = {cell: finetunings(context, *cell) for cell in cells()}
    order = sorted((priority(cell, seed), run.name) for cell, runs in wanted.items() for seed, run in enumerate(runs))
    named = {run.name: run for runs in wanted.values() for run in runs}
    folders = train_all([named[name] for _, name in order], context)
    kinds = {
        cell: describe(cell, [folders[run.name] for run in runs if run.name in folders])
        for cell, runs in wanted.items()
    }
    before = {run.name: context.work / run.name for run in first}
    pretrained = [
        describe_pretraining(position, folder)
        for position, folder in zip(POSITIONS, before.values(), strict=True)
        if is_finished(folder)
    ]
    if any(kind["runs"] for kind in kinds.values()):
        draw(context, kinds)
    tables = [table_of(data, [kinds[cell] for cell in kinds if cell[0] == data]) for data in RECIPE]
    tables.append(
        {
            "title": "Pre-training",
            "columns": ["positions", "steps", "minutes", "loss"],
            "rows": [
                [
                    POSITIONS[kind["positions"]].label,
                    kind["steps"],
                    f"{kind['seconds'] / 60:.1f}",
                    f"{kind['loss']:.3f}",
                ]
                for kind in pretrained
            ],
            "note": "loss: mean squared error of the hidden patches' normalised pixels, in the last tenth of the training; 1 is the error "
            "of each patch's mean.",
        }
    )
    result = {
        "title": "Positions of pre-trained encoders, trained on two windows",
        "about": ABOUT,
        "kinds": list(kinds.values()),
        "pretraining": pretrained,
        "tables": tables,
    }
    write_result(context, NAME, result)


def scores_of(kind: dict[str, Any], scale: str) -> list[float]:
    return known([run["miou"][scale] for run in kind["runs"]])


def table_of(data: str, kinds: list[dict[str, Any]]) -> dict[str, Any]:
    """The table of one data set."""
    rows = [
        [
            TRAININGS[kind["training"]].label,
            POSITIONS[kind["positions"]].label,
            median_text([run["seconds"] for run in kind["runs"]], 1, 1 / 60),
            median_text([run["memory_gb"] for run in kind["runs"]], 2),
            len(kind["runs"]),
            *(plus_minus(scores_of(kind, scale)) for scale in SCALES),
        ]
        for kind in kinds
    ]
    return {
        "title": TITLES[data],
        "columns": ["training", "positions", "minutes", "GB", "seeds", *(f"mIoU at {scale}, %" for scale in SCALES)],
        "rows": rows,
        "note": NOTES[data],
    }


def draw(context: Context, kinds: dict[tuple[str, str, str], dict[str, Any]]) -> None:
    """NAME.png: mIoU against test resolution, a plot for each data set that has trainings."""
    path = context.output / f"{NAME}.png"
    shown = [data for data in RECIPE if any(kind["runs"] for kind in kinds.values() if kind["data"] == data)]
    with drawing.figure(path, 4.75 * max(len(shown), 1.5), 5.2, ncols=len(shown), squeeze=False) as (sheet, grid):
        for axes, data in zip(grid[0], shown, strict=True):
            lines = []
            for (of, training, position), kind in kinds.items():
                points = [[(SCALES[scale], run["miou"][scale]) for scale in SCALES] for run in kind["runs"]]
                label = f"{POSITIONS[position].label}, {TRAININGS[training].label}"
                if of == data and training != "scratch":
                    lines.append(drawing.Line(position, label, points, dashed=training == "full"))
            drawing.draw_lines(axes, lines)
            axes.set_xticks(list(SCALES.values()), list(SCALES))
            axes.set_xlabel("test resolution, of the training's")
            axes.set_ylabel("mIoU, %")
            counts = [len(line.points) for line in lines if line.points]
            drawing.headings(axes, TITLES[data], f"{seeds_text(counts)}; lines: mean, bands: lowest to highest")
        handles, labels = grid[0][0].get_legend_handles_labels()
        sheet.legend(handles, labels, loc="outside lower center", ncols=2)


ABOUT = (
    "Question: the paper trains from relative positions, and absolute ones fail from random weights. Do encoders that others pre-trained "
    "with other positions learn large frames from two windows? Three encoders are pre-trained alike and differ in their positions alone: "
    "relative RoPE (the paper's, CroCo's), RoPE of coordinates in the frame (DINOv3's) and a learnt table that is resized to the frame "
    "(DINOv2's, MAE's, ViT's). They have 6 blocks 192 wide, linear patches of 16 pixels and 2.8 M parameters. Pre-training: masked images "
    f"(MAE) of {SIDE[0]}x{SIDE[1]} pixels, 192 tokens of which 48 are seen, cut from the training frames of CamVid, the split train of "
    "LabelMeFacade and --data photographs (kodak24 and wallpapers); one seed. Fine-tuning: a new linear head, all weights, 4 frames in two "
    "windows of 9x9 tokens or one full frame of 690 tokens a step, at one resolution. Scores are far below those of real pre-trained "
    "encoders; compare them only with each other."
)
MEASURES = (
    "minutes: of one core in the training's steps (on an accelerator elapsed time), median over the seeds. GB: peak memory. mIoU: of "
    "whole frames that training didn't see, enlarged with their labels; mean over the seeds ± half their range."
)
NOTES = {
    "camvid": f"1x: 360x480 pixels, 12 frames of val. {MEASURES}",
    "labelme-facade": "1x: 0.7 of the photographs' size, 358x478 pixels and the like; trained on the first 150 photographs of the split "
    f"extra, scored on 18 of the other 50. {MEASURES}",
}

EXPERIMENTS: dict[str, Experiment] = {
    NAME: Experiment(
        positions_pretrained,
        "Ours: kinds of positions of pre-trained encoders, on windows",
        ("camvid", "labelme-facade", "photographs"),
        0.7,
    ),
}
