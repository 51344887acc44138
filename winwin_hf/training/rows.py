"""New weights of a model that no process holds whole: each draws all of them, a tensor at a time, and keeps its rows.

The model is made on the meta device. Each function that would fill a tensor fills one of the same shape on the CPU instead, of which this
process's rows stay. So the random numbers, and with them the weights, are those of a model that is made as usual, in any number of
processes. All of them draw everything, as each process of DDP does.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel, initialization

FUNCTIONS = (*initialization.TORCH_INIT_FUNCTIONS, "copy_")


class Rows:
    """
    One process's rows of the tensors of a model that is made while `drawing` is entered.

    Args:
        draws: False: only count; the rows stay empty.
    Attributes:
        most: bytes of the largest tensor that was whole for a moment. held: bytes of the rows.
    """

    def __init__(self, rank: int, world: int, draws: bool = True):
        self.rank, self.world, self.draws = rank, world, draws
        self.most = 0
        self._scratch = torch.empty(0)
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # with the tensor itself, whose id else were free

    @property
    def held(self) -> int:
        return sum(rows.numel() * rows.element_size() for _, rows in self._kept.values())

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """While it is entered, new modules have no memory."""
        initialise = PreTrainedModel.init_weights

        def on_cpu(model: Any) -> None:
            with torch.device("cpu"):  # on the meta device transformers leaves it out
                initialise(model)

        with contextlib.ExitStack() as stack:
            places = [sys.modules[name] for name in initialization.TORCH_MODULES_TO_PATCH if name in sys.modules]
            for place in (initialization, *places):
                for name in FUNCTIONS:
                    if hasattr(place, name):
                        stack.callback(setattr, place, name, getattr(place, name))
                        setattr(place, name, self._keeping(getattr(place, name)))
            stack.callback(setattr, PreTrainedModel, "init_weights", initialise)
            PreTrainedModel.init_weights = on_cpu  # type: ignore[method-assign]
            stack.enter_context(torch.device("meta"))
            yield

    def _keeping(self, fill: Callable[..., Any]) -> Callable[..., Any]:
        def fill_rows(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
            if not tensor.is_meta:
                return fill(tensor, *args, **options)
            if args and isinstance(args[0], torch.Tensor) and args[0].is_meta:  # a copy of another parameter
                self._kept[id(tensor)] = tensor, self._kept[id(args[0])][1].clone()
                return tensor
            self.most = max(self.most, tensor.numel() * tensor.element_size())
            if not self.draws:
                self._kept[id(tensor)] = tensor, self.part(tensor)
                return tensor
            with torch.device("cpu"), torch.no_grad():
                whole = self._scratch_like(tensor)
                fill(whole, *args, **options)
                rows = self.part(whole)
                if id(tensor) in self._kept:  # filled before, by the module's own constructor
                    self._kept[id(tensor)][1].copy_(rows)
                else:
                    self._kept[id(tensor)] = tensor, rows.clone()
            return tensor

        return fill_rows

    def _scratch_like(self, tensor: torch.Tensor) -> torch.Tensor:
        """Memory that is used again for each tensor: the allocator would put rows into the gaps of those before, and grow."""
        if self._scratch.numel() < tensor.numel() or self._scratch.dtype != tensor.dtype:
            self._scratch = torch.empty(0)
            self._scratch = torch.empty(tensor.numel(), dtype=tensor.dtype)
        return self._scratch[: tensor.numel()].view(tensor.shape)

    def part(self, tensor: torch.Tensor) -> torch.Tensor:
        """This process's rows of a tensor, as `fully_shard` divides them."""
        parts = tensor.chunk(self.world)
        return parts[self.rank] if self.rank < len(parts) else tensor[:0]

    def taken(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The rows of a model's parameters by their names, held here no longer. Raises LookupError for one that nothing filled."""
        found = {}
        for name, parameter in model.named_parameters():
            if id(parameter) not in self._kept:
                raise LookupError(f"{name} has no initial values: WinWinPreTrainedModel._init_weights lacks them")
            found[name] = self._kept.pop(id(parameter))[1]
        self._scratch = torch.empty(0)
        return found
