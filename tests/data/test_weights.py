# SPDX-License-Identifier: Apache-2.0
"""How much of each source comes: what may be written, and the rows of a block that come of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cots_jax.data.weights import Measure, Weight, rows_of_block
from cots_jax.errors import UserError

BLOCK = 8192
NAMES = ("a#train", "b#train", "c#train")


def rows(pairs, *written):
    weights = [Weight.parse(text) for text in written]
    return rows_of_block(pairs, weights, BLOCK, NAMES[: len(pairs)])


@given(st.floats(0, 1e6), st.sampled_from(Measure))
def test_a_weight_is_read_as_it_was_written(value, measure):
    weight = Weight(min(value, 100.0) if measure is Measure.PERCENT else value, measure)
    assert Weight.parse(str(weight)) == weight


@pytest.mark.parametrize(
    "text", ["", "-1", "x", "nan", "inf", "1e7", "101%", "%", "3 ", "3%%", "1_0", "+1", "1.2.3"]
)
def test_what_is_no_weight(text):
    with pytest.raises(ValueError, match="is no number from 0 to 1"):
        Weight.parse(text)


def test_shares_follow_size_and_weight():
    """1,000 pairs at 3 and 3,000 at 1: as many rows of each."""
    assert rows((1000, 3000), "3", "1") == (BLOCK // 2, BLOCK // 2)
    assert rows((500, 500), "1", "3") == (BLOCK // 4, 3 * BLOCK // 4)


@pytest.mark.parametrize("written", [("1", "1"), ("7", "7"), ("0.5", "0", "0.5"), ("3",)])
def test_alike_is_no_mixture(written):
    assert rows((10, 20, 30)[: len(written)], *written) is None


def test_shares_of_all_rows_whatever_the_size():
    assert rows((10, 99_000), "50%", "50%") == (BLOCK // 2, BLOCK // 2)
    assert rows((10, 99_000), "25%", "1") == (BLOCK // 4, 3 * BLOCK // 4)
    assert rows((10, 300, 100), "50%", "1", "3") == (BLOCK // 2, BLOCK // 4, BLOCK // 4)
    assert rows((10, 300, 100), "33.3%", "33.3%", "33.4%")[:2] == (2728, 2728)


def test_none_of_a_source():
    assert rows((10, 300, 100), "50%", "0", "50%") == (BLOCK // 2, 0, BLOCK // 2)
    assert rows((10, 300, 100), "0%", "1", "3") == (0, BLOCK // 2, BLOCK // 2)
    assert rows((10, 300), "100%", "0") == (BLOCK, 0)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (("0", "0"), r"all sources have the weight 0 \(0, 0\): raise one"),
        (("100%", "1"), r"100%, 1 leave no rows to the sources without a per cent"),
        (("60%", "60%"), r"add up to 120 %: make them 100 %"),
        (("50%",), r"50% add up to 50 %: make them 100 %, or leave one"),
        (("30%", "30%", "0"), r"add up to 60 %"),
        (("1e-6", "1"), r"a#train would have 1\.00e-06 of the rows, less than one in 8,192"),
    ],
)
def test_weights_that_make_no_sense_together(written, words):
    with pytest.raises(UserError, match=words):
        rows((100,) * len(written), *written)


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=6), st.integers(2, 9))
def test_rows_fill_the_block(pairs, weight):
    names = [str(number) for number in range(len(pairs))]
    weights = [Weight(float(weight)), *[Weight()] * (len(pairs) - 1)]
    wanted = np.array(pairs, float)
    wanted[0] *= weight
    try:
        found = rows_of_block(pairs, weights, BLOCK, names)
    except UserError:
        assert wanted.min() / wanted.sum() < 1 / BLOCK
        return
    assert sum(found) == BLOCK
    np.testing.assert_allclose(found, BLOCK * wanted / wanted.sum(), atol=1)
