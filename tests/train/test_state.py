# SPDX-License-Identifier: Apache-2.0
"""The state of a run: one update, and the step that changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cots_jax.train.state import advance, fresh_state, unless_broken

PARAMS = {"w": jnp.array([1.0, 2.0])}


def fresh():
    return fresh_state(PARAMS, optax.trace(0.5), {"queue": jnp.arange(3)})


def test_it_starts_at_step_0():
    state = fresh()
    assert (int(state.step), int(state.skipped)) == (0, 0)
    assert state.step.dtype == state.skipped.dtype == jnp.int32
    assert state.params is PARAMS


def test_an_update_goes_against_the_gradient_and_leaves_the_method_alone():
    state = advance(fresh(), {"w": jnp.array([1.0, -2.0])}, jnp.array(0.5), optax.trace(0.5))
    np.testing.assert_allclose(state.params["w"], [0.5, 3.0])
    assert state.step == 1
    np.testing.assert_array_equal(state.method["queue"], [0, 1, 2])
    again = advance(state, {"w": jnp.zeros(2)}, jnp.array(0.5), optax.trace(0.5))
    np.testing.assert_allclose(again.params["w"], [0.25, 3.5])  # by momentum alone


def test_a_finite_step_is_taken_and_another_changes_only_the_counts():
    old = fresh()
    new = advance(old, {"w": jnp.array([jnp.nan, 1.0])}, jnp.array(1.0), optax.trace(0.5))
    new = new.replace(method={"queue": jnp.array([9, 9, 9])})
    taken = unless_broken(new, old, jnp.array(True))
    for one, other in zip(jax.tree.leaves(taken), jax.tree.leaves(new)):
        np.testing.assert_array_equal(one, other)
    skipped = unless_broken(new, old, jnp.array(False))
    assert (int(skipped.step), int(skipped.skipped)) == (1, 1)
    for field in ("params", "opt_state", "method"):
        for one, other in zip(*(jax.tree.leaves(getattr(x, field)) for x in (skipped, old))):
            np.testing.assert_array_equal(one, other)
