"""FLOPs and memory of training steps on pre-trained encoders, counted without data: for fixed frames, and for the package's recipes."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from research.planning.count import Kept, counted, kept_by
from research.planning.model import GB, GPUS, Assumptions, Counted, Gpu, Plan, plan
from research.pretrained.encoders import DUST3R, config_of, hub_name
from research.sizes import grid_of
from winwin_hf import WinWinConfig
from winwin_hf.data.benchmarks.class_names import ADE20K_NAMES
from winwin_hf.model.encoders_winwin import FAMILIES
from winwin_hf.task import TaskName
from winwin_hf.training.recipe import load_recipe

CLASSES = 19
HEADS: dict[TaskName, str] = {"semantic-segmentation": "conv", "depth-estimation": "dpt"}
FRAMES = {"1280x720": (720, 1280), "2048x1024": (1024, 2048)}
WINDOWS = {"1280x720": (22, 22), "2048x1024": (32, 32)}  # of two windows, about a quarter of the frame's tokens

# Recipe, its encoder, size of the data's frames, classes of segmentation.
RECIPES: dict[str, tuple[str, tuple[str, str] | None, tuple[int, int], int]] = {
    "cityscapes-dinov3, S": ("cityscapes-dinov3", ("dinov3", "S"), (1024, 2048), CLASSES),
    "cityscapes-dinov3, B": ("cityscapes-dinov3", ("dinov3", "B"), (1024, 2048), CLASSES),
    "cityscapes-dinov3, L": ("cityscapes-dinov3", ("dinov3", "L"), (1024, 2048), CLASSES),
    "ade20k-dinov3": ("ade20k-dinov3", ("dinov3", "B"), (896, 1195), len(ADE20K_NAMES)),
    "nyuv2-depth-dinov2": ("nyuv2-depth-dinov2", ("dinov2", "B"), (480, 640), 0),
    "kitti-depth-dinov3": ("kitti-depth-dinov3", ("dinov3", "B"), (375, 1242), 0),
    "spring-flow-dust3r": ("spring-flow-dust3r", None, (1080, 1920), 0),
    "your-folder-dinov3": ("your-folder-dinov3", ("dinov3", "S"), (720, 1280), CLASSES),
}

# The data sheets of further cards. The bus is not used: plans are for one GPU.
CARDS: dict[str, Gpu] = {
    "24 GB": replace(GPUS["a100"], name="RTX 4090", tflops=165, memory=24, bandwidth=1008),
    "40 GB": replace(GPUS["a100"], name="A100", memory=40, bandwidth=1555),
    "80 GB": replace(GPUS["h100"], name="H100"),
}


def encoder_fields(encoder: tuple[str, str]) -> dict[str, Any]:
    """The fields of `WinWinConfig` that an encoder decides."""
    theirs = config_of(*encoder)
    return FAMILIES[theirs.model_type](theirs, hub_name(*encoder))


def labels_of(count: int) -> dict[str, Any]:
    return {"id2label": dict(enumerate(map(str, range(count))))} if count else {}


def kept_of(task: TaskName, frame: str, whole: bool) -> Kept:
    """Two windows, or the whole frame."""
    return Kept((1, *grid_of(*FRAMES[frame])) if whole else (2, *WINDOWS[frame]), whole=whole, task=task)


def count_case(size: str, task: TaskName, frame: str, whole: bool) -> dict[str, Any]:
    """A step of DINOv3's shape in bf16, counted at one and two examples."""
    classes = labels_of(CLASSES if task == "semantic-segmentation" else 0)
    config = WinWinConfig(head_type=HEADS[task], **classes, **encoder_fields(("dinov3", size)))
    return asdict(counted(config, kept_of(task, frame, whole), (1, 2)))


def count_recipe(label: str) -> dict[str, Any]:
    """A step of a recipe of the package, with its batch, steps and windows."""
    name, encoder, frame, classes = RECIPES[label]
    changes = [f"model.init={hub_name(*encoder)}"] if encoder else []
    recipe = load_recipe(name, changes)
    if encoder:
        fields = encoder_fields(encoder)
        # as `PretrainedEncoder.fields` chooses
        head = {"head_type": "dpt" if fields["patch_size"] % 4 else "conv"}
        config = recipe.config(fields, head, **labels_of(classes))
    else:  # DUSt3R has the sizes of CroCo v2
        assert recipe.model.init == DUST3R
        config = WinWinConfig.from_preset("large", **recipe.model.config)
    options = recipe.optimization
    found = counted(config, kept_by(recipe, frame, config.patch_size), (2, 4))
    return {**asdict(found), "batch": options.batch_size, "steps": options.steps}


def counted_of(values: dict[str, Any]) -> Counted:
    """A count as it was written to JSON."""
    fields = {name: value for name, value in values.items() if name in Counted.__dataclass_fields__}
    return Counted(**{**fields, "tokens": tuple(values["tokens"])})


def most(found: Counted, card: Gpu, given: Assumptions, checkpointing: bool = False) -> int:
    """The most examples of one pass that a card holds."""
    return found.most(card.memory * GB * given.usable, 1, checkpointing)


def plan_of(values: dict[str, Any], card: Gpu, given: Assumptions) -> Plan | None:
    """A recipe's training on one card; None where not even one example fits."""
    try:
        return plan(counted_of(values), 1, values["batch"], card, given)
    except ValueError:
        return None
