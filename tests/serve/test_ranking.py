# SPDX-License-Identifier: Apache-2.0
"""Where scores fall off, and what is folded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cots_jax.serve.ranking import WINDOW, fall_off, leaders


@pytest.mark.parametrize(
    ("scores", "before"),
    [
        ([0.9, 0.88, 0.5, 0.49, 0.48], 2),
        ([0.9, 0.5, 0.49, 0.48], 1),
        ([0.3, 0.29, 0.28, 0.1], 3),
        ([0.5, 0.5], 0),
        ([], 0),
    ],
)
def test_the_largest_drop(scores: list[float], before: int) -> None:
    assert fall_off(np.array(scores, np.float32)) == before


def test_a_drop_far_down_is_none() -> None:
    scores = np.linspace(1, 0.9, WINDOW + 2, dtype=np.float32)
    scores[WINDOW + 1] = -1
    scores[1:] -= np.float32(0.01)
    assert fall_off(scores) == 1


@given(st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.9, 0.99, 2.0]))
def test_each_goes_under_the_first_leader_it_is_like(count: int, seed: int, alike: float) -> None:
    drawn = np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)
    vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    close = vectors @ vectors.T >= alike
    expected: list[int] = []
    for place in range(count):
        under = [lead for lead in sorted(set(expected)) if close[place, lead]]
        expected.append(under[0] if under else place)
    np.testing.assert_array_equal(leaders(vectors, alike), expected)
