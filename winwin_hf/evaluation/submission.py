"""Writes predictions in the benchmarks' own formats and folders, ready to be packed and uploaded.

| set | file |
|---|---|
| Spring | `test/0003/flow_FW_left/flow_FW_left_0001.flo5`, as its packing tool expects |
| Sintel | `clean/ambush_1/frame_0001.flo`, `final/...`, as its bundler expects |
| KITTI | `flow/000000_10.png`, 16 bits, and `disp_0/...` for stereo |
| other flow | `<name>.flo` |
| depth | `<name>.png`, 16 bits, 256 steps per metre (KITTI depth's) |
| Cityscapes | `<name>.png`, 8-bit ids of the full list (7 = road, ...) |
| other labels | `<name>.png`, 8-bit ids; ADE20K's from 1 |

Source: the benchmarks' submission pages.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from winwin_hf.data import formats
from winwin_hf.model.pixels_winwin import shortened
from winwin_hf.task import DataTask

MAX_NAME = 200  # bytes
# Cityscapes' ids of its 19 scored classes, in the order of their train ids (cityscapesScripts, labels.py).
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def path_of(folder: Path, set_name: str, task: DataTask, name: str) -> Path:
    """The file under `folder` for the prediction of example `name` of a data set."""
    safe = Path(*[part for part in Path(name).parts if part not in ("..", "/")])
    if not safe.name or len(safe.name.encode()) > MAX_NAME:
        raise ValueError(f"{set_name}: an example called {shortened(name)}; expected a name that a file can have")
    if task != "optical-flow":
        return folder / set_name / safe.with_name(safe.name + ".png")
    if set_name.startswith("sintel"):
        return folder / set_name / ("final" if "final" in set_name else "clean") / safe.with_name(safe.name + ".flo")
    if set_name.startswith("kitti"):
        kind = "disp_0" if "stereo" in set_name else "flow"
        return folder / set_name / kind / f"{safe.name}.png"
    if set_name.startswith("spring"):
        return folder / set_name / _spring(safe, "disp1" if "stereo" in set_name else "flow_FW")
    return folder / set_name / safe.with_name(safe.name + ".flo")


def _spring(name: Path, kind: str) -> Path:
    """ "0003/flow_FW_left_0001" or "0003/frame_left_0001" -> test/0003/flow_FW_left/flow_FW_left_0001.flo5"""
    numbers = re.findall(r"\d+", name.name)
    if not numbers or len(name.parts) < 2:
        raise ValueError(f"{name}: expected a Spring example such as 0003/frame_left_0001")
    camera = "right" if "right" in name.name else "left"
    direction = kind.replace("FW", "BW") if "BW" in name.name else kind
    stem = f"{direction}_{camera}"
    suffix = ".dsp5" if kind == "disp1" else ".flo5"
    return Path("test") / name.parts[0] / stem / f"{stem}_{numbers[-1]}{suffix}"


def write(folder: Path, set_name: str, task: DataTask, name: str, prediction: np.ndarray) -> Path:
    """
    Writes one prediction and returns its path.

    Args:
        prediction: flow (2, H, W) pixels, depth (H, W) metres, or class ids (H, W).
    """
    path = path_of(folder, set_name, task, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if task == "depth-estimation":
        formats.write_depth_png(path, prediction, scale=256)
    elif task == "semantic-segmentation":
        ids = prediction.astype(np.int32)  # of more than 256 classes, too
        if set_name == "cityscapes":
            ids = np.array(CITYSCAPES_IDS, np.int32)[ids]
        elif set_name == "ade20k":
            ids = ids + 1
        formats.write_labels(path, ids)
    else:
        flow = prediction.transpose(1, 2, 0)
        # The flow of rectified stereo points left from the left view, right from the right view.
        disparity = np.maximum(flow[..., 0] if "right" in path.stem else -flow[..., 0], 0)
        if path.suffix == ".flo5":
            formats.write_flo5(path, flow)
        elif path.suffix == ".dsp5":
            formats.write_dsp5(path, disparity)
        elif path.suffix == ".png" and "disp" in path.parent.name:
            formats.write_kitti_disparity(path, disparity)
        elif path.suffix == ".png":
            formats.write_kitti_flow(path, flow)
        else:
            formats.write_flo(path, flow)
    return path
