"""The measurements: each is a function that runs in a process of its own and returns figures.

A list holds repetitions, of which the median counts. `folder` holds the frames that trainings load. Imports inside the functions are
those that would add to the idle memory of the other measurements.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).resolve().parents[2]))  # this file runs as a script

from research.cost.cases import CLASSES
from research.cost.meter import Meter
from research.cost.profiling import kind_of, profiled
from winwin_hf import WinWinConfig, WinWinForOpticalFlow, WinWinForSemanticSegmentation
from winwin_hf.inference.flow import predict_flow, predict_tiled, tile_positions

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Size = tuple[int, int]


def autocast(precision: str) -> AbstractContextManager:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16")


def flow_model(model: dict[str, Any], precision: str = "fp32") -> torch.nn.Module:
    torch.manual_seed(0)
    network = WinWinForOpticalFlow(WinWinConfig.from_preset(model["preset"], **model.get("config", {}))).eval()
    return network.to(DEVICE, torch.bfloat16 if precision == "bf16-weights" else torch.float32)


def pair(size: Size, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(1, 3, *size, device=DEVICE, dtype=dtype) for _ in range(2)]


# ------------------------------------------------------------------ whole frames and tiles


def direct(folder: Path, model: dict[str, Any], size: Size, precision: str, warmup: Size, runs: int = 1) -> dict:
    """One pass over a pair of frames of `size`, after one over a pair of size `warmup` (on a GPU of `size`)."""
    network, meter = flow_model(model, precision), Meter()
    dtype = next(network.parameters()).dtype
    with autocast(precision):
        predict_flow(network, *pair(size if meter.cuda else warmup, dtype))
        inputs = pair(size, dtype)
        meter.start_memory()
        for _ in range(runs):
            with meter.timed():
                flow = predict_flow(network, *inputs).flow
    assert flow is not None and flow.shape[-2:] == size
    patch = network.config.patch_size
    return {**meter.times(), **meter.memory(), "tokens": size[0] * size[1] // patch**2}


def tiled(
    folder: Path, model: dict[str, Any], strip: Size, tile: Size, precision: str, tile_batches: list[int]
) -> dict:
    """Tiles with half overlap along a strip of a pair, with blending. `pass_seconds` is for the fastest number of tiles at a time."""
    network, meter = flow_model(model, precision), Meter()
    inputs = pair(strip)
    tiles = math.prod(len(tile_positions(a, b, 0.5)) for a, b in zip(strip, tile, strict=True))
    found: dict[str, Any] = {}
    with autocast(precision):
        for count in tile_batches:
            predict_tiled(network, *(t[..., : tile[1]] for t in inputs), tile=tile)
            meter.start_memory()
            with meter.timed(f"batch_{count}"):
                predict_tiled(network, *inputs, tile=tile, overlap=0.5, tile_batch=count)
            found[f"batch_{count}_peak_gb"] = meter.memory()["peak_gb"]
    best = min(tile_batches, key=lambda count: meter.seconds[f"batch_{count}"])
    pass_seconds = meter.seconds[f"batch_{best}"][0] / tiles
    return {**meter.times(), **found, "tiles": tiles, "tile_batch": best, "pass_seconds": pass_seconds}


def profile(folder: Path, model: dict[str, Any], size: Size, precision: str, warmup: Size) -> dict:
    """Where one pass over a pair spends its time."""
    network = flow_model(model, precision)
    dtype = next(network.parameters()).dtype
    inputs = pair(size, dtype)
    with torch.inference_mode(), autocast(precision):
        network(*pair(size if DEVICE.type == "cuda" else warmup, dtype))
        return profiled(network, lambda: network(*inputs))


# ------------------------------------------------------------------ arithmetic and the machine's ceiling


def ceiling(folder: Path, square: int, tokens: int, width: int, conv: Size, repeat: int = 4) -> dict:
    """
    GFLOP/s of matrix products in fp32 and bf16, a large square one and the network's own. The fastest is the ceiling.

    For comparison: attention, and a 3x3 convolution of 256 channels, at the network's sizes.
    """
    meter, found = Meter(), {}
    shapes = [(square,) * 3, (tokens, width, width), (tokens, width, 4 * width), (tokens, 4 * width, width)]

    def best(work: Callable[[], Any], flops: float) -> float:
        work()
        meter.seconds[""] = []
        for _ in range(repeat):
            with meter.timed():
                work()
        return flops / min(meter.seconds[""]) / 1e9

    with torch.inference_mode():
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            rates = {}
            for m, k, n in shapes:
                a, b = torch.randn(m, k, device=DEVICE, dtype=dtype), torch.randn(n, k, device=DEVICE, dtype=dtype)
                rates[f"{m} x {k} x {n}"] = best(lambda a=a, b=b: F.linear(a, b), 2 * m * k * n)
            q, k, v = torch.randn(3, 1, max(1, width // 64), tokens, 64, device=DEVICE, dtype=dtype)
            attention = best(lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v), 4 * tokens * tokens * width)
            maps = torch.randn(1, 256, *conv, device=DEVICE, dtype=dtype).to(memory_format=torch.channels_last)
            kernel = torch.randn(256, 256, 3, 3, device=DEVICE, dtype=dtype).to(memory_format=torch.channels_last)
            convolution = best(lambda m=maps, w=kernel: F.conv2d(m, w, padding=1), 2 * 9 * 256 * 256 * math.prod(conv))
            found[precision] = {
                "gflops": max(rates.values()),
                "products": rates,
                "attention": attention,
                "convolution": convolution,
            }
    return {"fp32_gflops": found["fp32"]["gflops"], "bf16_gflops": found["bf16"]["gflops"], "all": found}


def count(folder: Path, passes: dict[str, dict[str, Any]]) -> dict:
    """GFLOP of passes and training steps, by name and by kind of operator. passes: name -> arguments of `count_one`."""
    found = {name: count_one(**arguments) for name, arguments in passes.items()}
    return {"gflop": {name: sum(kinds.values()) for name, kinds in found.items()}, "gflop_kinds": found}


def count_one(task: str, model: dict[str, Any], views: list[list[int]], backward: bool = False) -> dict[str, float]:
    """
    GFLOP by kind of operator; a multiplication with an addition is two FLOPs. What checkpoints compute again is not counted.

    Counted on the meta device, where attention is two matrix products.

    Args:
        views: shape of each view, (B, 3, H, W) or (B, N, 3, h, w).
        backward: count the backward pass too.
    """
    labels = {"id2label": dict(enumerate(map(str, range(CLASSES))))} if task == "semantic-segmentation" else {}
    config = WinWinConfig.from_preset(model["preset"], **model.get("config", {}), **labels)
    with torch.device("meta"):
        network = (WinWinForOpticalFlow if task == "optical-flow" else WinWinForSemanticSegmentation)(config).eval()
        inputs = {}
        for prefix, shape in zip(("", "second_"), views, strict=False):
            inputs[f"{prefix}pixel_values"] = torch.empty(shape)
            if len(shape) == 5:
                inputs[f"{prefix}window_positions"] = torch.zeros(*shape[:2], 2, dtype=torch.long)
        with torch.set_grad_enabled(backward), FlopCounterMode(display=False) as counter:
            outputs = network(**inputs)
            if backward:  # the loss itself is a few operations a pixel
                maps = [outputs.logits] if task == "semantic-segmentation" else [outputs.flow, outputs.log_scale]
                sum(t.sum() for t in maps).backward()
    kinds: dict[str, float] = {}
    for operator, flops in counter.get_flop_counts()["Global"].items():
        kind = kind_of(str(operator))
        kinds[kind] = kinds.get(kind, 0.0) + flops / 1e9
    return kinds


# ------------------------------------------------------------------ winwin-flow and other methods

RAFT = ("raft-small", "raft-large")  # of torchvision, with random weights, which do not change the time


def small_flow(folder: Path, method: str, size: Size, runs: int, packages: str | None = None) -> dict:
    """
    Flow of a pair of uint8 photographs of `size`: winwin-flow (fp32 or bf16), OpenCV's methods, torchvision's RAFT.

    packages: a folder whose OpenCV and torchvision are used instead of the installed ones.
    """
    if packages:
        sys.path.insert(0, packages)
    import cv2

    from winwin_hf.bundled import examples_folder
    from winwin_hf.data.formats import read_image

    cv2.setNumThreads(torch.get_num_threads())
    images = [read_image(examples_folder() / f"bedroom_{i}.jpg") for i in (1, 2)]
    images = [cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA) for image in images]
    found = flow_method(method)
    if isinstance(found, str):
        return {"not_measured": found}
    meter = Meter()
    found(*(image[: size[0] // 2, : size[1] // 2] for image in images))  # warms up
    meter.start_memory()
    for _ in range(runs):
        with meter.timed():
            flow = found(*images)
    assert flow.shape[-2:] == size
    return {**meter.times(), **meter.memory()}


def flow_method(name: str) -> Callable[..., Any] | str:
    """A function from two uint8 RGB images to flow (2, H, W), or the reason why there is none."""
    import cv2
    import numpy as np
    from accelerate import Accelerator

    from winwin_hf.evaluation import methods

    if name.startswith("winwin-flow"):
        precision = "bf16" if name.endswith("bf16") else "no"
        network = methods.load("winwin-flow", Accelerator(mixed_precision=precision))
        return lambda *images: network(*images).values
    if name == "opencv-tvl1":
        if not hasattr(cv2, "optflow"):
            return "opencv-contrib-python-headless is not there (see --rivals)"
        method = cv2.optflow.DualTVL1OpticalFlow.create()

        def tvl1(*images: np.ndarray) -> np.ndarray:
            grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
            return method.calc(*grey, None).transpose(2, 0, 1)

        return tvl1
    if name in RAFT:
        if not importlib.util.find_spec("torchvision"):
            return "torchvision is not there (see --rivals)"
        network = getattr(import_raft(), name.replace("-", "_"))(weights=None).to(DEVICE).eval()

        def raft(*images: np.ndarray) -> np.ndarray:
            tensors = [torch.from_numpy(image).to(DEVICE).permute(2, 0, 1)[None] / 127.5 - 1 for image in images]
            height, width = images[0].shape[:2]
            padded = [F.pad(t, (0, -width % 8, 0, -height % 8), mode="replicate") for t in tensors]
            with torch.inference_mode():
                return network(*padded)[-1][0, :, :height, :width].cpu().numpy()

        return raft
    method = methods.load(name, Accelerator())
    return lambda *images: method(*images).values


def import_raft() -> Any:
    """torchvision's flow models. A CUDA build needs two operators that a CPU build of torch lacks; RAFT doesn't call them."""
    try:
        from torchvision.models import optical_flow
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision.models import optical_flow

        optical_flow.operators = library  # keeps the library alive
    return optical_flow


# ------------------------------------------------------------------ a process


def train(folder: Path, **arguments: Any) -> dict[str, Any] | None:
    """See `training.train_step`."""
    from research.cost.training import train_step

    return train_step(folder, **arguments)


def draw_frames(folder: Path, segmentation: Size, flow: Size) -> dict:
    """Writes the frames that trainings load; not a measurement."""
    from research.cost import frames

    frames.write_bdd(folder, *segmentation)
    frames.write_spring(folder, *flow)
    return {}


PROBES: dict[str, Callable[..., dict[str, Any] | None]] = {
    "train": train,
    "direct": direct,
    "tiled": tiled,
    "profile": profile,
    "ceiling": ceiling,
    "count": count,
    "small-flow": small_flow,
    "frames": draw_frames,
}


def main(request: str) -> None:
    """Runs the measurement of a JSON request and prints its figures as the last line."""
    options = json.loads(request)
    torch.set_num_threads(options["threads"])
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in options["arguments"].items()}
    found = PROBES[options["probe"]](Path(options["folder"]), **arguments)
    if found is not None:
        print(json.dumps({**found, "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"}))


if __name__ == "__main__":
    main(sys.argv[1])
