"""The base class of the evaluate modules under spaces/: dense maps in, the scores of a `metrics.Metric` out.

- Hugging Face's evaluate writes all predictions and references to an Arrow file; eight Full-HD flows would take a gigabyte. So each
  pair is reduced to its row of sums at once, and only the row's values other than zero are written, in the column `predictions`,
  with their indices in the column `references`.
- The rows of all processes are added with one rounding (`metrics.sum_rows`), so any number of processes gives the same scores.
- Options hold for all images. They belong to evaluate.load, which hands unknown keywords to the module's constructor. `compute` takes
  them too where it is given all the maps: of maps that were added before only the rows are left. Segmentation keeps counts of pairs
  of ids, so its `late` options may always wait for `compute`.
- evaluate takes the first class in a module's file that derives from evaluate.EvaluationModule. So such a file imports this module
  as a whole, not `DenseMetric`.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

from winwin_hf.data.formats import IGNORE
from winwin_hf.evaluation.metrics import Metric, SegmentationMetric, sum_rows
from winwin_hf.evaluation.metrics.base import check_numbers
from winwin_hf.evaluation.metrics.segmentation import (
    check_num_labels,
    label_pairs,
    pairs_confusion,
    segmentation_confusion,
)
from winwin_hf.model.pixels_winwin import check_unmasked

# The columns of one image's row; evaluate requires these names.
ROW_FEATURES = datasets.Features(
    predictions=datasets.List(datasets.Value("float64")), references=datasets.List(datasets.Value("int32"))
)
EVALUATE_ARGUMENTS = frozenset(inspect.signature(evaluate.EvaluationModule.__init__).parameters) - {"self", "kwargs"}


class DenseMetric(evaluate.Metric):
    """
    Base class; a module defines the attributes.

    Attributes:
        metric: class of the metric.
        axes: number of axes of one map.
        value: Arrow type of one value of a map, for `features`.
        extra: names of further maps that `metric.row` takes.
        configurations: name -> options of the metric.
        late: options that `compute` takes for images that were added before, too.
        texts: arguments of evaluate.MetricInfo.
    """

    metric: type[Metric]
    axes: int
    value: str
    extra: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    configurations: ClassVar[dict[str, dict[str, Any]]] = {}
    texts: ClassVar[dict[str, Any]]

    def __init__(self, config_name: str | None = None, **arguments: Any) -> None:
        """
        Args:
            config_name: one of `configurations`, or "default".
            arguments: evaluate's own, and options of the metric, which win over the configuration's.
        Raises:
            ValueError: an unknown configuration or option, or an option without a default is missing.
        """
        module, known = type(self).__name__, inspect.signature(self.metric).parameters
        options = {name: value for name, value in arguments.items() if name not in EVALUATE_ARGUMENTS}
        names = list(dict.fromkeys([*known, *self.late]))
        if unknown := sorted(set(options) - set(names)):
            raise ValueError(f"unknown options {', '.join(unknown)}; {module} knows {', '.join(names)}")
        configurations = {"default": {}, **self.configurations}
        if (config_name or "default") not in configurations:
            raise ValueError(f"unknown configuration {config_name!r}; {module} knows {', '.join(configurations)}")
        options = {**configurations[config_name or "default"], **options}
        self.prepare(options)
        super().__init__(
            config_name, **{name: value for name, value in arguments.items() if name in EVALUATE_ARGUMENTS}
        )

    def prepare(self, options: dict[str, Any]) -> None:
        """Makes the metric from the options of evaluate.load."""
        self.options, self.scorer = options, self.metric(**options)

    def _info(self) -> evaluate.MetricInfo:
        feature: Any = datasets.Value(self.value)
        for _ in range(self.axes):
            feature = datasets.List(feature)
        features = datasets.Features(predictions=feature, references=feature)
        return evaluate.MetricInfo(features=features, **self.texts)

    def _infer_feature_from_batch(self, batch: Any) -> datasets.Features:
        return ROW_FEATURES

    def _infer_feature_from_example(self, example: Any) -> datasets.Features:
        return ROW_FEATURES

    def array(self, values: Any, name: str) -> np.ndarray:
        """One map as NumPy, from an array or a torch tensor of any device and type. name: of the argument, for messages."""
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            values = (values.float() if "bfloat16" in str(values.dtype) else values).numpy()  # NumPy has no bfloat16
        check_unmasked(name, values)
        array = np.asarray(values)
        check_numbers(name, array)
        if array.ndim != self.axes and name not in self.extra:
            raise ValueError(f"{name} has the shape {array.shape}; expected {self.axes} axes, one map")
        return array

    def add(self, *, prediction: Any = None, reference: Any = None, **extra: Any) -> None:
        """Adds one image.

        Args:
            prediction: array or tensor.
            reference: the ground truth.
            **extra: further maps of the image.
        Raises:
            ValueError: maps that don't fit, with the reason; the image is not added.
        """
        # evaluate.combine uses the plural names here too.
        prediction, reference = extra.pop("predictions", prediction), extra.pop("references", reference)
        self._check_extra(extra)
        values, indices = self._sums(prediction, reference, extra)
        super().add(prediction=values, reference=indices)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **extra: Any) -> None:
        """Adds several images, of the same or of different sizes.

        Args:
            predictions: a list of maps, or an array or a tensor with one more axis.
            references: as many.
            **extra: further maps, as many.
        Raises:
            ValueError: maps that don't fit, with the reason; no image is added.
        """
        self._check_extra(extra)
        columns = {"predictions": predictions, "references": references, **extra}
        counts = {name: 0 if column is None else len(column) for name, column in columns.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"expected as many of each, got {', '.join(f'{n} {name}' for name, n in counts.items())}")
        rows = []
        for i in range(counts["predictions"]):
            maps = {name: column[i] for name, column in extra.items()}
            rows.append(self._sums(predictions[i], references[i], maps))
        if rows:
            values, indices = zip(*rows, strict=True)
            super().add_batch(predictions=list(values), references=list(indices))

    def compute(self, *, predictions: Any = None, references: Any = None, **extra: Any) -> dict[str, Any] | None:
        """The scores of all images that were added, including those given here; empties the module.

        Args:
            predictions: more images, as `add_batch` takes them.
            references: as many.
            **extra: further maps, as many; and options of the metric, which win over evaluate.load's.
        Returns:
            A dict in process 0, None in the others.
        Raises:
            ValueError: options that aren't `late`, and images were added before.
        """
        late = {name: extra.pop(name) for name in self.late if name in extra}
        options = {name: extra.pop(name) for name in inspect.signature(self.metric).parameters if name in extra}
        if options and len(self):
            raise ValueError(
                f"{', '.join(options)} given to compute after images were added: give them to evaluate.load(path, option=...)"
            )
        if not options:
            return self._compute_added(predictions, references, extra, late)
        scorer, self.scorer = self.scorer, self.metric(**{**self.options, **options})
        try:
            return self._compute_added(predictions, references, extra, late)
        finally:
            self.scorer = scorer

    def _compute_added(self, predictions: Any, references: Any, extra: dict[str, Any], late: dict[str, Any]) -> Any:
        if extra or predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references, **extra)
        if self.num_process > 1 and self.writer is None:
            # Process 0 waits for the file of each process, also of one without images.
            super().add(prediction=np.zeros(0), reference=np.zeros(0, np.int32))
        return super().compute(**late)

    def _check_extra(self, extra: dict[str, Any]) -> None:
        if unknown := sorted(set(extra) - set(self.extra)):
            raise ValueError(
                f"unknown arguments {', '.join(unknown)}; {type(self).__name__} takes "
                f"{', '.join(['predictions', 'references', *self.extra, *self.late])}. Options belong to "
                "evaluate.load(path, option=...), or to a compute that is given all maps"
            )

    def _sums(self, prediction: Any, reference: Any, extra: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """One image's row without its zeros: the values, and their indices."""
        maps = {name: self.array(values, name) for name, values in extra.items() if values is not None}
        row = self.scorer.row(self.array(prediction, "prediction"), self.array(reference, "reference"), **maps)
        indices = np.flatnonzero(row)
        return row[indices], indices.astype(np.int32)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        return self.scorer.compute(sum_rows(map(self._row, predictions, references)))

    def _row(self, values: Any, indices: Any) -> np.ndarray:
        row = np.zeros_like(self.scorer.state)
        row[np.asarray(indices, dtype=np.intp)] = values
        return row


