"""Mean intersection over union, IoU of each class and accuracies, from one confusion matrix of all images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from winwin_hf.data.formats import IGNORE
from winwin_hf.evaluation.metrics.base import Metric, check_same_size


def segmentation_confusion(prediction: np.ndarray, label: np.ndarray, num_labels: int, ignore: int = 255) -> np.ndarray:
    """
    The confusion matrix of one image: number of pixels [true class, predicted class], (num_labels, num_labels) int64.

    Args:
        prediction, label: class ids (H, W), whole numbers.
        ignore: the label of pixels that don't count.
    Raises:
        ValueError: sizes that differ, types other than whole numbers, or ids outside 0 to num_labels - 1 where pixels count.
    """
    check_same_size(prediction, label)
    known = label != ignore
    ids = {"label": label[known], "prediction": prediction[known]}
    for name, values in ids.items():
        if values.dtype.kind not in "biu":
            raise ValueError(f"{name} is of type {values.dtype}; expected whole numbers")
        if values.size and (values.min() < 0 or values.max() >= num_labels):
            raise ValueError(f"{name} holds ids from {values.min()} to {values.max()}; expected 0 to {num_labels - 1}")
    pairs = ids["label"].astype(np.int64) * num_labels + ids["prediction"]
    return np.bincount(pairs.astype(np.int64), minlength=num_labels**2).reshape(num_labels, num_labels)


MOST_CLASSES = 4096  # a confusion matrix of 134 MB
LOWEST, SPAN = -1024, 2**15  # ids that `label_pairs` counts: from LOWEST on, SPAN of them


def label_pairs(prediction: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Counts of all pairs (true id, predicted id) of an image, whatever counts and however many classes there are: (counts, pairs), of
    which `pairs_confusion` makes a confusion matrix later. Raises ValueError as `segmentation_confusion` does.
    """
    check_same_size(prediction, label)
    for name, ids in (("label", label), ("prediction", prediction)):
        if ids.dtype.kind not in "biu":
            raise ValueError(f"{name} is of type {ids.dtype}; expected whole numbers")
        if ids.size and (ids.min() < LOWEST or ids.max() >= LOWEST + SPAN):
            raise ValueError(
                f"{name} holds ids from {ids.min()} to {ids.max()}; expected {LOWEST} to {LOWEST + SPAN - 1}"
            )
    pairs = (label.astype(np.int64) - LOWEST) * SPAN + (prediction.astype(np.int64) - LOWEST)
    found, counts = np.unique(pairs, return_counts=True)
    return counts.astype(np.float64), found.astype(np.int32)


def pairs_confusion(
    counts: np.ndarray, pairs: np.ndarray, num_labels: int | None = None, ignore: int = 255, reduce_labels: bool = False
) -> np.ndarray:
    """
    The confusion matrix of what `label_pairs` counted.

    Args:
        num_labels: number of classes; None: as many as occur.
        reduce_labels: label 0 is unknown, and the others are one less, as the mean_iou module has it.
    Raises:
        ValueError: ids outside 0 to num_labels - 1 where pixels count.
    """
    label, prediction = np.divmod(pairs.astype(np.int64), SPAN)
    label, prediction = label + LOWEST, prediction + LOWEST
    if reduce_labels:
        label = np.where((label == 0) | (label == IGNORE), ignore, label - 1)
    known = label != ignore
    label, prediction, counts = label[known], prediction[known], counts[known]
    if num_labels is None:
        num_labels = int(max(label.max(initial=0), prediction.max(initial=0))) + 1
        if num_labels > MOST_CLASSES:
            raise ValueError(f"an id of {num_labels - 1:,}; expected at most {MOST_CLASSES:,} classes")
    for name, ids in (("references", label), ("predictions", prediction)):
        if ids.size and (ids.min() < 0 or ids.max() >= num_labels):
            raise ValueError(f"{name} hold ids from {ids.min()} to {ids.max()}; expected 0 to {num_labels - 1}")
    flat = np.bincount(label * num_labels + prediction, weights=counts, minlength=num_labels**2)
    return flat.reshape(num_labels, num_labels)


