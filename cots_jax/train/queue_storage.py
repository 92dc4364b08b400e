# SPDX-License-Identifier: Apache-2.0
"""A queue from a checkpoint of other devices, where other padding made it divide over them."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from cots_jax import checkpoint
from cots_jax.objectives.queue import GROUP_NONE, Queue
from cots_jax.train.mesh import whole


def queue_as_saved(path: Path, queue: Queue, length: int, mesh: Mesh) -> Queue:
    """What to ask the checkpoint for to fill `queue`: itself, or the shapes that were saved, whole
    on every device.

    length: columns that hold pairs, k; what the checkpoint has fewer of is an error of `restore`.
    """
    saved = checkpoint.shapes(path, "method").get("queue/valid", queue.valid.shape)
    if saved == queue.valid.shape or saved[0] < length:
        return queue

    def shaped(leaf: Array) -> jax.ShapeDtypeStruct:
        shape = saved + leaf.shape[1:] if leaf.ndim else leaf.shape
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=whole(mesh))

    return jax.tree.map(shaped, queue)


def queue_placed_like(queue: Queue, like: Queue, length: int) -> Queue:
    """The same k pairs in the storage of `like`, and on its devices."""
    storage = like.valid.shape[0]
    if queue.valid.shape[0] == storage:
        return queue
    placed = jax.tree.map(lambda leaf: leaf.sharding, like)
    move = functools.partial(_in_storage, length=length, storage=storage)
    return jax.jit(move, out_shardings=placed)(queue)


def _in_storage(queue: Queue, length: int, storage: int) -> Queue:
    def moved(leaf: Array, nobody: int) -> Array:
        padding = jnp.full((storage - length, *leaf.shape[1:]), nobody, leaf.dtype)
        return jnp.concatenate([leaf[:length], padding])

    return Queue(
        image=moved(queue.image, 0),
        text=moved(queue.text, 0),
        group_id=moved(queue.group_id, GROUP_NONE),
        valid=moved(queue.valid, False),
        cursor=queue.cursor,
    )
