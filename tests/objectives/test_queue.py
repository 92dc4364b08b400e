# SPDX-License-Identifier: Apache-2.0
"""The ring of the last k pairs, against a list to which pairs are appended one by one."""

import functools

import jax.numpy as jnp
import numpy as np
import quick
from hypothesis import given, settings
from hypothesis import strategies as st

from cots_jax.objectives.queue import GROUP_NONE, empty_queue, enqueue, queue_columns

E = 3
# (b, k, shards): b below, at, above and far above k, dividing it or not, with padded storage
SHAPES = [(1, 1, 3), (2, 5, 4), (3, 6, 1), (5, 5, 2), (6, 4, 3), (7, 2, 1), (7, 3, 2)]


@functools.cache
def compiled(length):
    return quick.jit(functools.partial(enqueue, length=length))


def rows(rng, b):
    image, text = rng.normal(size=(2, b, E)).astype(np.float32)
    group = rng.integers(-1, 5, b).astype(np.int32)
    return image, text, group, rng.random(b) < 0.6


def ring(queue, batches, length):
    """Column by column: pair number p of the run lies in column p mod k."""
    stored = [list(np.array(x)) for x in (queue.image, queue.text, queue.group_id, queue.valid)]
    number = 0
    for batch in batches:
        for row in range(len(batch[0])):
            for column, values in zip(stored, batch):
                column[number % length] = values[row]
            number += 1
    return [np.array(x) for x in stored], number % length


@settings(max_examples=20, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    steps=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_any_batch_against_any_length(shape, steps, seed):
    b, length, shards = shape
    rng = np.random.default_rng(seed)
    batches = [rows(rng, b) for _ in range(steps)]
    queue = empty_queue(length, E, shards)
    wanted, cursor = ring(queue, batches, length)
    for batch in batches:
        queue = compiled(length)(queue, *batch)
    for found, column in zip((queue.image, queue.text, queue.group_id, queue.valid), wanted):
        np.testing.assert_array_equal(found, column)
    assert int(queue.cursor) == cursor == (b * steps) % length
    assert not np.any(queue.valid[length:])


def test_storage_divides_over_the_shards_and_starts_without_valid_columns():
    queue = empty_queue(12_800, E, 7)
    assert queue.image.shape == queue.text.shape == (12_803, E)
    assert queue.image.dtype == jnp.float32
    assert not queue.valid.any()
    assert (queue.group_id == GROUP_NONE).all()
    assert queue.cursor == 0


def test_the_cursor_does_not_depend_on_what_is_valid():
    rng = np.random.default_rng(0)
    image, text, group, _ = rows(rng, 4)
    cursors = set()
    for valid in (np.ones(4, bool), np.zeros(4, bool), np.array([True, False, True, False])):
        queue = compiled(5)(empty_queue(5, E), image, text, group, valid)
        np.testing.assert_array_equal(queue.valid[:4], valid)
        cursors.add(int(queue.cursor))
    assert cursors == {4}


def test_a_queue_of_no_columns_stays_as_it_is():
    rng = np.random.default_rng(0)
    queue = enqueue(empty_queue(0, E), *(jnp.asarray(x) for x in rows(rng, 3)), length=0)
    assert queue.image.shape == (0, E)
    assert queue.cursor == 0


def test_its_columns_are_no_row_of_the_batch():
    rng = np.random.default_rng(1)
    queue = compiled(4)(empty_queue(4, E), *rows(rng, 3))
    columns = queue_columns(queue)
    assert columns.count == 4
    assert (columns.row == -1).all()
    np.testing.assert_array_equal(columns.image, queue.image)
    np.testing.assert_array_equal(columns.text, queue.text)
    np.testing.assert_array_equal(columns.group_id, queue.group_id)
    np.testing.assert_array_equal(columns.valid, queue.valid)
