# SPDX-License-Identifier: Apache-2.0
"""One start of `python -m cots_jax.main`, with a mark at the end of each phase; for `start`.

    python -m benchmarks.start_marks --config=configs/demo.py --workdir=FOLDER

The real door runs, with a look at the functions that its loop calls, and ends with the first step.
Prints one JSON object: `marks`, in seconds since 1970; `programs`, what JAX says that it has spent
on each; and the `cpu` seconds of the process.
"""

import collections
import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

PHASES = ("python", "imports", "config", "data", "state", "batch", "step")
STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",  # or to find it in the cache
}


class Marks:
    """When each phase ended, and what was spent on programs until then."""

    def __init__(self) -> None:
        self.ended = {"python": time.time()}
        self._phase_of: dict[str, dict[str, float]] = {}

    def end(self, phase: str) -> None:
        """The first time counts."""
        self.ended.setdefault(phase, time.time())

    def heard(self, event: str, duration_secs: float, **_: Any) -> None:
        """Takes JAX's word for a stage of a program, which belongs to the phase under way."""
        if stage := STAGES.get(event):
            under_way = next(phase for phase in PHASES if phase not in self.ended)
            spent = self._phase_of.setdefault(under_way, collections.defaultdict(float))
            spent[stage] += duration_secs

    def say(self) -> None:
        """Prints all of it."""
        used = os.times()
        found = {
            "marks": self.ended,
            "programs": self._phase_of,
            "cpu": used.user + used.system,
        }
        print(json.dumps(found), flush=True)


def main(argv: list[str]) -> int:
    """Runs the door with these flags; its exit status, where it does not come to a first step."""
    marks = Marks()
    import jax

    from cots_jax import main as door
    from cots_jax.train import loop

    marks.end("imports")
    jax.monitoring.register_event_duration_secs_listener(marks.heard)

    def ending(phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def marked(*given: Any, **named: Any) -> Any:
            marks.end(phase)
            return call(*given, **named)

        return marked

    span = loop.Clock.span

    @contextlib.contextmanager
    def spans(clock: loop.Clock, name: Any) -> Iterator[None]:
        if name == "data":
            marks.end("state")
        with span(clock, name):
            yield
        if name == "data":
            marks.end("batch")
        if name == "compile":
            marks.end("step")
            marks.say()
            os._exit(0)  # the rest of the run is of no interest

    looks = (
        (loop, "make_mesh", ending("config", loop.make_mesh)),
        (loop, "standing", ending("data", loop.standing)),
        (loop.Clock, "span", spans),
    )
    for owner, name, look in looks:
        setattr(owner, name, look)
    return door.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
