# SPDX-License-Identifier: Apache-2.0
"""What a step of one arm costs beside a step of another, averaged over their schedules.

    python -m benchmarks.study.cost SUITE ARM ARM …

All arms in one process and in turn, so that whatever else the machine does hits them alike. The
compiled step alone is timed; what lies outside of it is a few percent (benchmarks/step_share.py).
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.study.arms import Arm
from benchmarks.study.suites import SUITES
from cots_jax.arguments import parse_arguments
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.errors import nearest
from cots_jax.train.assemble import assembled
from cots_jax.train.mesh import by_rows, make_mesh, whole

POINTS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)  # of the schedule
ROUNDS, WARM_UP, STEPS = 3, 2, 6


def step_seconds(arms: Sequence[Arm], rounds: int = ROUNDS, steps: int = STEPS) -> dict[str, float]:
    """Seconds a step of each arm: mean over the points of the schedule of the rounds' median."""
    spent: dict[str, list[float]] = {arm.name: [] for arm in arms}
    with contextlib.ExitStack() as stack:
        ready = {arm.name: stack.enter_context(_opened(arm)) for arm in arms}
        for one in ready.values():
            one.run(0.5, 1)  # compiles
        for point in POINTS:
            seconds: dict[str, list[float]] = {name: [] for name in ready}
            for _ in range(rounds):
                for name, one in ready.items():
                    # The first steps after an arm with smaller batches cost CLIP's of 128 a tenth
                    # more: for memory that the allocator had given back, it seems.
                    one.run(point, WARM_UP)
                    seconds[name].append(one.run(point, steps) / steps)
            for name, values in seconds.items():
                spent[name].append(statistics.median(values))
    return {name: statistics.mean(values) for name, values in spent.items()}


class _Opened:
    """An arm's step with a state and a batch."""

    def __init__(self, task: Any, mesh: Any) -> None:
        self._task, self._everywhere = task, whole(mesh)
        self._state, self._frozen = task.fresh(), task.frozen()
        self._batch = jax.device_put(next(iter(task.batches())), by_rows(mesh))

    def run(self, point: float, steps: int) -> float:
        """Seconds that these steps take at that point of the schedule."""
        step = int(point * self._task.clock.total_steps)
        knobs = jax.device_put(self._task.knobs(step), self._everywhere)
        begin = time.perf_counter()
        for _ in range(steps):
            self._state, _ = self._task.step(self._state, self._frozen, self._batch, knobs)
        jax.block_until_ready(self._state)
        return time.perf_counter() - begin


@contextlib.contextmanager
def _opened(arm: Arm) -> Any:
    config = parse_arguments(arm.flags(0), __doc__ or "").config
    mesh = make_mesh(config.hardware)
    with tempfile.TemporaryDirectory() as folder, assembled(config, Path(folder), mesh) as task:
        yield _Opened(task, mesh)


def main(argv: Sequence[str]) -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study.cost", description=__doc__)
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("arms", nargs="+", metavar="ARM")
    options = parser.parse_args(argv)
    arms = {arm.name: arm for arm in SUITES[options.suite].arms}
    for name in options.arms:
        if name not in arms:
            parser.error(f"no arm {name!r} in suite {options.suite}; {nearest(name, arms, 'arms')}")
    use_compilation_cache()
    print(json.dumps(step_seconds([arms[name] for name in options.arms])))


if __name__ == "__main__":
    main(sys.argv[1:])