def check_num_labels(num_labels: Any) -> None:
    """Raises ValueError for a number of classes that no confusion matrix is made for."""
    if (
        isinstance(num_labels, bool)
        or not isinstance(num_labels, int | np.integer)
        or not 1 <= num_labels <= MOST_CLASSES
    ):
        raise ValueError(f"num_labels is {num_labels!r}; expected a whole number from 1 to {MOST_CLASSES:,}")


class SegmentationMetric(Metric):
    """
    Scores of semantic segmentation, in percent; higher is better (Everingham et al. 2015, PASCAL VOC).

    miou: mean IoU of the classes that occur in labels or predictions. accuracy: correct pixels. mean_accuracy: correct pixels of
    a class, mean over the classes that occur in the labels. iou: a dict, class name -> correct / (true + predicted - correct).

    Args:
        num_labels: number of classes.
        ignore: the label of pixels that don't count.
        names: of the classes; default "0", "1", ...
    """

    def __init__(self, num_labels: int, ignore: int = 255, names: Sequence[str] | None = None) -> None:
        check_num_labels(num_labels)
        super().__init__(num_labels**2)
        self.num_labels, self.ignore = num_labels, ignore
        if names is not None and (isinstance(names, str) or not isinstance(names, Iterable)):
            raise ValueError(f"names is {names!r}; expected a list, one a class")
        self.names = list(names) if names is not None else [str(i) for i in range(num_labels)]
        if len(set(self.names)) != num_labels:
            raise ValueError(f"names has {len(set(self.names))} different entries; expected {num_labels}, one a class")
        self.row_names = [f"{true} as {predicted}" for true in self.names for predicted in self.names]

    def row(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The confusion matrix of one image, flat; arguments and errors of `segmentation_confusion`."""
        return segmentation_confusion(prediction, target, self.num_labels, self.ignore).ravel().astype(np.float64)

    def compute(self, state: np.ndarray | None = None) -> dict[str, Any]:
        """miou, accuracy, mean_accuracy and iou; NaN for a class that doesn't occur, and everywhere where no pixel was known."""
        confusion = (self.state if state is None else state).reshape(self.num_labels, -1)
        true, confusion = confusion.sum(axis=1), confusion[:, : self.num_labels]
        correct, predicted = np.diag(confusion), confusion.sum(axis=0)
        nan = np.full(self.num_labels, np.nan)
        iou = 100 * np.divide(correct, true + predicted - correct, out=nan.copy(), where=true + predicted > 0)
        recall = 100 * np.divide(correct, true, out=nan.copy(), where=true > 0)
        total = true.sum()
        return {
            "miou": float(np.nanmean(iou)) if total else float("nan"),
            "accuracy": float(100 * correct.sum() / total) if total else float("nan"),
            "mean_accuracy": float(np.nanmean(recall)) if total else float("nan"),
            "iou": dict(zip(self.names, iou.tolist(), strict=True)),
        }


class TranslatedMetric(SegmentationMetric):
    """
    Scores, in the classes of a set, of a method that has others.

    Args:
        table: the method's class -> the set's; 255 for one that the set doesn't have, which is wrong wherever a label is known.
    """

    def __init__(self, table: np.ndarray, names: Sequence[str], ignore: int = 255) -> None:
        super().__init__(len(names), ignore, names)
        self.table, self.state = table, np.zeros(len(names) * (len(names) + 1))
        self.row_names = [f"{true} as {predicted}" for true in self.names for predicted in (*self.names, "none")]

    def fitted(self, prediction: np.ndarray) -> np.ndarray:
        return self.table[prediction]

    def row(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """prediction: `fitted`."""
        prediction = np.where(prediction == IGNORE, self.num_labels, prediction)
        known = np.where(target == self.ignore, IGNORE, target)
        confusion = segmentation_confusion(prediction, known, self.num_labels + 1, IGNORE)
        return confusion[: self.num_labels].ravel().astype(np.float64)
