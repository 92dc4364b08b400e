# SPDX-License-Identifier: Apache-2.0
"""Sums and their denominators."""

import jax.numpy as jnp
import numpy as np

from cots_jax.objectives.sums import Sum, weighted_sum


def test_pieces_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    values, weight = rng.normal(size=(2, 12))
    weight = np.abs(weight)
    values, weight = jnp.asarray(values), jnp.asarray(weight)
    whole = weighted_sum(values, weight)
    parts = [weighted_sum(values[i : i + 3], weight[i : i + 3]) for i in range(0, 12, 3)]
    np.testing.assert_allclose(whole.total, sum(p.total for p in parts), rtol=1e-5)
    np.testing.assert_allclose(whole.denominator, sum(p.denominator for p in parts), rtol=1e-5)
    np.testing.assert_allclose(whole.mean, np.average(values, weights=weight), rtol=1e-5)


def test_weight_zero_hides_what_is_not_finite():
    found = weighted_sum(jnp.array([1.0, jnp.nan, jnp.inf]), jnp.array([2.0, 0.0, 0.0]))
    assert found.total == 2.0
    assert found.denominator == 2.0


def test_the_mean_of_nothing_is_zero():
    assert Sum(jnp.array(0.0), jnp.array(0.0)).mean == 0
