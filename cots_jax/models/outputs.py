# SPDX-License-Identifier: Apache-2.0
"""Of which tokens a tower's last block gives outputs (own choice).

Search reads one token of each row and the masked objectives read those they predict; the last
block's other outputs would be thrown away, with their gradients of nought. Its keys and values are
of all tokens, so that what is read is the same as of a whole block. A mean reads all of them.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Wanted = slice | Int[Array, "b m"]  # the same places in every row, or each row's own
FIRST = slice(0, 1)  # [CLS]


def outputs_at(x: Array, wanted: Wanted | None) -> Array:
    """x [b, n, …] at these tokens, [b, m, …]; at all of them where none are named."""
    if wanted is None:
        return x
    if isinstance(wanted, slice):
        return x[:, wanted]
    return jnp.take_along_axis(x, wanted.reshape(*wanted.shape, *(1,) * (x.ndim - 2)), axis=1)


def places(wanted: Wanted | None, tokens: int) -> Int[Array, "#b m"]:
    """Where these tokens stand in their rows."""
    if wanted is None or isinstance(wanted, slice):
        return jnp.arange(tokens)[wanted or slice(None)][None]
    return wanted


def between(table: Float[Array, "h n n"], wanted: Wanted | None) -> Float[Array, "#b h m n"]:
    """A table over pairs of tokens, for these as queries and all as keys."""
    if wanted is None or isinstance(wanted, slice):
        return table[None, :, wanted or slice(None)]
    return jnp.moveaxis(table[:, wanted], 0, 1)


def pooled_and(
    positions: Int[Array, "b p"] | None, pooled: Int[Array, "b 1"] | None = None
) -> Wanted:
    """The token that stands for its row, [CLS] where none is named, and these behind it."""
    if positions is None:
        return FIRST if pooled is None else pooled
    first = jnp.zeros_like(positions[:, :1]) if pooled is None else pooled
    return jnp.concatenate([first, positions], axis=1)


def mean_of(x: Float[Array, "b n d"], seen: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """The mean of the outputs of tokens that are seen, in float32 at least; 0 where none is."""
    exact = jnp.promote_types(x.dtype, jnp.float32)
    count = jnp.maximum(jnp.sum(seen, axis=1, dtype=exact), 1)
    total = jnp.sum(jnp.where(seen[..., None], x, 0), axis=1, dtype=exact)
    return (total / count[:, None]).astype(x.dtype)
