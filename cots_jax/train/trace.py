# SPDX-License-Identifier: Apache-2.0
"""A trace of some steps for xprof or TensorBoard's profile tab."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax

from cots_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Steps:
    """A run of steps, both ends in it."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "Steps":
        """`100-110`, or `100` alone. Raises UserError."""
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else 0
        if not 1 <= first <= last:
            raise UserError(f"--profile={text}: write FIRST-LAST, steps that count from 1")
        return cls(first, last)

    def within(self, done: int, total: int) -> bool:
        """Whether a run that has done so many steps of `total` comes to any of these."""
        return done < self.last and self.first <= total


class Trace:
    """Records what the devices and the host do in `steps`, into `folder`; None: nothing."""

    def __init__(self, folder: Path, steps: Steps | None) -> None:
        self._folder, self._steps = folder, steps
        self._open = False

    def at(self, done: int, running: Any = None) -> None:
        """To be called before each step, with the number of those before it.

        running: an array of the last of them, waited for where the trace begins or ends, since the
        devices may still be at it.
        """
        wanted = self._steps is not None and self._steps.first <= done + 1 <= self._steps.last
        if wanted == self._open:
            return
        jax.block_until_ready(running)
        if wanted:
            jax.profiler.start_trace(str(self._folder))
            self._open = True
        else:
            self.close()

    def close(self) -> None:
        """Writes what was recorded."""
        if self._open:
            self._open = False
            jax.profiler.stop_trace()
