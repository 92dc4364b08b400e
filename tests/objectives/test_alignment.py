# SPDX-License-Identifier: Apache-2.0
"""KL alignment of the two retrieval tasks against a row-by-row oracle in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import quick
from retrieval_problem import TAU, Problem, b, e

from cots_jax.objectives.alignment import alignment_loss
from cots_jax.objectives.contrastive import Rows
from cots_jax.objectives.queue import Columns, empty_queue, queue_columns
from cots_jax.schema import AlignmentConfig
from cots_jax.switches import Direction, SameGroup, Teacher


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def compiled(config, rule, chunk):
    def loss(rows, keys, pieces):
        return alignment_loss(rows, keys, pieces, config, TAU, rule, chunk)

    return quick.jit(loss)


def loss_of(problem, config, rule=SameGroup.MASK, chunk=0):
    return compiled(config, rule, chunk)(*problem.rows(), problem.pieces())


def oracle(pairs, config, rule=SameGroup.MASK, columns=None, tau=TAU):
    columns = Problem().oracle_columns() if columns is None else columns
    switches = {"direction": config.direction, "teacher": config.teacher}
    rows = range(len(pairs.image))
    return np.array([oracles.alignment(pairs, i, columns, tau, rule, **switches) for i in rows])


@pytest.mark.parametrize("teacher", Teacher)
@pytest.mark.parametrize("direction", Direction)
def test_agrees_with_the_oracle(direction, teacher):
    config = AlignmentConfig(direction, teacher)
    problem = Problem()
    found = loss_of(problem, config)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, oracle(problem.pairs, config), rtol=1e-11)


@pytest.mark.parametrize("rule", SameGroup)
def test_chunks_change_nothing(rule):
    config, problem = AlignmentConfig(teacher=Teacher.MOMENTUM), Problem()
    wanted = oracle(problem.pairs, config, rule)
    for chunk in (0, 3):
        np.testing.assert_allclose(loss_of(problem, config, rule, chunk), wanted, rtol=1e-11)


def test_its_own_temperature_wins():
    problem = Problem()
    config = AlignmentConfig(temperature=0.5)
    np.testing.assert_allclose(
        loss_of(problem, config), oracle(problem.pairs, config, tau=0.5), rtol=1e-11
    )


@functools.cache
def gradients(direction, teacher):
    """d loss / d image and d text, summed over the rows, with the rows' own features."""
    problem = Problem()
    rows, keys = problem.rows()
    config = AlignmentConfig(direction, teacher)

    def total(image, text):
        moved = Rows(image, text, rows.group_id, rows.row)
        pieces = problem.pieces()
        return alignment_loss(moved, keys, pieces, config, TAU, SameGroup.MASK, 4).sum()

    return quick.jit(jax.grad(total, (0, 1)))(rows.image, rows.text)


def test_gradient_agrees_with_differences_of_the_oracle():
    config, pairs = AlignmentConfig(), Problem().pairs
    way = np.random.default_rng(1).normal(size=(2, b, e))

    def total(step):
        image, text = pairs.image + step * way[0], pairs.text + step * way[1]
        moved = oracles.Pairs(image, text, pairs.image_key, pairs.text_key, pairs.group)
        return oracle(moved, config).sum()

    slope = (total(1e-5) - total(-1e-5)) / 2e-5
    found = sum(
        float(jnp.vdot(g, w)) for g, w in zip(gradients(Direction.BOTH, Teacher.ONLINE), way)
    )
    np.testing.assert_allclose(found, slope, rtol=1e-8)


@pytest.mark.parametrize("teacher", [Teacher.STOPPED, Teacher.MOMENTUM])
def test_no_gradient_reaches_a_fixed_teacher(teacher):
    image, text = gradients(Direction.IMAGE_TO_TEXT, teacher)
    assert np.abs(image).max() > 1e-3
    np.testing.assert_array_equal(text, 0)
    image, text = gradients(Direction.TEXT_TO_IMAGE, teacher)
    np.testing.assert_array_equal(image, 0)
    assert np.abs(text).max() > 1e-3


