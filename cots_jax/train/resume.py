# SPDX-License-Identifier: Apache-2.0
"""Where a run stands when it starts: at the beginning, or where a checkpoint left it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cots_jax import checkpoint
from cots_jax.data.mixture import Segment, go_on, segments_from_json
from cots_jax.schema import Config
from cots_jax.train.assemble import same_origin
from cots_jax.train.cots import CotsTask
from cots_jax.train.dvae import DvaeTask
from cots_jax.train.state import State
from cots_jax.weights.architecture import same_architecture


@dataclasses.dataclass(frozen=True)
class Standing:
    """A run between two steps."""

    step: int
    state: State
    clock: Mapping[str, float] | None  # of the starts before
    segments: Sequence[Segment]  # of the training order
    reweighed: bool  # whether the weights of the sources change here
    position: dict[str, Any] | None  # of the iterator

    def batches(self, task: CotsTask | DvaeTask) -> Any:
        """The iterator over batches from here on."""
        made = iter(task.batches(self.segments))
        if self.position is not None:
            made.set_state(self.position)
        return made


def standing(
    config: Config, task: CotsTask | DvaeTask, found: checkpoint.Found | None, workdir: Path
) -> Standing:
    """The state of a checkpoint, or that of step 0. Raises UserError where it does not fit."""
    state, weights = task.fresh(), task.table.weights
    if found is None:
        return Standing(0, task.initialised(state), None, go_on((), 0, weights), False, None)
    facts = checkpoint.read_fact(found.path, "facts")
    same_origin(facts, task.facts(), workdir)
    if isinstance(task, CotsTask):
        same_architecture(facts, task.model.config, workdir)
    kept = checkpoint.read_fact(found.path, "data")
    # checkpoints that are older than segments say nothing of them
    weighed = segments_from_json(kept.get("segments", [])) or go_on((), 0, weights)
    state = task.restored(found.path, state, len(weighed[-1].weights))
    segments = go_on(weighed, found.step * config.batch, weights)
    return Standing(
        found.step, state, kept["clock"], segments, segments != weighed, kept["iterator"]
    )
