# SPDX-License-Identifier: Apache-2.0
"""Which frames of a video are looked at: exact, ordered, each out of its own segment."""

from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cots_jax.data.frames import (
    FULL,
    DecodedFrames,
    chosen_frames,
    drawn_offsets,
    empty_frames,
    middle_frames,
    middle_offsets,
)

counts = st.integers(1, 2**19)
segments = st.integers(1, 64)


@given(counts, segments)
def test_a_middle_frame_is_the_one_at_the_middle_of_its_segment(count, t):
    wanted = [int(Fraction(count * (2 * i + 1), 2 * t)) for i in range(t)]
    assert middle_frames(count, t).tolist() == wanted


@given(counts, segments)
def test_middles_are_there_ascend_and_differ_where_there_are_enough(count, t):
    found = middle_frames(count, t)
    assert found.min() >= 0 and found.max() < count
    assert (np.diff(found) >= 0).all()
    if t <= count:
        assert len(set(found.tolist())) == t


@given(counts, segments)
def test_the_middles_of_a_video_and_of_its_reverse_agree_but_for_rounding(count, t):
    found = middle_frames(count, t)
    assert np.abs(found + found[::-1] - (count - 1)).max() <= 1


@given(counts, segments, st.integers(0, 2**31 - 1), st.integers(0, 2**40))
def test_a_drawn_frame_lies_in_its_segment(count, t, seed, position):
    offsets = drawn_offsets(seed, [position], t)
    assert offsets.min() >= 0 and offsets.max() < FULL
    found = chosen_frames(np.array([count]), offsets)[0]
    for i, frame in enumerate(found.tolist()):
        assert Fraction(i * count, t) - 1 < frame < Fraction((i + 1) * count, t)


def test_a_few_by_hand():
    assert middle_frames(40, 5).tolist() == [4, 12, 20, 28, 36]
    assert middle_frames(3, 3).tolist() == [0, 1, 2]
    assert middle_frames(5, 1).tolist() == [2]
    assert middle_frames(2, 5).tolist() == [0, 0, 1, 1, 1]
    assert middle_frames(1, 4).tolist() == [0, 0, 0, 0]


def test_draws_depend_on_seed_and_position_alone():
    together = drawn_offsets(3, range(100, 110), 8)
    for row, position in enumerate(range(100, 110)):
        np.testing.assert_array_equal(drawn_offsets(3, [position], 8)[0], together[row])
    assert len({tuple(row) for row in together.tolist()}) == 10
    assert (drawn_offsets(4, range(100, 110), 8) != together).any()


def test_draws_reach_every_frame_of_a_segment_alike():
    found = chosen_frames(np.full(4000, 12), drawn_offsets(0, range(4000), 3))
    for i in range(3):
        times = np.bincount(found[:, i], minlength=12)[4 * i : 4 * i + 4]
        assert times.sum() == 4000
        assert (np.abs(times - 1000) < 150).all()


def test_records_of_any_length_lie_in_one_array():
    films = [np.arange(n * 12, dtype=np.uint8).reshape(n, 2, 2, 3) + n for n in (3, 1, 5)]
    kept = DecodedFrames.with_room(np.array([5, 1, 5]), 2)
    for row in (2, 0, 1):
        kept.keep(row, list(films[row]))
    found = kept.chosen(np.array([1, 2, 0, 2]), middle_offsets(4, 3))
    for row, film in zip((1, 2, 0, 2), found):
        np.testing.assert_array_equal(film, films[row][middle_frames(len(films[row]), 3)])


@pytest.mark.parametrize("films, frames, size", [(1, 1, 1), (3, 2, 5), (64, 1, 32)])
def test_a_cpu_takes_the_pictures_of_a_batch_as_they_lie(films, frames, size):
    kept = DecodedFrames.with_room(np.full(films, frames), size)
    made = (
        empty_frames((films, frames), size),
        kept.chosen(np.arange(films), middle_offsets(films, frames)),
    )
    for pictures in made:
        assert pictures.shape == (films, frames, size, size, 3)
        placed = jax.device_put(pictures, jax.devices("cpu")[0])
        assert placed.unsafe_buffer_pointer() == pictures.ctypes.data
