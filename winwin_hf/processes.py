"""The processes of one run: each knows of all the others, and none waits for one that is gone.

Notable:
- `accelerate launch`, torchrun, SLURM and MPI say by a variable how many processes they started. Where Accelerate can't connect them
  (two on a CPU without ACCELERATE_USE_CPU, say), each would take itself for the only one.
- a process that ends, for whatever reason, closes its connections, and gloo tells the others at once. `TIMEOUT` is for what closes
  nothing: a machine that vanishes, a disk that doesn't answer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where two trainings in one folder aren't noticed
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
# Longest wait for another process. Work is shared evenly but for single frames, and for what the first process alone writes.
TIMEOUT = timedelta(minutes=30)
# Numbers of processes that launchers say. The first that is there counts: torchrun may itself be started by SLURM, once a machine.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
UNSUPPORTED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
COMMANDS = (
    "start N processes by `accelerate launch --multi_gpu --num_processes N scripts/train.py ...` on GPUs, by "
    "`ACCELERATE_USE_CPU=true torchrun --nproc_per_node N scripts/train.py ...` on a CPU"
)
LOCK = ".lock"


def connect(cpu: bool = False) -> PartialState:
    """
    Connects the processes of a run; call it before the first `Accelerator`.

    Args:
        cpu: compute on the CPU even if there is an accelerator.
    Raises: ValueError: a launch whose processes don't find each other, or a kind of parallelism that isn't supported.
    """
    for variable, kind in UNSUPPORTED.items():
        if parse_flag_from_env(variable):
            raise ValueError(f"{variable}: Accelerate is configured for {kind}, which isn't supported; {COMMANDS}")
    started = next(((name, int(os.environ[name])) for name in SIZES if os.environ.get(name)), None)
    launched_alone = started is None and "ACCELERATE_DYNAMO_BACKEND" in os.environ and "MASTER_PORT" in os.environ
    state = PartialState(cpu or parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=TIMEOUT)
    if state.distributed_type == DistributedType.XLA:
        raise ValueError(f"Accelerate is configured for TPUs, which aren't supported; {COMMANDS}")
    if started is not None and started[1] != state.num_processes:
        raise ValueError(
            f"{started[0]} says that {started[1]} processes were started, and this one finds {state.num_processes}: each would "
            f"work alone, into the same folder; {COMMANDS}"
        )
    if launched_alone:  # what `accelerate launch --num_processes 2` does without GPUs
        raise ValueError(
            f"`accelerate launch` was asked for several processes and started only this one; {COMMANDS} "
            "(or unset MASTER_PORT if one process is wanted)"
        )
    return state


def any_process(flag: bool, group: Any = None) -> bool:
    """Whether `flag` is true in any process; all must ask. `group`: of `control_group`."""
    if PartialState().num_processes == 1:
        return flag
    told = torch.tensor(int(flag), device="cpu" if group is not None else PartialState().device)
    torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, group=group)
    return bool(told)


def control_group() -> Any:
    """A group of all processes that talks by the CPU: a question by the GPU would wait for all that was sent to it. None: not needed."""
    state = PartialState()
    if state.num_processes == 1 or state.device.type == "cpu" or not torch.distributed.is_gloo_available():
        return None
    return torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)


@contextlib.contextmanager
def lost_process_named() -> Iterator[None]:
    """Raises ConnectionError, in plain words, where the communication library says that another process is gone. Also a decorator."""
    try:
        yield
    except RuntimeError as error:
        gone = isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()
        if not gone or not PartialState._shared_state or PartialState().num_processes == 1:
            raise
        state = PartialState()
        raise ConnectionError(
            f"process {state.process_index} of {state.num_processes} lost the connection to another one, which ended or doesn't "
            f"answer; its own message says why ({str(error).strip().splitlines()[0]})"
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """
    Makes a folder and keeps other processes from training in it. The kernel ends the lock with this process, however it ends.

    Raises: FileExistsError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                # Of this process alone. A lock by `flock` would live on in loader processes that outlive it.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    logger.warning(
                        f"{folder}: this file system has no locks ({error}); two trainings in it aren't noticed."
                    )
                    yield
                    return
                file.seek(0)
                raise FileExistsError(
                    f"{folder}: process {file.read().strip() or 'unknown'} is training in this folder; choose another output "
                    "folder, or wait for its end"
                ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}")
        file.flush()
        yield
