# SPDX-License-Identifier: Apache-2.0
"""An objective that is off now and then: its value, its gradients, and what they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from cots_jax.objectives.paused import loss_while


def loss(params, x):
    """Has activations [100, 3], which are larger than all that is differentiated."""
    spread = jnp.tanh(jnp.linspace(0, 1, 100)[:, None] * params["scale"][None] + x[None])
    return jnp.sum(spread**2)


def inputs():
    return {"scale": jnp.array([0.1, 0.2, 0.3])}, jnp.array([1.0, -1.0, 0.5])


def paused(on):
    return lambda params, x: 3 * loss_while(jnp.asarray(on), loss, params, x)


class TestLossWhile:
    def test_on_it_is_the_loss_with_its_gradients(self):
        value, gradients = jax.value_and_grad(paused(True), argnums=(0, 1))(*inputs())
        wanted, others = jax.value_and_grad(lambda *x: 3 * loss(*x), argnums=(0, 1))(*inputs())
        np.testing.assert_allclose(value, wanted, rtol=1e-6)
        for one, other in zip(*map(jax.tree.leaves, (gradients, others))):
            np.testing.assert_allclose(one, other, rtol=1e-5)

    def test_off_value_and_gradients_are_zero(self):
        value, gradients = jax.value_and_grad(paused(False), argnums=(0, 1))(*inputs())
        assert value == 0
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients))

    @pytest.mark.parametrize("on", [True, False])
    def test_it_is_the_same_under_jit_and_without_gradients(self, on):
        value = jax.jit(paused(on))(*inputs())
        np.testing.assert_allclose(value, 3 * loss(*inputs()) if on else 0, rtol=1e-6)

    def test_no_activation_leaves_the_branch(self):
        jaxpr = jax.make_jaxpr(jax.grad(paused(True), argnums=(0, 1)))(*inputs())
        (branches,) = [e for e in oracles.equations(jaxpr) if e.primitive.name == "cond"]
        assert sorted(out.aval.size for out in branches.outvars) == [1, 3, 3]
