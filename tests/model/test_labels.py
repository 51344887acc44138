"""The classes of a model, as users of transformers give them: number, names, and what was saved for other ones."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForDepthEstimation,
    AutoModelForSemanticSegmentation,
    Trainer,
    TrainingArguments,
)

from tests.support.model_cases import SMALL, TASKS
from winwin_hf import WinWinBackbone, WinWinConfig, WinWinForOpticalFlow, WinWinForSemanticSegmentation

NAMES = {0: "road", 1: "car", 2: "sky"}
IDS = {name: i for i, name in NAMES.items()}
WEIGHTS = [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """A saved network of five classes with a weight each."""
    folder = tmp_path_factory.mktemp("five")
    WinWinForSemanticSegmentation(WinWinConfig(**SMALL, semantic_loss_weights=WEIGHTS)).save_pretrained(folder)
    return folder


def agree(config) -> None:
    assert config.label2id == {name: i for i, name in config.id2label.items()}
    assert list(config.id2label) == list(range(config.num_labels))


@pytest.mark.parametrize(
    "given",
    [
        {"num_labels": 3},
        {"id2label": NAMES, "label2id": IDS},
        {"id2label": NAMES},
        {"label2id": IDS},
        {"num_labels": 3, "id2label": NAMES},
        # as run_semantic_segmentation.py of transformers writes them
        {"id2label": {str(i): name for i, name in NAMES.items()}, "label2id": {n: str(i) for n, i in IDS.items()}},
    ],
)
@pytest.mark.parametrize("by", ["keywords", "config"])
def test_another_number_of_labels(five, tmp_path, caplog, given, by):
    with caplog.at_level(logging.WARNING):
        if by == "keywords":
            model = AutoModelForSemanticSegmentation.from_pretrained(five, ignore_mismatched_sizes=True, **given)
        else:
            config = AutoConfig.from_pretrained(five, **given)
            model = AutoModelForSemanticSegmentation.from_pretrained(five, config=config, ignore_mismatched_sizes=True)
    assert "semantic_loss_weights=[1.0, 2.0, 3.0, 4.0, 5.0]" in caplog.text and "dropped" in caplog.text
    names = {i: f"LABEL_{i}" for i in range(3)} if set(given) == {"num_labels"} else NAMES
    assert model.config.id2label == names and model.config.semantic_loss_weights is None
    agree(model.config)
    pixels, labels = torch.rand(1, 3, 32, 32), torch.randint(0, 3, (1, 32, 32))
    outputs = model(pixels, labels=labels)
    assert outputs.logits.shape[1] == 3 and outputs.loss.isfinite()
    model.save_pretrained(tmp_path)
    again = AutoModelForSemanticSegmentation.from_pretrained(tmp_path).eval()
    assert again.config.id2label == names
    assert torch.equal(again(pixels).logits, model.eval()(pixels).logits)


def test_an_encoder_keeps_its_weights_under_another_number_of_labels(five):
    model = AutoModelForSemanticSegmentation.from_pretrained(five, num_labels=3, ignore_mismatched_sizes=True)
    before = AutoModelForSemanticSegmentation.from_pretrained(five).state_dict()
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed and all(name.startswith("head.layers.out.") for name in changed)


def test_as_many_labels_as_before_keep_names_and_weights(five, caplog):
    with caplog.at_level(logging.WARNING):
        config = AutoConfig.from_pretrained(five, num_labels=5)
    assert config.semantic_loss_weights == WEIGHTS and "dropped" not in caplog.text
    agree(config)


def test_new_weights_come_with_new_labels(five, caplog):
    options = {"num_labels": 3, "semantic_loss_weights": [1, 2, 3], "ignore_mismatched_sizes": True}
    with caplog.at_level(logging.WARNING):
        model = AutoModelForSemanticSegmentation.from_pretrained(five, **options)
    assert model.config.semantic_loss_weights == [1, 2, 3] and "dropped" not in caplog.text
    logits, labels = torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)
    assert model(torch.rand_like(logits), labels=labels).loss.isfinite()  # whole numbers are weights too
    with pytest.raises(ValueError, match="2 entries: expected one for each of 3 labels"):
        AutoModelForSemanticSegmentation.from_pretrained(five, num_labels=3, semantic_loss_weights=[1, 2])


def test_without_ignore_mismatched_sizes_another_number_of_labels_is_transformers_own_error(five):
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForSemanticSegmentation.from_pretrained(five, num_labels=3)


def test_labels_of_a_config_that_exists(five):
    config = AutoConfig.from_pretrained(five)
    config.num_labels = 4
    assert config.semantic_loss_weights is None
    assert AutoModelForSemanticSegmentation.from_config(config).config.num_labels == 4
    for order in (("id2label", "label2id"), ("label2id", "id2label")):
        config = AutoConfig.from_pretrained(five)
        for field in order:
            setattr(config, field, {"id2label": NAMES, "label2id": IDS}[field])
            agree(config)
        assert config.id2label == NAMES


def test_ids_are_in_order_after_json(tmp_path):
    """JSON sorts keys as text: 0, 1, 10, 2."""
    names = {str(i): f"class {i}" for i in range(12)}
    values = {"model_type": "winwin", "id2label": names}
    (tmp_path / "config.json").write_text(json.dumps(values, sort_keys=True))
    agree(AutoConfig.from_pretrained(tmp_path))


def test_a_file_with_only_one_direction(tmp_path):
    """Files of other code may have no label2id, or that of a default of before."""
    path = tmp_path / "config.json"
    for label2id in (None, {"LABEL_0": 0, "LABEL_1": 1}):
        path.write_text(json.dumps({"model_type": "winwin", "id2label": {"0": "a", "1": "b"}, "label2id": label2id}))
        config = AutoConfig.from_pretrained(tmp_path)
        assert config.label2id == {"a": 0, "b": 1}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"num_labels": 5, "id2label": NAMES}, "num_labels=5 with id2label of 3 classes: expected the same number"),
        ({"num_labels": 5, "label2id": IDS}, "num_labels=5 with label2id of 3 classes"),
        ({"id2label": NAMES, "label2id": {"road": 1}}, "disagree: one of them is enough"),
        ({"id2label": {1: "a", 2: "b"}}, r"labels with the ids \[1, 2\]: expected 0, 1, and so on"),
        ({"id2label": {0: "a", 1: "a"}}, "names 'a' twice"),
        ({"num_labels": 0}, "num_labels=0: expected 1 to"),
        ({"id2label": ["a", "b"]}, "id2label=.*expected a dict"),
    ],
)
def test_labels_that_conflict(five, wrong, says):
    for make in (WinWinConfig, lambda **kwargs: AutoConfig.from_pretrained(five, **kwargs)):
        with pytest.raises(Exception, match=f"(?s){says}"):
            make(**wrong)


def test_weights_are_finite_numbers():
    for weights in ([1.0, float("nan")], [float("inf"), 1.0], [0, 0]):
        with pytest.raises(Exception, match="semantic_loss_weights"):
            WinWinConfig(semantic_loss_weights=weights)


def test_a_label_that_is_also_the_unknown_one(caplog):
    with caplog.at_level(logging.WARNING):
        WinWinForSemanticSegmentation(WinWinConfig(**{**SMALL, "head_type": "linear", "num_labels": 256}))
    assert "semantic_loss_ignore_index=255 is one of 256 labels" in caplog.text


@pytest.mark.parametrize("task", TASKS)
def test_every_task_takes_labels(task, tmp_path):
    """Depth, flow and pre-training have none, and scripts give them nevertheless."""
    model = TASKS[task](WinWinConfig(**SMALL))
    model.save_pretrained(tmp_path)
    loaded = TASKS[task].from_pretrained(tmp_path, id2label=NAMES, label2id=IDS, ignore_mismatched_sizes=True)
    assert loaded.config.id2label == NAMES
    agree(loaded.config)


def test_a_head_of_another_task(five):
    """Whoever starts from another task's weights gets a new head."""
    model = AutoModelForDepthEstimation.from_pretrained(five, ignore_mismatched_sizes=True)
    assert model(torch.rand(1, 3, 32, 32)).predicted_depth.shape == (1, 32, 32)


