"""The batches of a training: their loader's processes end with the training, and by nothing else that is meant for it.

Notable:
- Signals that stop a training reach every process of a group. Loader processes ignore them: the training saves first, and ends them.
- torch learns of a loader process's death by SIGCHLD and raises wherever the training is, also in the middle of a save. Here it is
  raised only where the training waits for a batch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from winwin_hf.data.collator import WinWinCollator
from winwin_hf.data.skipping import SkippingReader
from winwin_hf.pools import blocked_signals

DEATH_WITHIN = 1.0  # seconds
KILLED_WITHIN = 10.0  # seconds; only a process in the middle of a call that the system can't break off takes longer
EXAMPLES = "examples"  # of a batch: the names of its examples
# What the system ends a process by, and why.
CAUSES = {
    "SIGKILL": "the system does that where memory is short",
    "SIGBUS": "the system does that where /dev/shm is full",
}


class NamedExamples:
    """A collator that also puts the examples' names into the batch, as `batch["examples"]`."""

    def __init__(self, collator: WinWinCollator):
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        names = [str(example.get("name") or f"example {example.get('index', '?')}") for example in examples]
        return {**self.collator(examples), EXAMPLES: names}


class StoppedWaiting(Exception):
    """No batch came, and who asks for it doesn't want it any more."""


class Batches:
    """
    The batches of a loader, until `close`.

    Attributes:
        gives_up: asked every few seconds while no batch comes from the loader's processes.
    Raises, where the next batch is asked for:
        StoppedWaiting: `gives_up` said so.
        BrokenExample: an example can't be read.
        ChildProcessError: a loader process died. The message says of what.
    """

    def __init__(self, loader: DataLoader):
        collator: Any = loader.collate_fn
        self.reader = collator.reader
        loader.collate_fn = NamedExamples(collator)
        before = set(multiprocessing.active_children())
        with blocked_signals():  # also in the moment before a loader process ignores them
            self._batches = iter(loader)
        self.gives_up: Callable[[], bool] = lambda: False
        self._poll = getattr(self._batches, "_try_get_data", None)  # torch's, of a loader with processes
        if self._poll is not None:
            self._batches._try_get_data = self._polled  # type: ignore[attr-defined]
        self._workers = [child for child in multiprocessing.active_children() if child not in before]
        self._waiting = self._child_ended = False
        self._handler: Any = None
        if self._workers and hasattr(signal, "SIGCHLD"):
            self._handler = signal.getsignal(signal.SIGCHLD)
            with contextlib.suppress(ValueError):  # not in the main thread: torch has no handler either
                signal.signal(signal.SIGCHLD, self._on_child)

    @property
    def broken(self) -> int | None:
        """Number of examples left out so far, in this process and its loader's; None where such an example is an error."""
        return self.reader.broken if isinstance(self.reader, SkippingReader) else None

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> dict[str, Any]:
        try:
            return self._wait()
        except (RuntimeError, OSError, EOFError) as error:
            # Its connections, the sentinel among them, close before the system says that it ended.
            ended = multiprocessing.connection.wait([worker.sentinel for worker in self._workers], DEATH_WITHIN)
            for worker in self._workers:
                worker.join(DEATH_WITHIN if worker.sentinel in ended else 0)
            dead = [worker for worker in self._workers if not worker.is_alive()]
            if not dead:
                raise
            raise ChildProcessError(f"a loader process (pid {dead[0].pid}) {_end_of(dead[0].exitcode)}") from error

    def _wait(self) -> dict[str, Any]:
        self._waiting = True
        try:
            if self._child_ended:
                self._child_ended = False
                self._handler(signal.SIGCHLD, None)
            return next_batch(self._batches)
        finally:
            self._waiting = False

    def _polled(self, *arguments: Any, **options: Any) -> tuple[bool, Any]:
        assert self._poll is not None
        came, data = self._poll(*arguments, **options)
        if not came and self.gives_up():
            raise StoppedWaiting
        return came, data

    def _on_child(self, number: int, frame: Any) -> None:
        if not self._waiting:
            self._child_ended = True
        elif callable(self._handler):
            self._handler(number, frame)

    def close(self, at_once: bool = False) -> None:
        """Ends the loader's processes; `at_once`: without waiting for what they are reading."""
        if at_once:
            self._kill()
        shutdown = getattr(self._batches, "_shutdown_workers", None)
        if shutdown is not None:  # else they would live as long as a traceback that holds the iterator
            shutdown()
        self._kill()  # one that is stuck, and ignores the SIGTERM by which torch would end it

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.is_alive():
                worker.kill()
                worker.join(KILLED_WITHIN)


def _end_of(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"was ended by {name}" + (f" ({CAUSES[name]})" if name in CAUSES else "")


def next_batch(batches: Iterator[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The loader's next batch. An error of a loader process is raised as if it had come up here."""
    try:
        return next(batches)
    except Exception as error:  # torch wraps its message into the other process's traceback
        raised = _unwrapped(error)
        if raised is None:
            raise
        raise raised from error


def _unwrapped(error: Exception) -> Exception | None:
    """The error that a loader process had, of the one that torch makes of it; None where it is another."""
    text, kind = str(error), type(error)
    caught = re.match(r"Caught (\w+) in DataLoader worker process \d+\.\n", text)
    if caught is None:
        return None
    said = re.split(rf"^(?:[\w.]+\.)?{caught[1]}: ", text, flags=re.MULTILINE)
    if len(said) < 2:
        return None
    words = said[-1].strip()
    if issubclass(kind, OSError) and (
        of_a_file := re.fullmatch(r"\[Errno (\d+)\] (.+?)(?:: '(.*)')?", words, re.DOTALL)
    ):
        return OSError(int(of_a_file[1]), of_a_file[2], of_a_file[3])
    return kind(words)
