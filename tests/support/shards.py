"""Rows to make shards of, and what shards give back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from winwin_hf.data import formats
from winwin_hf.data.readers import plain_reader
from winwin_hf.data.rows import cell, table
from winwin_hf.data.shards import write_shards

H, W = 12, 16
LABELS = ("road", "car", "sky", "tree")


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


def write(rows: list[dict], output: Path, task: str = "optical-flow", **options) -> list[Path]:
    labels = LABELS if task == "semantic-segmentation" else None
    options = {"name": "mine", "split": "train", "labels": labels, "shard_size": 4_000, **options}
    return write_shards(table(rows, task), output, task=task, **options)


def decoded(rows, task: str) -> list[tuple]:
    """(name, arrays) of each row."""
    reader = plain_reader(task, LABELS)
    results = []
    for row in rows:
        frames = reader.decode(row)
        values = dataclasses.astuple(frames) if task == "optical-flow" else frames
        results.append((row["name"], *values))
    return results


def assert_same(one: list[tuple], two: list[tuple]) -> None:
    assert [row[0] for row in one] == [row[0] for row in two]
    for a, b in zip(one, two, strict=True):
        for x, y in zip(a[1:], b[1:], strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
