# SPDX-License-Identifier: Apache-2.0
"""Pictures to code ids, by whichever image tokenizer a run has."""

import jax
from jaxtyping import Array, Float, Int32

from cots_jax.models.apply import apply
from cots_jax.models.dalle import DalleConfig, Encoder, code_ids
from cots_jax.models.dvae import Dvae, DvaeConfig
from cots_jax.models.two_stream import Params

TokenizerConfig = DvaeConfig | DalleConfig


def picture_ids(
    config: TokenizerConfig, params: Params, pixels: Float[Array, "b s s 3"], pieces: int = 1
) -> Int32[Array, "b n"]:
    """The likeliest code of each cell of pictures in 0..1; `pieces` at a time to save memory."""

    def encode(part: Array) -> Array:
        if isinstance(config, DalleConfig):
            return code_ids(apply(Encoder(config), params, part))
        return apply(Dvae(config), params, part, method=Dvae.encode_ids)

    if pieces == 1:
        return encode(pixels)
    # Row i goes to piece i % pieces, so that each device of a cut batch has rows of every piece.
    parts = pixels.reshape(-1, pieces, *pixels.shape[1:]).swapaxes(0, 1)
    ids = jax.lax.map(encode, parts)
    return ids.swapaxes(0, 1).reshape(len(pixels), -1)
