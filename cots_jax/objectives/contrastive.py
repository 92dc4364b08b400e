# SPDX-License-Identifier: Apache-2.0
"""Rows against candidate columns: queue InfoNCE in both directions (METHOD, instance level, A).

The row of an image is `softmax([f_i.g_i, f_i.q_1, …] / tau)` with the momentum feature g_i of its
text as the positive and the text queue as negatives; a text's row mirrors it. Neither objective
needs a row itself: InfoNCE needs its log-normaliser, the KL alignment the mean gap between the
logits of two rows. Both are sums over columns, so they come in pieces (queue, batch, shard, chunk)
that `logaddexp` puts together; the logits of a long queue never exist whole.
"""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cots_jax.objectives.queue import GROUP_NONE, Columns
from cots_jax.objectives.temperature import Temperature
from cots_jax.switches import SameGroup

EXACT = jax.lax.Precision.HIGHEST
# Stands for a masked column's logit: finite, so that no gradient turns into NaN, and so low that
# its share is 0 in float32.
MASKED = -1e30


@flax.struct.dataclass
class Rows:
    """The b pairs that ask: unit features of both modalities, their groups and places."""

    image: Float[Array, "b e"]
    text: Float[Array, "b e"]
    group_id: Int[Array, "b"]
    row: Int[Array, "b"]  # place in the global batch


@flax.struct.dataclass
class Reduced:
    """What is kept of two logit rows x (image-to-text) and y (text-to-image) over columns."""

    normaliser_x: Float[Array, "b"]  # logsumexp x
    normaliser_y: Float[Array, "b"]
    gap_x: Float[Array, "b"]  # mean of x - y under softmax x
    gap_y: Float[Array, "b"]  # mean of y - x under softmax y
    same_x: Float[Array, "b"]  # sum of x over columns of the same group
    same_y: Float[Array, "b"]
    same: Float[Array, "b"]  # number of such columns


def usable(rows: Rows, columns: Columns, same_group: SameGroup) -> Bool[Array, "b c"]:
    """Which columns count for which row: written, kept, not its own key, group rule applied."""
    keep = columns.valid[None] & (rows.row[:, None] != columns.row[None])
    if same_group is SameGroup.MASK:
        keep = keep & ~of_same_group(rows, columns)
    return keep


def of_same_group(rows: Rows, columns: Columns) -> Bool[Array, "b c"]:
    """Equal group ids; -1 is no group."""
    known = rows.group_id != GROUP_NONE
    return (rows.group_id[:, None] == columns.group_id[None]) & known[:, None]


def positive_logits(rows: Rows, keys: Rows, temperature: Temperature) -> Reduced:
    """The positives as a piece of one column: image against its text's key, and the reverse."""
    x = jnp.sum(rows.image * keys.text, axis=-1) / temperature
    y = jnp.sum(rows.text * keys.image, axis=-1) / temperature
    zero = jnp.zeros_like(x)
    return Reduced(x, y, x - y, y - x, zero, zero, zero)


def reduce_columns(
    rows: Rows, columns: Columns, temperature: Temperature, same_group: SameGroup
) -> Reduced:
    """One piece: all logits of these columns at once, float32 and exact."""
    x = _logits(rows.image, columns.text, temperature)
    y = _logits(rows.text, columns.image, temperature)
    keep = usable(rows, columns, same_group)
    x, y = jnp.where(keep, x, MASKED), jnp.where(keep, y, MASKED)
    normaliser_x = jax.nn.logsumexp(x, axis=-1)
    normaliser_y = jax.nn.logsumexp(y, axis=-1)
    share_x = jnp.exp(x - normaliser_x[:, None])
    share_y = jnp.exp(y - normaliser_y[:, None])
    gap = jnp.where(keep, x - y, 0)
    same = keep & of_same_group(rows, columns)
    return Reduced(
        normaliser_x,
        normaliser_y,
        jnp.sum(share_x * gap, axis=-1),
        jnp.sum(share_y * -gap, axis=-1),
        jnp.sum(jnp.where(same, x, 0), axis=-1),
        jnp.sum(jnp.where(same, y, 0), axis=-1),
        jnp.sum(same, axis=-1).astype(x.dtype),
    )


def join(a: Reduced, b: Reduced) -> Reduced:
    """Two pieces as one."""
    normaliser_x = jnp.logaddexp(a.normaliser_x, b.normaliser_x)
    normaliser_y = jnp.logaddexp(a.normaliser_y, b.normaliser_y)

    def mix(whole: Array, na: Array, nb: Array, ga: Array, gb: Array) -> Array:
        return jnp.exp(na - whole) * ga + jnp.exp(nb - whole) * gb

    return Reduced(
        normaliser_x,
        normaliser_y,
        mix(normaliser_x, a.normaliser_x, b.normaliser_x, a.gap_x, b.gap_x),
        mix(normaliser_y, a.normaliser_y, b.normaliser_y, a.gap_y, b.gap_y),
        a.same_x + b.same_x,
        a.same_y + b.same_y,
        a.same + b.same,
    )


def reduce_rows(
    rows: Rows,
    keys: Rows,
    pieces: Sequence[Columns],
    temperature: Temperature,
    same_group: SameGroup,
    column_chunk: int = 0,
) -> Reduced:
    """Positive and all pieces; a piece longer than `column_chunk` (> 0) is scanned in chunks."""
    reduced = positive_logits(rows, keys, temperature)
    for columns in pieces:
        if not columns.count:
            continue
        if not column_chunk or columns.count <= column_chunk or columns.count % column_chunk:
            piece = reduce_columns(rows, columns, temperature, same_group)
            reduced = join(reduced, piece)
        else:
            reduced = _scan(reduced, rows, columns, temperature, same_group, column_chunk)
    return reduced


def _scan(
    reduced: Reduced,
    rows: Rows,
    columns: Columns,
    temperature: Temperature,
    same_group: SameGroup,
    chunk: int,
) -> Reduced:
    # Chunk c holds columns c, c + chunks, …: each shard of the columns gives to every chunk alike.
    chunked = jax.tree.map(
        lambda leaf: jnp.swapaxes(leaf.reshape(chunk, -1, *leaf.shape[1:]), 0, 1), columns
    )

    @jax.checkpoint
    def step(so_far: Reduced, part: Columns) -> tuple[Reduced, None]:
        return join(so_far, reduce_columns(rows, part, temperature, same_group)), None

    return jax.lax.scan(step, reduced, chunked)[0]


def info_nce(
    rows: Rows, keys: Rows, reduced: Reduced, temperature: Temperature, same_group: SameGroup
) -> Float[Array, "b"]:
    """Loss of each pair, both directions summed, in nats.

    `positive`: the mean of -log p over the own key and the valid columns of the same group.
    """
    own = positive_logits(rows, keys, temperature)
    if same_group is SameGroup.POSITIVE:
        count = 1 + reduced.same
        return (
            reduced.normaliser_x
            - (own.normaliser_x + reduced.same_x) / count
            + reduced.normaliser_y
            - (own.normaliser_y + reduced.same_y) / count
        )
    return reduced.normaliser_x - own.normaliser_x + reduced.normaliser_y - own.normaliser_y


def _logits(
    features: Float[Array, "b e"], keys: Float[Array, "c e"], temperature: Temperature
) -> Float[Array, "b c"]:
    return jnp.einsum("be,ce->bc", features, keys, precision=EXACT) / temperature
