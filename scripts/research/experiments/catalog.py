"""All experiments by name."""

from __future__ import annotations

from research.experiments import (
    figure4,
    flow,
    flow_logits,
    flow_tables,
    positions,
    segmentation,
    segmentation_logits,
    segmentation_tables,
    tilings,
)
from research.experiments.context import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    **segmentation.EXPERIMENTS,
    **segmentation_tables.EXPERIMENTS,
    **segmentation_logits.EXPERIMENTS,
    **flow.EXPERIMENTS,
    **flow_tables.EXPERIMENTS,
    **flow_logits.EXPERIMENTS,
    **figure4.EXPERIMENTS,
    **tilings.EXPERIMENTS,
    **positions.EXPERIMENTS,
}
