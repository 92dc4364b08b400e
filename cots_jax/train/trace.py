# SPDX-License-Identifier: Apache-2.0
"""A trace of some steps for xprof or TensorBoard's profile tab."""

import dataclasses
import re
from pathlib import Path

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


class Trace:
    """Records what the devices and the host do in `steps`, into `folder`; None: nothing."""

    def __init__(self, folder: Path, steps: Steps | None) -> None:
        self._folder, self._steps = folder, steps
        self._open = False

    def at(self, done: int) -> None:
        """To be called with the number of steps done, before each step."""
        if self._steps is None:
            return
        if self._open and done >= self._steps.last:
            self.close()
        elif not self._open and done + 1 == self._steps.first:
            jax.profiler.start_trace(str(self._folder))
            self._open = True

    def close(self) -> None:
        """Writes what was recorded."""
        if self._open:
            self._open = False
            jax.profiler.stop_trace()
