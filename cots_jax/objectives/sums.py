# SPDX-License-Identifier: Apache-2.0
"""Losses as sums with their denominators, so that chunks, meshes and padding change nothing."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float


@flax.struct.dataclass
class Sum:
    """A weighted sum over rows or tokens and the weight that went into it."""

    total: Float[Array, ""]
    denominator: Float[Array, ""]

    @property
    def mean(self) -> Float[Array, ""]:
        """The mean; 0 where nothing was counted."""
        return self.total / jnp.where(self.denominator > 0, self.denominator, 1)


def weighted_sum(values: Float[Array, "*s"], weight: Float[Array, "*s"]) -> Sum:
    """Sum over all axes. A value under weight 0 may be anything, also not finite."""
    counted = jnp.where(weight > 0, values, 0) * weight
    return Sum(jnp.sum(counted), jnp.sum(weight))
