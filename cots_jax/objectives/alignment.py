# SPDX-License-Identifier: Apache-2.0
"""KL alignment of the two retrieval tasks (METHOD, task level, A; its form is an own choice).

For one pair, the image-to-text row and the text-to-image row are distributions over the same
candidates. With logits x and y, `KL(softmax x || softmax y) = E_x[x - y] - (lse x - lse y)`: only
what `contrastive.Reduced` keeps. Candidates are masked alike in both rows, because a column is a
pair; with none but the positive, both rows are certain and the KL is exactly 0.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cots_jax.objectives.contrastive import Reduced, Rows, reduce_rows
from cots_jax.objectives.queue import Columns
from cots_jax.objectives.temperature import Temperature, held
from cots_jax.schema import AlignmentConfig
from cots_jax.switches import Direction, SameGroup, Teacher

_Features = TypeVar("_Features", Rows, Columns)


def alignment_loss(
    rows: Rows,
    keys: Rows,
    pieces: Sequence[Columns],
    config: AlignmentConfig,
    temperature: Temperature,
    same_group: SameGroup,
    column_chunk: int = 0,
) -> Float[Array, "b"]:
    """KL of each pair in nats, KL(teacher || student), mean of the directions asked for.

    The teacher of the image-to-text row is the text-to-image row of the online features (`online`,
    or held fixed: `stopped`) or of the momentum features (`momentum`), and the other way round.
    """
    temperature = config.temperature or held(temperature)
    losses = []
    if config.direction is not Direction.TEXT_TO_IMAGE:
        taught = _teach(rows, keys, pieces, config.teacher, student="image")
        losses.append(kl_y_x(reduce_rows(*taught, temperature, same_group, column_chunk)))
    if config.direction is not Direction.IMAGE_TO_TEXT:
        taught = _teach(rows, keys, pieces, config.teacher, student="text")
        losses.append(kl_x_y(reduce_rows(*taught, temperature, same_group, column_chunk)))
    return sum(losses[1:], losses[0]) / len(losses)


def kl_x_y(reduced: Reduced) -> Float[Array, "b"]:
    """KL(image-to-text row || text-to-image row), never below 0 but for rounding."""
    return reduced.gap_x - (reduced.normaliser_x - reduced.normaliser_y)


def kl_y_x(reduced: Reduced) -> Float[Array, "b"]:
    """KL(text-to-image row || image-to-text row)."""
    return reduced.gap_y - (reduced.normaliser_y - reduced.normaliser_x)


def _teach(
    rows: Rows, keys: Rows, pieces: Sequence[Columns], teacher: Teacher, student: str
) -> tuple[Rows, Rows, list[Columns]]:
    """Rows, keys and candidates with the teacher's row as it is asked for.

    That row is the other side's features against the student's side of the candidates. Held fixed,
    both are: where the candidates are the pairs themselves, they carry gradients too.
    """
    asking = "text" if student == "image" else "image"
    if teacher is Teacher.ONLINE:
        return rows, keys, list(pieces)
    feature = getattr(rows if teacher is Teacher.STOPPED else keys, asking)
    fixed = [_with_fixed(columns, student) for columns in pieces]
    return (
        dataclasses.replace(rows, **{asking: jax.lax.stop_gradient(jnp.asarray(feature))}),
        _with_fixed(keys, student),
        fixed,
    )


def _with_fixed(features: _Features, side: str) -> _Features:
    return dataclasses.replace(features, **{side: jax.lax.stop_gradient(getattr(features, side))})