@pytest.mark.parametrize(
    "changed", [{"head_type": "linear"}, {"head_type": "dpt"}, {"patch_size": 16}, {"num_channels": 1}]
)
@pytest.mark.parametrize("task", TASKS)
def test_another_head_patch_or_image(task, changed, tmp_path):
    TASKS[task](WinWinConfig(**SMALL)).save_pretrained(tmp_path)
    model = TASKS[task].from_pretrained(tmp_path, ignore_mismatched_sizes=True, **changed).eval()
    inputs = {"pixel_values": torch.rand(1, model.config.num_channels, 32, 32)}
    if task in ("optical-flow", "pre-training"):
        inputs["second_pixel_values"] = torch.rand_like(inputs["pixel_values"])
    assert all(value.isfinite().all() for value in model(**inputs).values() if isinstance(value, torch.Tensor))


def test_options_are_checked_together(tmp_path):
    """transformers sets them one by one, after its checks: a wrong range was found when the trained model was saved."""
    config = WinWinConfig(**SMALL, patch_embedding="conv_stem", matching_stride=4)
    WinWinForOpticalFlow(config).save_pretrained(tmp_path)
    with pytest.raises(Exception, match="matching with head_type='linear'"):
        AutoModel.from_pretrained(tmp_path, head_type="linear", ignore_mismatched_sizes=True)
    with pytest.raises(Exception, match=r"min_depth=0.1, max_depth=0.01"):
        AutoConfig.from_pretrained(tmp_path, max_depth=0.01)


