# SPDX-License-Identifier: Apache-2.0
"""Similarity scores in tiles of one padded shape.

Every score of an evaluation, whatever the set's size, comes out of one compiled program on one
shape. That makes two readings of the same pair equal bit for bit, keeps the memory at one tile,
and takes away any influence of chunking on an answer. The tile is wide enough that the CPU's and
GPU's matrix kernels sum over e in the same order for each of its elements; in much smaller ones
(64 x 32) they do not, and equal embeddings would no longer tie.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int32, Num


@dataclass(frozen=True)
class TileShape:
    """Queries and candidates scored at once; results do not depend on it (own choice)."""

    rows: int = 256
    columns: int = 1024


TILE = TileShape()


@dataclass(frozen=True)
class Tile:
    """`size` rows of a padded embedding matrix, with their dense group ids, on the device."""

    start: int
    used: int  # rows before the padding
    least_group: int
    most_group: int
    embeddings: Float32[Array, "size e"]
    groups: Int32[Array, "size"]


@jax.jit
def score_tile(
    rows: Float32[Array, "r e"], columns: Float32[Array, "c e"]
) -> Float32[Array, "r c"]:
    """Dot products in true float32; the default precision is bf16 on TPU and TF32 on GPU."""
    return lax.dot_general(
        rows,
        columns,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def split(
    embeddings: Num[np.ndarray, "n e"],
    groups: Num[np.ndarray, "n"],
    size: int,
    padding_group: int,
) -> list[Tile]:
    """Cuts a matrix into tiles of `size` rows; padded rows are 0 and belong to `padding_group`."""
    return [
        _tile(
            embeddings[start : start + size],
            groups[start : start + size],
            start,
            size,
            padding_group,
        )
        for start in range(0, len(embeddings), size)
    ]


def _tile(
    rows: Float[np.ndarray, "used e"],
    groups: Num[np.ndarray, "used"],
    start: int,
    size: int,
    padding_group: int,
) -> Tile:
    padding = size - len(rows)
    return Tile(
        start=start,
        used=len(rows),
        least_group=int(groups.min()),
        most_group=int(groups.max()),
        embeddings=jnp.asarray(np.pad(rows.astype(np.float32), ((0, padding), (0, 0)))),
        groups=jnp.asarray(
            np.pad(groups.astype(np.int32), (0, padding), constant_values=padding_group)
        ),
    )
