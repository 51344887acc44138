"""What the evaluate modules under spaces/ have in common: dense maps in, `metrics.Metric` scores out.

Notable:
- Hugging Face's evaluate writes every prediction and reference to an Arrow file; dense maps would take a gigabyte for eight
  Full-HD flows. So each pair is reduced to its row of sums at once, and only that row goes to the file, without its zeros:
  its values in the column `predictions`, their places in the column `references`.
- The rows of all processes are added with one rounding (`metrics.sum_rows`): the figures don't depend on their number.
- evaluate.load hands unknown keywords to the module's constructor, and that is where options belong: they hold for all images.
  evaluate.compute would take keywords too, but only after the maps are gone.
- A module is loaded by importing its file and taking the first class in it that derives from evaluate.EvaluationModule; so it
  must import this file as a whole, not `DenseMetric` from it.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

from winwin_hf.evaluation.metrics import Metric, sum_rows

# One image's row as it is written; evaluate insists on the two names.
STORED = datasets.Features(
    predictions=datasets.List(datasets.Value("float64")), references=datasets.List(datasets.Value("int32"))
)
RESERVED = frozenset(inspect.signature(evaluate.EvaluationModule.__init__).parameters) - {"self", "kwargs"}


class DenseMetric(evaluate.Metric):
    """Base of the modules: they say which `metric`, what it takes of an image, and well-known settings of its options."""

    metric: type[Metric]
    axes: int  # of one map
    value: str  # the Arrow type of a pixel, for `features`
    extra: tuple[str, ...] = ()  # further maps that `metric.row` takes, by keyword
    configurations: ClassVar[dict[str, dict[str, Any]]] = {}
    texts: ClassVar[dict[str, Any]]  # of evaluate.MetricInfo

    def __init__(self, config_name: str | None = None, **arguments: Any) -> None:
        """`arguments`: evaluate's own, and the options of the metric. Raises ValueError for others."""
        module, known = type(self).__name__, inspect.signature(self.metric).parameters
        options = {name: value for name, value in arguments.items() if name not in RESERVED}
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"unknown options {', '.join(unknown)}; {module} knows {', '.join(known)}")
        configurations = {"default": {}, **self.configurations}
        if (config_name or "default") not in configurations:
            raise ValueError(f"unknown configuration {config_name!r}; {module} knows {', '.join(configurations)}")
        options = {**configurations[config_name or "default"], **options}
        needed = [name for name, option in known.items() if option.default is option.empty and name not in options]
        if needed:
            raise ValueError(f"{module} needs {', '.join(needed)}: evaluate.load(path, {needed[0]}=...)")
        self.scorer = self.metric(**options)
        super().__init__(config_name, **{name: value for name, value in arguments.items() if name in RESERVED})

    def _info(self) -> evaluate.MetricInfo:
        feature: Any = datasets.Value(self.value)
        for _ in range(self.axes):
            feature = datasets.List(feature)
        features = datasets.Features(predictions=feature, references=feature)
        return evaluate.MetricInfo(features=features, **self.texts)

    def _infer_feature_from_batch(self, batch: Any) -> datasets.Features:
        return STORED

    def _infer_feature_from_example(self, example: Any) -> datasets.Features:
        return STORED

    def array(self, values: Any, name: str) -> np.ndarray:
        """One map, as NumPy; torch tensors of any device and type are taken. `name`: of the argument, for messages."""
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            values = (values.float() if "bfloat16" in str(values.dtype) else values).numpy()  # NumPy has no bfloat16
        array = np.asarray(values)
        if array.ndim != self.axes and name not in self.extra:
            raise ValueError(f"{name} has the shape {array.shape}; expected {self.axes} axes, one map")
        return array

    def add(self, *, prediction: Any = None, reference: Any = None, **extra: Any) -> None:
        """Adds one image.

        Args:
            prediction: what was predicted, an array or a tensor.
            reference: the ground truth.
            **extra: further maps of the image.
        Raises: ValueError for maps that don't fit, with the reason; the image is not added then.
        """
        # evaluate.combine calls them by the plural here too.
        prediction, reference = extra.pop("predictions", prediction), extra.pop("references", reference)
        self._need_known(extra)
        values, places = self._sums(prediction, reference, extra)
        super().add(prediction=values, reference=places)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **extra: Any) -> None:
        """Adds several images, of the same or of different sizes.

        Args:
            predictions: a list of maps, or an array or a tensor with one more axis.
            references: as many.
            **extra: further maps, as many.
        Raises: ValueError for maps that don't fit, with the reason; no image is added then.
        """
        self._need_known(extra)
        columns = {"predictions": predictions, "references": references, **extra}
        counts = {name: 0 if column is None else len(column) for name, column in columns.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"expected as many of each, got {', '.join(f'{n} {name}' for name, n in counts.items())}")
        rows = []
        for i in range(counts["predictions"]):
            maps = {name: column[i] for name, column in extra.items()}
            rows.append(self._sums(predictions[i], references[i], maps))
        if rows:
            values, places = zip(*rows, strict=True)
            super().add_batch(predictions=list(values), references=list(places))

    def compute(self, *, predictions: Any = None, references: Any = None, **extra: Any) -> dict[str, Any] | None:
        """The scores of all images that were added, with those given here; then the module is empty again.

        Args:
            predictions: more images, as `add_batch` takes them.
            references: as many.
            **extra: further maps, as many.
        Returns: a dict in process 0, None in the others.
        """
        if extra or predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references, **extra)
        if self.num_process > 1 and self.writer is None:
            # A process without images has to show up all the same: process 0 waits for its file.
            super().add(prediction=np.zeros(0), reference=np.zeros(0, np.int32))
        return super().compute()

    def _need_known(self, extra: dict[str, Any]) -> None:
        if unknown := sorted(set(extra) - set(self.extra)):
            raise ValueError(
                f"unknown arguments {', '.join(unknown)}; {type(self).__name__} takes "
                f"{', '.join(['predictions', 'references', *self.extra])}. Options belong to evaluate.load(path, option=...): "
                "they hold for all images"
            )

    def _sums(self, prediction: Any, reference: Any, extra: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """One image's row without its zeros: the values, and their places."""
        maps = {name: self.array(values, name) for name, values in extra.items() if values is not None}
        row = self.scorer.row(self.array(prediction, "prediction"), self.array(reference, "reference"), **maps)
        places = np.flatnonzero(row)
        return row[places], places.astype(np.int32)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        return self.scorer.compute(sum_rows(map(self._row, predictions, references)))

    def _row(self, values: Any, places: Any) -> np.ndarray:
        row = np.zeros_like(self.scorer.state)
        row[np.asarray(places, dtype=np.intp)] = values
        return row
