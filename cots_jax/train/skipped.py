# SPDX-License-Identifier: Apache-2.0
"""`skipped.jsonl`: the steps whose gradients were not finite, with the pairs they were made of."""

import collections
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Int

from cots_jax.data.pair_table import PairTable
from cots_jax.train.logging import cut_after, refusals_explained

FILE = "skipped.jsonl"
MOST_REMEMBERED = 4096  # steps between two log lines; what is older is counted and not named


class SkippedSteps:
    """Remembers each step's count of skipped ones on the device, and names them when it has risen.

    order: positions of the training order to pairs. What stood at a position is known from the
    seed, so nothing else of a step need be kept. Raises UserError when the disk refuses.
    """

    def __init__(
        self,
        workdir: Path,
        resume_step: int,
        skipped: int,
        table: PairTable,
        order: Callable[[np.ndarray], np.ndarray],
        batch: int,
    ) -> None:
        self._table, self._order, self._batch = table, order, batch
        self._path, self._known = workdir / FILE, skipped
        self._steps: collections.deque[tuple[int, Int[Array, ""]]] = collections.deque(
            maxlen=MOST_REMEMBERED
        )
        with refusals_explained(str(self._path)):
            cut_after(self._path, resume_step)

    def seen(self, step: int, skipped: Int[Array, ""]) -> None:
        """Remembers how many had been skipped after `step`; waits for nothing."""
        self._steps.append((step, skipped))

    def settle(self, upto: int, skipped: int) -> None:
        """Writes the steps until `upto`, by which `skipped` had been, that raised the count."""
        asked = [one for one in self._steps if one[0] <= upto]
        for _ in asked:
            self._steps.popleft()
        if skipped == self._known:
            return
        counts = [int(count) for count in jax.device_get([count for _, count in asked])]
        before = [self._known, *counts[:-1]]
        risen = [step for (step, _), old, new in zip(asked, before, counts) if new > old]
        self._known = skipped
        with refusals_explained(str(self._path)), self._path.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(self.described(step)) + "\n" for step in risen)

    def described(self, step: int) -> dict[str, object]:
        """A step's positions in the training order, first and last, and the ids of its pairs."""
        positions = np.arange((step - 1) * self._batch, step * self._batch)
        pairs = self._order(positions)
        records = self._table.record_of_pair[pairs]
        return {
            "step": step,
            "positions": [int(positions[0]), int(positions[-1])],
            "ids": [self._table.record(int(record)).id for record in records],
        }


class NoSkippedSteps:
    """That of a process that is not the one to write."""

    def seen(self, step: int, skipped: Int[Array, ""]) -> None:
        pass

    def settle(self, upto: int, skipped: int) -> None:
        pass
