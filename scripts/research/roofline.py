"""What holds a training step back on a CPU: each kernel's time against what the machine could do.

    OMP_NUM_THREADS=1 python scripts/research/roofline.py flow-synthetic

- The roof of a kernel is the larger of two times: its products at the speed of large matrix products in its precision, and its tensors,
  each read or written once, at the speed of copying memory. A kernel whose tensors are in the cache may be faster than that; its roof is
  then the time that it took.
- Kernels are timed one by one where PyTorch's dispatcher calls them, backward passes and the optimiser included; what lies between them is
  "between kernels". Views take no time and aren't listed.
"""

import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

sys.path.append(str(Path(__file__).resolve().parents[1]))

from research import pages
from winwin_hf.cli.errors import one_line_errors
from winwin_hf.cli.train import check_recipe
from winwin_hf.recipes import recipe_path
from winwin_hf.training.build import make_loader, make_model, make_optimizer, open_parts
from winwin_hf.training.evaluate import open_accelerator
from winwin_hf.training.recipe import load_recipe

aten = torch.ops.aten
KINDS = {
    "matrix products": (aten.mm, aten.addmm, aten.bmm, aten.baddbmm),
    "convolutions": (aten.convolution, aten.convolution_backward, aten.mkldnn_convolution, aten._slow_conv2d_forward),
    "attention": (
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
    ),
    "norms and softmax": (
        aten.native_layer_norm,
        aten.native_layer_norm_backward,
        aten._softmax,
        aten._softmax_backward_data,
    ),
    "copies and casts": (aten.copy_, aten._to_copy, aten.clone, aten.cat, aten.constant_pad_nd, aten.contiguous),
    "activations": (aten.gelu, aten.gelu_backward),
    "optimiser": (aten._fused_adamw_,),
}
KIND = {kernel: kind for kind, kernels in KINDS.items() for kernel in kernels}
STEPS, BEST_OF = 5, 7


@dataclass
class Ceiling:
    """What the machine does at best: FLOPs a second by precision, bytes a second."""

    products: dict[torch.dtype, float]
    memory: float

    @classmethod
    def measure(cls, side: int = 1536, megabytes: int = 128) -> "Ceiling":
        products = {}
        for dtype in (torch.float32, torch.bfloat16):
            a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
            products[dtype] = 2 * side**3 / min(seconds_of(lambda a=a, b=b: a @ b, BEST_OF))
        source = torch.randn(megabytes * 250_000)
        target = torch.empty_like(source)
        return cls(products, 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source), BEST_OF)))


def seconds_of(work: Callable[[], Any], times: int) -> list[float]:
    """Seconds of several runs, after one that isn't counted."""
    work()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


@dataclass
class Entry:
    """Kernels of one kind: how many, their seconds, FLOPs, bytes, and the seconds of their roofs."""

    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    moved: float = 0.0
    roof: float = 0.0


