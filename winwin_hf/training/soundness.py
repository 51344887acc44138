"""Whether what a state's files hold belongs to the training that is to go on from it, before any of it is used.

Checksums (state.py) say that files are as they were written, not by whom. A moment of another shape makes the fused optimiser write
outside of its memory, and Accelerate passes over random states that it can't read.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import OPTIMIZER_NAME, RNG_STATE_NAME, SCALER_NAME, load
from safetensors.torch import load_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel

from winwin_hf.model.weights_winwin import is_number, reason_of, refuse_infinite
from winwin_hf.model.weights_winwin import tensors_of as tensors_of_file
from winwin_hf.training.recipe import Recipe
from winwin_hf.training.sharding import (
    COUNT,
    MOMENTS,
    SHARD,
    STEPS,
    ShardedAverage,
    averaged_of,
    read_shards,
    tensors_of,
    trained_of,
)

MODEL = "model.safetensors"
AVERAGE = "average.safetensors"
OPTIMIZER = f"{OPTIMIZER_NAME}.bin"
FOREIGN = ("custom_checkpoint_*", f"{RNG_STATE_NAME}_*.pkl", "*.safetensors")
ENTRIES = {"step", *MOMENTS}  # of a parameter
MOST_EXAMPLES = 2**20  # of a step, or what the recipe's has


def fault_of(
    state: Path,
    contents: dict[str, Any],
    recipe: Recipe,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | ShardedAverage | None,
    frozen: Collection[str],
) -> str:
    """
    The first file of a state that holds what this training can't have written, and what that is; "" for a sound state.

    Args:
        contents: of `state.json`. model, optimizer, average: of the training, as they are before its first step.
        frozen: names of the average's tensors that a state lacks.
    """
    file = "state.json"
    try:
        _check_progress(contents, recipe)
        random_states = [f"{RNG_STATE_NAME}_{rank}.pkl" for rank in range(contents["processes"])]
        # what Accelerate and torch.distributed.checkpoint would take
        lying = {path.name for pattern in FOREIGN for path in state.glob(pattern)}
        shards = [name for name in contents["files"] if SHARD.fullmatch(name)]
        weights = shards or ([MODEL, AVERAGE] if average is not None else [MODEL])
        if foreign := sorted(lying - {*random_states, *weights}):
            file = foreign[0]
            raise ValueError("not a file of this training")
        scaler = accelerator.scaler
        needed = [*weights, *([] if shards else [OPTIMIZER]), *random_states]
        for file in [*needed, *([SCALER_NAME] if scaler is not None else [])]:
            if file not in contents["files"]:
                raise FileNotFoundError
        if shards:
            for file in shards:
                _check_shard(state / file)
            file = f"{len(shards)} files of shards"
            _check_shards(state, tensors_of(model, optimizer, average), model, contents["step"], scaler is not None)
        else:
            file = MODEL
            _check_weights(state / file, model.state_dict(), ())
            if average is not None:
                file = AVERAGE
                _check_weights(state / file, _tensors_of(average), frozen)
            file = OPTIMIZER
            _check_optimizer(read_plain(state / file), optimizer, contents["step"], scaler is not None)
        for file in random_states:
            _check_random_states(read_plain(state / file))
        if scaler is not None:
            file = SCALER_NAME
            _check_scaler(read_plain(state / file), scaler.state_dict())
    except MemoryError:
        raise
    except FileNotFoundError:
        return f"{file} is missing"
    except (ValueError, OSError) as error:
        return f"{file}: {reason_of(error).removeprefix(f'{state / file}: ')}"
    except Exception as error:  # of libraries, for what they don't expect: KeyError, TypeError, RuntimeError and others
        return f"{file}: not as a training writes it ({reason_of(error)})"
    return ""


def read_plain(path: Path) -> Any:
    """Tensors, arrays and plain values that torch.save wrote. Raises ValueError for anything else, which is never unpickled."""
    with path.open("rb"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
        try:
            return load(path, map_location="cpu")
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError("not readable as tensors and plain values; nothing else is read") from error


def _check_progress(contents: dict[str, Any], recipe: Recipe) -> None:
    options, step, examples = recipe.optimization, contents["step"], contents["examples"]
    if step > options.steps:
        raise ValueError(f"step is {step}; expected at most the recipe's {options.steps}")
    most = step * max(MOST_EXAMPLES, options.examples_per_step(contents["processes"]))
    if not step <= examples <= most:
        raise ValueError(f"examples is {examples}; expected {step} to {most} after {step} steps")


def _check_weights(path: Path, ours: Mapping[str, torch.Tensor], absent: Collection[str]) -> None:
    """Raises ValueError unless a file has a network's tensors, of its shapes and types, with finite values."""
    tensors_of_file(path)
    theirs = load_file(path)
    for name, tensor in theirs.items():
        if name not in ours:
            raise ValueError(f"{name} is no tensor of this model")
        expected = ours[name]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise ValueError(f"{name} is {_kind(tensor)}; expected {_kind(expected)}")
    stored = {_place(ours[name]) for name in theirs}  # a tensor by two names is stored once
    for name, tensor in ours.items():
        if name not in theirs and name not in absent and _place(tensor) not in stored:
            raise ValueError(f"{name} is missing")
    refuse_infinite(path, theirs)
    if "n_averaged" in theirs and int(theirs["n_averaged"]) < 0:
        raise ValueError(f"n_averaged is {int(theirs['n_averaged'])}; expected 0 or more")


