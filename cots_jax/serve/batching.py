# SPDX-License-Identifier: Apache-2.0
"""Concurrent requests to batches on the device.

Nobody waits for company: what comes in while the device works makes up the next batch.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from cots_jax.errors import UserError

A = TypeVar("A")
B = TypeVar("B")


class OverloadedError(Exception):
    """More requests wait than will be answered in time."""


class Batcher(Generic[A, B]):
    """Hands items to `work` in `pool`, at most `largest` at once. Belongs to one event loop.

    `work` gives a result an item in their order, or the item's own UserError in its place.
    """

    def __init__(
        self,
        work: Callable[[Sequence[A]], Sequence[B | UserError]],
        pool: Executor,
        largest: int,
        most_waiting: int,
    ):
        self._work, self._pool, self._largest, self._most = work, pool, largest, most_waiting
        self._waiting: deque[tuple[A, asyncio.Future[B]]] = deque()
        self._running: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Requests that no batch has taken yet."""
        return len(self._waiting)

    async def ask(self, item: A) -> B:
        """The item's result. UserError, OverloadedError, or whatever `work` raised."""
        if len(self._waiting) >= self._most:
            raise OverloadedError
        future: asyncio.Future[B] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            self._running = asyncio.create_task(self._work_off())
        return await future

    async def _work_off(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(self._largest, self.waiting))]
            batch = [(item, future) for item, future in taken if not future.done()]  # not given up
            if not batch:
                continue
            items = [item for item, _ in batch]
            try:
                results = await loop.run_in_executor(self._pool, self._work, items)
            except Exception as error:
                results = [error] * len(items)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        self._running = None
