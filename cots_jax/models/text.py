# SPDX-License-Identifier: Apache-2.0
"""The text tower: a BERT encoder (Devlin et al., 2019), projected to e."""

import dataclasses
import enum

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int

from cots_jax.models.outputs import mean_of, outputs_at, pooled_and
from cots_jax.models.transformer import (
    Norm,
    Transformer,
    TransformerConfig,
    embedding_init,
    layer_norm,
    linear,
)
from cots_jax.models.vision import Encoded, unit


class Pooling(enum.StrEnum):
    """Whose output stands for the text: [CLS]'s (BERT), the last token's (CLIP), or the mean.

    The mean is over all tokens but padding, as sentence-transformers trains its BERTs (Reimers and
    Gurevych, 2019).
    """

    CLS = "cls"
    LAST = "last"
    MEAN = "mean"


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Shape of the text tower. `vocabulary` is set from the tokenizer."""

    transformer: TransformerConfig
    positions: int = 512
    vocabulary: int = 30_522
    token_types: int = 2  # BERT has two and pre-trains both; captions are type 0. CLIP has none
    pooling: Pooling = Pooling.CLS
    embed_dim: int = 256


class TextTower(nn.Module):
    """Token ids -> Encoded."""

    config: TextConfig

    @nn.compact
    def __call__(
        self,
        text: Int[Array, "b l"],
        length: Int[Array, "b"],
        positions: Int[Array, "b m"] | None = None,
    ) -> Encoded:
        """`length` counts the tokens before the padding; padding is never attended to.

        positions: of the tokens whose outputs are wanted (None: of none).
        """
        config, width = self.config, self.config.transformer.width
        l = text.shape[1]
        normal = embedding_init(config.transformer)
        words = self.param("token_embedding", normal, (config.vocabulary, width))
        position = self.param("position_embedding", normal, (config.positions, width))
        x = words[text] + position[None, :l]
        if config.token_types:
            types = self.param("type_embedding", normal, (config.token_types, width))
            x = x + types[None, :1]
        if config.transformer.norm is Norm.POST:
            x = layer_norm(config.transformer.epsilon, "embedding_norm")(x)
        seen = jnp.arange(l)[None] < length[:, None]
        # A finite bias: a row without any token (padding of the batch) must not give NaN.
        bias = jnp.where(seen, 0.0, -1e9)[:, None, None, :]
        mean = config.pooling is Pooling.MEAN
        last = jnp.maximum(length - 1, 0)[:, None] if config.pooling is Pooling.LAST else None
        wanted = None if mean else pooled_and(positions, last)
        x = Transformer(config.transformer, name="transformer")(x, bias, wanted)
        if config.transformer.norm is Norm.PRE:
            x = layer_norm(config.transformer.epsilon, "final_norm")(x)
        if mean:
            tokens = outputs_at(x, slice(0) if positions is None else positions)
            pooled = mean_of(x, seen)
        else:
            tokens, pooled = x[:, 1:], x[:, 0]
        std = config.transformer.init_std
        joint = linear(
            config.embed_dim, config.transformer.precision, init_std=std, name="projection"
        )(pooled)
        return Encoded(tokens, pooled, unit(joint))
