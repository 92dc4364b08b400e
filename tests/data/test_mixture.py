# SPDX-License-Identifier: Apache-2.0
"""Sources mixed by weight: shares, epochs of each source, and an order that is a function."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cots_jax.data.mixture import BLOCK, Mixture, mixture_of
from cots_jax.errors import UserError

NAMES = ("a#train", "b#train", "c#train")


def sources(mixture, pairs):
    return np.searchsorted(np.cumsum(mixture.pairs), pairs, side="right")


def mixed(pairs, epochs):
    return mixture_of(pairs, [float(times) for times in epochs], NAMES[: len(pairs)])


def test_shares_follow_size_and_weight():
    """1,000 pairs at 3 and 3,000 at 1: as many rows of each."""
    mixture = mixed((1000, 3000), (3, 1))
    assert mixture.rows == (BLOCK // 2, BLOCK // 2)
    assert mixed((500, 500), (1, 3)).rows == (BLOCK // 4, 3 * BLOCK // 4)


@pytest.mark.parametrize("block", [0, 1, 5])
def test_every_block_holds_exactly_its_rows(block):
    mixture = mixed((700, 900, 50), (1, 2, 4))
    order = mixture(np.arange(block * BLOCK, (block + 1) * BLOCK), 3)
    assert tuple(np.bincount(sources(mixture, order))) == mixture.rows


@pytest.mark.parametrize("blocks", [1, 3])
def test_after_whole_blocks_no_pair_of_a_source_is_ahead_of_another_by_two(blocks):
    """A block may end within a source's epoch; what it holds of it is all of the epochs before."""
    mixture = mixed((700, 9000, 50), (1, 2, 4))
    seen = np.bincount(mixture(np.arange(blocks * BLOCK), 3), minlength=sum(mixture.pairs))
    ends = np.cumsum(mixture.pairs)
    for start, stop, rows in zip(ends - mixture.pairs, ends, mixture.rows):
        part = seen[start:stop]
        assert part.sum() == blocks * rows
        assert part.max() - part.min() <= 1


@given(
    st.lists(st.integers(1, 5000), min_size=2, max_size=3),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**40),
)
def test_the_order_is_a_function_of_seed_and_position(pairs, seed, start):
    mixture = Mixture(tuple(pairs), (BLOCK - len(pairs) + 1, *[1] * (len(pairs) - 1)))
    positions = np.arange(start, start + 64)
    whole = mixture(positions, seed)
    assert whole.min() >= 0
    assert whole.max() < sum(pairs)
    backwards = [mixture(positions[i : i + 7], seed) for i in range(0, 64, 7)]
    np.testing.assert_array_equal(np.concatenate(backwards), whole)
    np.testing.assert_array_equal(mixture(positions[::-1].copy(), seed), whole[::-1])


def test_the_seed_decides_order_and_mixture():
    mixture = mixed((700, 900), (1, 2))
    one, other = (mixture(np.arange(1000), seed) for seed in (0, 1))
    assert (sources(mixture, one) != sources(mixture, other)).mean() > 0.2
    assert not np.array_equal(np.sort(one), np.sort(other))


def test_sources_alternate_within_a_block():
    mixture = mixed((100, 100), (1, 1.5))
    of = sources(mixture, mixture(np.arange(BLOCK), 0))
    assert max(map(len, "".join(map(str, of)).split("0"))) < 40  # no long run of one source


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=6))
def test_rows_fill_the_block(pairs):
    names = [str(number) for number in range(len(pairs))]
    try:
        rows = mixture_of(pairs, [1.0] * len(pairs), names).rows
    except UserError:
        assert min(pairs) / sum(pairs) < 1 / BLOCK
        return
    assert sum(rows) == BLOCK
    np.testing.assert_allclose(rows, BLOCK * np.array(pairs) / sum(pairs), atol=1)


def test_a_source_that_would_hardly_come_is_refused():
    with pytest.raises(UserError, match=r"b#train would have 1.00e-05 of the rows"):
        mixed((99_999, 1), (1, 1))
