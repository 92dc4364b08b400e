# SPDX-License-Identifier: Apache-2.0
"""Adaptive momentum filter: drops pairs that the momentum towers find unlike (R; details O).

`s_i` is the dot product of a pair's momentum keys. Each source s keeps a running mean and mean
square of it, moved by the number of its rows in the global batch and debiased by their count; a
pair stays when `s_i >= E - kappa * D`, but for rounding. First update, then judge.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cots_jax.objectives.contrastive import EXACT

# Where all similarities of a source are equal, as that of its only row so far is to itself, the
# last bits of E would decide.
ROUNDING = 1e-6


@flax.struct.dataclass
class FilterState:
    """Running statistics of each of s sources; `mean` and `mean_square` are not yet debiased."""

    count: Float[Array, "s"]  # rows seen
    mean: Float[Array, "s"]
    mean_square: Float[Array, "s"]


@flax.struct.dataclass
class Judgement:
    """The state after the batch, and which rows stay."""

    state: FilterState
    keep: Bool[Array, "b"]
    similarity: Float[Array, "b"]


def empty_filter(sources: int) -> FilterState:
    """Statistics of `sources` sources, nothing seen."""
    zero = jnp.zeros((sources,), jnp.float32)
    return FilterState(zero, zero, zero)


def of_first_sources(state: FilterState, sources: int) -> FilterState:
    """Those of the first `sources` sources, as shapes that are placed like the state."""

    def first(leaf: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((sources,), leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(first, state)


def with_more_sources(state: FilterState, sources: int) -> FilterState:
    """The statistics with those of sources behind them, of which nothing is seen yet."""
    return jax.tree.map(lambda leaf: jnp.pad(leaf, (0, sources - leaf.shape[0])), state)


def judge(
    state: FilterState,
    image_key: Float[Array, "b e"],
    text_key: Float[Array, "b e"],
    source: Int[Array, "b"],
    weight: Float[Array, "b"],
    *,
    kappa: float,
    momentum: float,
    reference_batch: int,
    warm: Bool[Array, ""],
) -> Judgement:
    """Updates the statistics over the global batch, then judges its rows.

    `momentum` is per `reference_batch` rows of a source; while not `warm` all rows stay. Rows of
    weight 0 neither count nor stay.
    """
    similarity = jnp.einsum("be,be->b", image_key, text_key, precision=EXACT)
    of_source = (source[:, None] == jnp.arange(state.count.shape[0])[None]) & (weight > 0)[:, None]
    member = of_source.astype(similarity.dtype)
    rows = jnp.sum(member, axis=0)
    many = jnp.where(rows > 0, rows, 1)
    share = _share(rows, momentum, reference_batch)

    def moved(old: Array, values: Array) -> Array:
        mean = jnp.sum(member * values[:, None], axis=0) / many
        return old + share * (mean - old)

    new = FilterState(
        state.count + rows,
        moved(state.mean, similarity),
        moved(state.mean_square, similarity**2),
    )
    threshold = filter_threshold(new, kappa, momentum, reference_batch)
    high = similarity >= threshold[jnp.clip(source, 0, threshold.shape[0] - 1)] - ROUNDING
    return Judgement(new, (high | ~warm) & (weight > 0), similarity)


def filter_threshold(
    state: FilterState, kappa: float, momentum: float, reference_batch: int
) -> Float[Array, "s"]:
    """`E - kappa * D` of each source; -inf-like where nothing was seen."""
    seen = _share(state.count, momentum, reference_batch)
    seen = jnp.where(seen > 0, seen, 1)
    mean = state.mean / seen
    variance = jnp.maximum(state.mean_square / seen - mean**2, 0)
    return jnp.where(state.count > 0, mean - kappa * jnp.sqrt(variance), -2.0)


def _share(rows: Float[Array, "s"], momentum: float, reference_batch: int) -> Float[Array, "s"]:
    """`1 - momentum ** (rows / reference_batch)`: how much of a mean these rows make up."""
    # Far below 1 for few rows: written as a difference, float32 would lose the deviation D in it.
    return -jnp.expm1(rows * (math.log(momentum) / reference_batch))
