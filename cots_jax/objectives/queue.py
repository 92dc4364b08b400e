# SPDX-License-Identifier: Apache-2.0
"""The two momentum queues as one ring: column j of both is the same pair (R)."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

GROUP_NONE = -1


@flax.struct.dataclass
class Queue:
    """Keys of the last k pairs. `storage` >= k columns: the rest only make k divide over shards."""

    image: Float[Array, "k e"]
    text: Float[Array, "k e"]
    group_id: Int[Array, "k"]
    valid: Bool[Array, "k"]
    cursor: Int[Array, ""]  # next column to write


@flax.struct.dataclass
class Columns:
    """Candidates that rows are compared with: a queue, or the keys of the batch."""

    image: Float[Array, "c e"]
    text: Float[Array, "c e"]
    group_id: Int[Array, "c"]
    valid: Bool[Array, "c"]
    row: Int[Array, "c"]  # the row of the batch that the column is the key of; -1 none

    @property
    def count(self) -> int:
        """Number of columns, valid or not."""
        return self.image.shape[0]


def empty_queue(length: int, width: int, shards: int = 1) -> Queue:
    """A queue of `length` columns, none valid, padded so that it divides over `shards`."""
    storage = -(-length // shards) * shards
    keys = jnp.zeros((storage, width), jnp.float32)
    return Queue(
        image=keys,
        text=keys,
        group_id=jnp.full((storage,), GROUP_NONE, jnp.int32),
        valid=jnp.zeros((storage,), bool),
        cursor=jnp.zeros((), jnp.int32),
    )


def queue_columns(queue: Queue) -> Columns:
    """The queue as candidates."""
    nobody = jnp.full(queue.group_id.shape, -1, jnp.int32)
    return Columns(queue.image, queue.text, queue.group_id, queue.valid, nobody)


def enqueue(
    queue: Queue,
    image: Float[Array, "b e"],
    text: Float[Array, "b e"],
    group_id: Int[Array, "b"],
    valid: Bool[Array, "b"],
    *,
    length: int,
) -> Queue:
    """Writes all b rows at the cursor, dropped ones as not valid; b > k leaves the last k rows.

    Each column works out which row it takes, if any: a gather from the small batch instead of a
    scatter into the sharded queue, so that no collective grows with k. Rows and columns are static,
    the cursor depends on the step alone (own choice).
    """
    storage, b = queue.valid.shape[0], image.shape[0]
    if length == 0:
        return queue
    column = jnp.arange(storage, dtype=jnp.int32)
    first = (column - queue.cursor) % length
    written = (first < b) & (column < length)
    row = jnp.where(written, first + (b - 1 - first) // length * length, 0)
    return Queue(
        image=jnp.where(written[:, None], image[row], queue.image),
        text=jnp.where(written[:, None], text[row], queue.text),
        group_id=jnp.where(written, group_id[row], queue.group_id),
        valid=jnp.where(written, valid[row], queue.valid),
        cursor=(queue.cursor + b) % length,
    )
