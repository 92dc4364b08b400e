# SPDX-License-Identifier: Apache-2.0
"""The sigmoid loss of SigLIP (Zhai et al., ICCV 2023): each pair of the batch is judged alone.

A baseline in the place of the instance level: no softmax, so no normaliser over the candidates.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cots_jax.models.two_stream import Params
from cots_jax.objectives.contrastive import EXACT, Rows, of_same_group
from cots_jax.objectives.queue import Columns
from cots_jax.objectives.temperature import Temperature
from cots_jax.schema import MethodConfig
from cots_jax.switches import Contrast, SameGroup

NAME = "sigmoid_bias"  # beside the heads, as a learned temperature is


def fresh_bias(method: MethodConfig) -> Params:
    """What the loss adds to the parameters of the heads: the bias of all logits, learned."""
    if method.contrast is not Contrast.SIGMOID:
        return {}
    return {NAME: jnp.asarray(method.sigmoid_bias, jnp.float32)}


def sigmoid_loss(
    rows: Rows,
    columns: Columns,
    temperature: Temperature,
    bias: Float[Array, ""],
    same_group: SameGroup,
) -> Float[Array, "b"]:
    """Sum over the columns of -log sigmoid(z (image . text / temperature + bias)), in nats a row.

    z is 1 for the row's own column and -1 for the others; a column of the same group is left out,
    or is what `same_group` says. Own choice: SigLIP itself knows no groups.
    """
    logits = jnp.einsum("be,ce->bc", rows.image, columns.text, precision=EXACT) / temperature + bias
    own = rows.row[:, None] == columns.row[None]
    same = of_same_group(rows, columns) & ~own
    counted = columns.valid[None] & (~same if same_group is SameGroup.MASK else True)
    right = own | (same if same_group is SameGroup.POSITIVE else False)
    losses = jax.nn.softplus(jnp.where(right, -logits, logits))
    return jnp.sum(jnp.where(counted, losses, 0), axis=-1)
