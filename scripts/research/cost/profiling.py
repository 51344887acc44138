"""Where a pass over a pair of frames spends its time: by kind of operator (torch.profiler), and by part of the network.

An operator's name decides its kind; an operator of no kind keeps its name. Hooks time the modules, each without the modules inside
it, so that kinds and parts both add up to the pass.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

# The first kind with a word that is part of the operator's name.
KINDS: dict[str, tuple[str, ...]] = {
    # no other part of the network has batched products
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention", "bmm", "softmax"),
    "convolution": ("conv",),
    "matrix products": ("addmm", "::mm", ".mm", "linear", "matmul"),
    "layer norm": ("layer_norm",),
    "GELU": ("gelu",),
    "interpolation": ("upsample", "interpolate"),
    "copies": ("copy", "clone", "contiguous", "::cat", "::to", "::fill", "::zero", "reorder", "::stack"),
    "sums and products": ("::mul", "::add", "::sub", "::neg", "::div", "fma"),
    "ReLU": ("relu", "clamp", "threshold"),
}


def kind_of(operator: str) -> str:
    for kind, words in KINDS.items():
        if any(word in operator for word in words):
            return kind
    return operator


def profiled(model: nn.Module, forward: Any) -> dict[str, Any]:
    """Runs `forward()` once; seconds by kind of operator, by operator and by part of `model`, each in descending order."""
    parts = Parts(model)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities, acc_events=True) as found:
        start = time.perf_counter()
        forward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    parts.remove()
    kinds: dict[str, float] = defaultdict(float)
    operators: dict[str, list[float]] = {}
    for event in found.key_averages():
        spent = (event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total) / 1e6
        kinds[kind_of(event.key)] += spent
        operators[event.key] = [spent, event.count]
    return {
        "seconds": seconds,
        "kinds": descending(kinds),
        "operators": dict(sorted(operators.items(), key=lambda item: -item[1][0])[:25]),
        "parts": descending(parts.seconds),  # on a GPU: the time to start the kernels
    }


def descending(seconds: dict[str, float]) -> dict[str, float]:
    return dict(sorted(((name, value) for name, value in seconds.items() if value > 0), key=lambda item: -item[1]))


class Parts:
    """Time of each module without the modules inside it, summed over the blocks: `winwin.layers.mlp.up_proj`."""

    def __init__(self, model: nn.Module):
        self.seconds: dict[str, float] = defaultdict(float)
        self.stack: list[list[Any]] = []
        self.handles = []
        for name, module in model.named_modules():
            label = self.label(name, module)
            self.handles.append(module.register_forward_pre_hook(self.start(label)))
            self.handles.append(module.register_forward_hook(self.stop))

    @staticmethod
    def label(name: str, module: nn.Module) -> str:
        """winwin.layers.3.mlp.up_proj -> winwin.layers.mlp.up_proj; a head's modules keep their numbers."""
        words = name.split(".")
        if words[0] != "head":
            words = [word for word in words if not word.isdigit()]
        return ".".join(words) or type(module).__name__

    def start(self, label: str) -> Any:
        def hook(*_: Any) -> None:
            now = time.perf_counter()
            if self.stack:
                self.seconds[self.stack[-1][0]] += now - self.stack[-1][1]
            self.stack.append([label, now])

        return hook

    def stop(self, *_: Any) -> None:
        now = time.perf_counter()
        label, started_at = self.stack.pop()
        self.seconds[label] += now - started_at
        if self.stack:
            self.stack[-1][1] = now

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
