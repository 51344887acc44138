"""FLOPs and memory of one training step, counted by running the real model on tensors without data (PyTorch's fake tensors).

- Forward and backward pass of a task's model run in full, with gradient checkpointing and mixed precision, but no tensor
  holds data. A 1080p step of ViT-L, which takes 60 GB, is counted on any laptop.
- FLOPs are counted by `torch.utils.flop_counter`, to which `flop_counter` adds the CPU's attention kernel.
- Memory counts each storage from its allocation to its end. The peak is what an allocator without waste would need.
- Fake tensors are on a CPU. Its autocast keeps layer norms in bf16; `like_cuda` runs them in float32, as a GPU does.

Not counted: an allocator's rounding, workspaces of convolutions, the CUDA context, NCCL's buffers.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers.initialization import no_init_weights

from research.planning.model import Counted
from research.sizes import grid_of
from winwin_hf import WinWinConfig
from winwin_hf.model import layers_winwin
from winwin_hf.task import TASKS, TaskName
from winwin_hf.training.build import MODELS
from winwin_hf.training.recipe import Recipe

Windows = tuple[int, int, int]  # count, rows and columns in patches


@dataclass(frozen=True)
class Kept:
    """
    What a training keeps of an example, a frame or a pair of frames.

    Attributes:
        first, second: the windows of each view; second: None for one frame.
        whole: the whole frames, as one image each.
    """

    first: Windows
    second: Windows | None = None
    whole: bool = False
    task: TaskName = "optical-flow"

    @property
    def tokens(self) -> tuple[int, int]:
        """Of the first and of the second view."""
        return math.prod(self.first), math.prod(self.second) if self.second else 0


@dataclass(frozen=True)
class Memory:
    """
    Bytes of one training step, without weights, their average, the optimiser's moments and the inputs.

    Attributes:
        held: alive after the forward pass.
        peak: most bytes alive at once, with the gradients.
        launches: operations that would be sent to a GPU.
    """

    held: int
    peak: int
    launches: int


def kept_by(recipe: Recipe, frame: tuple[int, int], patch_size: int = 16) -> Kept:
    """What a recipe keeps of a frame, or a pair of frames, of (height, width) pixels. Raises ValueError where the windows don't fit."""
    grid = grid_of(*frame, patch_size)
    strategy, rng = recipe.windows, np.random.default_rng(0)
    size = strategy.draw_size(rng, grid)
    if strategy.kind != "full":
        strategy.sample(rng, grid, size)
    first, pairs = (strategy.count, *size), len(TASKS[recipe.task].images) == 2
    second = first
    if strategy.kind not in ("crop", "full"):
        second = (strategy.count, *recipe.second_windows.window_size(size, grid))
    return Kept(first, second if pairs else None, whole=strategy.kind == "full", task=recipe.task)


def batch_of(kept: Kept, batch: int, patch_size: int = 16) -> dict[str, torch.Tensor]:
    """Zeros with the collator's keys and shapes."""
    p = patch_size

    def pixels(windows: Windows, *channels: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        n, h, w = windows
        return torch.zeros(batch, *([] if kept.whole else [n]), *channels, h * p, w * p, dtype=dtype)

    views = {"": kept.first, **({"second_": kept.second} if kept.second else {})}
    inputs = {f"{view}pixel_values": pixels(windows, 3) for view, windows in views.items()}
    if kept.second:
        inputs["labels"] = pixels(kept.first, 2)
    else:
        inputs["labels"] = pixels(kept.first, dtype=torch.long if kept.task == "semantic-segmentation" else torch.float)
    if not kept.whole:
        for view, (n, _, _) in views.items():
            inputs[f"{view}window_positions"] = torch.zeros(batch, n, 2, dtype=torch.long)
            inputs[f"{view}frame_sizes"] = torch.zeros(batch, 2, dtype=torch.long)
    return inputs


# ------------------------------------------------------------------ counting


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **_: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter with the CPU's attention kernel."""
    return FlopCounterMode(display=False, custom_mapping=ATTENTION)


@contextlib.contextmanager
def like_cuda() -> Iterator[None]:
    """Within, layer norms run in float32. (A torch function mode would not reach what a checkpoint runs again.)"""
    original = F.layer_norm
    F.layer_norm = lambda x, *args, **kwargs: original(x.float(), *args, **kwargs)
    try:
        yield
    finally:
        F.layer_norm = original


class MemoryCounter(TorchDispatchMode):
    """
    Counts the storages that are allocated within.

    Attributes:
        now, peak: bytes alive now, and at most.
        launches: operations that allocated or changed a storage.

    Args:
        before: existing tensors; their storages and views are not counted.
    """

    def __init__(self, before: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = self.launches = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in before}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = False
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                made |= self._note(tensor.untyped_storage())
        self.launches += made or func._schema.is_mutable
        return result

    def _note(self, storage: torch.UntypedStorage) -> bool:
        """Counts a new storage. Returns whether it is one."""
        address = storage._cdata
        if address in self.known:
            return False
        size = storage.nbytes()
        self.known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)

        def end() -> None:
            self.known.discard(address)
            self.now -= size

        weakref.finalize(storage, end)
        return True


