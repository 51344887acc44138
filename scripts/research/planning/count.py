"""FLOPs and memory of one training step, counted by running the real model on tensors without data (PyTorch's fake tensors).

Notable:
- nothing is guessed from formulas: the forward and the backward pass of `WinWinForOpticalFlow` run in full, as in training.py, gradient
  checkpointing and mixed precision included; only no tensor holds data. A 1080p step of ViT-L, 60 GB, is counted on any laptop.
- FLOPs: `torch.utils.flop_counter`. It doesn't know the CPU's attention kernel, which fake CPU tensors reach; here it does.
- memory: every storage that the step makes, from its making to its end. The peak is what an allocator without waste would need.
- fake tensors say that they are on a CPU, whose autocast differs from a GPU's in one thing that matters here: layer norms stay in
  bf16. `like_cuda` runs them in float32, as on a GPU.

Not counted: an allocator's rounding, workspaces inside convolutions, the CUDA context, NCCL's buffers.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers.initialization import no_init_weights

from research.planning.model import Counted
from winwin_hf import WinWinConfig, WinWinForOpticalFlow
from winwin_hf.training.recipe import Recipe

Windows = tuple[int, int, int]  # how many, and each one's rows and columns in patches


@dataclass(frozen=True)
class Kept:
    """What of a pair of frames is kept: (count, rows, columns) of each view's windows, in patches. whole: all, as one image."""

    first: Windows
    second: Windows
    whole: bool = False

    @property
    def tokens(self) -> tuple[int, int]:
        """Of the first and of the second view."""
        return self.first[0] * self.first[1] * self.first[2], self.second[0] * self.second[1] * self.second[2]


@dataclass(frozen=True)
class Memory:
    """
    Bytes of one training step beyond what is there before it: weights, their average, the optimiser's moments, the inputs.

    held: alive after the forward pass. peak: most alive at once, gradients included.
    launches: operations that a GPU would be sent.
    """

    held: int
    peak: int
    launches: int


def kept_by(recipe: Recipe, frame: tuple[int, int], patch_size: int = 16) -> Kept:
    """What a recipe keeps of a pair of frames of (height, width) pixels."""
    import numpy as np

    grid = -(-frame[0] // patch_size), -(-frame[1] // patch_size)
    strategy = recipe.windows
    size = strategy.draw_size(np.random.default_rng(0), grid)
    first = (strategy.count, *size)
    if strategy.kind in ("crop", "full"):
        return Kept(first, first, whole=strategy.kind == "full")
    return Kept(first, (strategy.count, *recipe.second_windows.window_size(size, grid)))


def batch_of(kept: Kept, batch: int, patch_size: int = 16) -> dict[str, torch.Tensor]:
    """Tensors of the shapes that the collator makes."""
    p = patch_size
    (n, h, w), (m, h2, w2) = kept.first, kept.second
    if kept.whole:
        return {
            "pixel_values": torch.zeros(batch, 3, h * p, w * p),
            "second_pixel_values": torch.zeros(batch, 3, h2 * p, w2 * p),
            "labels": torch.zeros(batch, 2, h * p, w * p),
        }
    return {
        "pixel_values": torch.zeros(batch, n, 3, h * p, w * p),
        "window_positions": torch.zeros(batch, n, 2, dtype=torch.long),
        "labels": torch.zeros(batch, n, 2, h * p, w * p),
        "second_pixel_values": torch.zeros(batch, m, 3, h2 * p, w2 * p),
        "second_window_positions": torch.zeros(batch, m, 2, dtype=torch.long),
    }


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
    """PyTorch's counter, which also knows the attention kernel of CPUs."""
    return FlopCounterMode(display=False, custom_mapping=ATTENTION)


@contextlib.contextmanager
def like_cuda() -> Iterator[None]:
    """Layer norms in float32, as autocast has them on a GPU. (A mode of functions is off where a checkpoint runs them again.)"""
    original = F.layer_norm
    F.layer_norm = lambda x, *args, **kwargs: original(x.float(), *args, **kwargs)
    try:
        yield
    finally:
        F.layer_norm = original


class Alive(TorchDispatchMode):
    """
    Bytes of all storages made while it is on: alive now, and most at once. launches: operations that made or changed one.

    before: tensors that were there already; views of them are not new.
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
        """Whether it is a new one."""
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
def without_data(config: WinWinConfig, checkpointing: bool) -> Iterator[WinWinForOpticalFlow]:
    """The model in training, its weights and all tensors made meanwhile without data."""
    with FakeTensorMode():
        with no_init_weights():
            model = WinWinForOpticalFlow(config).train()
        model.set_attn_implementation("sdpa")
        if checkpointing:
            model.gradient_checkpointing_enable()
        yield model


def autocast(precision: str) -> torch.autocast:
    """Of a training's forward pass: "bf16", or "no"."""
    if precision not in ("bf16", "no"):
        raise ValueError(f"precision {precision!r}: expected 'bf16' or 'no'")
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")


def count_flops(
    config: WinWinConfig, kept: Kept, precision: str = "bf16", checkpointing: bool = False
) -> tuple[int, int]:
    """FLOPs of a pair's forward and backward pass; a multiplication with its addition is two. Checkpointing adds to the latter."""
    with without_data(config, checkpointing) as model, flop_counter() as counter:
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
    Counts forward and backward pass of `batch` pairs.

    gpu: by a GPU's rules of autocast; otherwise by a CPU's, for comparison with measurements there.
    """
    with without_data(config, checkpointing) as model:
        inputs = batch_of(kept, batch, config.patch_size)
        # around both passes, for the backward pass may run parts of the forward pass again
        layer_norms = like_cuda() if gpu and precision == "bf16" else contextlib.nullcontext()
        with Alive([*model.parameters(), *model.buffers(), *inputs.values()]) as alive, layer_norms:
            with autocast(precision):
                loss = model(**inputs).loss
            held = alive.now
            loss.backward()
    return Memory(held, alive.peak, alive.launches)


def counted(config: WinWinConfig, kept: Kept, batches: tuple[int, int], precision: str = "bf16") -> Counted:
    """A step's FLOPs, and its memory at two batch sizes as what a pair adds and what is there anyway."""
    few, many = batches

    def line(checkpointing: bool) -> tuple[float, float, int]:
        low, high = (count_memory(config, kept, batch, precision, checkpointing) for batch in batches)
        pair = (high.peak - low.peak) / (many - few)
        return pair, high.peak - pair * many, high.launches

    forward, backward = count_flops(config, kept, precision)
    again = count_flops(config, kept, precision, checkpointing=True)[1] - backward
    pair, fixed, launches = line(False)
    pair_checkpointed, fixed_checkpointed, launches_checkpointed = line(True)
    with without_data(config, False) as model:
        blocks = [sum(p.numel() for p in block.parameters()) for block in (*model.winwin.layers, *model.decoder.layers)]
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
