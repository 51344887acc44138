"""A device whose memory is too small: one sentence that says what was tried and what fits.

What fits is tried, not computed: it depends on the network, its attention, the precision, the device, and on who else uses it.
"""

import gc
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
Size = TypeVar("Size")
TRIALS = 5  # each of half as many pixels or examples
CONTEXT = 2e9  # bytes; CUDA itself takes up to so many in each process
ON_CPU = "DefaultCPUAllocator"
# What torch says where it raises no OutOfMemoryError: Apple's GPUs and the driver, cuBLAS, a CPU.
SAYINGS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", ON_CPU)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory was short."""
    return isinstance(error, torch.OutOfMemoryError) or any(saying in str(error) for saying in SAYINGS)


def explained(run: Callable[[], Result], explain: Callable[[bool], str]) -> Result:
    """
    What `run` returns.

    Args:
        explain: the message where memory is short. It is told whether sizes may be tried: on a CPU a pass takes minutes, and the system
            may end the process.
    Raises: torch.OutOfMemoryError with that message.
    """
    try:
        return run()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        may_try = ON_CPU not in str(error)
    # Outside of `except`: the error holds the frames, and these hold the tensors.
    raise torch.OutOfMemoryError(explain(may_try))


def first_that_fits(trial: Callable[[Size], Any], sizes: Iterable[Size]) -> Size | None:
    """The first of the sizes with which `trial` isn't short of memory, None where there is none."""
    for size in sizes:
        free_memory()
        try:
            trial(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            return size
    return None


def smaller_sizes(height: int, width: int, patch: int) -> list[tuple[int, int]]:
    """(height, width) of a half, a quarter, ... of the pixels, in whole patches."""
    shrunk = ((height / 2 ** (k / 2), width / 2 ** (k / 2)) for k in range(1, TRIALS + 1))
    sizes = [(max(1, int(h / patch)) * patch, max(1, int(w / patch)) * patch) for h, w in shrunk]
    return [size for size in dict.fromkeys(sizes) if size != (height, width)]


def smaller_counts(count: int) -> list[int]:
    """Divisors of a number of examples: about a half, a quarter, ... of them."""
    divisors = [number for number in range(1, count) if count % number == 0]
    halves = [max((d for d in divisors if d <= count // 2**k), default=0) for k in range(1, TRIALS + 1)]
    return [number for number in dict.fromkeys(halves) if number]


def free_memory() -> None:
    """Hands memory that no tensor uses back to the device."""
    if torch.cuda.is_initialized():
        gc.collect()  # a frame may be part of a circle
        torch.cuda.empty_cache()


def memory_of(device: torch.device | str) -> str:
    """ "cuda:0 (NVIDIA L4, 23.6 GB, 12.1 of them held by other programs)"; only its name where the device doesn't tell."""
    device = torch.device(device)
    if device.type != "cuda":
        return str(device)
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    held = f", {others / 1e9:.1f} of them held by other programs" if others > CONTEXT else ""
    return f"{device} ({torch.cuda.get_device_name(device)}, {total / 1e9:.1f} GB{held})"
