"""Cards have the figures of trainings and evaluations, say under which terms, and nothing of the machine; bundling makes one."""

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image
from support.places import ROOT
from support.recipes import RECIPE
from transformers import AutoImageProcessor, AutoModel

from winwin_hf import WinWinBackbone, WinWinForOpticalFlow, WinWinForPreTraining, bundled
from winwin_hf.checked import build
from winwin_hf.data.formats.images import save_image
from winwin_hf.hub.card_facts import Facts, base_model, datasets_of, forget_folders, read_facts, terms_of
from winwin_hf.hub.card_figures import eval_results, model_index, public_command, read_results, tables
from winwin_hf.hub.cards import bundle, card, family_card, with_figures
from winwin_hf.training.recipe import Recipe
from winwin_hf.training.state import save_model


@pytest.fixture
def run(tmp_path):
    recipe = build(Recipe, RECIPE, "test")
    torch.manual_seed(0)
    save_model(WinWinForOpticalFlow(recipe.config()), tmp_path / "run", recipe)
    scores = {"epe": 3.14159, "1px": 50.0, "3px": 20.0, "fl": 19.5, "images": 7, "seconds": 0.1}
    lines = [
        {"step": 4, "frames": {**scores, "epe": 9.9, "size": [90, 130]}},
        {"step": 8, "windows": scores, "frames": {**scores, "epe": 2.71828, "size": [90, 130]}},
        {"step": 8, "loss": 1.0},
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "run"


def test_weights_are_half_the_size_and_load_as_float32(run, tmp_path):
    folder = bundle(run, tmp_path / "winwin-x", "Limits.")
    before, after = AutoModel.from_pretrained(run / "model"), AutoModel.from_pretrained(folder)
    assert after.dtype == torch.float32
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, run / "model")]
    assert sizes[0] < 0.6 * sizes[1]
    assert AutoImageProcessor.from_pretrained(folder).patch_size == 16


def test_card_has_the_last_evaluation(run, tmp_path):
    text = (bundle(run, tmp_path / "winwin-x", "Only a test.") / "README.md").read_text()
    assert "2.72" in text and "3.14" in text and "9.90" not in text
    assert "Only a test." in text and "license: apache-2.0" in text and "optical-flow-estimation" in text
    assert re.search(r"8 steps of 2 examples \(16 in all\)", text)


def test_card_shows_curve_hours_and_worst_cases(run, tmp_path):
    timed = [{"step": n, "loss": 1 / n, "seconds": 90.0 * n} for n in range(1, 9)]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in timed)
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 50:] = 200  # prediction and error; image and truth are black
    cases = [tmp_path / "worst" / f"{n}.png" for n in range(2)]
    for path in cases:
        path.parent.mkdir(exist_ok=True)
        save_image(path, picture)
    folder = bundle(run, tmp_path / "winwin-x", "Limits.", machine="an abacus", worst=("Two of them.", cases))
    text = (folder / "README.md").read_text()
    assert "0.20 hours on an abacus" in text and "Two of them." in text
    assert "](curve.png)" in text and "](worst.jpg)" in text
    shown = np.asarray(Image.open(folder / "worst.jpg"))
    assert shown.shape == (80, 50, 3) and shown.min() > 150
    assert Image.open(folder / "curve.png").size == (640, 320)
    known = read_facts(folder)
    assert (known.hours, known.machine, known.worst) == (0.2, "an abacus", "Two of them.")
    bundle(run, tmp_path / "winwin-y", "Limits.", worst=("Two of them.", cases), publishable=True)
    assert np.asarray(Image.open(tmp_path / "winwin-y" / "worst.jpg")).shape == (80, 100, 3)


def test_recipe_names_no_folder_of_the_machine(run, tmp_path):
    text = (
        (run / "model" / "recipe.yaml")
        .read_text()
        .replace("name: synthetic-flow", f"name: synthetic-flow\n  path: {run}")
    )
    (run / "model" / "recipe.yaml").write_text(text)
    folder = bundle(run, tmp_path / "winwin-x", "Limits.")
    assert str(run) not in (folder / "recipe.yaml").read_text() + (folder / "README.md").read_text()


