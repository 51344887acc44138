"""Scores of whole frames: optical flow, semantic segmentation, depth.

A metric is a sum over images, so parts of a data set can be scored in any batches and processes and added:

- `Metric.row(prediction, target)` is the sums of one image, a flat float64 array; `Metric.compute(row)` is that image's scores.
- `sum_rows` adds rows with one rounding: the same bits from any order and any number of processes.
- Unknown ground truth (NaN, inf, ignored labels) never counts. A prediction that isn't finite where the ground truth is known
  raises ValueError, as in Spring's evaluation: NaN comparisons would otherwise count it as no outlier.
- Outlier percentages count outliers (as Spring and KITTI do): lower is better.
"""

from winwin_hf.evaluation.metrics.base import Metric, sum_rows
from winwin_hf.evaluation.metrics.depth import DepthMetric
from winwin_hf.evaluation.metrics.flow import FlowMetric, flow_errors, flow_sums, sparsification
from winwin_hf.evaluation.metrics.segmentation import SegmentationMetric, TranslatedMetric, segmentation_confusion

__all__ = [
    "DepthMetric",
    "FlowMetric",
    "Metric",
    "SegmentationMetric",
    "TranslatedMetric",
    "flow_errors",
    "flow_sums",
    "segmentation_confusion",
    "sparsification",
    "sum_rows",
]
