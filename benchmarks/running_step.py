# SPDX-License-Identifier: Apache-2.0
"""The real step of a config, run on this machine without any data."""

import jax
import jax.numpy as jnp

from cots_jax.train.planning import PlannedStep


class RunningStep:
    """A planned step on zeros: as fast as on real numbers, and it learns nothing."""

    def __init__(self, planned: PlannedStep) -> None:
        arguments = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), planned.arguments)
        self._state, *self._rest = arguments
        self._step = jax.jit(planned.step, donate_argnums=0)

    def run(self) -> None:
        """One step, to its end; the first one compiles."""
        self._state, _ = jax.block_until_ready(self._step(self._state, *self._rest))
