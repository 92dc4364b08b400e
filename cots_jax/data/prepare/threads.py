# SPDX-License-Identifier: Apache-2.0
"""Work done by threads, handed on in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def in_order(
    work: Callable[[A], B],
    items: Iterable[A],
    workers: int | None = None,
    ahead: int | None = None,
) -> Iterator[B]:
    """`map` by threads, in order, with at most `ahead` items under way, by default four a thread.

    By default there is one more thread than cores, so that none of those is idle while a thread
    waits for the disk or for whoever takes the results; with one core there is one.
    """
    if workers is None:
        cores = os.cpu_count() or 1
        workers = cores + 1 if cores > 1 else 1
    ahead = ahead or 4 * workers
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
