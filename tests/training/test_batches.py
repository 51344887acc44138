"""The batches of a training, and how its loader's processes end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
from torch.utils.data import DataLoader

from winwin_hf.data.rows import BrokenExample
from winwin_hf.training import batches


class Failing:
    """A collator that meets an error."""

    reader = None

    def __init__(self, error):
        self.error = error

    def __call__(self, examples):
        raise self.error


class Collator:
    reader = None

    def __call__(self, examples):
        return {}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL") or not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_death_that_the_system_reports_late_is_still_named(monkeypatch):
    """A process that ends closes its connections first, its sentinel among them: for a moment it isn't dead yet."""

    def ends_late():
        os.closerange(3, 4096)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)

    def reset(_):
        raise ConnectionResetError(104, "Connection reset by peer")

    worker = multiprocessing.get_context("fork").Process(target=ends_late)
    worker.start()
    under_test = batches.Batches(DataLoader([{}], collate_fn=Collator()))
    under_test._workers = [worker]
    monkeypatch.setattr(batches, "next_batch", reset)
    with pytest.raises(ChildProcessError, match=rf"^a loader process \(pid {worker.pid}\) was ended by SIGKILL"):
        next(under_test)


def test_a_lost_connection_without_a_death_stays_what_it_was(monkeypatch):
    def reset(_):
        raise ConnectionResetError(104, "Connection reset by peer")

    under_test = batches.Batches(DataLoader([{}], collate_fn=Collator()))
    monkeypatch.setattr(batches, "next_batch", reset)
    with pytest.raises(ConnectionResetError):
        next(under_test)


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("2 windows of 2x2 patches do not fit\nby far"),
        BrokenExample("frame 7: cut short"),
        FileNotFoundError(2, "No such file or directory", "a.png"),
        KeyError("image1"),
    ],
)
def test_an_error_of_a_loader_process_says_what_it_said_there(raised):
    under_test = batches.Batches(DataLoader([{}], collate_fn=Failing(raised), num_workers=1))
    try:
        with pytest.raises(type(raised)) as told:
            next(under_test)
    finally:
        under_test.close()
    assert str(told.value) == str(raised) or isinstance(raised, KeyError)
    assert "DataLoader" not in str(told.value)


class Stalled:
    """Torch's iterator of a loader with processes, of which nothing comes in the first `polls` seconds."""

    collate_fn = Collator()

    def __init__(self, polls: int):
        self.polls = polls

    def __iter__(self) -> Stalled:
        return self

    def __next__(self) -> dict:
        while True:
            came, data = self._try_get_data()
            if came:
                return data

    def _try_get_data(self, timeout: float = 5.0) -> tuple[bool, dict]:
        self.polls -= 1
        return self.polls < 0, {"a": 1}


def test_a_batch_that_does_not_come_is_waited_for_until_nobody_wants_it():
    asked = []
    waiting = batches.Batches(Stalled(3))
    waiting.gives_up = lambda: bool(asked.append(1))
    assert next(waiting) == {"a": 1} and len(asked) == 3
    waiting = batches.Batches(Stalled(3))
    waiting.gives_up = lambda: True
    with pytest.raises(batches.StoppedWaiting):
        next(waiting)


def test_torch_asks_in_the_way_that_is_counted_on():
    waiting, asked = batches.Batches(DataLoader([{"name": "a"}], num_workers=1, collate_fn=Collator())), []
    poll = waiting._poll
    waiting._poll = lambda *a, **o: asked.append(1) or poll(*a, **o)
    try:
        next(waiting)
    finally:
        waiting.close()
    assert asked
