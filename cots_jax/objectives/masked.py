# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy at masked positions: MVM on code ids, MLM on token ids (METHOD, token level, A)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cots_jax.objectives.sums import Sum, weighted_sum


def cross_entropy(logits: Float[Array, "b m v"], targets: Int[Array, "b m"]) -> Float[Array, "b m"]:
    """Nats at each position."""
    chosen = jnp.take_along_axis(logits, targets[:, :, None], axis=-1)[:, :, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def masked_loss(
    logits: Float[Array, "b m v"], targets: Int[Array, "b m"], weight: Float[Array, "b m"]
) -> Sum:
    """Weighted cross-entropy; `weight` 0 marks unused slots and dropped or padded rows."""
    return weighted_sum(cross_entropy(logits, targets), weight)
