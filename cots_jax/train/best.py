# SPDX-License-Identifier: Apache-2.0
"""The best towers of a run by held-out recall, kept beside the newest checkpoints."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cots_jax import checkpoint

FALLEN = 0.03  # of the best; less is noise on small sets (own choice)


class Best:
    """Keeps towers and heads where the mean rsum of the held-out sets is highest so far.

    What is known comes from the folder itself, so that a run that goes on from an earlier step
    neither forgets a better one nor writes the same one twice.
    """

    def __init__(self, workdir: Path) -> None:
        self._folder = workdir / checkpoint.BEST
        found = checkpoint.latest(self._folder)
        facts = checkpoint.read_fact(found.path, "facts") if found else {}
        self.step, self.rsum = facts.get("step", 0), facts.get("rsum", -math.inf)

    def consider(
        self,
        step: int,
        recall: Mapping[str, float],
        trees: Mapping[str, Any],
        facts: Mapping[str, Any],
    ) -> str:
        """Keeps this step if it is the best; returns what to tell the user, mostly nothing.

        recall: an evaluation's metrics; those that end with `/rsum` count.
        """
        sums = [value for name, value in recall.items() if name.endswith("/rsum")]
        if not sums:
            return ""
        rsum = float(np.mean(sums))
        if rsum > self.rsum:
            self.step, self.rsum = step, rsum
            kept = {name: trees[name] for name in ("towers", "heads")}
            told = {"facts": {**facts, "step": step, "rsum": rsum}}
            checkpoint.save(self._folder, step, kept, told, keep=checkpoint.Keep(1))
            return ""
        if rsum < (1 - FALLEN) * self.rsum:
            return (
                f"held-out rsum has fallen to {rsum:.1f} from {self.rsum:.1f} at step {self.step}: "
                f"more steps may make it worse; the best towers are in {self._folder}"
            )
        return ""
