# SPDX-License-Identifier: Apache-2.0
"""Ranks in one direction agree with plain NumPy and with those of both directions; ties lose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cots_jax.errors import UserError
from cots_jax.retrieval.answers import first_answers
from cots_jax.retrieval.metrics import rank_both_ways
from cots_jax.retrieval.tiles import TileShape


def oracle(queries, candidates, query_group, candidate_group):
    """(rank, wrong) of each query from the whole matrix of scores."""
    scores = queries @ candidates.T
    ranks, wrong = [], []
    for row, group in zip(scores, query_group, strict=True):
        correct = candidate_group == group
        others = np.where(correct, -np.inf, row)
        ranks.append(1 + int((others >= row[correct].max()).sum()))
        wrong.append(int(others.argmax()) if np.isfinite(others).any() else -1)
    return ranks, wrong


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12))
def test_it_agrees_with_the_whole_matrix(seed, queries, groups):
    rng = np.random.default_rng(seed)
    candidates = rng.integers(-2, 3, (groups + int(rng.integers(0, 9)), 3)).astype(np.float32)
    of_candidate = np.arange(len(candidates)) % groups
    asked = rng.integers(-2, 3, (queries, 3)).astype(np.float32)  # small whole numbers: many ties
    of_query = rng.integers(0, groups, queries)
    found = first_answers(asked, candidates, of_query, of_candidate, TileShape(8, 8))
    ranks, wrong = oracle(asked, candidates, of_query, of_candidate)
    assert found.rank.tolist() == ranks
    assert found.wrong.tolist() == wrong


def test_it_agrees_with_both_directions():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(300, 8)), rng.normal(size=(700, 8))
    image_group, text_group = np.arange(300) % 250, np.arange(700) % 250
    both = rank_both_ways(images, texts, image_group, text_group)
    for answers, ranks in (
        (first_answers(images, texts, image_group, text_group), both.image_to_text),
        (first_answers(texts, images, text_group, image_group), both.text_to_image),
    ):
        assert np.array_equal(answers.rank, ranks)


def test_a_model_that_answers_everything_alike_is_always_wrong():
    same = np.ones((6, 4), np.float32)
    found = first_answers(same, same, np.arange(6), np.arange(6))
    assert found.rank.tolist() == [6] * 6
    assert found.wrong.tolist() == [1, 0, 0, 0, 0, 0]


def test_candidates_that_are_nobodys_truth_count():
    found = first_answers(np.eye(3)[:1], np.eye(3), np.array([2]), np.arange(3))
    assert (found.rank.tolist(), found.wrong.tolist()) == ([3], [0])


def test_a_query_needs_an_answer():
    with pytest.raises(UserError, match="1 of 3 queries have no correct candidate"):
        first_answers(np.eye(3), np.eye(3), np.arange(3), np.array([0, 1, 1]))
    with pytest.raises(UserError, match="not finite"):
        first_answers(np.full((1, 3), np.nan), np.eye(3), np.array([0]), np.arange(3))
