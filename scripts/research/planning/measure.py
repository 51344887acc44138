"""What the plan's counts and assumptions are held against, measured on this machine (Linux).

Notable:
- peak memory: a process of its own takes one real step of few pairs to warm up, then the kernel's high-water mark is set back and
  a real step taken. malloc gives back what is freed (`MALLOC`), so that the growth is what the step holds.
- decoding: Spring isn't at hand, so a pair of the same sizes is made of a synthetic scene: two PNGs of 1920x1080 and a flo5 of
  3840x2160. The files' sizes are reported beside the times; Spring's own are about 2.7 and 9.5 MB.

    python scripts/research/planning/measure.py peak PRESET BATCH PRECISION CHECKPOINTING     prints JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where it is run as a script

from research.planning.count import Kept, batch_of, count_flops, count_memory, counted, kept_by
from research.planning.model import FRAME
from winwin_hf import WinWinConfig
from winwin_hf.training.recipe import load_recipe

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
WINDOWS = Kept((2, 10, 10), (2, 10, 10))
PEAKS = [
    ("tiny", 16, "no", False),
    ("small", 8, "no", False),
    ("small", 8, "no", True),
    ("small", 8, "bf16", False),
]


ROOT = Path(__file__).resolve().parents[3]
# One training was run on a GPU: README.md and MODEL_CARD.md have its figures.
H100: dict[str, Any] = {
    "recipe": "winwin_hf/recipes/flow-synthetic-gpu.yaml",
    "pairs_per_second": 610,
    "memory": 3.7e9,
    "loader_seconds": 0.0044,
}


def status(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith(key))


def peak(preset: str, batch: int, precision: str, checkpointing: bool) -> int:
    """Bytes by which this process grows at most in a training step."""
    import torch

    from winwin_hf import WinWinForOpticalFlow

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
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    step(inputs)
    return status("VmHWM") - before


def measured_peaks() -> list[dict[str, Any]]:
    """Growth of each of PEAKS, measured and counted."""
    rows = []
    for preset, batch, precision, checkpointing in PEAKS:
        command = [sys.executable, __file__, "peak", preset, str(batch), precision, str(int(checkpointing))]
        run = subprocess.run(command, env={**os.environ, **MALLOC}, stdout=subprocess.PIPE, text=True, check=True)
        config = WinWinConfig.from_preset(preset)
        memory = count_memory(config, WINDOWS, batch, precision, checkpointing, gpu=False)
        rows.append(
            {
                "preset": preset,
                "batch": batch,
                "precision": precision,
                "checkpointing": checkpointing,
                "counted": memory.peak,
                "measured": json.loads(run.stdout.splitlines()[-1]),
            }
        )
    return rows


def h100() -> dict[str, Any]:
    """The training that ran on an H100 beside what is counted for it."""
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
    """Three frames and two flow fields in Spring's layout and sizes, of a synthetic scene."""
    import cv2
    import numpy as np

    from winwin_hf.data import formats
    from winwin_hf.data.synthetic.scenes import SyntheticFlow
    from winwin_hf.data.synthetic.settings import SceneSettings

    scene = SyntheticFlow(SceneSettings(height=1080, width=1920, motion=15.0, objects=(8, 12), noise=1.0))({"seed": 1})
    box = (0, 0, 1080, 1920)
    first, flow = scene.first(box)
    frames, folder = [first, scene.second(box)], root / "train" / "0001"
    for name in ("frame_left", "flow_FW_left"):
        (folder / name).mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        cv2.imwrite(str(folder / "frame_left" / f"frame_left_{number:04d}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    doubled = cv2.resize(np.nan_to_num(flow), (3840, 2160), interpolation=cv2.INTER_LINEAR)
    doubled = np.round(doubled * 1024) / 1024  # as coarse as gives a file about as large as Spring's
    formats.write_flo5(folder / "flow_FW_left" / "flow_FW_left_0001.flo5", doubled)


def plain_files(root: Path) -> None:
    """The same pair for `flow-folder`: PNGs that aren't packed, and flow of the frames' size as .npy."""
    import cv2
    import numpy as np

    from winwin_hf.data import formats

    for name in ("frames", "flow"):
        (root / "plain" / name / "clip").mkdir(parents=True)
    for number in (1, 2):
        frame = cv2.imread(str(root / f"train/0001/frame_left/frame_left_{number:04d}.png"))
        path = root / f"plain/frames/clip/{number:04d}.png"
        cv2.imwrite(str(path), frame, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    flow = formats.decode_flow(str(root / "train/0001/flow_FW_left/flow_FW_left_0001.flo5"), "flo5")
    np.save(root / "plain/flow/clip/0001.npy", np.ascontiguousarray(flow[::2, ::2]))


def decoding(repeat: int = 7) -> dict[str, float]:
    """CPU seconds to read a pair, whole, and to make a training's windows of it; bytes of its files. Also of unpacked files."""
    import cv2
    import numpy as np

    from winwin_hf.data import formats
    from winwin_hf.data.augmentation import FlowAugmentation
    from winwin_hf.data.benchmarks import catalog
    from winwin_hf.data.collator import WinWinCollator
    from winwin_hf.data.readers import FlowReader
    from winwin_hf.windows import Strategy

    cv2.setNumThreads(0)
    collator = WinWinCollator(FlowReader(FlowAugmentation()), Strategy("windows", size=(10, 10)), "optical-flow")

    def seconds(function: Any) -> float:
        taken = []
        for _ in range(repeat + 1):
            start = time.process_time()  # not the clock: others may use the machine
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
    if sys.argv[1] == "peak":
        print(json.dumps(peak(sys.argv[2], int(sys.argv[3]), sys.argv[4], bool(int(sys.argv[5])))))
