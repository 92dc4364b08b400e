# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy at masked positions, against a token-by-token oracle in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from cots_jax.objectives.masked import cross_entropy, masked_loss

b, m, v, n, d = 3, 4, 6, 5, 2


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def problem():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 30, (b, m, v))
    targets = rng.integers(0, v, (b, m))
    weight = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], float)
    return logits, targets, weight


def test_agrees_with_the_oracle_and_unused_slots_count_for_nothing():
    logits, targets, weight = problem()
    each = np.array(
        [[-oracles.log_softmax(logits[i, j])[targets[i, j]] for j in range(m)] for i in range(b)]
    )
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
    np.testing.assert_allclose(found, each, rtol=1e-12, atol=1e-13)
    loss = masked_loss(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(weight))
    used = [each[i, j] for i in range(b) for j in range(m) if weight[i, j]]
    assert loss.total.dtype == jnp.float64
    np.testing.assert_allclose(loss.total, sum(used), rtol=1e-12)
    assert loss.denominator == len(used) == 6
    np.testing.assert_allclose(loss.mean, np.mean(used), rtol=1e-12)


def test_an_unused_slot_may_hold_anything():
    logits, targets, weight = problem()
    before = masked_loss(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(weight))
    logits[1, 2:], logits[2] = np.inf, np.nan
    after = masked_loss(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(weight))
    assert after.total == before.total
    assert after.denominator == before.denominator


def test_no_slot_at_all_gives_zero():
    logits, targets, weight = problem()
    loss = masked_loss(jnp.asarray(logits), jnp.asarray(targets), jnp.zeros_like(weight))
    assert loss.mean == 0
