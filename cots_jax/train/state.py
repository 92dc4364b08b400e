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


def fresh_state(params: Params, optimizer: optax.GradientTransformation, method: Any) -> State:
    """Step 0."""
    zero = jnp.zeros((), jnp.int32)
    return State(zero, zero, params, optimizer.init(params), method)


def advance(
    state: State,
    grads: Params,
    learning_rate: jax.Array,
    optimizer: optax.GradientTransformation,
) -> State:
    """One optimizer update of the parameters; `method` is left to the caller."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda update: -learning_rate * update, updates)
    params = optax.apply_updates(state.params, updates)
    return dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state)


def unless_broken(new: State, old: State, finite: jax.Array) -> State:
    """`new`, or where the gradients were not finite `old` with `step` and `skipped` counted up.

    Everything else stays as it was: one NaN key would poison the queue for good.
    """
    kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    skipped = old.skipped + (~finite).astype(jnp.int32)
    return dataclasses.replace(kept, step=new.step, skipped=skipped)
