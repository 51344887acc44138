"""Mean intersection over union, IoU of each class and accuracies, from one confusion matrix of all images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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
        if num_labels < 1:
            raise ValueError(f"num_labels is {num_labels}; expected at least 1")
        super().__init__(num_labels**2)
        self.num_labels, self.ignore = num_labels, ignore
        self.names = list(names) if names is not None else [str(i) for i in range(num_labels)]
        if len(set(self.names)) != num_labels:
            raise ValueError(f"names has {len(set(self.names))} different entries; expected {num_labels}, one a class")
        self.row_names = [f"{true} as {predicted}" for true in self.names for predicted in self.names]

    def row(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The confusion matrix of one image, flat; arguments and errors of `segmentation_confusion`."""
        return segmentation_confusion(prediction, target, self.num_labels, self.ignore).ravel().astype(np.float64)

    def compute(self, state: np.ndarray | None = None) -> dict[str, Any]:
        """miou, accuracy, mean_accuracy and iou; NaN for a class that doesn't occur, and everywhere where no pixel was known."""
        confusion = (self.state if state is None else state).reshape(self.num_labels, self.num_labels)
        correct, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
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
