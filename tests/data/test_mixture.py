# SPDX-License-Identifier: Apache-2.0
"""Sources mixed by weight: shares, epochs of each source, and an order that is a function, also
where the weights change on the way."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cots_jax.data.mixture import (
    BLOCK,
    Mixture,
    Segment,
    go_on,
    segments_from_json,
    segments_to_json,
)
from cots_jax.data.shuffle import shuffled
from cots_jax.data.weights import Weight
from cots_jax.errors import UserError

NAMES = ("a#train", "b#train", "c#train")


def weights(*written):
    return tuple(Weight.parse(str(text)) for text in written)


def mixture(pairs, *segments, seed=3):
    """`segments`: (start, weight, weight, …)."""
    made = tuple(Segment(start, weights(*written)) for start, *written in segments)
    return Mixture(tuple(pairs), NAMES[: len(pairs)], made, seed)


def sources(order, pairs):
    return np.searchsorted(np.cumsum(order.pairs), pairs, side="right")


def seen(order, stop, start=0):
    """How often each pair comes from `start` to `stop`."""
    return np.bincount(order(np.arange(start, stop)), minlength=sum(order.pairs))


def of_each(order, counts):
    ends = np.cumsum(order.pairs)
    return [counts[end - size : end] for end, size in zip(ends, order.pairs)]


@pytest.mark.parametrize("block", [0, 1, 5])
def test_every_block_holds_exactly_its_rows(block):
    order = mixture((1000, 3000), (0, "75%", "25%"))
    found = order(np.arange(block * BLOCK, (block + 1) * BLOCK))
    assert np.bincount(sources(order, found)).tolist() == [3 * BLOCK // 4, BLOCK // 4]


@given(st.integers(0, 40_000), st.integers(0, 2**31 - 1))
def test_no_pair_of_a_source_is_ahead_of_another_by_two(stop, seed):
    """At any position, not only where blocks or epochs end."""
    order = mixture((700, 9000, 50), (0, 1, 2, 4), seed=seed)
    for part in of_each(order, seen(order, stop)):
        assert part.max() - part.min() <= 1


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 5000), min_size=2, max_size=3),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**40),
)
def test_the_order_is_a_function_of_seed_and_position(pairs, seed, start):
    shares = ["50%", "50%"] if len(pairs) == 2 else ["50%", "25%", "25%"]
    order = mixture(pairs, (0, *shares), seed=seed)
    positions = np.arange(start, start + 64)
    whole = order(positions)
    assert whole.min() >= 0
    assert whole.max() < sum(pairs)
    again = mixture(pairs, (0, *shares), seed=seed)
    backwards = [again(positions[i : i + 7]) for i in range(0, 64, 7)]
    np.testing.assert_array_equal(np.concatenate(backwards), whole)
    np.testing.assert_array_equal(order(positions[::-1].copy()), whole[::-1])


def test_the_seed_decides_order_and_mixture():
    one, other = (mixture((700, 900), (0, 1, 2), seed=seed) for seed in (0, 1))
    first, second = one(np.arange(1000)), other(np.arange(1000))
    assert (sources(one, first) != sources(other, second)).mean() > 0.2
    assert not np.array_equal(np.sort(first), np.sort(second))


def test_sources_alternate_within_a_block():
    order = mixture((100, 100), (0, 1, 1.5), seed=0)
    of = sources(order, order(np.arange(BLOCK)))
    assert max(map(len, "".join(map(str, of)).split("0"))) < 40  # no long run of one source


def test_alike_is_one_order_over_all_pairs():
    order = mixture((30, 70), (0, 2, 2), seed=9)
    positions = np.arange(250)
    np.testing.assert_array_equal(order(positions), shuffled(positions, 9, 100))
    assert (seen(order, 200) == 2).all()


def test_alike_among_those_that_come():
    """The middle one does not: an epoch is every pair of the others once."""
    order = mixture((30, 40, 50), (0, 1, 0, 1))
    first, second, third = of_each(order, seen(order, 3 * 80))
    assert (first == 3).all() and (second == 0).all() and (third == 3).all()


def test_a_source_that_would_hardly_come_is_refused():
    with pytest.raises(UserError, match=r"b#train would have 2.00e-05 of the rows"):
        mixture((99_999, 1), (0, 1, 2))


# ---------------------------------------------------------------- weights that change


CHANGES = [
    [(0, 1, 1), (700, 3, 1), (9000, 1, 1), (20_000, "50%", "50%")],
    [(0, 2, 1), (13, 1, 2), (14, 2, 1)],
    [(0, 1, 0), (500, 1, 1), (1000, 0, 1), (1500, 2, 1)],
    [(0, 1), (640, 1, 1), (1280, "10%", 1)],
    [(0, 3), (640, 3, 0), (8192, 1, 2)],
]


@pytest.mark.parametrize("changes", CHANGES)
def test_what_comes_later_changes_nothing_before(changes):
    whole = mixture((200, 500), *changes)
    for count in range(1, len(changes)):
        then = changes[count][0]
        before = mixture((200, 500), *changes[:count])
        positions = np.arange(max(0, then - 9000), then)
        np.testing.assert_array_equal(before(positions), whole(positions))


@pytest.mark.parametrize("changes", CHANGES)
def test_each_segment_has_its_own_shares(changes):
    """Up to chance: a segment ends within a block, or an epoch over both sources."""
    pairs = (200, 500)
    order = mixture(pairs, *changes)
    ends = [start for start, *_ in changes[1:]] + [changes[-1][0] + 30_000]
    for (start, *written), end in zip(changes, ends):
        alone = mixture(pairs, (0, *written))
        there = np.mean(sources(order, order(np.arange(start, end))) == 0)
        wanted = np.mean(sources(alone, alone(np.arange(10 * BLOCK))) == 0)
        assert abs(there - wanted) < 2 / np.sqrt(end - start), (start, end)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=5), st.integers(0, 99))
def test_a_source_is_read_on_over_all_changes(lengths, seed):
    """However often weights change, no pair of a source comes twice more than another."""
    starts = np.cumsum([0, *lengths])
    written = [("75%", "25%"), ("1", "9"), ("0", "100%")]
    changes = [(int(s), *written[n % 3]) for n, s in enumerate(starts)]
    order = mixture((333, 5000), *changes, seed=seed)
    for stop in (starts[-1], starts[-1] + 777):
        for part in of_each(order, seen(order, int(stop))):
            assert part.max() - part.min() <= 1


def test_the_order_over_all_is_read_on_too():
    """Alike for 130, otherwise for 1,000, alike again: 270 more complete four epochs of 100."""
    order = mixture((30, 70), (0, 1, 1), (130, 5, 1), (1130, 1, 1))
    joint = np.concatenate([order(np.arange(130)), order(np.arange(1130, 1400))])
    np.testing.assert_array_equal(joint, shuffled(np.arange(400), 3, 100))


def test_a_change_that_is_none_changes_nothing_where_all_weigh_alike():
    one, other = mixture((30, 70), (0, 1, 1)), mixture((30, 70), (0, 1, 1), (55, 4, 4))
    np.testing.assert_array_equal(one(np.arange(500)), other(np.arange(500)))


def test_blocks_of_segments_are_drawn_apart():
    order = mixture((10**6, 10**6), (0, 3, 1), (BLOCK, 3, 1.0001))
    first = sources(order, order(np.arange(BLOCK)))
    second = sources(order, order(np.arange(BLOCK, 2 * BLOCK)))
    assert 0.3 < (first != second).mean() < 0.45  # 2 x 0.75 x 0.25


@settings(max_examples=40)
@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(1, 500), st.integers(0, 4)), max_size=6),
)
def test_segments_of_a_run_that_goes_on(first, steps):
    """Against a list of the weights at each position."""
    segments, position, wanted = go_on((), 0, weights(first, 1)), 0, []
    last = first
    for length, then in steps:
        wanted += [last] * length
        position += length
        segments = go_on(segments, position, weights(then, 1))
        last = then
    wanted.append(last)
    assert segments[0].start == 0
    assert all(one.start < then.start for one, then in itertools.pairwise(segments))
    assert all(one.weights != then.weights for one, then in itertools.pairwise(segments))
    for place in range(len(wanted)):
        held = [segment for segment in segments if segment.start <= place][-1]
        assert held.weights == weights(wanted[place], 1)


def test_going_on_from_an_earlier_checkpoint_forgets_what_came_later():
    before = [Segment(start, weights(w, 1)) for start, w in ((0, 1), (100, 5), (200, 2))]
    assert go_on(before, 150, weights(5, 1)) == tuple(before[:2])
    assert go_on(before, 100, weights(7, 1)) == (before[0], Segment(100, weights(7, 1)))
    assert go_on(before, 60, weights(1, 1)) == (before[0],)
    assert go_on(before, 0, weights(3, 1)) == (Segment(0, weights(3, 1)),)


def test_segments_are_kept_as_json():
    kept = (Segment(0, weights("33.3%", 1)), Segment(2**40, weights(0.1, "0%", 3)))
    assert segments_from_json(json.loads(json.dumps(segments_to_json(kept)))) == kept
    for broken in (3, [[0]], [["x", []]], [[0, [1]]], [[0, ["x"]]]):
        with pytest.raises(UserError, match="list of weights cannot be read"):
            segments_from_json(broken)
