"""FSDP2: each process of a training holds its rows of the weights, gradients, moments and average alone.

Notable:
- it is asked for by Accelerate's variables (`accelerate launch --use_fsdp --fsdp_version 2`, its configuration files). The blocks are
  sharded here, by PyTorch's `fully_shard`: Accelerate does so on accelerators only, and saves pickles.
- which tensors a state has is the same for a sharded training and for any other, so each goes on from the other's states
  (`tensors_of`, `restore`).
- states are written by torch.distributed.checkpoint as safetensors, which hold no pickle: `HuggingFaceStorageWriter`.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import AveragedModel

from winwin_hf.model.layers_winwin import WinWinDecoderLayer, WinWinLayer
from winwin_hf.processes import flag
from winwin_hf.training.build import kept_share
from winwin_hf.training.rows import Rows

BLOCKS = (WinWinLayer, WinWinDecoderLayer)
USED = "ACCELERATE_USE_FSDP"
# Values of Accelerate's variables that ask for what is done here; of others a training would be another one than was asked for.
KNOWN = {
    "FSDP_VERSION": {"2"},
    "FSDP_AUTO_WRAP_POLICY": {"", "TRANSFORMER_BASED_WRAP"},
    "FSDP_TRANSFORMER_CLS_TO_WRAP": {"", *(block.__name__ for block in BLOCKS)},
    "FSDP_IGNORED_MODULES": {""},
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": {"", "false"},
    "FSDP_MIXED_PRECISION_POLICY": {""},  # the recipe's is autocast
}
# Of a state, beside the names of the weights: the average's are as PyTorch's AveragedModel names them.
AVERAGED, MOMENTS, STEPS, COUNT = "module.", ("exp_avg", "exp_avg_sq"), "optimizer.steps", "average.count"


SHARD = re.compile(r"shard-\d{5,}-model-00001-of-00001\.safetensors")  # as torch.distributed.checkpoint names them


@dataclass(frozen=True)
class Sharding:
    """
    What Accelerate's variables ask for.

    Attributes:
        reshard: gather a block's weights again for the backward pass. offload: keep the shards in the memory of the CPU.
        checkpointing: compute the blocks again in the backward pass, as `optimization.gradient_checkpointing`.
    """

    reshard: bool = True
    offload: bool = False
    checkpointing: bool = False


def asked_for() -> Sharding | None:
    """What the launcher's variables ask for, None where they don't. Raises ValueError for FSDP of another kind, by its variable."""
    if not flag(USED):
        return None
    for name, values in KNOWN.items():
        given = os.environ.get(name, "1" if name == "FSDP_VERSION" else "")
        expected = {value.lower() for value in values}
        if wrong := [part for part in given.split(",") if part.strip().lower() not in expected]:
            wanted = " or ".join(sorted(filter(None, values))) or "none"
            raise ValueError(f"{name}={wrong[0][:60]}: expected {wanted}, with {USED}")
    return Sharding(
        reshard=flag("FSDP_RESHARD_AFTER_FORWARD", True),
        offload=flag("FSDP_OFFLOAD_PARAMS"),
        checkpointing=flag("FSDP_ACTIVATION_CHECKPOINTING"),
    )


def shard(model: torch.nn.Module, sharding: Sharding, device: torch.device, rows: Rows | None = None) -> None:
    """
    Divides a model's parameters among all processes, in place: each block by itself, the rest together.

    rows: of this process, for a model on the meta device.
    """
    values = rows.taken(model) if rows is not None and any(p.is_meta for p in model.parameters()) else {}
    offload = CPUOffloadPolicy() if sharding.offload and device.type != "cpu" else OffloadPolicy()
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for module in [module for module in model.modules() if isinstance(module, BLOCKS)]:
        fully_shard(module, mesh=mesh, reshard_after_forward=sharding.reshard, offload_policy=offload)
    fully_shard(model, mesh=mesh, offload_policy=offload)
    if values:
        model.to_empty(device="cpu" if isinstance(offload, CPUOffloadPolicy) else device)
        for name, parameter in model.named_parameters():
            local(parameter.detach()).copy_(values.pop(name))
    # Of the loss alone a gradient is taken; the predictions beside it are views.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)


def is_sharded(model: torch.nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor; of one that isn't divided, all."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class ShardedAverage:
    """`build.make_average` of a sharded model: each process averages its own part. Same numbers, bit for bit."""

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.n_averaged = torch.tensor(0)
        self.tensors = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        current = [local(p.detach()) for p in model.parameters() if p.requires_grad]
        averaged = [local(tensor) for tensor in self.tensors.values()]
        if self.n_averaged == 0:
            torch._foreach_copy_(averaged, current)
        else:
            torch._foreach_lerp_(averaged, current, 1 - kept_share(self.decay, float(self.n_averaged)))
        self.n_averaged += 1


def skeleton_of(model: torch.nn.Module) -> Any:
    """A copy of a model without its parameters, which are on the meta device: `whole` fills it."""
    meta = {
        id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo=meta)


def whole(
    skeleton: Any,
    model: torch.nn.Module,
    average: AveragedModel | ShardedAverage | None,
    device: torch.device,
    keeps: bool = True,
) -> Any:
    """
    The network that is scored and saved, gathered from all processes, which must all call this; None unless this one `keeps` it.

    Args:
        skeleton: of the model. device: where the gathered network is to be.
    """
    gathered, averaged = {}, average.tensors if isinstance(average, ShardedAverage) else {}
    for name, parameter in model.named_parameters():
        tensor = averaged.get(name, parameter).detach()
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()
        if keeps:
            gathered[name] = full.to(device)
    if not keeps:
        return None
    network = copy.deepcopy(skeleton)
    network.load_state_dict(gathered, strict=True, assign=True)
    return network


# ------------------------------------------------------------------ states


def tensors_of(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel | ShardedAverage | None
) -> dict[str, torch.Tensor]:
    """All that a sharded state holds: weights, average, moments, and each parameter's number of steps (-1: it has no moments)."""
    found = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if average is not None:
        found |= averaged_of(average)
        found[COUNT] = average.n_averaged.reshape(1)
    steps = []
    for name, parameter in trained_of(model):
        state = optimizer.state.get(parameter, {})
        steps.append(float(state["step"]) if state else -1.0)
        found |= {f"{moment}.{name}": state[moment] for moment in MOMENTS if state}
    found[STEPS] = torch.tensor(steps)
    return found