@contextlib.contextmanager
def without_data(config: WinWinConfig, checkpointing: bool, task: TaskName = "optical-flow") -> Iterator[Any]:
    """Gives the model in training mode. Its weights, and all tensors made within, hold no data."""
    # as in a traced graph, values can't be checked
    with FakeTensorMode(), mock.patch.object(layers_winwin, "is_traced", return_value=True):
        with no_init_weights():
            model: Any = MODELS[TASKS[task].architecture](config).train()
        model.set_attn_implementation("sdpa")
        if checkpointing:
            model.gradient_checkpointing_enable()
        yield model


def autocast(precision: str) -> torch.autocast:
    """The autocast of a training's forward pass. precision: "bf16" or "no"."""
    if precision not in ("bf16", "no"):
        raise ValueError(f"precision {precision!r}: expected 'bf16' or 'no'")
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")


def count_flops(
    config: WinWinConfig, kept: Kept, precision: str = "bf16", checkpointing: bool = False
) -> tuple[int, int]:
    """FLOPs of an example: forward and backward. A multiplication with an addition is two; checkpointing adds to the backward pass."""
    with without_data(config, checkpointing, kept.task) as model, flop_counter() as counter:
        with autocast(precision):
            loss = model(**batch_of(kept, 1, config.patch_size)).loss
        forward = counter.get_total_flops()
        loss.backward()
        return forward, counter.get_total_flops() - forward


def count_memory(
    config: WinWinConfig,
    kept: Kept,
    batch: int,
    precision: str = "bf16",
    checkpointing: bool = False,
    gpu: bool = True,
) -> Memory:
    """
    Memory of the forward and backward pass of `batch` examples.

    gpu: follow a GPU's rules of autocast; False: a CPU's, to compare with measurements there.
    """
    with without_data(config, checkpointing, kept.task) as model:
        inputs = batch_of(kept, batch, config.patch_size)
        # around both passes: with checkpointing the backward pass runs forward passes again
        layer_norms = like_cuda() if gpu and precision == "bf16" else contextlib.nullcontext()
        with MemoryCounter([*model.parameters(), *model.buffers(), *inputs.values()]) as counter, layer_norms:
            with autocast(precision):
                loss = model(**inputs).loss
            held = counter.now
            loss.backward()
    return Memory(held, counter.peak, counter.launches)


def counted(config: WinWinConfig, kept: Kept, batches: tuple[int, int], precision: str = "bf16") -> Counted:
    """A step's FLOPs, and its memory split by two batch sizes into a part for each example and a fixed part."""
    few, many = batches

    def line(checkpointing: bool) -> tuple[float, float, int]:
        low, high = (count_memory(config, kept, batch, precision, checkpointing) for batch in batches)
        pair = (high.peak - low.peak) / (many - few)
        return pair, high.peak - pair * many, high.launches

    forward, backward = count_flops(config, kept, precision)
    again = count_flops(config, kept, precision, checkpointing=True)[1] - backward
    pair, fixed, launches = line(False)
    pair_checkpointed, fixed_checkpointed, launches_checkpointed = line(True)
    with without_data(config, False, kept.task) as model:
        layers = (*model.winwin.layers, *(model.decoder.layers if kept.second else ()))
        blocks = [sum(p.numel() for p in block.parameters()) for block in layers]
        parameters = sum(p.numel() for p in model.parameters())
        inputs = sum(t.numel() * t.element_size() for t in batch_of(kept, 1, config.patch_size).values())
    return Counted(
        tokens=kept.tokens,
        parameters=parameters,
        forward=forward,
        backward=backward,
        again=again,
        pair=pair,
        fixed=fixed,
        pair_checkpointed=pair_checkpointed,
        fixed_checkpointed=fixed_checkpointed,
        inputs=inputs,
        launches=launches,
        launches_checkpointed=launches_checkpointed,
        layer=max(blocks),
        rest=parameters - sum(blocks),
    )
