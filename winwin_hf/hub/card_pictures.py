"""Pictures of a card: how the training went, and what the checkpoint is worst at.

Notable:
- they are drawn when a checkpoint is bundled, from the training's `metrics.jsonl` and the pictures of `winwin evaluate --output`;
- many data sets may not be published, so of a worst case only prediction and error are shown unless the frames are free.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

CURVE, WORST = "curve.png", "worst.jpg"
SMOOTHED = 20  # of so many parts of the curve each is a mean: a training's loss is noisy
SCORES = {"epe": "EPE, px", "miou": "mIoU, %", "delta1": "delta1, %"}


def draw_curve(metrics: Path, target: Path) -> float | None:
    """
    Loss and held-out scores of a training against its hours, as a PNG.

    Args:
        metrics: a training's metrics.jsonl.
    Returns: the hours that its steps took; None, and no picture, where they weren't noted.
    """
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line and "seconds" in line]
    if not steps:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    hours = {line["step"]: line["seconds"] / 3600 for line in steps}
    group = max(1, len(steps) // (5 * SMOOTHED))
    x = [line["seconds"] / 3600 for line in steps][group - 1 :]
    y = np.convolve([line["loss"] for line in steps], np.full(group, 1 / group), "valid")
    figure, axis = plt.subplots(figsize=(6.4, 3.2), dpi=100)
    axis.plot(x, y, color="#999999")
    axis.set(xlabel="hours", ylabel="loss")
    scored: dict[str, list[tuple[float, float]]] = {}
    unit = ""
    for line in lines:
        for label, scores in line.items():
            name = next((key for key in SCORES if isinstance(scores, dict) and scores.get(key) is not None), None)
            if name and line["step"] in hours:
                scored.setdefault(label, []).append((hours[line["step"]], scores[name]))
                unit = SCORES[name]
    if any(len(points) > 1 for points in scored.values()):
        other = axis.twinx()
        for label, points in scored.items():
            other.plot(*zip(*points, strict=True), marker="o", label=label)
        other.set_ylabel(unit)
        other.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(target)
    plt.close(figure)
    return x[-1]


def draw_worst(pictures: list[Path], target: Path, whole: bool = False) -> None:
    """
    The worst cases, one below the other, as a JPEG.

    Args:
        pictures: those of `winwin evaluate --output`: picture, truth, prediction and error side by side.
        whole: the frames may be published; else only prediction and error are shown.
    """
    rows = [np.asarray(Image.open(path).convert("RGB")) for path in pictures]
    rows = [row if whole else row[:, row.shape[1] // 2 :] for row in rows]
    width = min(row.shape[1] for row in rows)
    Image.fromarray(np.concatenate([row[:, :width] for row in rows])).save(target, quality=85)
