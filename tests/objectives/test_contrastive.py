# SPDX-License-Identifier: Apache-2.0
"""Queue InfoNCE in both directions against a row-by-row oracle in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import quick
from retrieval_problem import TAU, Problem, b, e, k

from cots_jax.objectives.contrastive import Rows, info_nce, reduce_rows
from cots_jax.objectives.queue import empty_queue, queue_columns
from cots_jax.switches import SameGroup


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def compiled(rule, chunk):
    def loss(rows, keys, pieces):
        reduced = reduce_rows(rows, keys, pieces, TAU, rule, chunk)
        return info_nce(rows, keys, reduced, TAU, rule)

    return quick.jit(loss)


def loss_of(problem, rule, with_batch=True, chunk=0):
    return compiled(rule, chunk)(*problem.rows(), problem.pieces(with_batch))


@pytest.mark.parametrize(("with_batch", "chunk"), [(True, 0), (True, 3), (False, 0)])
@pytest.mark.parametrize("rule", SameGroup)
def test_agrees_with_the_oracle(rule, with_batch, chunk):
    for seed in range(3):
        problem = Problem(seed)
        columns = problem.oracle_columns(with_batch)
        wanted = [oracles.instance_loss(problem.pairs, i, columns, TAU, rule) for i in range(b)]
        found = loss_of(problem, rule, with_batch, chunk)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_gradient_agrees_with_differences_of_the_oracle():
    problem, rule = Problem(), SameGroup.POSITIVE
    rows, keys = problem.rows()
    pieces, columns = problem.pieces(), problem.oracle_columns()

    def total(image, text):
        moved = Rows(image, text, rows.group_id, rows.row)
        reduced = reduce_rows(moved, keys, pieces, TAU, rule, 4)
        return info_nce(moved, keys, reduced, TAU, rule).sum()

    grads = quick.jit(jax.grad(total, (0, 1)))(rows.image, rows.text)
    rng, pairs = np.random.default_rng(1), problem.pairs
    way = rng.normal(size=(2, b, e))

    def oracle(step):
        moved = oracles.Pairs(
            pairs.image + step * way[0],
            pairs.text + step * way[1],
            pairs.image_key,
            pairs.text_key,
            pairs.group,
        )
        return sum(oracles.instance_loss(moved, i, columns, TAU, rule) for i in range(b))

    slope = (oracle(1e-5) - oracle(-1e-5)) / 2e-5
    found = sum(float(jnp.vdot(g, w)) for g, w in zip(grads, way))
    np.testing.assert_allclose(found, slope, rtol=1e-8)


def test_the_three_rules_differ_where_groups_meet():
    losses = np.stack([loss_of(Problem(), rule) for rule in SameGroup])
    meets = np.array([0, 1, 3, 5])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(losses[one, meets] - losses[other, meets]).min() > 1e-3
    # A group of -1 is no group: all rules are the same.
    np.testing.assert_allclose(losses[1, [2, 4]], losses[0, [2, 4]], rtol=1e-12)
    np.testing.assert_allclose(losses[2, [2, 4]], losses[0, [2, 4]], rtol=1e-12)


@pytest.mark.parametrize("length", [0, 4])
@pytest.mark.parametrize("rule", SameGroup)
def test_nothing_but_the_positive_gives_exactly_zero(rule, length):
    rows, keys = Problem().rows()
    pieces = [queue_columns(empty_queue(length, e))]

    def total(image):
        moved = Rows(image, rows.text, rows.group_id, rows.row)
        reduced = reduce_rows(moved, keys, pieces, TAU, rule)
        return jnp.sum(info_nce(moved, keys, reduced, TAU, rule))

    loss, grad = quick.jit(jax.value_and_grad(total))(rows.image)
    assert float(loss) == 0.0
    np.testing.assert_allclose(grad, 0, atol=1e-14)


def test_columns_that_do_not_count_may_hold_anything_finite():
    problem, rows_keys = Problem(), Problem().rows()
    pieces = problem.pieces()
    before = loss_of(problem, SameGroup.MASK)
    valid = pieces[0].valid[:, None]
    pieces[0] = pieces[0].replace(image=jnp.where(valid, pieces[0].image, 1e6))
    after = compiled(SameGroup.MASK, 0)(*rows_keys, pieces)
    np.testing.assert_array_equal(after, before)


def test_an_extreme_temperature_stays_finite_in_float32():
    problem = Problem()
    with jax.enable_x64(False):
        rows, keys = jax.tree.map(lambda x: jnp.asarray(x, _narrow(x)), problem.rows())
        pieces = jax.tree.map(lambda x: jnp.asarray(x, _narrow(x)), problem.pieces())

        def total(image):
            moved = Rows(image, rows.text, rows.group_id, rows.row)
            reduced = reduce_rows(moved, keys, pieces, 1e-3, SameGroup.MASK)
            return jnp.sum(info_nce(moved, keys, reduced, 1e-3, SameGroup.MASK))

        loss, grad = quick.jit(jax.value_and_grad(total))(rows.image)
    columns = problem.oracle_columns()
    wanted = sum(oracles.instance_loss(problem.pairs, i, columns, 1e-3) for i in range(b))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert np.isfinite(grad).all()


def test_in_chunks_the_logits_never_exist_whole():
    problem = Problem()

    def shapes(chunk):
        rows, keys = problem.rows()

        def loss(rows, keys, pieces):
            return reduce_rows(rows, keys, pieces, TAU, SameGroup.MASK, chunk)

        jaxpr = jax.make_jaxpr(loss)(rows, keys, problem.pieces(with_batch=False)).jaxpr
        return oracles.shapes(jaxpr)

    assert (b, k) in shapes(0)
    assert (b, k) not in shapes(3)
    assert (b, 3) in shapes(3)


def test_no_number_is_narrowed():
    problem = Problem()
    rows, keys = problem.rows()

    def total(rows, keys, pieces):
        reduced = reduce_rows(rows, keys, pieces, TAU, SameGroup.POSITIVE, 4)
        return info_nce(rows, keys, reduced, TAU, SameGroup.POSITIVE).sum()

    jaxpr = jax.make_jaxpr(jax.grad(total, allow_int=True))(rows, keys, problem.pieces())
    assert not oracles.downcasts(jaxpr.jaxpr)


def _narrow(x):
    return jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype
