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
import re
import secrets
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env

from winwin_hf.model.pixels_winwin import shortened
from winwin_hf.own_files import TakenOver, check_held, held, open_own

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where two trainings in one folder aren't noticed
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
# Longest wait for another process. Work is shared evenly but for single frames, and for what the first process alone writes.
TIMEOUT = timedelta(minutes=30)
# Numbers of processes that launchers say. The first that is there counts: torchrun may itself be started by SLURM, once a machine.
LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
# A launcher's number of all processes, this one's number, and its number on this machine, as Accelerate reads them.
LAUNCHERS = (
    ("WORLD_SIZE", "RANK", "LOCAL_RANK"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
)
MOST_PROCESSES = 2**20
# A cluster may learn the first machine's name only while it starts.
NAMED_WITHIN = 30.0  # seconds
FSDP = "ACCELERATE_USE_FSDP"
UNSUPPORTED = {
    FSDP: "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
COMMANDS = (
    "start N processes by `accelerate launch --multi_gpu --num_processes N scripts/train.py ...` on GPUs, by "
    "`ACCELERATE_USE_CPU=true torchrun --nproc_per_node N scripts/train.py ...` on a CPU; evaluations by scripts/evaluate.py alike"
)
LOCK = ".lock"
HOLDER = r"\d+ on .*"  # what the file says: process and machine, then what is of no other lock


def connect(cpu: bool = False, fsdp: bool = False) -> PartialState:
    """
    Connects the processes of a run; call it before the first `Accelerator`.

    Args:
        cpu: compute on the CPU even if there is an accelerator. fsdp: the caller shards; Accelerate isn't to.
    Raises: ValueError: a launch whose processes don't find each other, or a kind of parallelism that isn't supported.
    """
    for variable, kind in UNSUPPORTED.items():
        if flag(variable) and not (fsdp and variable == FSDP):
            raise ValueError(f"{variable}: Accelerate is configured for {kind}, which isn't supported; {COMMANDS}")
    check_launch()
    started = next(((name, int(os.environ[name])) for name in SIZES if os.environ.get(name)), None)
    launched_alone = started is None and "ACCELERATE_DYNAMO_BACKEND" in os.environ and "MASTER_PORT" in os.environ
    state = PartialState(cpu or flag("ACCELERATE_USE_CPU"), timeout=TIMEOUT)
    if state.distributed_type == DistributedType.XLA:
        raise ValueError(f"Accelerate is configured for TPUs, which aren't supported; {COMMANDS}")
    if started is not None and started[1] != state.num_processes:
        raise ValueError(
            f"{started[0]} says that {started[1]} processes were started, and this one finds {state.num_processes}: each would "
            f"work alone, into the same folder; {COMMANDS}"
        )
    if fsdp:  # after PartialState, which connects CPUs beside GPUs where shards are kept there
        os.environ[FSDP] = "false"
    if launched_alone:  # what `accelerate launch --num_processes 2` does without GPUs
        raise ValueError(
            f"`accelerate launch` was asked for several processes and started only this one; {COMMANDS} "
            "(or unset MASTER_PORT if one process is wanted)"
        )
    return state


def flag(variable: str, default: bool = False) -> bool:
    """A variable of Accelerate that is true or false. Raises ValueError, which names it, for another value."""
    try:
        return bool(parse_flag_from_env(variable, default))
    except ValueError:
        raise ValueError(f"{variable}={os.environ[variable][:60]}: expected true or false") from None


def check_launch() -> None:
    """
    Checks a launcher's variables before anything waits on their word: a process that can't exist waits for the others for good.

    Raises: ValueError, which names the variable: no number, a number out of its range, or a machine that no name server knows.
    """
    for name in SIZES + LOCAL_SIZES:
        _variable(name, 1, MOST_PROCESSES)
    for size_name, *numbers in LAUNCHERS:
        size = _variable(size_name, 1, MOST_PROCESSES)
        for name in numbers:  # -1: Accelerate's word for none
            number = _variable(name, -1 if name == "LOCAL_RANK" else 0, MOST_PROCESSES)
            if size is not None and number is not None and number >= size:
                last = "0" if size == 1 else f"0 to {size - 1}"
                raise ValueError(f"{name}={number}: expected {last}, as {size_name} is {size}")
    port = _variable("MASTER_PORT", 0, 2**16 - 1)
    if (size := _variable("WORLD_SIZE", 1, MOST_PROCESSES)) is not None and size > 1 and os.environ.get("MASTER_ADDR"):
        _resolve(os.environ["MASTER_ADDR"], port or 0)


def _variable(name: str, least: int, most: int) -> int | None:
    """The whole number in a variable, None where it isn't set. Raises ValueError, which names it."""
    text = os.environ.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"-?[0-9]{1,18}", text) or not least <= int(text) <= most:
        raise ValueError(f"{name}={shortened(text)}: expected a whole number from {least} to {most}")
    return int(text)


def _resolve(address: str, port: int) -> None:
    """Raises ValueError where the first machine's name stays unknown for NAMED_WITHIN seconds."""
    end = time.monotonic() + NAMED_WITHIN
    while True:
        try:
            socket.getaddrinfo(address, port)
            return
        except (OSError, UnicodeError) as error:  # a name of 64 letters or none
            if time.monotonic() >= end or isinstance(error, UnicodeError):
                reason = getattr(error, "strerror", None) or error
                raise ValueError(
                    f"MASTER_ADDR={shortened(address)}: no such machine ({str(reason).lower()}); expected the name or the "
                    "address of the machine of process 0"
                ) from None
        time.sleep(min(1.0, NAMED_WITHIN))


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
        known = PartialState._shared_state
        if not gone or not known or known.get("num_processes") == 1:
            raise
        reason = str(error).strip().splitlines()[0]
        if "num_processes" not in known:  # it failed in the middle of that
            raise ConnectionError(f"this process could not be connected to the others ({reason})") from error
        state = PartialState()
        raise ConnectionError(
            f"process {state.process_index} of {state.num_processes} lost the connection to another one, which ended or doesn't "
            f"answer; its own message says why ({reason})"
        ) from error


@contextlib.contextmanager
def locked(
    folder: Path, doing: str = "training in this folder", stays: bool = True, output: Path | None = None
) -> Iterator[str]:
    """
    Makes a folder and keeps other processes from training in it. The kernel ends the lock with this process, however it ends.

    Args:
        doing: what a refused process is told that this one does. stays: whether the lock's file stays there at the end.
        output: the folder that the lock is for; default: its own.
    Yields: the text in the lock's file, for `held_by_others`; "" on a file system without locks.
    Raises: FileExistsError: another process holds it. OSError: what is called `.lock` there is no file of a run. Within it, whatever is
        written there raises `TakenOver` once the folder is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with os.fdopen(open_own(path, os.O_RDWR), "r+", encoding="utf-8", errors="replace") as file:
        if fcntl is not None:
            try:
                # Of this process alone. A lock by `flock` would live on in loader processes that outlive it.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    logger.warning(f"{folder}: this file system has no locks ({error}); two runs in it aren't noticed.")
                    yield ""
                    return
                raise FileExistsError(
                    f"{folder}: process {file.read(200).partition(',')[0].strip() or 'unknown'} is {doing}; choose another output "
                    "folder, or wait for its end"
                ) from None
        before = file.read(1000)
        if before and not re.fullmatch(HOLDER, before):
            raise OSError(f"{path}: not a run's lock, such as '123 on host'; expected none, or another output folder")
        file.seek(0)
        file.truncate()
        text = f"{os.getpid()} on {platform.node()}, {secrets.token_hex(4)}"
        try:  # without a buffer, which would be written again at the end
            os.write(file.fileno(), text.encode())
        except OSError as error:
            path.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from None
        with held(output or folder, path, text):
            try:
                yield text
            finally:
                with contextlib.suppress(TakenOver):  # the lock of that name is another process's
                    if not stays:
                        check_held(path)
                        path.unlink(missing_ok=True)
