"""One measurement of inference_speed.py, in a process of its own.

    python scripts/research/inference_probe.py '{"way": "sdpa", "checkpoint": "winwin-flow", "folder": "/tmp/x", ...}'

Imports of torch and the package are in the functions: what is imported is part of the memory that is measured.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from research.machine import resident

# way -> (name on the page, package it needs, file of the export or None for PyTorch)
WAYS: dict[str, tuple[str, str, str | None]] = {
    "eager": ("PyTorch, eager attention", "torch", None),
    "sdpa": ("PyTorch, SDPA", "torch", None),
    "compile": ("PyTorch, SDPA, `torch.compile`", "torch", None),
    "bf16": ("PyTorch, SDPA, bf16 autocast", "torch", None),
    "compile-bf16": ("PyTorch, SDPA, `torch.compile`, bf16 autocast", "torch", None),
    "onnxruntime": ("ONNX Runtime", "onnxruntime", "fused/onnx/model.onnx"),
    "onnxruntime-int8": ("ONNX Runtime, int8 weights", "onnxruntime", "fused/onnx/model_int8.onnx"),
    "onnxruntime-standard": (
        'ONNX Runtime, `attention="standard"`',
        "onnxruntime",
        "standard/onnx/model.onnx",
    ),
    "openvino": ("OpenVINO", "openvino", "fused/onnx/model.onnx"),
    "openvino-bf16": ("OpenVINO, computing in bf16", "openvino", "fused/onnx/model.onnx"),
}


def measure(way: str, checkpoint: str, folder: Path, threads: int, warmup: int, runs: int) -> dict[str, Any]:
    """
    Runs one way on `folder`/inputs.npz and writes its first map to `folder`/WAY.npy.

    Returns: seconds until the way is "ready", of the "first" run and of the runs after `warmup`; "peak_gb" of this process.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    with np.load(folder / "inputs.npz") as stored:
        inputs = {name: torch.from_numpy(stored[name]) for name in stored.files}
    start = time.perf_counter()
    run = load(way, checkpoint, folder, threads)
    ready = time.perf_counter() - start
    seconds = []
    with torch.inference_mode():
        for _ in range(warmup + runs):
            start = time.perf_counter()
            result = run(inputs)
            seconds.append(time.perf_counter() - start)
    np.save(folder / f"{way}.npy", result.float().numpy())
    return {"ready": ready, "first": seconds[0], "seconds": seconds[warmup:], "peak_gb": resident("VmHWM") / 1e9}


def load(way: str, checkpoint: str, folder: Path, threads: int) -> Any:
    """A function from inputs to the first map, (B, ..., H, W)."""
    import torch

    from winwin_hf.convert import onnx as export
    from winwin_hf.inference.onnx import OnnxModel

    file = WAYS[way][2]
    if file is not None:
        exported = OnnxModel(folder / file, WAYS[way][1], threads, "bf16" if way.endswith("bf16") else "f32")
        return lambda inputs: getattr(exported(**inputs), exported.outputs[0])
    model = export.load(checkpoint).model
    if way == "eager":
        model.set_attn_implementation("eager")
    name = export.task_of(model).outputs[0][0]
    forward = torch.compile(model, dynamic=False) if way.startswith("compile") else model

    def run(inputs: dict[str, Any]) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=way.endswith("bf16")):
            return forward(**inputs)[name]

    return run


def prepare(checkpoint: str, folder: Path, height: int, width: int, ways: list[str]) -> None:
    """Writes `folder`/inputs.npz, the package's example frames at this size, and the exports that the ways need."""
    import numpy as np
    from PIL import Image

    from winwin_hf.bundled import examples_folder
    from winwin_hf.convert import onnx as export

    predictor = export.load(checkpoint)
    frames = [Image.open(examples_folder() / f"bedroom_{i}.jpg").convert("RGB").resize((width, height)) for i in (1, 2)]
    second = {"second_images": frames[1]} if predictor.task == "optical-flow" else {}
    np.savez(folder / "inputs.npz", **predictor.processor(images=frames[0], **second, return_tensors="np"))
    files = {WAYS[way][2] for way in ways}
    if any(file and file.startswith("fused") for file in files):
        export.export(checkpoint, folder / "fused", quantise=["int8"], check=False)
    if any(file and file.startswith("standard") for file in files):
        export.export(checkpoint, folder / "standard", attention="standard", check=False)


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    function = measure if "way" in options else prepare
    print("\n" + json.dumps(function(**{**options, "folder": Path(options["folder"])})))
