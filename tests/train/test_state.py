# SPDX-License-Identifier: Apache-2.0
"""The state of a run: one update, and the step that changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cots_jax.schema import OptimizerConfig
from cots_jax.train.optimizer import make_optimizer
from cots_jax.train.state import advance, fresh_state, unless_broken

PARAMS = {"w": jnp.array([1.0, 2.0])}
OPTIMIZER = make_optimizer(OptimizerConfig(weight_decay=0.1))
YES, NO = jnp.array(True), jnp.array(False)


def fresh():
    return fresh_state(PARAMS, OPTIMIZER, {"queue": jnp.arange(3)})


def a_step(state, gradient, finite=YES):
    return advance(state, {"w": jnp.array(gradient)}, jnp.array(0.5), OPTIMIZER, finite)


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_starts_at_step_0():
    state = fresh()
    assert (int(state.step), int(state.skipped)) == (0, 0)
    assert state.step.dtype == state.skipped.dtype == jnp.int32
    assert state.params is PARAMS


def test_an_update_goes_against_the_gradient_and_leaves_the_method_alone():
    state = a_step(fresh(), [0.1, -0.2])
    np.testing.assert_allclose(state.params["w"], [0.5, 2.5], rtol=1e-5)  # vectors are not decayed
    assert (int(state.step), int(state.skipped)) == (1, 0)
    np.testing.assert_array_equal(state.method["queue"], [0, 1, 2])
    again = a_step(state, [0.0, 0.0])
    assert again.params["w"][0] < 0.5  # by momentum alone


@pytest.mark.parametrize("broken", [[np.nan, 1.0], [np.inf, 1.0], [3e38, 3e38]])
@pytest.mark.parametrize("before", [0, 2])
def test_a_step_that_is_not_finite_changes_only_the_counts(before, broken):
    """The first one as well, whose moments are 0."""
    old = fresh()
    for _ in range(before):
        old = a_step(old, [0.1, -0.2])
    new = a_step(old, broken, NO)
    assert (int(new.step), int(new.skipped)) == (before + 1, 1)
    for field in ("params", "opt_state", "method"):
        assert_same(getattr(new, field), getattr(old, field))
    assert_same(a_step(new, [0.3, 0.1]).params, a_step(old, [0.3, 0.1]).params)


def test_what_is_new_is_taken_where_the_step_was_finite():
    new, old = {"queue": jnp.array([9.0, jnp.nan])}, {"queue": jnp.array([1.0, 2.0])}
    assert_same(unless_broken(new, old, YES), new)
    assert_same(unless_broken(new, old, NO), old)