def test_the_card_can_be_made_again_from_the_checkpoint_alone(run, tmp_path):
    folder = bundle(
        run, tmp_path / "winwin-x", "Only a test.", "photographs of mine (CC0)", [results_json(tmp_path, "model")]
    )
    facts = read_facts(folder)
    assert facts.parameters == sum(p.numel() for p in AutoModel.from_pretrained(folder).parameters())
    assert card("winwin-x", facts) == (folder / "README.md").read_text()
    assert "photographs of mine (CC0)" in (folder / "README.md").read_text()
    everything = "".join(path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors")
    assert str(tmp_path) not in everything and "/home/me" not in everything


def test_bundled_cards_are_those_that_would_be_made():
    known = {name: read_facts(folder) for name, folder in bundled.folders().items()}
    for name, folder in bundled.folders().items():
        assert (folder / "README.md").read_text() == card(name, known[name]), "python scripts/make_cards.py"
    assert (ROOT / "MODEL_CARD.md").read_text() == family_card(known), "python scripts/make_cards.py"


def test_unfinished_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="ended"):
        bundle(tmp_path, tmp_path / "x", "")


# ------------------------------------------------------------------ figures of evaluations


def results_json(folder: Path, *methods: str, **changes) -> Path:
    """A results.json as `winwin evaluate` writes it."""
    lines = [
        {
            "data": "middlebury",
            "split": "train",
            "path": "/home/me/mb",
            "task": "optical-flow",
            "method": method,
            "inference": "one pass",
            "images": 4,
            "scored": 4,
            "missing": ["/home/me/mb/gone.png"],
            "broken": [],
            "seconds": 1.534,
            "figures": {"epe": 1.53356 - k, "1px": 56.25, "epe_s40": None, "iou": {"a": 1.0}},
            **changes,
        }
        for k, method in enumerate(methods)
    ]
    record = {
        "command": f"winwin evaluate /home/me/{methods[0]} --data middlebury=/home/me/mb --output /tmp/out",
        "date": "2026-11-22T14:32:06+00:00",
        "machine": {"cpu": "AMD EPYC", "threads": 1, "accelerator": None},
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"},
        "results": lines,
    }
    path = folder / "results.json"
    path.write_text(json.dumps(record))
    return path


@pytest.mark.parametrize(
    ("command", "public"),
    [
        (
            "winwin evaluate winwin-flow --data sintel-clean:train[:10]=/data/Sintel --output /tmp/x",
            "winwin evaluate MODEL --data 'sintel-clean:train[:10]=FOLDER'",
        ),
        (
            "winwin evaluate runs/mine/winwin-flow --data=spring=../s -o out --beside zero --tile 384x512",
            "winwin evaluate MODEL --data=spring=FOLDER --beside zero --tile 384x512",
        ),
        (
            "evaluate.py --data hub:test=me/set --data shards=/a=b winwin-flow --output=/x --beside /m/winwin-flow",
            "python scripts/evaluate.py --data hub:test=me/set --data shards=FOLDER MODEL --beside winwin-flow",
        ),
        (
            "winwin evaluate runs/x/winwin-flow --beside 'mean-depth@seven-scenes:all[:67%]=/data/room' --data a=b",
            "winwin evaluate MODEL --beside 'mean-depth@seven-scenes:all[:67%]=FOLDER' --data a=FOLDER",
        ),
        (
            r"/usr/bin/winwin evaluate 'C:\models\winwin-flow' --data a=b --length 3",
            "winwin evaluate winwin-flow --data a=FOLDER --length 3",
        ),
    ],
)
def test_a_command_without_its_machine(command, public):
    assert public_command(command, "winwin-flow") == public
    assert shlex.split(public)


