# SPDX-License-Identifier: Apache-2.0
"""One small retrieval problem with every kind of column, for the oracles and for the code."""

import jax.numpy as jnp
import numpy as np
import oracles

from cots_jax.objectives.contrastive import Rows
from cots_jax.objectives.queue import Columns

TAU = 0.07
b, k, e = 6, 12, 5


class Problem:
    """Random pairs, a queue with invalid columns, doubled and absent groups, and batch columns."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.pairs = oracles.Pairs(
            *(oracles.unit_rows(rng, b, e) for _ in range(4)), np.array([3, 3, -1, 5, -1, 7])
        )
        self.queue = (
            oracles.unit_rows(rng, k, e),
            oracles.unit_rows(rng, k, e),
            np.array([3, -1, 5, 3, 9, 7, -1, 7, 7, 11, 3, 2]),
            np.isin(np.arange(k), (1, 5, 6, 9), invert=True),
        )
        self.kept = np.array([True, True, True, False, True, True])

    def oracle_columns(self, with_batch=True):
        pairs = self.pairs
        found = oracles.columns_of(*self.queue)
        if with_batch:
            keys = (pairs.image_key, pairs.text_key, pairs.group, self.kept)
            found += oracles.columns_of(*keys, rows=range(b))
        return found

    def rows(self):
        pairs, place = self.pairs, jnp.arange(b)
        group = jnp.asarray(pairs.group, jnp.int32)
        features = Rows(jnp.asarray(pairs.image), jnp.asarray(pairs.text), group, place)
        keys = Rows(jnp.asarray(pairs.image_key), jnp.asarray(pairs.text_key), group, place)
        return features, keys

    def pieces(self, with_batch=True):
        image, text, group, valid = (jnp.asarray(x) for x in self.queue)
        _, keys = self.rows()
        pieces = [Columns(image, text, group, valid, jnp.full(k, -1))]
        if with_batch:
            kept = jnp.asarray(self.kept)
            pieces.append(Columns(keys.image, keys.text, keys.group_id, kept, keys.row))
        return pieces
