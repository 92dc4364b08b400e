# SPDX-License-Identifier: Apache-2.0
"""How long steps take, and which process the others wait for."""

import dataclasses

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process is a straggler where it takes longer on its own (data and host work between two steps)
# than the median process by this share of a step, in two looks in a row of as many steps or more:
# once is noise (own choice).
LATE, FEW = 0.05, 10


@dataclasses.dataclass(frozen=True)
class Paced:
    """Seconds of the steps since the last look, over all processes."""

    numbers: dict[str, float]
    straggler: str  # what to tell the user; mostly nothing


class Pace:
    """Collects step times and each process's own part of them."""

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._own: list[float] = []
        self._late: int | None = None  # who was, at the last look

    def add(self, step: float, own: float) -> None:
        """Seconds from the end of one step to the end of the next, and of them those that this
        process spent before it could hand the step to the devices."""
        self._steps.append(step)
        self._own.append(own)

    def look(self) -> Paced:
        """Sums up and starts anew; all processes call it together."""
        steps, own, self._steps, self._own = self._steps, self._own, [], []
        if not steps:
            return Paced({}, "")
        quantiles = np.quantile(steps, [0.5, 0.95, 1.0])
        mine = np.array([*quantiles, np.mean(own)], np.float32)
        if jax.process_count() == 1:
            return Paced(_named(mine), "")
        everyone = np.asarray(multihost_utils.process_allgather(mine))
        own = everyone[:, 3] if len(steps) >= FEW else np.zeros(len(everyone))
        said = self.straggler(own, float(mine[0]))
        return Paced(_named(everyone.max(axis=0)), said)

    def straggler(self, own: np.ndarray, step: float) -> str:
        """Names the process that was late at the last look and is again, if one is.

        own: [processes] seconds; step: the median one's.
        """
        slowest, before = int(own.argmax()), self._late
        late = float(own[slowest]) - float(np.median(own))
        self._late = slowest if late > LATE * step else None
        if self._late is None or self._late != before:
            return ""
        return (
            f"process {slowest} is {1e3 * late:.3g} ms a step behind the others ({late / step:.0%} "
            "of a step) before it hands its part to the devices: look at its storage and its cores"
        )


def _named(values: np.ndarray) -> dict[str, float]:
    names = ("step_p50", "step_p95", "step_max")
    return {name: float(value) for name, value in zip(names, values)}
