"""Rows to make shards of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from winwin_hf.data import formats
from winwin_hf.data.rows import cell

H, W = 12, 16


def make_rows(root: Path, task: str, count: int = 9) -> list[dict]:
    """Random examples of a task as files, each with another content."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for k in range(count):
        row: dict = {"name": f"scene.{k // 3}/frame {k}"}
        for column in ("image1", "image2") if task == "optical-flow" else ("image",):
            formats.save_image(root / f"{k}.{column}.png", rng.integers(0, 255, (H, W, 3), np.uint8))
            row[column] = cell(root / f"{k}.{column}.png")
        if task == "optical-flow":
            flow = rng.normal(0, 5, (H, W, 2)).astype(np.float32)
            flow[0, k % W] = np.nan
            formats.write_flo(root / f"{k}.flo", flow)
            formats.save_image(root / f"{k}.mask.png", (rng.random((H, W)) < 0.3).astype(np.uint8) * 255)
            row |= {"flow": cell(root / f"{k}.flo"), "flow_format": "flo"}
            row |= {"occluded": cell(root / f"{k}.mask.png"), "occluded_format": "png"}
        elif task == "depth-estimation":
            formats.write_depth_png(root / f"{k}.d.png", rng.uniform(-1, 9, (H, W)))
            row |= {"depth": cell(root / f"{k}.d.png"), "depth_format": "png:1000,4000"}
        else:
            formats.write_labels(root / f"{k}.l.png", rng.integers(0, 5, (H, W), np.uint8), [(9, 9, 9)] * 5)
            row |= {"label": cell(root / f"{k}.l.png"), "label_format": "ids:4"}
        rows.append(row)
    return rows
