"""Threads that read ahead don't keep a command from its end."""

from __future__ import annotations

import threading

import pytest

from winwin_hf.data.ahead import in_order


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_are_in_order(workers: int):
    assert list(in_order(lambda n: n * n, range(20), workers)) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda n: 1 // (5 - n), range(20), workers))


@pytest.mark.parametrize("writes", [False, True])
def test_only_what_writes_is_waited_for_where_the_work_breaks_off(writes: bool):
    """A server that said nothing held a command for two minutes after SIGTERM."""
    begun, goes_on, done = threading.Event(), threading.Event(), []

    def slow(n: int) -> int:
        if n:
            begun.set()
            goes_on.wait(60)
            done.append(n)
        return n

    if writes:
        threading.Timer(0.3, goes_on.set).start()
    results = in_order(slow, range(20), 1, writes)
    with pytest.raises(KeyboardInterrupt):
        for _ in results:
            assert begun.wait(60)
            results.throw(KeyboardInterrupt())
    assert bool(done) == writes
    goes_on.set()
