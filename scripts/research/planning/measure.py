"""Measurements that check the plan's counts and assumptions (Linux).

- Peak memory: a process runs a real step of one pair to warm up, resets its peak and runs the step that is measured. malloc hands
  freed memory back (`MALLOC`), so the growth is what the step holds.
- Decoding: a pair in Spring's format is made of a synthetic scene: two PNGs of 1920x1080 and a flo5 of 3840x2160. Sizes of the
  files stand beside the times; Spring's own are about 2.7 and 9.5 MB.

    python scripts/research/planning/measure.py PRESET BATCH PRECISION CHECKPOINTING     prints bytes
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for `peak`, which runs as a script

from research.machine import reset_peak, resident
from research.planning.count import Kept, batch_of, count_flops, count_memory, counted, kept_by
from research.planning.model import FRAME
from research.processes import run_json, with_threads
from winwin_hf import WinWinConfig, WinWinForOpticalFlow
from winwin_hf.data import formats
from winwin_hf.data.augmentation import FlowAugmentation
from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.collator import WinWinCollator
from winwin_hf.data.readers import FlowReader
from winwin_hf.data.synthetic.scenes import SyntheticFlow
from winwin_hf.data.synthetic.settings import SceneSettings
from winwin_hf.training.recipe import load_recipe
from winwin_hf.windows import Strategy

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
WINDOWS = Kept((2, 10, 10), (2, 10, 10))
PEAKS = [  # preset, pairs, precision, checkpointing
    ("tiny", 16, "no", False),
    ("small", 8, "no", False),
    ("small", 8, "no", True),
    ("small", 8, "bf16", False),
]

ROOT = Path(__file__).resolve().parents[3]
# Figures of the training of winwin-flow on one H100.
H100: dict[str, Any] = {
    "recipe": "winwin_hf/recipes/flow-synthetic-gpu.yaml",
    "pairs_per_second": 610,
    "memory": 3.7e9,
    "loader_seconds": 0.0044,
}


def peak(preset: str, batch: int, precision: str, checkpointing: bool) -> int:
    """Bytes by which this process grows in a training step, at most."""
    torch.manual_seed(0)
    model = WinWinForOpticalFlow(WinWinConfig.from_preset(preset)).train()
    model.set_attn_implementation("sdpa")
    if checkpointing:
        model.gradient_checkpointing_enable()

    def step(inputs: dict[str, torch.Tensor]) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**inputs).loss
        loss.backward()

    inputs = batch_of(WINDOWS, batch)
    step(batch_of(WINDOWS, 1))
    model.zero_grad()
    before = resident("VmRSS")
    reset_peak()
    step(inputs)
    return resident("VmHWM") - before


def measured_peaks() -> list[dict[str, Any]]:
    """The growth of each of PEAKS, measured and counted."""
    rows = []
    for preset, batch, precision, checkpointing in PEAKS:
        command = [sys.executable, __file__, preset, str(batch), precision, str(int(checkpointing))]
        config = WinWinConfig.from_preset(preset)
        memory = count_memory(config, WINDOWS, batch, precision, checkpointing, gpu=False)
        rows.append(
            {
                "preset": preset,
                "batch": batch,
                "precision": precision,
                "checkpointing": checkpointing,
                "counted": memory.peak,
                "measured": run_json(command, with_threads(torch.get_num_threads(), MALLOC)),
            }
        )
    return rows


def h100() -> dict[str, Any]:
    """The measured training on an H100, and what is counted for it."""
    recipe = load_recipe(ROOT / H100["recipe"])
    config, kept, batch = recipe.config(), kept_by(recipe, FRAME), recipe.optimization.batch_size
    line = counted(config, kept, (batch // 2, batch))
    return {
        **H100,
        "batch": batch,
        "parameters": line.parameters,
        "flops": sum(count_flops(config, kept)),
        "launches": line.launches,
        "counted": line.memory(batch),
    }


# ------------------------------------------------------------------ decoding


def spring_like(root: Path) -> None:
    """Writes two frames and a flow field of a synthetic scene in Spring's layout and sizes."""
    scene = SyntheticFlow(SceneSettings(height=1080, width=1920, motion=15.0, objects=(8, 12), noise=1.0))({"seed": 1})
    box = (0, 0, 1080, 1920)
    first, flow = scene.first(box)
    frames, folder = [first, scene.second(box)], root / "train" / "0001"
    for name in ("frame_left", "flow_FW_left"):
        (folder / name).mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        cv2.imwrite(str(folder / "frame_left" / f"frame_left_{number:04d}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    doubled = cv2.resize(np.nan_to_num(flow), (3840, 2160), interpolation=cv2.INTER_LINEAR)
    doubled = np.round(doubled * 1024) / 1024  # rounded until the file is about as large as Spring's
    formats.write_flo5(folder / "flow_FW_left" / "flow_FW_left_0001.flo5", doubled)


def plain_files(root: Path) -> None:
    """Writes the same pair for `flow-folder`: PNGs without compression, and flow of the frames' size as .npy."""
    for name in ("frames", "flow"):
        (root / "plain" / name / "clip").mkdir(parents=True)
    for number in (1, 2):
        frame = cv2.imread(str(root / f"train/0001/frame_left/frame_left_{number:04d}.png"))
        path = root / f"plain/frames/clip/{number:04d}.png"
        cv2.imwrite(str(path), frame, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    flow = formats.decode_flow(str(root / "train/0001/flow_FW_left/flow_FW_left_0001.flo5"), "flo5")
    np.save(root / "plain/flow/clip/0001.npy", np.ascontiguousarray(flow[::2, ::2]))


def decoding(repeat: int = 7) -> dict[str, float]:
    """CPU seconds to decode a pair and to make a training's windows of it, and bytes of its files; the same for unpacked files."""
    cv2.setNumThreads(0)
    collator = WinWinCollator(FlowReader(FlowAugmentation()), Strategy("windows", size=(10, 10)), "optical-flow")

    def seconds(function: Callable[[], Any]) -> float:
        taken = []
        for _ in range(repeat + 1):
            start = time.process_time()  # CPU time: other work may slow the clock
            function()
            taken.append(time.process_time() - start)
        return float(np.median(taken[1:]))

    def windows_of(row: dict[str, Any]) -> float:
        return seconds(lambda: collator([{**row, "index": 0}]))

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        spring_like(root)
        plain_files(root)
        png = root / "train/0001/frame_left/frame_left_0001.png"
        flo5 = root / "train/0001/flow_FW_left/flow_FW_left_0001.flo5"
        return {
            "png_bytes": png.stat().st_size,
            "flo5_bytes": flo5.stat().st_size,
            "png_seconds": seconds(lambda: formats.decode_image(str(png))),
            "flo5_seconds": seconds(lambda: formats.decode_flow(str(flo5), "flo5")),
            "pair_seconds": windows_of(catalog.load("spring", root, "train")[0]),
            "plain_bytes": sum(p.stat().st_size for p in (root / "plain").rglob("*") if p.is_file()),
            "plain_seconds": windows_of(catalog.load("flow-folder", root / "plain", "train")[0]),
        }


if __name__ == "__main__":
    print(peak(sys.argv[1], int(sys.argv[2]), sys.argv[3], bool(int(sys.argv[4]))))
