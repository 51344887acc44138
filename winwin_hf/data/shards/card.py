"""The dataset card of a folder of shards: its columns, units, terms, and how to load it."""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub import DatasetCardData

from winwin_hf.data.formats.files import bytes_text
from winwin_hf.data.rows import cells_of
from winwin_hf.task import TASKS

UNITS = {
    "flow": "optical flow from image1 to image2 in pixels, (u right, v down)",
    "depth": "depth along the optical axis in metres",
    "label": "a class id for each pixel, 255 where ignored",
    "occluded": "pixels of image1 whose match isn't visible in image2",
}
KINDS = {
    ("flow", "flo"): "Middlebury's .flo; unknown above 1e9",
    ("flow", "flo5"): "HDF5, as Spring has it; unknown where NaN",
    ("flow", "pfm"): "PFM of three channels u, v, unused",
    ("flow", "kitti"): "16-bit PNG: u, v = value / 64 - 512; unknown where blue is 0",
    ("flow", "npy"): "NumPy, float (H, W, 2)",
    ("flow", "disparity-pfm"): "PFM of disparities d: the flow is (-d, 0), or (d, 0) with :right",
    ("flow", "disparity-dsp5"): "HDF5 of disparities: as disparity-pfm",
    ("flow", "disparity-kitti"): "16-bit PNG of disparities d = value / 256, 0 unknown: as disparity-pfm",
    ("flow", "disparity-npz"): "NumPy .npz of disparities: as disparity-pfm",
    ("depth", "png"): "16-bit PNG; after the colon: steps a metre, then values that are unknown besides 0",
    ("depth", "npy"): "NumPy, float (H, W), after a colon: steps a metre",
    ("depth", "pfm"): "PFM, after a colon: steps a metre",
    ("depth", "hdf5"): "HDF5, after the colon: the array's name",
    ("depth", "hypersim"): "HDF5 of the distance along each pixel's ray, 1024x768, focal length 886.81 pixels",
    ("label", "ids"): "PNG of class ids; 255 and the ids after a colon are ignored",
    ("label", "minus-one"): "PNG of ids from 1; 0 is ignored",
    ("label", "cityscapes"): "PNG of Cityscapes' raw ids, of which 19 are classes",
    ("label", "values"): "PNG of the values after the colon, one for each class; those after a semicolon are ignored",
    ("label", "colours"): "PNG of the colours after the colon, one for each class; those after a semicolon are ignored",
    ("label", "camvid-colours"): "PNG in CamVid's colours",
    ("occluded", "png"): "PNG, occluded where it isn't 0",
}


def card(info: dict[str, Any], suffix: str) -> str:
    """The README.md of a folder of shards, from its `shards_info` and the shards' suffix."""
    task = info["task"]
    split = re.sub(r"\W+", "_", info["split"]).strip("_")  # what `datasets` takes for one
    metadata = DatasetCardData(
        license="other",
        license_name="see-terms-below",
        pretty_name=info["name"],
        task_categories=None if task == "optical-flow" else [TASKS[task].tag],
        tags=["optical-flow"] if task == "optical-flow" else None,
        configs=[{"config_name": "default", "data_files": [{"split": split, "path": f"*{suffix}"}]}],
    )
    columns = ["- `name`: of the example"]
    for column in cells_of(task):
        if column in TASKS[task].images:
            columns.append(f"- `{column}`: image")
            continue
        kinds = info["formats"].get(f"{column}_format", [])
        if kinds:
            listed = "; ".join(
                f"`{kind}`" + (f" ({text})" if (text := KINDS.get((column, kind.partition(":")[0]))) else "")
                for kind in kinds
            )
            columns.append(f"- `{column}`: the bytes of a file with {UNITS[column]}")
            columns.append(f"- `{column}_format`: how to read it: {listed}")
    if info["format"] == "webdataset":
        columns.append("- in the tar files: `<key>.<column>.<suffix>`, and `<key>.json` with the columns of text")
    labels = ", ".join(f"{k} {name}" for k, name in enumerate(info["labels"] or ()))
    classes = f"\n## Classes\n\n{labels}\n" if labels else ""
    skipped = f"; {len(info['skipped'])} more had missing or unreadable files" if info["skipped"] else ""
    reader = TASKS[task].reader
    arguments = f"num_labels={len(info['labels'] or ()) or 255}" if task == "semantic-segmentation" else ""
    size = bytes_text(sum(file["bytes"] for file in info["files"]))
    return f"""---
{metadata.to_yaml()}
---

# {info["name"]}, {info["split"]}

{info["rows"]} examples in {len(info["files"])} files, {size} in all{skipped}. Each row holds the bytes of the original files.
`dataset.json` has the number of rows and the SHA-256 of each file, and the names of the examples that were left out.

- source: {info["source"] or "not given"}
- terms: {info["terms"] or "not given"}. They apply to the data and to everything made from them.

## Columns

{chr(10).join(columns)}
{classes}
## How to load

```python
from winwin_hf.data.readers import {reader}
from winwin_hf.data.shards import open_shards

reader = {reader}({arguments})
for row in open_shards("FOLDER"):  # streamed; with streaming=False a Dataset
    decoded = reader.decode(row)  # arrays
```

Without `winwin_hf`: `datasets.load_dataset("FOLDER", streaming=True)`. Targets that are PNG files of 16 bits must not be decoded as
images (`cast_column(column, datasets.Image(decode=False))` where a column is one).
Made by `winwin data shards`.
"""
