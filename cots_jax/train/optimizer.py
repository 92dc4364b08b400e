# SPDX-License-Identifier: Apache-2.0
"""AdamW with clipping; the learning rate comes from outside, so changing it compiles nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cots_jax.config import OptimizerConfig

# Biases, norms, embeddings of single vectors and temperatures are not decayed (common practice).
DECAYED = 2  # least number of axes of a decayed array, the stack's axis not counted


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip, Adam moments, decoupled weight decay. Updates are still to be scaled by -lr."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
    )


def decay_mask(params: Any) -> Any:
    """True for matrices: kernels and embedding tables."""

    def decayed(path: Any, leaf: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return name.endswith(("kernel", "embedding")) and jnp.ndim(leaf) >= DECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)
