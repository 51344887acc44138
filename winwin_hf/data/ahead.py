"""Reading ahead, by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_order(
    function: Callable[[Item], Made], items: Iterable[Item], workers: int, writes: bool = False
) -> Generator[Made, None, None]:
    """
    Like map, with `workers` threads that are a few items ahead.

    Args:
        writes: whether what a thread has begun is waited for where the work breaks off; else it may be a server that says nothing.
    """
    if workers < 1:
        yield from map(function, items)
        return
    failure, ended = None, False
    pool = ThreadPoolExecutor(workers)
    ahead: deque[Future[Made]] = deque()
    waiting = iter(items)
    try:
        while True:
            try:
                ahead.append(pool.submit(function, next(waiting)))
            except StopIteration:
                break
            except Exception as error:  # after what came before it
                failure = error
                break
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
        ended = True
    finally:
        pool.shutdown(wait=ended or writes, cancel_futures=True)
    if failure is not None:
        raise failure
