# SPDX-License-Identifier: Apache-2.0
"""Ends a run that waits for something that does not come, rather than let it wait in silence."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from cots_jax.errors import AGAIN


def end(said: str) -> None:
    """Says why, shows where every thread stands, and ends the process at once.

    An exception would not do: the thread that waits is in the middle of a call that never returns.
    """
    print(f"error: {said}", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=sys.stderr)
    os._exit(AGAIN)


class Watchdog:
    """Watches single waits, each of at most `seconds` (0: however long).

    ended: what to do when one takes longer, in a thread of its own.
    """

    def __init__(self, seconds: float, ended: Callable[[str], None] = end) -> None:
        self._seconds, self._ended = seconds, ended
        self._waiting: tuple[float, str] | None = None
        self._closed = threading.Event()
        if seconds:
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A wait for `what`; waits do not nest."""
        self._waiting = time.monotonic() + self._seconds, what
        try:
            yield
        finally:
            self._waiting = None

    def close(self) -> None:
        """Watches no more."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(self._seconds / 4, 5.0)):
            waiting = self._waiting
            if waiting is not None and time.monotonic() > waiting[0]:
                self._ended(
                    f"no {waiting[1]} for {self._seconds:g} s (config.stalled_after): see what "
                    "hangs, in the traces below and on the other hosts, then start again"
                )
                return
