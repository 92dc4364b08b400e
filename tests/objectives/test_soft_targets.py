# SPDX-License-Identifier: Apache-2.0
"""ALBEF's soft targets against a row-by-row oracle in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import quick
from retrieval_problem import TAU, Problem, b

from cots_jax.objectives.contrastive import info_nce, reduce_rows
from cots_jax.objectives.soft_targets import soft_target_loss
from cots_jax.switches import SameGroup


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def rows_of(pairs, i, columns, rule):
    """(online, momentum) log-probabilities of each direction."""
    used = [column for column, _ in oracles.used_columns(pairs, i, columns, rule)]
    texts = np.array([pairs.text_key[i], *(c.text for c in used)])
    images = np.array([pairs.image_key[i], *(c.image for c in used)])
    asked = [(pairs.image, pairs.image_key, texts), (pairs.text, pairs.text_key, images)]
    return [
        tuple(oracles.log_softmax(keys @ side[i] / TAU) for side in (online, momentum))
        for online, momentum, keys in asked
    ]


@pytest.mark.parametrize("rule", SameGroup)
@pytest.mark.parametrize("chunk", [0, 3])
def test_agrees_with_the_oracle(rule, chunk):
    problem = Problem()
    found = quick.jit(soft_target_loss, static_argnums=(4, 5))(
        *problem.rows(), problem.pieces(), TAU, rule, chunk
    )
    columns = problem.oracle_columns()
    wanted = [
        sum(oracles.kl(momentum, online) for online, momentum in rows)
        for rows in (rows_of(problem.pairs, i, columns, rule) for i in range(b))
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-11)


def test_the_gradient_is_that_of_albefs_cross_entropy():
    """(1 - a) one-hot and a of the momentum row as one target."""
    problem, share = Problem(), 0.4
    features, keys = problem.rows()
    pieces, rule = problem.pieces(), SameGroup.NEGATIVE

    def ours(image, temperature):
        rows = dataclasses.replace(features, image=image)
        hard = info_nce(
            rows, keys, reduce_rows(rows, keys, pieces, temperature, rule), temperature, rule
        )
        soft = soft_target_loss(rows, keys, pieces, temperature, rule)
        return jnp.sum((1 - share) * hard + share * soft)

    def albef(image, temperature):
        total = 0.0
        for i in range(b):
            used = [c for c, _ in oracles.used_columns(problem.pairs, i, columns, rule)]
            texts = jnp.array([keys.text[i], *(c.text for c in used)])
            images = jnp.array([keys.image[i], *(c.image for c in used)])
            sides = [(image[i], keys.image[i], texts), (features.text[i], keys.text[i], images)]
            for asked, momentum, candidates in sides:
                with_momentum = jax.nn.softmax(candidates @ momentum / held)
                target = share * with_momentum + (1 - share) * jnp.eye(len(candidates))[0]
                total -= jnp.sum(target * jax.nn.log_softmax(candidates @ asked / temperature))
        return total

    columns, held = problem.oracle_columns(), TAU
    gradients = [quick.jit(jax.grad(f, argnums=(0, 1)))(features.image, TAU) for f in (ours, albef)]
    np.testing.assert_allclose(gradients[0][0], gradients[1][0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradients[0][1], gradients[1][1], rtol=1e-9)


def test_equal_towers_have_nothing_to_learn_from_each_other():
    problem = Problem()
    _, keys = problem.rows()
    found = soft_target_loss(keys, keys, problem.pieces(), TAU, SameGroup.MASK)
    np.testing.assert_allclose(found, np.zeros(b), atol=1e-12)
