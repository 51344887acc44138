"""A little Hub, a process with the package and one without, and trainings to push."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.hub_process import LABELS, PUSH, Failed, Process
from support.minihub import Hub
from support.recipes import RECIPE

from winwin_hf import (
    WinWinConfig,
    WinWinForDepthEstimation,
    WinWinForOpticalFlow,
    WinWinForSemanticSegmentation,
    WinWinImageProcessor,
)
from winwin_hf.checked import build
from winwin_hf.training.recipe import Recipe
from winwin_hf.training.state import save_model


@pytest.fixture(scope="package")
def hub_server():
    server = Hub()
    yield server
    server.close()
    assert server.unknown == [], "what huggingface_hub asked for and the little Hub doesn't know"


@pytest.fixture
def server(hub_server):
    hub_server.repos.clear()
    hub_server.large.clear()
    hub_server.received.clear()
    hub_server.ranges.clear()
    hub_server.cut_uploads = hub_server.cut_downloads = hub_server.fail_commits = 0
    hub_server.trees = 0
    hub_server.garble_answers = hub_server.odd_urls = 0
    hub_server.odd_tree = None
    hub_server.lose_answers, hub_server.lose_trees, hub_server.ignored = 0, False, ()
    return hub_server


@pytest.fixture(scope="package")
def here(hub_server, tmp_path_factory):
    """A process with the package."""
    process = Process(hub_server, tmp_path_factory.mktemp("here"))
    yield process
    process.close()


@pytest.fixture(scope="package")
def bare(hub_server, tmp_path_factory):
    """A process that can't import the package, and has no token."""
    blocked = "import sys; sys.modules['winwin_hf'] = None\n"
    process = Process(hub_server, tmp_path_factory.mktemp("bare"), blocked, token="")
    with pytest.raises(Failed, match="ModuleNotFoundError"):
        process("import winwin_hf")
    yield process
    process.close()


@pytest.fixture
def push(here):
    def call(source: Path | str, repo_id: str, type: str = "model", **options: Any) -> dict[str, Any]:
        if type == "model":
            options = {"picture": False, **options}
        return here(PUSH, source=source, repo_id=repo_id, type=type, options=options)

    return call


SMALL = {**RECIPE["model"]["config"], "num_hidden_layers": 2}


@pytest.fixture(scope="package")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A folder as a training leaves it, of each task."""
    root = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    recipe = build(Recipe, RECIPE, "test")
    save_model(WinWinForOpticalFlow(recipe.config()), root / "flow", recipe, WinWinImageProcessor())
    scores = {"epe": 3.14159, "1px": 50.0, "images": 7, "seconds": 0.1}
    (root / "flow" / "metrics.jsonl").write_text(json.dumps({"step": 8, "a": {**scores, "size": [90, 130]}}) + "\n")
    for name, model, data in (
        ("depth", WinWinForDepthEstimation(WinWinConfig(**SMALL)), "seven-scenes"),
        ("seg", WinWinForSemanticSegmentation(WinWinConfig(**SMALL, id2label=LABELS)), "camvid"),
    ):
        task = {"depth": "depth-estimation", "seg": "semantic-segmentation"}[name]
        values = {"task": task, "data": {"name": data}, "model": {"config": SMALL}}
        save_model(model, root / name, build(Recipe, values, "test"), WinWinImageProcessor())
    return root_of(root)


def root_of(root: Path) -> dict[str, Path]:
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def checkpoint(runs, tmp_path) -> Path:
    """A flow checkpoint of one's own to spoil."""
    return Path(shutil.copytree(runs["flow"] / "model", tmp_path / "winwin-small"))


@pytest.fixture(scope="package")
def frames(tmp_path_factory) -> list[str]:
    from winwin_hf.data.formats import save_image

    folder, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    paths = [folder / f"{k}.png" for k in range(2)]
    for path in paths:
        save_image(path, rng.integers(0, 255, (45, 70, 3), np.uint8))
    return [str(path) for path in paths]