class Ledger(TorchDispatchMode):
    """Writes down each kernel that runs within it."""

    def __init__(self, ceiling: Ceiling) -> None:
        super().__init__()
        self.ceiling = ceiling
        self.entries: dict[str, Entry] = defaultdict(Entry)

    def __torch_dispatch__(self, kernel: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        began = time.perf_counter()
        out = kernel(*args, **kwargs)
        seconds = time.perf_counter() - began
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        written = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        packet = kernel.overloadpacket
        if kernel.is_view or (packet not in KIND and not written):
            return out
        flops = flops_of(packet, args, kwargs, out)
        moved = sum(extent(t) for t in (*read, *written))
        dtype = torch.bfloat16 if any(t.dtype == torch.bfloat16 for t in read) else torch.float32
        entry = self.entries[KIND.get(packet, "other element-wise and sums")]
        entry.calls += 1
        entry.seconds += seconds
        entry.flops += flops
        entry.moved += moved
        entry.roof += min(seconds, max(flops / self.ceiling.products[dtype], moved / self.ceiling.memory))
        return out


def extent(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's own values: an expanded one holds fewer than it shows."""
    values = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        values *= size if stride else 1
    return values * tensor.element_size() if tensor.numel() else 0


def flops_of(packet: Any, args: Any, kwargs: Any, out: Any) -> float:
    """FLOPs of a kernel with products, 0 of others. Those of attention on a CPU are not in PyTorch's list."""
    if packet in KINDS["attention"]:
        backward = packet is KINDS["attention"][1]
        query, key = args[backward : backward + 2]
        products = 2 * query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2] * query.shape[3]
        return float(products * (5 if backward else 2))
    if packet is aten.mkldnn_convolution:
        return float(2 * out.numel() * args[1][0].numel())
    if packet not in flop_registry:
        return 0.0
    return float(flop_registry[packet](*args, **kwargs, out_val=out))


def step_of(recipe_name: str, changes: list[str]) -> Callable[[], Any]:
    """One training step of a recipe, as the training takes it; its three batches are made before."""
    recipe = load_recipe(recipe_path(recipe_name), ["optimization.num_workers=0", *changes])
    torch.set_flush_denormal(True)  # as the training does
    accelerator = open_accelerator(recipe)
    torch.manual_seed(0)
    parts = open_parts(recipe)
    model, processor = make_model(recipe, parts[0].source)
    batches: Iterator[Any] = iter(make_loader(recipe, 0, 1, 0, processor, parts))
    kept = [next(batches) for _ in range(3)]
    optimizer = make_optimizer(model.train(), recipe.optimization)
    model, optimizer = accelerator.prepare(model, optimizer)

    def step() -> Any:
        kept.append(kept.pop(0))
        with accelerator.autocast():
            loss = model(**kept[0]).loss
        accelerator.backward(loss)
        if recipe.optimization.clip_norm:
            accelerator.clip_grad_norm_(model.parameters(), recipe.optimization.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def table(ledger: Ledger, steps: int, whole: float) -> str:
    """The ledger as Markdown, a step each; whole: seconds of a step without the ledger."""
    rows = []
    entries = sorted(ledger.entries.items(), key=lambda item: -item[1].seconds)
    for kind, entry in entries:
        rate = f"{entry.flops / entry.seconds / 1e9:.0f}" if entry.flops else ""
        rows.append(
            [
                kind,
                str(round(entry.calls / steps)),
                f"{1e3 * entry.seconds / steps:.0f}",
                f"{1e3 * entry.roof / steps:.0f}",
                f"{100 * entry.roof / entry.seconds:.0f} %",
                rate,
                f"{entry.moved / entry.seconds / 1e9:.1f}",
            ]
        )
    seconds, roof = (sum(getattr(entry, name) for _, entry in entries) / steps for name in ("seconds", "roof"))
    rows.append(
        ["all kernels", "", f"{1e3 * seconds:.0f}", f"{1e3 * roof:.0f}", f"{100 * roof / seconds:.0f} %", "", ""]
    )
    rows.append(["between kernels", "", f"{1e3 * max(0.0, whole - seconds):.0f}", "0", "", "", ""])
    rows.append(["a step", "", f"{1e3 * whole:.0f}", f"{1e3 * roof:.0f}", f"{100 * roof / whole:.0f} %", "", ""])
    header = ["kernels", "calls", "ms", "roof, ms", "share of the roof", "GFLOP/s", "GB/s"]
    return pages.table(header, rows)


def main(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or file.")] = "flow-synthetic",
    changes: Annotated[list[str] | None, typer.Option("--set", help="section.key=value of the recipe.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are written down.")] = STEPS,
) -> None:
    """Print where the time of a training step goes, and the least that this machine could take."""
    check_recipe(recipe_path(recipe), changes or [])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    step = step_of(recipe, changes or [])  # opens the data: what is missing is told before the machine is measured
    ceiling = Ceiling.measure()
    speeds = ", ".join(
        f"{str(dtype).removeprefix('torch.')} {speed / 1e9:.0f}" for dtype, speed in ceiling.products.items()
    )
    typer.echo(
        f"{torch.get_num_threads()} threads: matrix products {speeds} GFLOP/s, memory {ceiling.memory / 1e9:.1f} GB/s\n"
    )
    whole = seconds_of(step, steps)
    with Ledger(ceiling) as ledger:
        for _ in range(steps):
            step()
    typer.echo(table(ledger, steps, statistics.median(whole)))


if __name__ == "__main__":
    typer.run(one_line_errors(main))
