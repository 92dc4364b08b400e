# SPDX-License-Identifier: Apache-2.0
"""Gradients of a batch that is cut into pieces, in the memory of one piece.

Where a pair is compared with stored keys, each piece has a loss of its own and gradients add up.
Where the pairs of a batch are compared with one another, every feature enters every loss: then all
features are made first without gradients, the loss gives the gradient of each feature, and each
piece is encoded once more to carry them on (GradCache: Gao et al., RepL4NLP 2021).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cots_jax.models.two_stream import Params
from cots_jax.objectives.total import Losses, TokenPass

Pieces = Any  # pytree whose leaves are [pieces, rows of a piece, …]


def summed_gradients(
    params: Params, pieces: Pieces, loss: Callable[[Params, Any], Losses]
) -> tuple[Params, Losses]:
    """Gradients and losses, summed over the pieces."""

    def total(params: Params, piece: Any) -> tuple[Any, Losses]:
        found = loss(params, piece)
        return found.total, found

    gradient = jax.grad(total, has_aux=True)
    first = jax.tree.map(lambda leaf: leaf[0], pieces)
    if jax.tree.leaves(pieces)[0].shape[0] == 1:
        return gradient(params, first)
    shape = jax.eval_shape(gradient, params, first)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)

    def add(so_far: Any, piece: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, so_far, gradient(params, piece)), None

    return jax.lax.scan(add, nothing, pieces)[0]


def cached_gradients(
    params: Params,
    pieces: Pieces,
    encode: Callable[[Params, Any], TokenPass],
    compare: Callable[[Params, Any, Any], Losses],
    join: Callable[[Any], Any],
    cut: Callable[[Any], Any],
) -> tuple[Params, Losses]:
    """Gradients and losses of `encode`'s own losses and of `compare(params, images, texts)`.

    compare: of the features [b, e] of all pairs, in the order of the batch; it may read parameters
    besides, a temperature for one. join, cut: [pieces, rows, …] to [b, …] and back.
    """

    def features(piece: Any) -> tuple[Any, Any]:
        rows = encode(params, piece).rows
        return rows.image, rows.text

    def compared(params: Params, both: tuple[Any, Any]) -> tuple[Any, Losses]:
        found = compare(params, *both)
        return found.total, found

    both = join(jax.lax.map(features, pieces))
    (direct, towards), whole = jax.grad(compared, argnums=(0, 1), has_aux=True)(params, both)

    def carried(params: Params, piece: Any) -> Losses:
        inputs, (to_image, to_text) = piece
        passed = encode(params, inputs)
        pull = jnp.vdot(passed.rows.image, to_image) + jnp.vdot(passed.rows.text, to_text)
        # A gradient in the place of a loss: its value is no part of what is reported.
        pull = pull - jax.lax.stop_gradient(pull)
        return Losses(passed.losses.total + pull, passed.losses.sums)

    grads, parts = summed_gradients(params, (pieces, cut(towards)), carried)
    return jax.tree.map(jnp.add, (grads, parts), (direct, whole))
