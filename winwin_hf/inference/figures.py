"""Figures about a prediction that need no ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from winwin_hf.inference import drawing


def mean_magnitude(flow: np.ndarray) -> float:
    """Mean length of the vectors of a flow (2, H, W), in pixels."""
    return float(np.hypot(*flow).mean())


def photometric_errors(frame1: np.ndarray, frame2: np.ndarray, flow: np.ndarray) -> dict[str, float]:
    """Mean absolute difference (0..255) of frame 1 from frame 2: "unwarped", and "warped" by the flow (2, H, W).

    Both means are over the same pixels, those whose match lies inside frame 2; "inside" is their share. This checks a flow without
    ground truth: a good one makes "warped" much smaller than "unwarped". Occlusions and changes of light keep it above zero.
    """
    first, second = frame1.astype(np.float32), frame2.astype(np.float32)
    height, width = flow.shape[1:]
    x = np.arange(width, dtype=np.float32) + flow[0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    if not inside.any():
        return {"inside": 0.0, "unwarped": float("nan"), "warped": float("nan")}
    warped = drawing.warp(frame2, flow).astype(np.float32)
    return {
        "inside": float(inside.mean()),
        "unwarped": float(np.abs(first - second)[inside].mean()),
        "warped": float(np.abs(first - warped)[inside].mean()),
    }


def label_shares(labels: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Each class that occurs in `labels` (H, W) and its share of the pixels, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(names))
    order = sorted(range(len(names)), key=lambda index: -counts[index])
    return {names[index]: float(counts[index] / labels.size) for index in order if counts[index]}
