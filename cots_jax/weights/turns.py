# SPDX-License-Identifier: Apache-2.0
"""The ways in which published arrays are laid out differently from ours."""

import math

import numpy as np

from cots_jax.weights.mapping import Shape, Turn


def _same(shape: Shape) -> list[Shape]:
    return [shape]


def _flat_tail(shape: Shape) -> Shape:
    return shape[0], math.prod(shape[1:])


# The same numbers in the same order and shape.
SAME = Turn(_same, lambda theirs, shape: theirs[0], lambda ours: [ours])

# Vectors that we keep in pieces: a bias [3, h, c] of theirs in one piece, [3hc].
VECTOR = Turn(
    lambda shape: [(math.prod(shape),)],
    lambda theirs, shape: theirs[0].reshape(shape),
    lambda ours: [ours.reshape(-1)],
)

# torch's [out, in] -> [in, …].
MATRIX = Turn(
    lambda shape: [_flat_tail(shape)[::-1]],
    lambda theirs, shape: theirs[0].T.reshape(shape),
    lambda ours: [ours.reshape(_flat_tail(ours.shape)).T],
)

# torch's [out, heads * c] -> [heads, c, out].
FROM_HEADS = Turn(
    lambda shape: [(shape[-1], math.prod(shape[:-1]))],
    lambda theirs, shape: theirs[0].T.reshape(shape),
    lambda ours: [ours.reshape(-1, ours.shape[-1]).T],
)

# Query, key and value of torch, [heads * c, d] each -> [d, 3, heads, c].
THREE_MATRICES = Turn(
    lambda shape: [(math.prod(shape[2:]), shape[0])] * 3,
    lambda theirs, shape: np.stack([array.T for array in theirs], axis=1).reshape(shape),
    lambda ours: [ours[:, part].reshape(ours.shape[0], -1).T for part in range(3)],
)

# Query, key and value biases, [heads * c] each -> [3, heads, c].
THREE_VECTORS = Turn(
    lambda shape: [(math.prod(shape[1:]),)] * 3,
    lambda theirs, shape: np.stack(theirs).reshape(shape),
    lambda ours: [ours[part].reshape(-1) for part in range(3)],
)

# torch's convolution [d, 3, p, p] -> [p * p * 3, d], rows as (row, column, channel).
PATCHES = Turn(
    lambda shape: [(shape[1], 3, _patch(shape), _patch(shape))],
    lambda theirs, shape: theirs[0].transpose(2, 3, 1, 0).reshape(shape),
    lambda ours: [
        ours.reshape(_patch(ours.shape), _patch(ours.shape), 3, -1).transpose(3, 2, 0, 1)
    ],
)

# JAX's own: query, key and value as [d, h, c] and [h, c] each, a convolution as [p, p, 3, d].
STACK_SECOND = Turn(
    lambda shape: [(shape[0], *shape[2:])] * 3,
    lambda theirs, shape: np.stack(theirs, axis=1),
    lambda ours: list(np.moveaxis(ours, 1, 0)),
)
STACK_FIRST = Turn(
    lambda shape: [shape[1:]] * 3,
    lambda theirs, shape: np.stack(theirs),
    lambda ours: list(ours),
)
JAX_PATCHES = Turn(
    lambda shape: [(_patch(shape), _patch(shape), 3, shape[1])],
    lambda theirs, shape: theirs[0].reshape(shape),
    lambda ours: [ours.reshape(_patch(ours.shape), _patch(ours.shape), 3, -1)],
)

# [1, n, d] -> [n, d] and [1, 1, d] -> [d].
ONE_ROW = Turn(
    lambda shape: [(1, *shape)],
    lambda theirs, shape: theirs[0][0],
    lambda ours: [ours[None]],
)
ONE_TOKEN = Turn(
    lambda shape: [(1, 1, *shape)],
    lambda theirs, shape: theirs[0][0, 0],
    lambda ours: [ours[None, None]],
)


def _patch(shape: Shape) -> int:
    return math.isqrt(shape[0] // 3)
