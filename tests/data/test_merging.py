"""One set of classes for several data sets: labels, groups, and scores in a set's own classes."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from winwin_hf import WinWinConfig
from winwin_hf.data.merging import merge_table, synonyms_of, translation
from winwin_hf.data.readers import SegmentationReader
from winwin_hf.evaluation.metrics import TranslatedMetric
from winwin_hf.model.losses_winwin import semantic_count, semantic_loss

OURS = ["sky", "building", "tree", "door", "window"]


def test_labels_become_ours_groups_or_ignored():
    groups = []
    table = merge_table(
        ["sky", "building", "moss"], OURS, {"building": ["building", "door", "window"], "moss": None}, groups
    )
    assert groups == [(1, 3, 4)]
    assert table[[0, 1, 2, 255]].tolist() == [0, 5, 255, 255]
    table = merge_table(["vegetation", "window"], OURS, {"vegetation": "tree"}, groups)
    assert groups == [(1, 3, 4)]
    assert table[:2].tolist() == [2, 4]


@pytest.mark.parametrize(
    ("theirs", "classes", "named"),
    [
        (["sky", "car"], {}, "car"),
        (["sky"], {"boat": "sky"}, "boat"),
        (["sky", "car"], {"car": "lorry"}, "lorry"),
        (["sky", "car"], {"car": []}, "nothing"),
    ],
)
def test_names_that_are_unknown_are_named(theirs, classes, named):
    with pytest.raises(ValueError, match=named):
        merge_table(theirs, OURS, classes, [])


def test_a_reader_maps_what_is_stored():
    table = merge_table(["building", "sky"], OURS, {"building": ["building", "door"]}, [])
    reader = SegmentationReader(2, table=table)
    label = np.array([[0, 1], [255, 1]], np.uint8)
    _, mapped = reader.decode({"image": np.zeros((2, 2, 3), np.uint8), "label": label})
    assert mapped.tolist() == [[5, 0], [255, 0]]


def test_the_loss_of_a_group_is_that_of_its_common_probability():
    logits = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    labels = torch.full((2, 3, 4), 5)
    together = logits.softmax(1)[:, [1, 3, 4]].sum(1)
    expected = -together.log().mean()
    assert semantic_loss(logits, labels, groups=[[1, 3, 4]]).item() == pytest.approx(expected.item(), rel=1e-5)
    mixed = labels.clone()
    mixed[0] = 2
    mixed[1, 0] = 255
    one = -logits.log_softmax(1)[0, 2].sum() - together[1, 1:].log().sum()
    weights = [1.0, 2.0, 3.0, 1.0, 1.0]
    assert semantic_loss(logits, mixed, groups=[[1, 3, 4]]).item() == pytest.approx(one.item() / 20, rel=1e-5)
    assert semantic_count(mixed, 255, weights, [[1, 3, 4]]).item() == 12 * 3 + 8 * 2


def test_the_loss_without_groups_pixels_is_unchanged():
    logits, labels = torch.randn(1, 5, 3, 4), torch.randint(0, 5, (1, 3, 4))
    assert semantic_loss(logits, labels, groups=[[1, 3]]).item() == pytest.approx(
        semantic_loss(logits, labels).item(), rel=1e-5
    )


def test_scores_are_in_the_sets_own_classes():
    synonyms = synonyms_of([{"building": ["building", "door", "window"]}, {"vegetation": "tree"}])
    assert synonyms == {"door": ["building"], "window": ["building"], "tree": ["vegetation"]}
    assert translation(OURS, ["building", "sky"], synonyms).tolist() == [1, 0, 255, 0, 0]
    table = translation(OURS, ["vegetation", "door", "building"], synonyms)
    assert table.tolist() == [255, 2, 0, 1, 2]
    metric = TranslatedMetric(table, ["vegetation", "door", "building"])
    target = np.array([[0, 0, 1, 2, 2, 255]])
    prediction = np.array([[2, 0, 3, 1, 4, 0]])  # tree, sky, door, building, window, sky
    metric.update(metric.fitted(prediction), target)
    found = metric.compute()
    assert found["iou"] == pytest.approx({"vegetation": 50.0, "door": 100.0, "building": 100.0})
    assert found["accuracy"] == pytest.approx(80.0)
    assert found["mean_accuracy"] == pytest.approx((50 + 100 + 100) / 3)


def test_a_set_with_a_class_that_the_network_lacks_is_not_scored_by_names():
    assert translation(OURS, ["building", "car"], {"door": ["building"]}) is None
    assert translation(OURS, ["boat"], None) is None


def test_classes_in_another_order_are_found_by_their_names():
    assert translation(OURS, OURS[::-1], None).tolist() == [4, 3, 2, 1, 0]
    table = translation(OURS, OURS[::-1], None)
    metric = TranslatedMetric(table, OURS[::-1])
    truth = np.array([[0, 1, 2, 3, 4]])
    metric.update(metric.fitted(4 - truth), truth)
    assert metric.compute()["miou"] == pytest.approx(100)


def test_more_labels_than_eight_bits_hold_are_refused():
    ours = [f"c{i}" for i in range(250)]
    groups = []
    with pytest.raises(ValueError, match="8 bits"):
        merge_table([f"t{i}" for i in range(9)], ours, {f"t{i}": [f"c{i}", f"c{i + 1}"] for i in range(9)}, groups)
    with pytest.raises(ValueError, match="8 bits"):
        merge_table([f"t{i}" for i in range(300)], ours, {}, [])


def test_a_label_that_is_no_class_is_named_with_groups_too():
    with pytest.raises(ValueError, match="class ids 77"):
        semantic_loss(torch.zeros(1, 5, 2, 2), torch.full((1, 2, 2), 77), groups=[[1, 3]])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"semantic_label_groups": [[0, 0, 1]]}, "different classes"),  # the first would count twice
        ({"semantic_label_groups": [[0, 1]], "semantic_loss_ignore_index": 3}, "label of a group"),
        ({"semantic_label_groups": [[0, 3]]}, "below 3"),
    ],
)
def test_groups_that_make_no_sense_are_refused(fields, named):
    with pytest.raises(StrictDataclassClassValidationError, match=named):
        WinWinConfig(num_labels=3, **fields)


def test_a_class_that_is_named_twice_is_refused():
    with pytest.raises(ValueError, match="each class once"):
        merge_table(["house"], OURS, {"house": ["building", "door", "building"]}, [])
