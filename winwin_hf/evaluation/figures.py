"""What the figures of the metrics are called in tables, with their units, and how they are written."""

from __future__ import annotations

import math

FIGURE_LABELS = {
    "epe": "EPE px",
    "1px": "1px %",
    "3px": "3px %",
    "5px": "5px %",
    "fl": "Fl %",
    "wauc": "WAUC %",
    "epe_s0_10": "s0-10 px",
    "epe_s10_40": "s10-40 px",
    "epe_s40": "s40+ px",
    "epe_matched": "matched px",
    "epe_unmatched": "unmatched px",
    "ause": "AUSE",
    "miou": "mIoU %",
    "accuracy": "acc %",
    "mean_accuracy": "mAcc %",
    "abs_rel": "AbsRel",
    "sq_rel": "SqRel m",
    "rmse": "RMSE m",
    "rmse_log": "RMSE log",
    "log10": "log10",
    "silog": "SILog",
    "delta1": "d1 %",
    "delta2": "d2 %",
    "delta3": "d3 %",
}


def figure_text(value: float | None) -> str:
    """Two decimals, three below 1; "-" for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
