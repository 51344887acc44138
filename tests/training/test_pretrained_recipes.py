"""The package's recipes on encoders that others pre-trained: every command of their headers starts, with a tiny encoder of the family."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import torch
import transformers
import yaml
from safetensors.torch import save_file
from support.croco_files import DUST3R, pair_tensors, public_tensors
from support.croco_files import SIZES as CROCO
from support.places import FRAMES
from transformers import AutoModel

from winwin_hf.recipes import recipe_names, recipe_path
from winwin_hf.training.loop import train
from winwin_hf.training.recipe import load_recipe

SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
# How the Hub's names of a family begin -> its class, and a config with its patch size.
FAMILIES = {
    "facebook/dinov3-vit": ("DINOv3ViT", {"patch_size": 16, "intermediate_size": 64}),
    "facebook/dinov2-with-registers-": ("Dinov2WithRegisters", {"patch_size": 14, "image_size": 56}),
}
# Where tiny frames in the set's layout are, and the size of its real frames where the recipe doesn't enlarge small ones.
FRAMES_OF = {
    "cityscapes-dinov3": ("segmentation/cityscapes", None),
    "ade20k-dinov3": ("segmentation/ade20k", None),
    "your-folder-dinov3": ("segmentation/masks-folder", None),
    "nyuv2-depth-dinov2": ("depth/nyu_png", [480, 640]),
    "kitti-depth-dinov3": ("depth/kitti", [375, 1242]),
    "spring-flow-dust3r": ("flow/Spring", [1080, 1920]),
}
# What the tiny sets need: one mask has a wrong id; a part of 5 % would be empty.
TINY = {
    "your-folder-dinov3": ["data.options.ignored=[9]"],
    "spring-flow-dust3r": ["data.split=train[:50%]", "evaluation.sets.0.split=train[50%:]"],
}
QUICK = (
    *(
        "optimization.steps=1",
        "optimization.batch_size=1",
        "optimization.accumulation=1",
        "optimization.warmup_steps=1",
    ),
    *("optimization.num_workers=0", "evaluation.windows=0", "log_every=1", "trackers=[]"),
)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, str]:
    """Folders with random weights, by how the Hub's names of their family begin."""
    torch.manual_seed(0)
    folders = {}
    for start, (family, options) in FAMILIES.items():
        config = getattr(transformers, f"{family}Config")(**SIZES, **options)
        folders[start] = str(tmp_path_factory.mktemp("encoder"))
        getattr(transformers, f"{family}Model")(config).save_pretrained(folders[start])
    dust3r = tmp_path_factory.mktemp("dust3r")
    (dust3r / "config.json").write_text(json.dumps({**DUST3R, **CROCO}))
    save_file(pair_tensors(public_tensors(CROCO, "pretraining")), dust3r / "model.safetensors")
    return {**folders, "naver/DUSt3R_": str(dust3r)}


def commands(name: str) -> list[list[str]]:
    """The overrides of each command in the recipe's header."""
    found = re.findall(rf"^#.*?winwin train {name}( .*)$", recipe_path(name).read_text(), flags=re.MULTILINE)
    return [[word for word in shlex.split(line) if word != "--set"] for line in found]


COMMANDS = [(name, line) for name in FRAMES_OF for line in commands(name)]
IN_DEFAULT_RUN = {
    "cityscapes-dinov3-0",
    "nyuv2-depth-dinov2-5",
    "spring-flow-dust3r-7",
}  # a task each; the others are slow


def test_every_recipe_on_a_hub_name_is_tested():
    inits = {name: load_recipe(name).model.init or "" for name in recipe_names()}
    assert {name for name, init in inits.items() if init.startswith(("facebook/", "naver/"))} == set(FRAMES_OF)
    assert len(COMMANDS) == len(FRAMES_OF) + 2  # Cityscapes in three sizes


@pytest.mark.parametrize(
    ("name", "line"),
    [
        pytest.param(name, line, id=f"{name}-{i}", marks=[pytest.mark.slow] * (f"{name}-{i}" not in IN_DEFAULT_RUN))
        for i, (name, line) in enumerate(COMMANDS)
    ],
)
def test_a_recipe_starts(encoders, name, line, tmp_path):
    """With its own windows, on frames as large as the recipe makes them, or as large as the set's."""
    place, real = FRAMES_OF[name]
    init = load_recipe(name, line).model.init
    encoder = next(folder for start, folder in encoders.items() if init.startswith(start))
    changes = [f"model.init={encoder}", f"data.path={FRAMES / place}", "model.config.dpt_hidden_size=16"]
    changes += ["model.config.dpt_layer_sizes=[8, 8, 8, 8]", "model.config.head_hidden_size=16"]
    changes += [f"data.settings.least={real}"] if real else []
    folder = train(name, tmp_path / "run", overrides=[*line, *changes, *QUICK, *TINY.get(name, [])])
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in values for values in lines) == 1
    model, recipe = AutoModel.from_pretrained(folder), yaml.safe_load((folder / "recipe.yaml").read_text())
    assert {entry["label"] for entry in recipe["evaluation"]["sets"]} <= lines[-1].keys()
    assert model.config.drop_path_rate == recipe["model"]["config"].get("drop_path_rate", 0)
    assert model.config.apply_layernorm == (not name.startswith("spring"))
