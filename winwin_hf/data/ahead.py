"""Reading ahead, by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_order(function: Callable[[Item], Made], items: Iterable[Item], workers: int) -> Generator[Made, None, None]:
    """Like map, with `workers` threads that are a few items ahead."""
    if workers < 1:
        yield from map(function, items)
        return
    failure = None
    with ThreadPoolExecutor(workers) as pool:
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
        finally:
            pool.shutdown(cancel_futures=True)
    if failure is not None:
        raise failure
