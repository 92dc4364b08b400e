# SPDX-License-Identifier: Apache-2.0
"""The image tower: a Vision Transformer with a learned mask embedding, projected to e.

At B/16 the shapes are the published ones (Dosovitskiy et al., 2021; the mask embedding: BEiT).
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cots_jax.models.outputs import pooled_and
from cots_jax.models.transformer import (
    Norm,
    Transformer,
    TransformerConfig,
    embedding_init,
    layer_norm,
    linear,
)
from cots_jax.switches import FrameMean


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Shape of the image tower."""

    image_size: int  # pixels a side
    patch: int  # pixels a side
    transformer: TransformerConfig
    embed_dim: int = 256
    embedding_norm: bool = False  # a norm before the first block; CLIP has one
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of the colours, for values in 0..1
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    frame_mean: FrameMean = FrameMean.JOINT

    @property
    def side(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        """Patches a picture, n."""
        return self.side**2


@flax.struct.dataclass
class Encoded:
    """What a tower gives: outputs where asked for, one of the row, and the unit vector for search.

    cls: the output at [CLS], or what a text tower with another pooling has in its place.
    """

    tokens: Float[Array, "b m d"]
    cls: Float[Array, "b d"]
    joint: Float[Array, "b e"]


def unit(x: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
    """L2-normalised, in float32 at least; the epsilon keeps the gradient of a zero row finite."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


def patches(image: Float[Array, "b s s 3"], patch: int) -> Float[Array, "b n p"]:
    """Cuts pictures into patches, row-major, each flattened as [row, column, channel]."""
    b, s, _, c = image.shape
    side = s // patch
    cut = image.reshape(b, side, patch, side, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(b, side * side, patch * patch * c)


class ImageTower(nn.Module):
    """Pictures or t frames -> Encoded.

    Frames go through the tower one by one and their features are averaged (R); where exactly is
    `frame_mean` (O). [CLS] is their mean; of a picture, t = 1, nothing is averaged.
    """

    config: VisionConfig

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b t s s 3"],
        mask: Bool[Array, "b n"] | None = None,
        positions: Int[Array, "b m"] | None = None,
    ) -> Encoded:
        """t = 1 only: `mask` marks patches that are replaced by the mask embedding; `positions` are
        the patches whose outputs are wanted (None: of none).
        """
        config, width = self.config, self.config.transformer.width
        b, t = image.shape[:2]
        x = patches(image.reshape(b * t, *image.shape[2:]), config.patch)
        std = config.transformer.init_std
        x = linear(width, config.transformer.precision, init_std=std, name="patch_embedding")(x)
        normal = embedding_init(config.transformer)
        hidden = self.param("mask_embedding", normal, (width,))
        if mask is not None:
            x = jnp.where(mask[:, :, None], hidden[None, None].astype(x.dtype), x)
        cls = self.param("cls", normal, (width,)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(cls, (b * t, 1, width)), x], axis=1)
        position = self.param("position_embedding", normal, (config.tokens + 1, width))
        x = x + position[None].astype(x.dtype)
        if config.embedding_norm:
            x = layer_norm(config.transformer.epsilon, "embedding_norm")(x)
        wanted = pooled_and(None if positions is None else positions + 1)
        x = Transformer(config.transformer, name="transformer")(x, None, wanted)
        if config.transformer.norm is Norm.PRE:
            x = layer_norm(config.transformer.epsilon, "final_norm")(x)
        m = x.shape[1] - 1
        x = x.reshape(b, t, 1 + m, width)
        cls = jnp.mean(x[:, :, 0], axis=1)
        projection = linear(
            config.embed_dim, config.transformer.precision, init_std=std, name="projection"
        )
        if t > 1 and config.frame_mean is FrameMean.JOINT:
            joint = unit(jnp.mean(unit(projection(x[:, :, 0])), axis=1))
        else:
            joint = unit(projection(cls))
        return Encoded(x[:, :, 1:].reshape(b, t * m, width), cls, joint)