class LabelMetric(DenseMetric):
    """
    Base class of segmentation, whose options may come as late as `compute`, as users of mean_iou give them.

    So an image is reduced to the counts of its pairs of ids, not to a confusion matrix. Options of `compute` win over evaluate.load's.
    """

    metric = SegmentationMetric
    axes, value = 2, "int32"
    late = ("num_labels", "ignore", "ignore_index", "reduce_labels", "names")

    def prepare(self, options: dict[str, Any]) -> None:
        self.options = self._whole(options)

    def _whole(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options by one name: mean_iou's `ignore_index` is `ignore`. Raises ValueError where both are given, and differ."""
        options = dict(options)
        if {"ignore", "ignore_index"} <= options.keys() and options["ignore"] != options["ignore_index"]:
            raise ValueError(
                f"ignore={options['ignore']} and ignore_index={options['ignore_index']}: expected one of both"
            )
        if "ignore_index" in options:
            options["ignore"] = options.pop("ignore_index")
        if options.get("num_labels") is not None:
            check_num_labels(options["num_labels"])
        ignored, reduced = options.get("ignore"), options.get("reduce_labels", False)
        if ignored is not None and (isinstance(ignored, bool) or not isinstance(ignored, int | np.integer)):
            raise ValueError(f"ignore_index is {ignored!r}; expected a whole number")
        if not isinstance(reduced, bool | np.bool_):
            raise ValueError(f"reduce_labels is {reduced!r}; expected true or false")
        return options

    def _sums(self, prediction: Any, reference: Any, extra: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        maps = self.array(prediction, "prediction"), self.array(reference, "reference")
        if self.options.get("num_labels") is not None and not self.options.get("reduce_labels"):
            segmentation_confusion(
                *maps, self.options["num_labels"], self.options.get("ignore", IGNORE)
            )  # checks the ids
        return label_pairs(*maps)

    def _compute(self, predictions: Any, references: Any, **late: Any) -> dict[str, Any]:
        options = {**self.options, **self._whole(late)}
        names = options.pop("names", None)
        if names is not None and options.get("num_labels") is None and hasattr(names, "__len__"):
            options["num_labels"] = len(names)
        counts = [np.asarray(values, np.float64) for values in predictions]
        pairs = [np.asarray(values, np.int32) for values in references]
        confusion = pairs_confusion(np.concatenate(counts), np.concatenate(pairs), **options)
        scorer = SegmentationMetric(len(confusion), options.get("ignore", IGNORE), names)
        return scorer.compute(confusion.ravel())