def test_results_of_this_model(tmp_path):
    path = results_json(tmp_path, "winwin-flow", "opencv-dis")
    (result,) = [read_results(path, {"winwin-flow"})]
    assert result == read_results(tmp_path, {"winwin-flow", "other"}), "a folder is the file in it"
    assert [line["method"] for line in result.own()] == ["winwin-flow"]
    assert "/home/me" not in json.dumps(result.record())
    text = tables([result], "me/flow")
    assert "| middlebury:train | **me/flow** | 4 (-1) | 1.53 | 56.25 | 1.53 |" in text
    assert "| middlebury:train | opencv-dis | 4 (-1) | 0.534 | 56.25 | 1.53 |" in text and "s40+" not in text
    assert "`winwin evaluate me/flow --data middlebury=FOLDER` (2026-11-22; AMD EPYC, 1 thread; torch 2.13.0" in text
    index = model_index([result], "me/flow")
    assert {(entry.metric_type, entry.metric_value) for entry in index} == {("epe", 1.5336), ("1px", 56.25)}


def test_results_of_another_model(tmp_path):
    path = results_json(tmp_path, "winwin-seg", "opencv-dis")
    with pytest.raises(ValueError, match=r"figures of winwin-seg, opencv-dis; expected those of winwin-flow"):
        read_results(path, {"winwin-flow"})
    with pytest.raises(ValueError, match="expected those of"):
        read_results(results_json(tmp_path, "opencv-dis"), {"opencv-dis"})
    with pytest.raises(FileNotFoundError, match="winwin evaluate"):
        read_results(tmp_path / "none.json", {"x"})
    for content in ("", "[]", '{"results": [{}]}', '{"results": 3}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"results\.json: expected the results\.json of"):
            read_results(path, {"x"})


def test_eval_results_are_of_data_sets_of_the_hub(tmp_path):
    local = read_results(results_json(tmp_path, "flow"), {"flow"})
    assert eval_results([local], "me/flow", {}) == {}
    ours = eval_results([local], "me/flow", {"middlebury": "them/middlebury#train"})
    (entry,) = parse_eval_result_entries(yaml.safe_load(yaml.safe_dump(ours["middlebury.yaml"])))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("them/middlebury", "train", 1.5336)
    assert entry.date == "2026-11-22T14:32:06+00:00" and "EPE px, split train" in entry.notes
    there = read_results(results_json(tmp_path, "flow", data="hub", path="them/set"), {"flow"})
    assert [item["dataset"] for item in eval_results([there], "me/flow", {})["set.yaml"]] == [
        {"id": "them/set", "task_id": "default"}
    ]
    with pytest.raises(ValueError, match="--hub-dataset middlebury=nowhere"):
        eval_results([local], "me/flow", {"middlebury": "nowhere"})


# ------------------------------------------------------------------ terms


def recipe_of(*names: str, **changes) -> Recipe:
    sets = [{"name": name} for name in names]
    data = sets[0] if len(sets) == 1 else {"sets": sets}
    return build(Recipe, {"task": "optical-flow", "data": data, **changes}, "test")


def test_terms():
    synthetic = recipe_of("synthetic-flow")
    assert terms_of(synthetic).licence == "apache-2.0" and not terms_of(synthetic).restricted
    assert "Kodak" in terms_of(synthetic, "Kodak's photographs (unrestricted)").text
    assert terms_of(synthetic, "photographs whose terms nobody noted").licence == "other"
    assert terms_of(synthetic, "photographs (CC BY-NC)").restricted
    rooms = terms_of(recipe_of("synthetic-depth", task="depth-estimation"), "photographs (CC BY-NC)")
    assert rooms.licence == "apache-2.0" and rooms.restricted and "rooms with exact depth" in rooms.text
    spring = terms_of(recipe_of("spring"))
    assert (spring.licence, spring.restricted) == ("cc-by-4.0", False)
    for name in ("kitti-2015", "flying-chairs", "camvid", "ade20k", "bdd100k", "seven-scenes", "cityscapes"):
        assert terms_of(recipe_of(name)).restricted, name
    mixed = terms_of(recipe_of("spring", "kitti-2015"))
    assert mixed.licence == "other" and mixed.restricted and "1 x spring: " in mixed.text
    started = terms_of(recipe_of("spring", model={"init": "me/base"}))
    assert started.licence == "other" and started.licence_name == "as-the-training-data-and-the-first-weights"


def test_what_of_a_recipe_is_published():
    recipe = recipe_of("hub", "camvid", model={"init": "/home/me/runs/pre/model"}, output="/home/me/runs/x")
    recipe.data.sets[0].path, recipe.data.sets[1].path = "them/set", "/home/me/CamVid"
    forget_folders(recipe)
    assert [part.path for part in recipe.data.parts()] == ["them/set", None]
    assert (recipe.model.init, recipe.output) == ("model", "runs/x")
    assert datasets_of(recipe) == ["them/set", "camvid"] and base_model(recipe) is None
    assert base_model(recipe_of("camvid", model={"init": "them/base"})) == "them/base"
    assert base_model(recipe_of("camvid", model={"init": "runs/base"})) is None


# ------------------------------------------------------------------ cards


def facts_of(architecture: str, **changes) -> Facts:
    config = build(Recipe, RECIPE, "test").config()
    return Facts(config, architecture, 12_300_000, **changes)


def metadata(text: str):
    return ModelCard(text).data


def test_metadata(run):
    text = card("flow", read_facts(run / "model"), "me/flow")
    data = metadata(text)
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "optical-flow-estimation",
        "apache-2.0",
    )
    assert data.datasets == ["synthetic-flow"] and data.metrics == ["epe", "1px", "3px", "fl"]
    assert not any(math.isnan(entry.metric_value) for entry in data.eval_results or [])
    started = facts_of("WinWinForOpticalFlow", recipe=recipe_of("hub", model={"init": "them/base"}))
    started.recipe.data.path = "them/set"
    data = metadata(card("flow", started, "me/flow"))
    assert data.base_model == "them/base" and data.datasets == ["them/set"]


