"""Whether a graph is being recorded: what depends on the values or the size of this one input would be frozen in it."""

import torch


def is_traced() -> bool:
    """True under `torch.compile`, `torch.export` and the ONNX export, and under `torch.jit.trace`, which says so elsewhere."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def refuse_recording(what: str, *sizes: int | torch.SymInt) -> None:
    """Raises ValueError where a graph for other inputs is recorded: under `torch.jit.trace`, and in an export with symbolic sizes.

    `torch.compile` with symbolic sizes is right: it compiles anew where a size takes another path.
    """
    exporting = torch.compiler.is_exporting() and any(isinstance(size, torch.SymInt) for size in sizes)
    if exporting or torch.jit.is_tracing():
        raise ValueError(f"{what}: no recorded graph fits inputs of other sizes; expected torch.compile or eager use.")


__all__ = ["is_traced", "refuse_recording"]
