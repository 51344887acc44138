"""Segmentation experiments: recipes, results of invented trainings, and a tiny real one."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from research import drawing
from research.experiments import logs, segmentation, segmentation_kinds, segmentation_logits, segmentation_tables
from research.experiments.context import RECIPES, Context
from research.experiments.trainings import Run, train_all
from research.sizes import grid_of
from support.experiment_cases import CAMVID, context_of, printed, recipe_file, write_metrics
from transformers import AutoModel

from winwin_hf import WinWinForSemanticSegmentation
from winwin_hf.data.benchmarks import catalog
from winwin_hf.model.layers_winwin import WinWinAttention
from winwin_hf.training.build import learning_rate
from winwin_hf.training.recipe import load_recipe

# ------------------------------------------------------------------ recipes


@pytest.mark.parametrize("path", sorted(RECIPES.glob("seg-*.yaml")), ids=lambda path: path.stem)
def test_recipes_load_and_build(path):
    loaded = load_recipe(path)
    entry = catalog.entry_of(loaded.data.name)
    with torch.device("meta"):
        model = WinWinForSemanticSegmentation(loaded.config(id2label=dict(enumerate(entry.labels))))
    base = path.stem.endswith("-base")
    parameters = sum(p.numel() for p in model.parameters())
    assert (85e6 < parameters < 95e6) if base else (4e6 < parameters < 5e6)
    assert len(model.config.global_blocks) == (4 if "vitdet" in path.stem else model.config.num_hidden_layers)
    options = loaded.optimization
    assert options.steps % loaded.evaluation.every == 0 and 5 <= options.steps / loaded.evaluation.every <= 6
    assert learning_rates(loaded) == {options.learning_rate}
    assert loaded.data.settings == {"scale": [1.0, 1.0]}


def learning_rates(loaded) -> set[float]:
    steps = range(loaded.optimization.warmup_steps, loaded.optimization.steps, 7)
    return {learning_rate(loaded.optimization, step) for step in steps}


def test_token_counts_are_the_papers():
    grid = grid_of(720, 1280)
    counts = {
        path.stem: segmentation_kinds.tokens(load_recipe(path).windows, grid)
        for path in RECIPES.glob("seg-*-base.yaml")
    }
    assert counts == {
        "seg-windows-base": 968,
        "seg-full-base": 3600,
        "seg-vitdet-base": 3600,
        "seg-crops-base": 961,
    }


def test_token_counts_here_are_nearly_equal():
    grid = grid_of(*segmentation_kinds.FRAME)
    counts = {
        key: segmentation_kinds.tokens(segmentation_kinds.recipe_of(key).windows, grid)
        for key in segmentation_kinds.KINDS
    }
    assert {counts.pop(key) for key in ("full", "full-small", "vitdet")} == {690}
    assert counts.pop("windows") == 162
    assert all(156 <= count <= 168 for count in counts.values())


def test_methods_of_figure_1_differ_in_nothing_else():
    loaded = {key: segmentation_kinds.recipe_of(key) for key in ("windows", "crops", "full", "full-small", "vitdet")}
    for one in loaded.values():
        one.output, one.windows, one.save_every, one.evaluation.every = "", None, 0, 0
        one.optimization.steps = 0
    loaded["full-small"].optimization.batch_size = 4
    for key in ("attention_pattern", "attention_cell_size"):
        del loaded["vitdet"].model.config[key]
    assert all(one == loaded["windows"] for one in loaded.values())


# ------------------------------------------------------------------ experiments on fabricated trainings


def fabricate(here: Context, keys, seeds: int = 1) -> None:
    """Finished trainings that never were, with scores that grow along the training."""
    for key in keys:
        for seed in range(seeds):
            folder = here.work / "segmentation" / f"{key}-{seed}"
            lines = []
            for i in range(1, 6):
                step = 100 * i
                times = {"cpu_seconds": 76.0 * i, "seconds": 80.0 * i}
                lines.append({"step": step, "loss": 1 / i, "gb": 0.8, **times})
                lines.append({"step": step, "frames": {"miou": 6.0 * i + seed + len(key) / 4}, **times})
            write_metrics(folder, lines)
            (folder / "model").mkdir(exist_ok=True)
            (folder / "model" / "config.json").write_text("{}")
            for name in (
                "tiled",
                *(f"scale-{s:g}" for s in segmentation_kinds.SCALES),
                *(f"scale-{s:g}-logits" for s in (1, 1.5, 2)),
            ):
                (folder / "scores").mkdir(exist_ok=True)
                (folder / "scores" / f"{name}.json").write_text(json.dumps({"miou": 20.0 + seed + len(name)}))


SEGMENTATION = {**segmentation.EXPERIMENTS, **segmentation_tables.EXPERIMENTS, **segmentation_logits.EXPERIMENTS}


@pytest.mark.parametrize("name", SEGMENTATION)
def test_experiments_are_drawn_from_finished_trainings(name, tmp_path):
    here = context_of(tmp_path, draw_only=True, seeds=3, data={})
    SEGMENTATION[name].function(here)  # nothing at all yet
    assert "| - |" in (here.output / f"{name}.md").read_text() and not (here.output / f"{name}.png").exists()
    fabricate(here, ["windows", "crops"])
    SEGMENTATION[name].function(here)  # two kinds, one seed
    with Image.open(here.output / f"{name}.png") as picture:
        assert min(picture.size) > 300
        assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    fabricate(here, segmentation_kinds.KINDS, seeds=2)
    SEGMENTATION[name].function(here)
    text = (here.output / f"{name}.md").read_text()
    assert f"![{json.loads((here.output / f'{name}.json').read_text())['title']}]({name}.png)" in text
    assert "± 0.5" in text  # of two seeds that differ by 1
    assert "| - |" not in text
    assert not (here.work / "t").exists()


def test_figure_1_gives_each_curve_and_the_tiled_point(tmp_path):
    here = context_of(tmp_path, draw_only=True, seeds=2)
    fabricate(here, segmentation_kinds.KINDS, seeds=2)
    segmentation.figure1(here)
    record = json.loads((here.output / "figure1-segmentation.json").read_text())
    kinds = {kind["key"]: kind for kind in record["kinds"]}
    assert [point["cpu_seconds"] for point in kinds["full"]["runs"][1]["curve"]] == [76.0 * i for i in range(1, 6)]
    assert [run["tiled_miou"] for run in kinds["crops"]["runs"]] == [25.0, 26.0]
    [tiled] = [row for row in record["tables"][0]["rows"] if "tiles" in row[0]]
    assert tiled[1:] == [156, segmentation_kinds.recipe_of("crops").optimization.steps, "6.3", "0.80", 2, "25.5 ± 0.5"]


def test_seeds_without_all_scales_are_no_curve():
    found = {1.0: [30.0, 31.0, 32.0], 2.0: [25.0, None, 27.0]}
    assert segmentation_kinds.across(found) == [[(1.0, 30.0), (2.0, 25.0)], [(1.0, 32.0), (2.0, 27.0)]]


def test_colours_tell_kinds_apart():
    assert drawing.colour_of("crops-tiled") != drawing.colour_of("crops") != drawing.colour_of("windows")
    taken = []
    for key in ("windows", "x", "y", "full", "z"):
        taken.append(drawing.colour_of(key, taken))
    assert len(set(taken)) == 5


# ------------------------------------------------------------------ the real thing, tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two real trainings of four steps, by the harness."""
    folder = tmp_path_factory.mktemp("trained")
    path = recipe_file(folder)
    wanted = [
        Run("segmentation/windows-0", path),
        Run("segmentation/crops-0", path, ("windows={kind: crop, size: [3, 3]}",)),
    ]
    here = context_of(folder, jobs=2)
    train_all(wanted, here)
    return folder / "work" / "segmentation"


