"""Which half precisions a CPU multiplies itself, and faster; and a warning where a model runs in one that it only emulates."""

import functools
import time
from contextlib import AbstractContextManager, nullcontext

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def has_half_products(dtype: torch.dtype) -> bool:
    """
    Whether this CPU multiplies bf16 or fp16 without converting to float32; True where PyTorch doesn't tell.

    oneDNN knows about its own matrix products, `ONEDNN_MAX_CPU_ISA` included. On AVX-512 without bf16 it converts, which takes twice
    float32's time. Where oneDNN has none, PyTorch's own loops take eight times as long (measured with torch 2.13).
    """
    if dtype not in NAMES:
        return True
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{NAMES[dtype]}_supported", None)
    if supported is None:  # a build without oneDNN
        return True
    avx512, avx512_bf16 = (
        getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("avx512", "avx512_bf16")
    )
    converts = dtype == torch.bfloat16 and avx512() and not avx512_bf16()
    # told by ATEN_CPU_CAPABILITY to do with less, PyTorch's attention stops at a mixture of its own and oneDNN's kernels
    capped = avx512() and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return supported() and not converts and not capped


def product_seconds(dtype: torch.dtype) -> float:
    """The least of several times that a matrix product of 512 x 512 x 512 takes on this CPU."""
    seconds = []
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        factor = torch.ones(512, 512, dtype=dtype)
        for _ in range(6):
            start = time.perf_counter()
            factor @ factor
            seconds.append(time.perf_counter() - start)
    return min(seconds)


@functools.cache
def bf16_pays() -> bool:
    """
    Whether this CPU multiplies matrices in bf16 at least 1.5 times as fast as in float32. Measured once in a process, in 20 ms.

    What a processor says about itself doesn't tell. Of those with AVX-512's bf16 products, a Zen 4 multiplies twice as fast in bf16, and a
    Xeon without AMX half as fast; with AMX it is seven times (torch 2.13). None of them is near the limit.
    """
    return has_half_products(torch.bfloat16) and product_seconds(torch.float32) > 1.5 * product_seconds(torch.bfloat16)


def fast_products(model: torch.nn.Module) -> AbstractContextManager:
    """A context in which a float32 network on a CPU multiplies in bf16 where that is faster; elsewhere it changes nothing."""
    weight = next(model.parameters())
    suits = weight.device.type == "cpu" and weight.dtype == torch.float32 and bf16_pays()
    return torch.autocast("cpu", torch.bfloat16) if suits else nullcontext()


@torch.compiler.assume_constant_result  # runs while a graph is traced, and is no part of it
def warn_of_emulation(dtype: torch.dtype) -> bool:
    """Warns once in a process if `dtype` is emulated on this CPU. Returns whether it is."""
    emulated = not has_half_products(dtype)
    if emulated:
        name = NAMES[dtype]
        logger.warning_once(
            f"This CPU has no {name} products: PyTorch emulates them, in two to ten times the time of float32. Load the model with "
            f"dtype=torch.float32 and run it without autocast."
        )
    return emulated


def check_precision(weight: torch.Tensor) -> None:
    """Warns where a model whose weights are like `weight` computes in emulated half precision, by their dtype or by autocast."""
    if weight.device.type != "cpu" or torch.jit.is_tracing():  # a trace takes no operator that returns a bool
        return
    if torch.is_autocast_enabled("cpu"):
        warn_of_emulation(torch.get_autocast_dtype("cpu"))
    elif weight.dtype in NAMES:
        warn_of_emulation(weight.dtype)
