# SPDX-License-Identifier: Apache-2.0
"""ALBEF's soft targets (Li et al., NeurIPS 2021): momentum rows as a part of the target.

A baseline's part of the instance level. The target of a row is (1 - a) times its own key and a
times what the momentum feature of the same side finds; the second part's cross-entropy is written
as a KL, which has the same gradient and is 0 where nothing is left to learn (own choice).
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cots_jax.objectives.alignment import kl_y_x
from cots_jax.objectives.contrastive import Rows, reduce_rows
from cots_jax.objectives.queue import Columns
from cots_jax.objectives.temperature import Temperature, held
from cots_jax.switches import SameGroup


def soft_target_loss(
    rows: Rows,
    keys: Rows,
    pieces: Sequence[Columns],
    temperature: Temperature,
    same_group: SameGroup,
    column_chunk: int = 0,
) -> Float[Array, "b"]:
    """KL(momentum row || online row) of each pair in nats, both directions summed.

    Both rows of a direction have the same candidates. A learned temperature has a gradient through
    the online row alone.
    """
    losses = []
    for asks, answers in (("image", "text"), ("text", "image")):
        # Row x asks with the online feature and row y with the momentum one: each is divided by a
        # temperature of its own, and the candidates of both are the keys of the other modality.
        x = getattr(rows, asks) / temperature
        y = jax.lax.stop_gradient(getattr(keys, asks)) / held(temperature)
        pair = dataclasses.replace(rows, image=x, text=jnp.asarray(y))
        own = getattr(keys, answers)
        candidates = [
            dataclasses.replace(c, image=getattr(c, answers), text=getattr(c, answers))
            for c in pieces
        ]
        both = dataclasses.replace(keys, image=own, text=own)
        losses.append(kl_y_x(reduce_rows(pair, both, candidates, 1.0, same_group, column_chunk)))
    return losses[0] + losses[1]
