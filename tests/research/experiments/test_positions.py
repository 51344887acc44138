"""Positions of pre-trained encoders: recipes, the images of pre-training, a page of invented trainings, and a tiny real one."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from research.experiments import positions
from research.experiments.context import RECIPES
from research.experiments.trainings import Run, train_all
from support.experiment_cases import CAMVID, context_of, printed, result, write_metrics
from support.places import FRAMES
from transformers import AutoModel

from winwin_hf import WinWinForPreTraining, WinWinForSemanticSegmentation
from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.sources import open_source
from winwin_hf.training.recipe import load_recipe

FACADES = FRAMES / "segmentation" / "labelme-facade"


@pytest.fixture
def here(tmp_path):
    """A context with three photographs, four frames of CamVid's and LabelMeFacade's train, and one seed."""
    (tmp_path / "photographs" / "deep").mkdir(parents=True)
    photograph = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    for name in ("b.png", "deep/a.png"):
        Image.fromarray(photograph).save(tmp_path / "photographs" / name)
    (tmp_path / "photographs" / "licence.txt").write_text("free")
    data = {"camvid": str(CAMVID), "labelme-facade": str(FACADES), "photographs": str(tmp_path / "photographs")}
    return context_of(tmp_path, data=data)


# ------------------------------------------------------------------ recipes


def test_encoders_differ_in_their_positions_alone():
    configs, sizes = {}, {}
    for position, part in positions.POSITIONS.items():
        recipe = load_recipe(RECIPES / "positions-pretrain.yaml", list(part.overrides))
        with torch.device("meta"):
            model = WinWinForPreTraining(recipe.config())
        assert model.config.position_embedding == position
        sizes[position] = sum(p.numel() for p in model.winwin.parameters())
        configs[position] = {k: v for k, v in model.config.to_dict().items() if not k.startswith("position_")}
    assert configs["rope"] == configs["rope_frame"] == configs["learned"]
    assert sizes["rope"] == sizes["rope_frame"] == sizes["learned"] - 12 * 16 * 192  # the table


@pytest.mark.parametrize("cell", positions.cells(), ids="-".join)
def test_every_fine_tuning_takes_over_its_encoder(cell):
    data, training, position = cell
    overrides = [*positions.TRAININGS[training].overrides, *positions.POSITIONS[position].overrides]
    recipe = load_recipe(RECIPES / positions.RECIPE[data], overrides)
    before = load_recipe(RECIPES / "positions-pretrain.yaml", list(positions.POSITIONS[position].overrides))
    entry = catalog.entry_of(recipe.data.name)
    assert recipe.data.name == data
    with torch.device("meta"):
        model = WinWinForSemanticSegmentation(recipe.config(id2label=dict(enumerate(entry.labels))))
        encoder = WinWinForPreTraining(before.config()).winwin
    assert {k: v.shape for k, v in model.winwin.state_dict().items()} == {
        k: v.shape for k, v in encoder.state_dict().items()
    }
    assert recipe.windows.kind == ("full" if training == "full" else "windows")
    assert recipe.optimization.batch_size == (1 if training == "full" else 4)
    scales = [chosen.settings["scale"][0] for chosen in recipe.evaluation.sets]
    trained = recipe.data.settings["scale"]
    assert [scale / trained[0] for scale in scales] == pytest.approx(list(positions.SCALES.values()))
    assert [chosen.label for chosen in recipe.evaluation.sets] == list(positions.SCALES)


def test_seeds_of_one_cell_differ_in_their_seed_alone(here):
    runs = positions.finetunings(context_of(here.work.parent, seeds=2), "labelme-facade", "full", "learned")
    assert [run.name for run in runs] == [f"positions/labelme-facade-full-learned-{seed}" for seed in (0, 1)]
    assert set(runs[0].overrides) ^ set(runs[1].overrides) == {"optimization.seed=0", "optimization.seed=1"}
    assert any(word.startswith("model.init=") and "pretrain-learned" in word for word in runs[0].overrides)
    [alone] = positions.finetunings(here, "camvid", "scratch", "rope")
    assert not any(word.startswith("model.init=") for word in alone.overrides)


# ------------------------------------------------------------------ the images of pre-training


def test_images_are_made_once_and_read_as_pairs(here):
    folder = positions.make_images(here)
    photographs = [path.name for path in positions.photographs(here)]
    assert photographs[-2:] == ["b.png", "a.png"] and len(photographs) == 3 + 2 + 2
    source = open_source("flow-folder", str(folder))
    assert len(source) == positions.VIEWS * len(photographs)
    sample = source.reader(source.dataset[5], np.random.default_rng(0))
    whole = (0, 0, *positions.SIDE)
    image, flow = sample.first(whole)
    assert (sample.height, sample.width) == positions.SIDE and image.std() > 10
    assert not flow.any() and len(np.unique(sample.second(whole))) == 1  # the second view says nothing
    (folder / "frames" / "00005" / "a.jpg").unlink()
    assert positions.make_images(here) == folder and not (folder / "frames" / "00005" / "a.jpg").exists()
    assert printed(here.work.parent).count("images for pre-training") == 1
    assert [path.name for path in folder.parent.iterdir()] == ["images"]  # no temporary folder is left


def test_a_cut_shows_a_part_of_the_photograph_in_its_proportions():
    height, width = np.indices((300, 900))
    photograph = np.stack([height % 256, width // 4, height // 2], axis=-1).astype(np.uint8)
    for seed in range(20):
        image = positions.cut(photograph, np.random.default_rng(seed)).astype(int)
        assert image.shape == (*positions.SIDE, 3)
        across, down = 4 * np.ptp(image[0, :, 1]), 2 * np.ptp(image[:, 0, 2])  # in the photograph's pixels
        assert across / down == pytest.approx(4 / 3, rel=0.05)
        assert 0.27 < (across / 400) ** 2 <= 1.01  # of its largest box of this shape, 300x400


# ------------------------------------------------------------------ the page


def fabricate(context, cells, seeds=1) -> None:
    """Finished trainings that never were: a seed adds one point, a scale takes away one."""
    folders = {f"pretrain-{position}": "positions-pretrain.yaml" for position in positions.POSITIONS}
    folders |= {f"{'-'.join(cell)}-{seed}": positions.RECIPE[cell[0]] for cell in cells for seed in range(seeds)}
    for name, recipe in folders.items():
        folder = context.work / "positions" / name
        spent = {"seconds": 80.0, "cpu_seconds": 66.0}
        lines = [{"step": 10 * i, "loss": 1 / i, "gb": 0.8, "idle_gb": 0.5, **spent} for i in range(1, 21)]
        seed = int(name[-1]) if name[-1].isdigit() else 0
        scores = {scale: {"miou": 30.0 + seed - factor} for scale, factor in positions.SCALES.items()}
        write_metrics(folder, [*lines, {"step": 200, **scores, **spent}])
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "config.json").write_text("{}")
        shutil.copy(RECIPES / recipe, folder / "model" / "recipe.yaml")


def test_the_page_is_drawn_from_finished_trainings(tmp_path):
    here = context_of(tmp_path, draw_only=True, seeds=3, data={})
    positions.positions_pretrained(here)  # nothing at all yet
    assert "| - |" in (here.output / f"{positions.NAME}.md").read_text()
    assert not (here.output / f"{positions.NAME}.png").exists()
    fabricate(here, positions.cells()[:1])  # one cell, one seed
    positions.positions_pretrained(here)
    fabricate(here, positions.cells(), seeds=2)
    positions.positions_pretrained(here)
    record, page = result(here, positions.NAME)
    assert f"![{record['title']}]({positions.NAME}.png)" in page and "| - |" not in page
    assert "| two windows | RoPE of the frame | 1.1 | 0.30 | 2 | 29.5 ± 0.5 | 29.0 ± 0.5 | 28.5 ± 0.5 |" in page
    assert f"| learnt table | {record['pretraining'][0]['steps']} | 1.1 | 0.051 |" in page  # mean of 1/19 and 1/20
    with Image.open(here.output / f"{positions.NAME}.png") as picture:
        assert min(picture.size) > 500


# ------------------------------------------------------------------ the real thing, tiny


def test_a_real_encoder_is_pretrained_and_taken_over(here):
    """Two steps each, with the learnt table, whose windows need their frames' sizes."""
    short = ("optimization.steps=2", "optimization.batch_size=2", "optimization.num_workers=0", "log_every=1")
    before = positions.pretraining(here, "learned")
    train_all([Run(before.name, before.recipe, (*before.overrides, *short))], here)
    [run] = positions.finetunings(here, "camvid", "windows", "learned")
    tiny = [f"evaluation.sets.{number}.split=val" for number in range(len(positions.SCALES))]
    tiny += ["windows.size=[3, 3]", "optimization.learning_rate=1.0e-20"]
    folders = train_all([Run(run.name, run.recipe, (*run.overrides, *short, *tiny))], here)
    row = positions.describe(("camvid", "windows", "learned"), [folders[run.name]])
    assert set(row["runs"][0]["miou"]) == set(positions.SCALES) and row["runs"][0]["seconds"] > 0
    kind = positions.describe_pretraining("learned", here.work / before.name)
    assert kind["steps"] == 2 and 0.5 < kind["loss"] < 3
    encoders = [AutoModel.from_pretrained(here.work / name / "model").winwin for name in (before.name, run.name)]
    for (name, one), other in zip(encoders[0].state_dict().items(), encoders[1].state_dict().values(), strict=True):
        assert torch.equal(one, other), name  # taken over: this learning rate is below rounding
    json.dumps([row, kind])
