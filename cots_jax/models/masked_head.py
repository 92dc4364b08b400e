# SPDX-License-Identifier: Apache-2.0
"""The head of masked modelling: a tower's output at a masked position and the paired feature.

The two streams meet nowhere but here and in the dot product; no cross-stream network is built.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cots_jax.models.transformer import (
    Activation,
    TransformerConfig,
    activate,
    exactness,
    layer_norm,
    linear,
)
from cots_jax.switches import Merge


@dataclasses.dataclass(frozen=True)
class MaskedHeadConfig:
    """v classes; `transformer` is the tower's, for width, epsilon and precision."""

    transformer: TransformerConfig
    vocabulary: int
    merge: Merge


class MaskedHead(nn.Module):
    """Logits over v classes. BERT's transform (dense, GELU, norm), then an output matrix."""

    config: MaskedHeadConfig

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "b m d"],
        partner: Float[Array, "b p"],
        embedding: Float[Array, "v d"] | None = None,
    ) -> Float[Array, "b m v"]:
        """`embedding`: the tower's token embedding, tied as the output matrix where given."""
        config, width = self.config, hidden.shape[-1]
        precision, std = config.transformer.precision, config.transformer.init_std
        if config.merge is Merge.ADD:
            x = hidden + linear(width, precision, init_std=std, name="partner")(partner)[:, None]
        else:
            spread = jnp.broadcast_to(partner[:, None], (*hidden.shape[:2], partner.shape[-1]))
            x = jnp.concatenate([hidden, spread.astype(hidden.dtype)], axis=-1)
        x = activate(Activation.GELU, linear(width, precision, init_std=std, name="transform")(x))
        x = layer_norm(config.transformer.epsilon, "norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (config.vocabulary,))
        if embedding is None:
            output = linear(
                config.vocabulary, precision, use_bias=False, init_std=std, name="output", wide=True
            )
            logits = output(x)
        else:
            low = x.dtype if precision.value == "float32" else jnp.bfloat16
            wide = jnp.promote_types(x.dtype, jnp.float32)
            logits = jnp.einsum(
                "bmd,vd->bmv",
                x.astype(low),
                embedding.astype(low),
                precision=exactness(precision),
                preferred_element_type=wide,
            )
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) + bias[None, None]