def test_sets_of_the_training_that_are_in_the_metadata(run):
    facts = read_facts(run / "model")
    facts.evaluation["a"] = facts.evaluation.pop("frames")  # the recipe's label
    found = {
        (entry.dataset_config, entry.metric_type): entry.metric_value
        for entry in metadata(card("x", facts)).eval_results
    }
    assert found["a", "epe"] == 2.7183 and {config for config, _ in found} == {"a"}, "no score of windows"


@pytest.mark.parametrize("model", [WinWinForPreTraining, WinWinBackbone])
def test_without_a_recipe_or_figures(model, tmp_path):
    model(build(Recipe, RECIPE, "test").config()).save_pretrained(tmp_path)
    text = card("x", read_facts(tmp_path), "me/x")
    assert "what they were trained on is not known" in text and "None were given." in text
    assert 'AutoModel.from_pretrained("me/x", trust_remote_code=True)' in text
    assert metadata(text).eval_results is None


def test_a_card_that_came_with_the_weights_is_kept_and_gets_the_figures(tmp_path):
    own = "---\nlicense: cc-by-nc-sa-4.0\nmodel-index: []\n---\n\n# CroCo\n\nTheirs.\n"
    facts = facts_of("WinWinForOpticalFlow")
    assert with_figures(own, "x", facts, "me/x") == own
    facts.results = [read_results(results_json(tmp_path, "x"), {"x"})]
    text = with_figures(own, "x", facts, "me/x")
    assert "Theirs." in text and "**me/x**" in text
    assert metadata(text).license == "cc-by-nc-sa-4.0" and len(metadata(text).eval_results) == 2


def test_limits_that_nobody_wrote(run):
    facts = read_facts(run / "model")
    assert "It has only seen synthetic-flow." in card("x", facts)
    assert "Mine." in card("x", read_facts(run / "model", limits="Mine."))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("card.json", "{}"),
        ("card.json", "nothing"),
        ("config.json", "{}"),
        ("config.json", "x"),
        ("config.json", '{"model_type": "bert"}'),
    ],
)
def test_files_that_are_something_else(run, name, content):
    (run / "model" / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        read_facts(run / "model")


def test_an_evaluation_that_was_none(run):
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert read_facts(run / "model").evaluation == {}
    (run / "metrics.jsonl").write_text("no JSON")
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        read_facts(run / "model")