def test_a_real_training_has_a_curve_and_a_model(trained):
    points = logs.curve(trained / "windows-0", "frames", "miou")
    assert [point["step"] for point in points] == [2, 4]
    assert 0 < points[0]["cpu_seconds"] < points[1]["cpu_seconds"] == logs.training_seconds(trained / "windows-0")
    assert 0.005 < logs.memory_gb(trained / "windows-0") < 1  # of a few steps on tiny frames, beyond the idle process
    where = json.loads((trained / "windows-0" / "machine.json").read_text())
    assert where["threads"] == 1 and where["torch"] == torch.__version__
    assert "tokens kept of a 90 x 120 frame: 8 of 48" in (trained / "windows-0" / "log.txt").read_text()


def test_scores_of_a_real_model(trained):
    folder = trained / "windows-0"
    plain = segmentation_kinds.score(folder, CAMVID)
    assert plain["miou"] == pytest.approx(segmentation_kinds.final(folder), abs=1e-6)  # the training's own score
    assert (plain["tokens"], plain["images"]) == (6 * 8, 2)
    assert segmentation_kinds.score(folder, CAMVID, scale=2.0)["tokens"] == 12 * 15
    whole = segmentation_kinds.score(folder, CAMVID, tile=(96, 128))
    assert whole["miou"] == pytest.approx(plain["miou"])  # one tile is the whole frame


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])  # 2: each process imports everything
def test_scores_are_computed_once(trained, tmp_path, jobs):
    shutil.copytree(trained, tmp_path / "here", ignore=shutil.ignore_patterns("scores"))
    here = context_of(tmp_path, jobs=jobs)
    folders = {key: [tmp_path / "here" / f"{key}-0"] for key in ("windows", "crops")}
    found = segmentation_kinds.scores(here, folders, (1.0, 2.0))
    for key, [folder] in folders.items():
        plain = segmentation_kinds.score(folder, CAMVID, scale=2.0)
        assert json.loads((folder / "scores" / "scale-2.json").read_text())["miou"] == plain["miou"]
        assert found[key] == {1.0: [segmentation_kinds.final(folder)], 2.0: [plain["miou"]]}
    assert printed(tmp_path).count("scored after") == 2
    assert segmentation_kinds.scores(here, folders, (1.0, 2.0)) == found
    assert printed(tmp_path).count("scored after") == 2  # not computed again


def test_logits_are_scaled_by_the_tokens_logarithms(trained, monkeypatch):
    factors = []
    real = segmentation_kinds.scale_logits
    monkeypatch.setattr(
        segmentation_kinds, "scale_logits", lambda model, factor: (factors.append(factor), real(model, factor))
    )
    segmentation_kinds.score(trained / "windows-0", CAMVID, scale=2.0, logits=True)
    assert set(factors) == {math.log(180) / math.log(8)}
    model = AutoModel.from_pretrained(trained / "windows-0" / "model")
    for _ in range(2):  # not twice
        segmentation_kinds.scale_logits(model, 1.5)
    modules = [module for module in model.modules() if isinstance(module, WinWinAttention)]
    assert [module.scaling for module in modules] == [1.5 * 16**-0.5] * 2
    # the factor multiplies the queries
    x = torch.randn(1, 5, 32)
    scaled = modules[0](x, None)[0]
    segmentation_kinds.scale_logits(model, 1.0)
    modules[0].q_proj.weight.data *= 1.5
    modules[0].q_proj.bias.data *= 1.5
    assert torch.allclose(scaled, modules[0](x, None)[0], atol=1e-6)