def _place(tensor: torch.Tensor) -> int:
    return id(tensor) if isinstance(tensor, DTensor) else tensor.data_ptr()


def _tensors_of(average: AveragedModel | ShardedAverage) -> Mapping[str, torch.Tensor]:
    if isinstance(average, AveragedModel):
        return average.state_dict()
    return {**averaged_of(average), "n_averaged": average.n_averaged}


def _check_shard(path: Path) -> None:
    """Raises ValueError unless a process's part of a state is a safetensors file of finite values, of moments that can be."""
    tensors_of_file(path)
    theirs = load_file(path)
    refuse_infinite(path, theirs)
    for name, tensor in theirs.items():
        if name.startswith("exp_avg_sq.") and bool((tensor < 0).any()):
            raise ValueError(f"{name} holds values that aren't finite, at least 0")


def _check_shards(
    state: Path, ours: dict[str, torch.Tensor], model: torch.nn.Module, step: int, may_be_empty: bool
) -> None:
    """Raises ValueError unless the parts of a state make up this training's tensors, each part once."""
    found: dict[str, Any] = dict(HuggingFaceStorageReader(str(state)).read_metadata().state_dict_metadata)
    trained = dict(trained_of(model))
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in ours.items()}
    if STEPS not in found:
        raise ValueError(f"{STEPS} is missing")
    steps = torch.empty(len(trained))
    if tuple(found[STEPS].size) != (len(trained),):
        raise ValueError(f"{STEPS} has shape {tuple(found[STEPS].size)}; expected ({len(trained)},)")
    read_shards({STEPS: steps}, state)
    for (name, parameter), count in zip(trained.items(), steps.tolist(), strict=True):
        if not -1 <= count <= step or count % 1:
            raise ValueError(f"step of {name} is {count}; expected 0 to {step}, or -1")
        if count >= 0:
            expected |= {f"{moment}.{name}": (parameter.shape, parameter.dtype) for moment in MOMENTS}
    if step and not may_be_empty and not bool((steps >= 0).any()):
        raise ValueError(f"no moments; expected those of {step} steps")
    for name in found:
        if name not in expected:
            raise ValueError(f"{name} is no tensor of this training")
    for name, (shape, dtype) in expected.items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        chunks = sorted((tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in found[name].chunks)
        row = 0
        for offsets, sizes in chunks:
            if math.prod(sizes) and (offsets != (row, *(0 for _ in shape[1:])) or sizes[1:] != tuple(shape[1:])):
                raise ValueError(f"{name}: its parts overlap, or one is missing")
            row += sizes[0] if math.prod(sizes) else 0
        if row != shape[0] or found[name].properties.dtype != dtype:
            raise ValueError(f"{name} has {row} rows of {found[name].properties.dtype}; expected {shape[0]} of {dtype}")
    if COUNT in expected:
        count = torch.empty(1, dtype=torch.int64)
        read_shards({COUNT: count}, state)
        if int(count) < 0:
            raise ValueError(f"{COUNT} is {int(count)}; expected 0 or more")


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _check_optimizer(saved: Any, optimizer: torch.optim.Optimizer, step: int, may_be_empty: bool) -> None:
    """
    Raises ValueError unless AdamW's state is of the same groups, settings and parameters as the training's own.

    Args:
        step: of the training, the most that a parameter has. may_be_empty: nothing was learned yet, as a scaler skips steps.
    """
    groups, moments = saved["param_groups"], saved["state"]
    if len(groups) != len(optimizer.param_groups):
        raise ValueError(f"{len(groups)} groups of parameters; expected {len(optimizer.param_groups)}")
    pairs: list[tuple[Any, torch.Tensor]] = []
    for theirs, ours in zip(groups, optimizer.param_groups, strict=True):
        if len(theirs["params"]) != len(ours["params"]):
            raise ValueError(f"a group of {len(theirs['params'])} parameters; expected {len(ours['params'])}")
        pairs += zip(theirs["params"], ours["params"], strict=True)
        for key, expected in ours.items():
            if key == "lr":
                rate = theirs[key]
                if not is_number(rate) or not 0 <= rate <= optimizer.defaults["lr"]:
                    raise ValueError(f"lr is {str(rate)[:60]}; expected 0 to {optimizer.defaults['lr']}")
            elif key != "params" and key in theirs and not _same(theirs[key], expected):
                raise ValueError(f"{key} is {str(theirs[key])[:60]}; expected {expected}")
        if absent := {"weight_decay", "betas", "eps", "scale"} - theirs.keys():
            raise ValueError(f"a group of parameters has no {min(absent)}")
    numbers = [number for number, _ in pairs]
    if len(set(numbers)) != len(numbers) or not set(moments) <= set(numbers):
        raise ValueError("its moments are of other parameters than its groups")
    if not moments and not may_be_empty and step:
        raise ValueError(f"no moments; expected those of {step} steps")
    for number, parameter in pairs:
        if number in moments:
            _check_moments(number, moments[number], parameter, step)


def _check_moments(number: Any, entry: Any, parameter: torch.Tensor, step: int) -> None:
    if entry.keys() != ENTRIES or not all(type(tensor) is torch.Tensor for tensor in entry.values()):
        raise ValueError(
            f"parameter {number} has {', '.join(map(str, entry))[:100]}; expected {', '.join(sorted(ENTRIES))}"
        )
    count = entry["step"]
    if count.shape or not count.is_floating_point() or not 0 <= float(count) <= step or float(count) % 1:
        raise ValueError(f"step of parameter {number} is {str(count)[:60]}; expected 0 to {step}")
    for name in MOMENTS:
        tensor = entry[name]
        if tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
            raise ValueError(f"{name} of parameter {number} is {_kind(tensor)}; expected {_kind(parameter)}")
        # one value that stands for many, or tensors that overlap
        if tensor.layout != torch.strided or not (tensor.is_contiguous() or tensor.stride() == parameter.stride()):
            raise ValueError(f"{name} of parameter {number} isn't stored whole")
        if not tensor.isfinite().all() or (name == "exp_avg_sq" and bool((tensor < 0).any())):
            least = "finite" if name == "exp_avg" else "finite, at least 0"
            raise ValueError(f"{name} of parameter {number} holds values that aren't {least}")


def _same(theirs: Any, ours: Any) -> bool:
    """Whether a setting of a group is ours. A tuple may have become a list."""
    if isinstance(ours, tuple):
        return isinstance(theirs, tuple | list) and all(map(is_number, theirs)) and tuple(theirs) == ours
    return type(theirs) is type(ours) and theirs == ours


def _check_random_states(saved: Any) -> None:
    """Raises unless each generator takes its state."""
    random.Random().setstate(saved["random_state"])
    np.random.RandomState().set_state(saved["numpy_random_seed"])
    torch.Generator().set_state(saved["torch_manual_seed"])
    if torch.cuda.is_available():
        for seed in saved.get("torch_cuda_manual_seed", []):  # none: of a training on a CPU
            torch.Generator("cuda").set_state(seed)


def _check_scaler(saved: Any, ours: dict[str, Any]) -> None:
    """Raises ValueError unless a gradient scaler's numbers are its own, finite and in range."""
    if saved.keys() != ours.keys():
        raise ValueError(f"holds {', '.join(map(str, saved))[:100]}; expected {', '.join(ours)}")
    for name, value in saved.items():
        if not is_number(value) or value < 0 or (value == 0 and name != "_growth_tracker"):
            raise ValueError(f"{name} is {str(value)[:60]}; expected a finite number above 0")