def trained_of(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def averaged_of(average: AveragedModel | ShardedAverage) -> dict[str, torch.Tensor]:
    """The averaged tensors, by their names in a state."""
    if isinstance(average, ShardedAverage):
        return {AVERAGED + name: tensor for name, tensor in average.tensors.items()}
    return {AVERAGED + name: parameter.detach() for name, parameter in trained_of(average.module)}


def shards_in(state: Path) -> list[Path]:
    return sorted(path for path in state.glob("shard-*") if SHARD.fullmatch(path.name))


def write_shards(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Writes each process's part to a file of its own; all processes must call this."""
    try:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    except TypeError:  # PyTorch 2.8
        writer = HuggingFaceStorageWriter(str(folder), save_sharded=True)  # type: ignore[call-arg]
    with _plain_errors():
        dcp.save(tensors, storage_writer=writer)


def read_shards(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Fills tensors, whole or sharded in any way, from all safetensors files of a folder."""
    alone = not any(isinstance(tensor, DTensor) for tensor in tensors.values())
    with warnings.catch_warnings(), _plain_errors():
        warnings.simplefilter("ignore")  # that it takes itself for the only process, which it is told
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Raises what went wrong in the first process where something did, in all of them. PyTorch's own error is no `Exception`."""
    try:
        yield
    except CheckpointException as error:
        raise error.failures[min(error.failures)][0] from error


def restore(
    state: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | ShardedAverage | None,
) -> None:
    """Fills a training, sharded or not, from a state that was sharded over any number of processes."""
    trained = list(trained_of(model))
    steps = torch.empty(len(trained))
    read_shards({STEPS: steps}, state)
    optimizer.state.clear()
    for (_, parameter), step in zip(trained, steps.tolist(), strict=True):
        if step >= 0:
            moments = {moment: torch.zeros_like(parameter.detach()) for moment in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(step, device=local(parameter).device), **moments}
    found = tensors_of(model, optimizer, average)
    read_shards(found, state)
    if average is not None:
        average.n_averaged.copy_(found[COUNT][0])


def restore_from_whole(
    state: Path, saved: dict[str, Any], model: torch.nn.Module, optimizer: torch.optim.Optimizer, average: Any
) -> None:
    """Fills a sharded training from a state that isn't. `saved`: the optimiser's, as read."""
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if average is not None:
        tensors |= averaged_of(average)
    read_shards(tensors, state)
    if average is not None:
        with safe_open(state / "average.safetensors", framework="pt") as file:
            average.n_averaged.copy_(file.get_tensor("n_averaged"))
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.state.clear()
    for number, parameter in zip(numbers, parameters, strict=True):
        if (entry := saved["state"].get(number)) is not None:
            optimizer.state[parameter] = {
                "step": entry["step"].to(local(parameter).device),
                **{moment: part_of(entry[moment], parameter) for moment in MOMENTS},
            }


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole tensor, divided as another one is."""
    assert isinstance(like, DTensor)
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
