# SPDX-License-Identifier: Apache-2.0
"""The training order is a permutation an epoch, a pure function, and looks random."""

import collections

import numpy as np
import pytest

from cots_jax.data.shuffle import shuffled
from cots_jax.errors import UserError


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 99, 101, 5774])
@pytest.mark.parametrize("epoch", [0, 1, 1000])
def test_each_epoch_holds_every_row_once(size, epoch):
    order = shuffled(np.arange(size * epoch, size * (epoch + 1)), 3, size)
    assert sorted(order) == list(range(size))


def test_any_cut_of_the_order_gives_the_same_rows():
    whole = shuffled(np.arange(1000), 1, 77)
    parts = [shuffled(np.arange(start, start + 8), 1, 77) for start in range(0, 1000, 8)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    np.testing.assert_array_equal(whole[::-1], shuffled(np.arange(1000)[::-1].copy(), 1, 77))


def test_the_order_is_pinned():
    # A change here changes every training run and breaks every resume.
    order = shuffled(np.arange(10), 7, 1000)
    assert list(order) == [
        76,
        759,
        401,
        644,
        917,
        635,
        518,
        467,
        925,
        146,
    ]


def test_epochs_and_seeds_differ():
    first, second = shuffled(np.arange(200), 0, 100).reshape(2, 100)
    assert (first != second).sum() > 80
    assert (first != shuffled(np.arange(100), 1, 100)).sum() > 80


@pytest.mark.parametrize("across", ["epochs", "seeds"])
def test_all_orders_of_four_are_equally_likely(across):
    draws = 4800
    if across == "epochs":
        orders = shuffled(np.arange(4 * draws), 1, 4).reshape(draws, 4)
    else:
        orders = np.stack([shuffled(np.arange(4), seed, 4) for seed in range(draws)])
    counts = collections.Counter(map(tuple, orders.tolist()))
    expected = draws / 24
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert len(counts) == 24
    assert chi_square < 60  # 23 degrees of freedom: 5 sigma is 57


def test_neighbours_are_unrelated():
    size, epochs = 5774, 20
    order = shuffled(np.arange(size * epochs), 2, size).reshape(epochs, size)
    steps = np.diff(order, axis=1) % size
    counts = np.histogram(steps, 64, (0, size))[0]
    expected = steps.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * np.sqrt(2 * 63)
    place = np.tile(np.arange(size), epochs)
    assert abs(np.corrcoef(order.ravel(), place)[0, 1]) < 5 / np.sqrt(order.size)


@pytest.mark.parametrize(("seed", "size"), [(-1, 5), (0, 0)])
def test_an_impossible_order_is_refused(seed, size):
    with pytest.raises(UserError, match="cannot shuffle"):
        shuffled(np.arange(3), seed, size)
