# SPDX-License-Identifier: Apache-2.0
"""The step's program is made while the state and the first batch are: a start waits for one."""

import threading
from collections.abc import Callable

import jax


class CompiledAhead:
    """Calls `compile` in a thread of its own where it is wanted and this process is the only one.

    Several processes compile when all of them come to it: on GPUs they tune kernels together.
    """

    def __init__(self, compile: Callable[[], None], *, wanted: bool) -> None:
        self._compile = compile
        self._thread: threading.Thread | None = None
        if wanted and jax.process_count() == 1:
            # no daemon: a process must not end in the middle of the compiler
            self._thread = threading.Thread(target=self._try, name="compile")
            self._thread.start()

    def _try(self) -> None:
        try:
            self._compile()
        except Exception:  # the step meets it again, in the thread that can say so
            return

    def wait(self) -> None:
        """Until it is there; the call of the step then finds it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