def test_another_range_of_depth_says_what_it_does_to_the_weights(tmp_path, caplog):
    TASKS["depth-estimation"](WinWinConfig(**SMALL)).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = AutoModelForDepthEstimation.from_pretrained(tmp_path, min_depth=1, max_depth=80)
    assert (model.config.min_depth, model.config.max_depth) == (1, 80)
    assert "max_depth=80 instead of the saved 10.0" in caplog.text
    depth = model(torch.rand(1, 3, 32, 32)).predicted_depth
    assert depth.min() >= 1 and depth.max() <= 80


def test_fewer_blocks_have_fewer_stages(five):
    backbone = WinWinBackbone.from_pretrained(five, num_hidden_layers=2, out_indices=[1, 2])
    assert backbone.config.stage_names == ["stem", "stage1", "stage2"]
    assert len(backbone(torch.rand(1, 3, 32, 32)).feature_maps) == 2
    assert AutoConfig.from_pretrained(five, num_hidden_layers=2).out_features == ["stage2"]


def test_the_trainer_trains_new_labels(five, tmp_path):
    model = AutoModelForSemanticSegmentation.from_pretrained(
        five, id2label=NAMES, label2id=IDS, ignore_mismatched_sizes=True
    )
    rows = [{"pixel_values": torch.rand(3, 32, 32), "labels": torch.randint(0, 3, (32, 32))} for _ in range(2)]
    arguments = TrainingArguments(tmp_path, max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model(tmp_path / "final")
    assert AutoConfig.from_pretrained(tmp_path / "final").label2id == IDS


@pytest.mark.parametrize(
    "names", [{"0": 1, "1": None}, {"0": "a", "1": None}, {"0": True, "1": False}, {"0": 1.5, "1": "a"}, 5]
)
def test_names_are_text(tmp_path, names):
    """As they may stand in anybody's config.json."""
    saved = {**WinWinConfig().to_dict(), "id2label": names, "label2id": None}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="id2label"):
        WinWinConfig.from_pretrained(tmp_path)
