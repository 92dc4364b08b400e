# SPDX-License-Identifier: Apache-2.0
"""The best few candidates against a full sort."""

import numpy as np
import pytest

from cots_jax.errors import UserError
from cots_jax.retrieval.candidates import top_candidates
from cots_jax.retrieval.tiles import TileShape


@pytest.mark.parametrize(("queries", "candidates", "k"), [(7, 30, 5), (300, 700, 3), (4, 2, 5)])
def test_equals_a_stable_sort(queries, candidates, k):
    rng = np.random.default_rng(queries)
    query = rng.integers(-2, 3, (queries, 6)).astype(np.float32)
    candidate = rng.integers(-2, 3, (candidates, 6)).astype(np.float32)
    scores = query @ candidate.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    top = top_candidates(query, candidate, k, TileShape(128, 128))
    np.testing.assert_array_equal(top.index, order)
    np.testing.assert_array_equal(top.score, np.take_along_axis(scores, order, axis=1))


def test_negative_scores_are_not_beaten_by_padding():
    top = top_candidates(np.ones((1, 2), np.float32), -np.ones((3, 2), np.float32), 3)
    assert top.index.tolist() == [[0, 1, 2]] and (top.score == -2).all()


def test_errors_say_what_is_wrong():
    rows = np.ones((3, 4), np.float32)
    with pytest.raises(UserError, match="0"):
        top_candidates(rows, rows, 0)
    with pytest.raises(UserError, match="1 of 3 candidate embeddings"):
        top_candidates(rows, np.where(np.eye(3, 4) * np.arange(4) == 2, np.nan, rows), 1)
