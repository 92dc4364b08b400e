# SPDX-License-Identifier: Apache-2.0
"""Orbax, with its notes kept to itself and nothing of it left running."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import absl.logging
import orbax.checkpoint as ocp


@contextlib.contextmanager
def reading() -> Iterator[ocp.Checkpointer]:
    """A checkpointer to restore with; its errors are raised all the same."""
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        yield checkpointer


@contextlib.contextmanager
def writing() -> Iterator[contextlib.ExitStack]:
    """A stack for `writer`s, all of whose writes are over when this is left."""
    with _quiet(), _nothing_left_running(), contextlib.ExitStack() as writers:
        yield writers


def writer(writers: contextlib.ExitStack) -> ocp.AsyncCheckpointer:
    """One of several writers: its `save` returns when the arrays are copied off the devices."""
    checkpointer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
    return writers.enter_context(contextlib.closing(checkpointer))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.FATAL)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that lets what it has begun end before it closes."""

    def close(self) -> None:
        if not self.is_closed():
            self.run_until_complete(_all_done())
        super().close()


async def _all_done() -> None:
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def _nothing_left_running() -> Iterator[None]:
    """Waits for all of Orbax's writes, also where one of them was refused.

    Orbax raises the first refusal and closes its event loops, each in a thread, while TensorStore
    goes on writing: into a folder that we then remove, and with a traceback for each write that
    finds its loop closed.
    """
    before = asyncio.new_event_loop
    asyncio.new_event_loop = _PatientLoop
    try:
        yield
    finally:
        for thread in threading.enumerate():
            if type(thread).__module__.startswith("orbax."):
                threading.Thread.join(thread)  # its own `join` would raise once more
        asyncio.new_event_loop = before
