# SPDX-License-Identifier: Apache-2.0
"""The whole of a run in one pytree; nothing is hidden elsewhere."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from cots_jax.models.two_stream import Params


@flax.struct.dataclass
class State:
    """`method` is the task's own pytree; the dVAE has an empty one."""

    step: Int[Array, ""]
    skipped: Int[Array, ""]  # steps whose gradients were not finite
    params: Params
    opt_state: Any
    method: Any


def fresh_state(
    params: Params, optimizer: optax.GradientTransformationExtraArgs, method: Any
) -> State:
    """Step 0."""
    zero = jnp.zeros((), jnp.int32)
    return State(zero, zero, params, optimizer.init(params), method)


def advance(
    state: State,
    grads: Params,
    learning_rate: jax.Array,
    optimizer: optax.GradientTransformationExtraArgs,
    finite: jax.Array,
) -> State:
    """One optimizer update of the parameters; `method` is left to the caller.

    Where the step is not finite, `step` and `skipped` are counted up and all else stays as it was.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, finite=finite)
    moved = jax.tree.map(lambda p, update: p - learning_rate * update, state.params, updates)
    return dataclasses.replace(
        state,
        step=state.step + 1,
        skipped=state.skipped + jnp.logical_not(finite).astype(jnp.int32),
        params=unless_broken(moved, state.params, finite),
        opt_state=opt_state,
    )


def unless_broken(new: Any, old: Any, finite: jax.Array) -> Any:
    """`new`, or where the step was not finite `old`: one NaN key would poison a queue for good."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