@pytest.mark.parametrize("direction", [Direction.IMAGE_TO_TEXT, Direction.TEXT_TO_IMAGE])
def test_a_fixed_teacher_stays_fixed_where_the_candidates_are_the_pairs(direction):
    """Differences of KL(teacher || student) in float64; the teacher has the features as before."""
    rng = np.random.default_rng(2)
    image, text, *ways = rng.normal(size=(4, b, e))
    taught = direction is Direction.IMAGE_TO_TEXT

    def fixed(moved_image, moved_text):
        student, teacher = moved_image @ moved_text.T / TAU, image @ text.T / TAU
        student, teacher = (student, teacher.T) if taught else (student.T, teacher)
        log_q, log_p = (x - np.logaddexp.reduce(x, axis=1)[:, None] for x in (student, teacher))
        return (np.exp(log_p) * (log_p - log_q)).sum()

    def total(image, text):
        group, row = jnp.full(b, -1, jnp.int32), jnp.arange(b, dtype=jnp.int32)
        rows, valid = Rows(image, text, group, row), jnp.ones(b, bool)
        columns = Columns(image, text, group, valid, row)
        config = AlignmentConfig(direction, Teacher.STOPPED)
        return alignment_loss(rows, rows, [columns], config, TAU, SameGroup.NEGATIVE).sum()

    value, found = quick.jit(jax.value_and_grad(total, (0, 1)))(image, text)
    np.testing.assert_allclose(value, fixed(image, text), rtol=1e-11)
    for side, way in enumerate(ways):
        step = np.zeros((2, b, e))
        step[side] = 1e-6 * way
        slope = (
            fixed(image + step[0], text + step[1]) - fixed(image - step[0], text - step[1])
        ) / 2e-6
        np.testing.assert_allclose(jnp.vdot(found[side], way), slope, rtol=1e-6)


def test_an_online_teacher_learns_too():
    image, text = gradients(Direction.IMAGE_TO_TEXT, Teacher.ONLINE)
    assert np.abs(image).max() > 1e-3
    assert np.abs(text).max() > 1e-3


@pytest.mark.parametrize(("length", "wide"), [(0, True), (4, True), (4, False)])
def test_without_columns_both_rows_are_certain_and_the_loss_is_exactly_zero(length, wide):
    given = jax.device_get(Problem().rows())

    def total(image, rows, keys):
        moved = Rows(image, rows.text, rows.group_id, rows.row)
        pieces = [queue_columns(empty_queue(length, e))]
        return alignment_loss(moved, keys, pieces, AlignmentConfig(), TAU, SameGroup.MASK)

    @jax.jit  # as in training: rounding depends on what XLA fuses
    def loss_and_gradient(rows, keys):
        loss, pull = jax.vjp(lambda image: total(image, rows, keys), rows.image)
        return loss, pull(jnp.ones_like(loss))[0]

    with jax.enable_x64(wide):
        loss, grad = loss_and_gradient(*given)
    assert grad.dtype == (jnp.float64 if wide else jnp.float32)
    np.testing.assert_array_equal(loss, 0)
    np.testing.assert_allclose(grad, 0, atol=1e-14 if wide else 1e-5)


def test_it_is_never_negative_and_zero_for_equal_tasks():
    problem = Problem()
    assert (loss_of(problem, AlignmentConfig()) > 0).all()
    pairs = problem.pairs
    pairs.text, pairs.text_key = pairs.image, pairs.image_key
    problem.queue = (problem.queue[0], problem.queue[0], *problem.queue[2:])
    np.testing.assert_allclose(loss_of(problem, AlignmentConfig()), 0, atol=1e-13)


def test_no_number_is_narrowed():
    problem = Problem()
    rows, keys = problem.rows()

    def total(image):
        moved = Rows(image, rows.text, rows.group_id, rows.row)
        config = AlignmentConfig()
        return alignment_loss(moved, keys, problem.pieces(), config, TAU, SameGroup.MASK, 4).sum()

    assert not oracles.downcasts(jax.make_jaxpr(jax.grad(total))(rows.image).jaxpr)
