# SPDX-License-Identifier: Apache-2.0
"""SigLIP's loss against its published formula, pair by pair, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from retrieval_problem import Problem, b

from cots_jax.objectives.queue import Columns
from cots_jax.objectives.sigmoid import fresh_bias, sigmoid_loss
from cots_jax.schema import MethodConfig
from cots_jax.switches import Contrast, SameGroup

TAU, BIAS = 0.2, -1.5


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def loss_of(problem, rule, kept=None):
    rows, _ = problem.rows()
    kept = problem.kept if kept is None else kept
    columns = Columns(rows.image, rows.text, rows.group_id, jnp.asarray(kept), rows.row)
    return quick.jit(sigmoid_loss, static_argnames="same_group")(
        rows, columns, TAU, jnp.float64(BIAS), same_group=rule
    )


def oracle(problem, rule, kept):
    pairs = problem.pairs
    found = np.zeros(b)
    for i in range(b):
        for j in range(b):
            same = pairs.group[i] == pairs.group[j] != -1 and i != j
            if not kept[j] or (same and rule == "mask"):
                continue
            z = 1 if i == j or (same and rule == "positive") else -1
            logit = z * (pairs.image[i] @ pairs.text[j] / TAU + BIAS)
            found[i] += np.log1p(np.exp(-logit))
    return found


@pytest.mark.parametrize("rule", SameGroup)
def test_agrees_with_the_formula(rule):
    problem = Problem()
    found = loss_of(problem, rule)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, oracle(problem, rule, problem.kept), rtol=1e-12)


def test_the_rules_differ():
    found = [np.asarray(loss_of(Problem(), rule)) for rule in SameGroup]
    assert abs(found[0] - found[1]).max() > 1e-2
    assert abs(found[0] - found[2]).max() > 1e-2


def test_a_column_that_is_not_kept_counts_for_nobody():
    problem = Problem()
    nothing = loss_of(problem, SameGroup.NEGATIVE, np.zeros(b, bool))
    np.testing.assert_array_equal(nothing, np.zeros(b))
    changed = Problem()
    changed.pairs.text[3] = -changed.pairs.text[3]  # the column that is not kept
    own = np.arange(b) != 3
    one, other = (loss_of(p, SameGroup.NEGATIVE) for p in (problem, changed))
    np.testing.assert_array_equal(one[own], other[own])


def test_no_logit_overflows():
    problem = Problem()
    rows, _ = problem.rows()
    columns = Columns(rows.image, rows.text, rows.group_id, jnp.ones(b, bool), rows.row)
    value, slope = jax.value_and_grad(
        lambda t: sigmoid_loss(rows, columns, t, jnp.float64(0), SameGroup.MASK).sum()
    )(1e-3)
    assert np.isfinite(value)
    assert np.isfinite(slope)


def test_only_the_sigmoid_loss_has_a_bias():
    method = MethodConfig(contrast=Contrast.SIGMOID, sigmoid_bias=-3.0)
    assert fresh_bias(method)["sigmoid_bias"] == -3
    assert fresh_bias(dataclasses.replace(method, contrast=Contrast.BATCH)) == {}
